// Package api owns what the supervisor and those who ask it say to each other
// over its control socket: the paths of its requests and the JSON of its answers.
//
// It promises that within one Version a field keeps its name, its meaning and its
// unit; fields may be added. Durations are nanoseconds, times are nanoseconds
// since the machine's start (CLOCK_BOOTTIME), sizes are bytes. It holds types
// only: nothing here does anything.
package api

import (
	"time"

	"keelson/internal/audit"
)

// Version is the version of the protocol, and the first element of each path.
const Version = "v1"

// Socket is where the supervisor listens.
const Socket = "/run/keelson/control.sock"

// Service is everything there is to know of one service. What does not apply is
// left out.
type Service struct {
	Name  string        `json:"name"`
	State string        `json:"state"`           // one of package services/lifecycle's
	Since time.Duration `json:"since"`           // when it came into this state
	Cause string        `json:"cause,omitempty"` // of the last move, in words

	PID       int           `json:"pid,omitempty"`
	StartedAt time.Duration `json:"started_at,omitempty"` // of the task that runs
	ReadyAt   time.Duration `json:"ready_at,omitempty"`   // of the task that runs
	Restarts  int           `json:"restarts"`             // since the boot
	RetryAt   time.Duration `json:"retry_at,omitempty"`   // in backoff: when it is started again

	WaitingFor []string `json:"waiting_for,omitempty"` // each in words, such as "db (starting)"
	Requires   []string `json:"requires,omitempty"`
	After      []string `json:"after,omitempty"`
	RequiredBy []string `json:"required_by,omitempty"`

	Ready    string  `json:"ready"`            // how its readiness is found out, as it is written
	Status   string  `json:"status,omitempty"` // what it said of itself with STATUS=
	Health   *Health `json:"health,omitempty"` // nil without a health check
	Critical bool    `json:"critical,omitempty"`

	LastExit *Exit    `json:"last_exit,omitempty"`
	Problems []string `json:"problems,omitempty"` // what is wrong with its configuration, in words
	Policy   Policy   `json:"policy"`
	// Hardening is nil where the configuration cannot be read.
	Hardening *Hardening `json:"hardening,omitempty"`

	Image     string   `json:"image,omitempty"` // its folder
	Namespace string   `json:"namespace,omitempty"`
	Cgroup    string   `json:"cgroup,omitempty"` // below the cgroup file system
	Figures   *Figures `json:"figures,omitempty"`
	OOMKills  int      `json:"oom_kills,omitempty"`

	Control *Control `json:"control,omitempty"` // in a status only

	Moves []Move   `json:"moves,omitempty"` // the newest last
	Log   []string `json:"log,omitempty"`   // the last lines, in a status only
}

// Control is how far a container may steer the machine.
type Control struct {
	Right  string   `json:"right"`            // none, read or all
	Why    string   `json:"why"`              // what gives it that, in words
	Hidden []string `json:"hidden,omitempty"` // directories of the machine that its binds would show, in words
}

// Policy is what was asked for, in force, as it would be written.
type Policy struct {
	Restart      string `json:"restart"`
	Backoff      string `json:"backoff"`
	Limit        string `json:"limit,omitempty"`
	OnFailure    string `json:"on_failure"`
	ReadyTimeout string `json:"ready_timeout,omitempty"`
	StopSignal   string `json:"stop_signal"`
	StopTimeout  string `json:"stop_timeout"`
	Shim         string `json:"shim"`
}

// Hardening is what is added to what a service's configuration leaves unsaid.
type Hardening struct {
	Level string   `json:"level"`           // auto, linuxkit or strict, as it is in force
	Added []string `json:"added,omitempty"` // in words, such as "/sys read-only"
}

// Health is what a service's health check has found.
type Health struct {
	Check    string        `json:"check"`            // as it is written
	State    string        `json:"state"`            // healthy, unhealthy or unknown
	Failures int           `json:"failures"`         // one after the other, up to now
	At       time.Duration `json:"at,omitempty"`     // of the last check
	Reason   string        `json:"reason,omitempty"` // of the last failure
}

// Exit is how a task ended.
type Exit struct {
	Code   int           `json:"code"`
	Signal string        `json:"signal,omitempty"` // SIGKILL; "" if it ended by itself
	Reason string        `json:"reason"`           // in words, with what the kernel said of it
	At     time.Duration `json:"at"`
	Ran    time.Duration `json:"ran"`
	// Figures are what its cgroup said when it had ended; nil where that was gone.
	Figures *Figures `json:"figures,omitempty"`
}

// Move is one change of a service's state.
type Move struct {
	From  string        `json:"from"`
	To    string        `json:"to"`
	Event string        `json:"event"`
	Cause string        `json:"cause,omitempty"`
	At    time.Duration `json:"at"`
}

// Figures are what a cgroup says of what it holds; a limit of 0 is none.
type Figures struct {
	Memory     uint64        `json:"memory"`
	MemoryPeak uint64        `json:"memory_peak,omitempty"`
	MemoryMax  uint64        `json:"memory_max,omitempty"`
	CPU        time.Duration `json:"cpu"` // used since the cgroup was made
	Throttled  time.Duration `json:"throttled,omitempty"`
	ReadBytes  uint64        `json:"read_bytes"`
	WriteBytes uint64        `json:"write_bytes"`
	Pids       uint64        `json:"pids"`
	PidsMax    uint64        `json:"pids_max,omitempty"`
}

// Audit is what a service could do to the machine, by its first process.
type Audit struct {
	Service  string          `json:"service"`
	PID      int             `json:"pid"`
	Exposure float64         `json:"exposure"` // 0.0 to 10.0
	Level    string          `json:"level"`
	Findings []audit.Finding `json:"findings"` // the worst first; with declared where its configuration's differs
	Facts    []audit.Fact    `json:"facts"`
}

// Event is something that happened on the machine. Seq counts from 1; a gap
// between two that were received is what was missed.
type Event struct {
	Seq     uint64        `json:"seq"`
	At      time.Duration `json:"at"`
	Kind    string        `json:"kind"` // state, health, resources, machine
	Service string        `json:"service,omitempty"`
	From    string        `json:"from,omitempty"` // of kind state
	To      string        `json:"to,omitempty"`   // of kind state
	Cause   string        `json:"cause,omitempty"`
	Missed  uint64        `json:"missed,omitempty"` // events that were dropped before this one
}

// Machine is the state of the whole.
type Machine struct {
	Version  string        `json:"version"`
	Now      time.Duration `json:"now"`
	State    string        `json:"state"`              // booting, running, stopping
	Watchdog string        `json:"watchdog,omitempty"` // in words
	Modules  string        `json:"modules,omitempty"`  // in words: whether loading is locked, and who asked for modules
	Services int           `json:"services"`
	Ready    int           `json:"ready"`
	Failed   int           `json:"failed"`
	// Parts are the processes that the machine runs by: containerd and the shims.
	Parts []Part `json:"parts,omitempty"`
	// Containers is what all containers together may take; nil where nothing limits them.
	Containers *Ceiling `json:"containers,omitempty"`
}

// Part is a process that the machine runs by.
type Part struct {
	Name    string        `json:"name"`  // containerd, shim
	State   string        `json:"state"` // answering, silent, aborted, killed
	Since   time.Duration `json:"since"`
	PID     int           `json:"pid"`
	Members []string      `json:"members,omitempty"` // of a shim: its containers, NAMESPACE/ID
}

// Ceiling is what all containers together take and may take; 0 is no limit.
type Ceiling struct {
	Memory     uint64 `json:"memory"` // bytes
	MemoryUsed uint64 `json:"memory_used"`
	Pids       uint64 `json:"pids"` // processes and threads
	PidsUsed   uint64 `json:"pids_used"`
}

// Boot is how the boot went.
type Boot struct {
	InitStart time.Duration `json:"init_start"` // PID 1 began
	InitDone  time.Duration `json:"init_done"`  // the supervisor was started
	Complete  time.Duration `json:"complete"`   // 0 while the boot goes on
	Steps     []Step        `json:"steps"`
	Services  []BootService `json:"services"`
}

// Step is one thing the boot did.
type Step struct {
	Name  string        `json:"name"` // hardware, modules, containerd, volumes, onboot.000-dhcp ...
	Start time.Duration `json:"start"`
	End   time.Duration `json:"end"`
	Error string        `json:"error,omitempty"`
}

// BootService is a service's first way up. Times that were not reached are 0.
type BootService struct {
	Name     string        `json:"name"`
	Waiting  time.Duration `json:"waiting"`  // it began to wait, for others or for its turn
	Starting time.Duration `json:"starting"` // its start began
	Running  time.Duration `json:"running"`
	Ready    time.Duration `json:"ready"`
	Failed   time.Duration `json:"failed,omitempty"`
	After    []string      `json:"after,omitempty"`
	Requires []string      `json:"requires,omitempty"`
}

// Error is the body of an answer that is none.
type Error struct {
	Error string `json:"error"`
	Want  string `json:"want,omitempty"` // what would be right
}
