// Package policy owns the annotations by which an image says how each of its
// containers is to be kept: the keys, their values and their defaults.
//
// It is the one place where they are parsed. mkimage turns a Problem into an
// error of the build, the supervisor into a warning with the key's default in
// force: an appliance must boot. Parsing changes nothing and never fails.
package policy

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/harden"
)

// Prefix begins every annotation that is ours; others are nobody's business here.
const Prefix = "keelson."

// stopSignalLabel is what image builders put an image's STOPSIGNAL under.
const stopSignalLabel = "org.opencontainers.image.stopSignal"

// Restart says after which ends a service is started again.
type Restart string

// The values of keelson.restart.
const (
	RestartAlways    Restart = "always"
	RestartOnFailure Restart = "on-failure" // a code other than 0, a signal, a failed start
	RestartNever     Restart = "never"
)

// Action is what the machine does when a container has failed for good.
type Action string

// The values of keelson.on-failure. Continue and Retry are for one-shots.
const (
	ActionNone     Action = "none"
	ActionContinue Action = "continue"
	ActionRetry    Action = "retry"
	ActionReboot   Action = "reboot"
	ActionPoweroff Action = "poweroff"
	ActionHalt     Action = "halt"
)

// Limit is the most restarts in a window of time; a Count of 0 is no limit.
type Limit struct {
	Count  int
	Window time.Duration
}

// String is the limit as it is written; "" for none.
func (l Limit) String() string {
	if l.Count == 0 {
		return ""
	}
	window := l.Window.String() // 1h0m0s
	if strings.HasSuffix(window, "m0s") {
		window = strings.TrimSuffix(window, "0s")
	}
	if strings.HasSuffix(window, "h0m") {
		window = strings.TrimSuffix(window, "0m")
	}
	return fmt.Sprintf("%d/%s", l.Count, window)
}

// Service is the policy of one service.
type Service struct {
	Restart    Restart
	BackoffMin time.Duration // the delay before the first restart of a service that had not been well
	BackoffMax time.Duration // the delay it doubles up to
	Limit      Limit
	OnFailure  Action

	// After and Requires name services that this one is started after and
	// stopped before; a required one must be ready, and takes this one down with it.
	After, Requires []string

	Ready        Probe         // how it is found out that it is ready
	ReadyTimeout time.Duration // from the start to being ready; then the start has failed
	Health       Health

	StopSignal  unix.Signal
	StopTimeout time.Duration // from the stop signal to SIGKILL

	Critical bool // the hardware watchdog is fed only while it is healthy
	Console  bool // its output goes to the console as well
	OwnShim  bool // it has a shim process of its own
	LogDrop  bool // output that cannot be kept at once is dropped rather than waited for

	Walls
}

// Walls say what keeps a container from the machine and from others.
type Walls struct {
	Harden     harden.Level
	SeccompLog bool    // what the default seccomp profile would refuse is only logged
	Control    Control // what it may ask on the control socket
}

// Control says what a container may ask on the control socket.
type Control string

// The values of keelson.control. The default follows from what the container is
// given otherwise: see package steer.
const (
	ControlDefault Control = ""
	ControlNone    Control = "none"
	ControlRead    Control = "read" // to look, not to change anything
	ControlAll     Control = "all"
)

// Health says how a running service is watched; a Check of kind ProbeNone is
// not at all.
type Health struct {
	Check    Probe
	Interval time.Duration // from one check's end to the next one's begin; for notify, the longest silence
	Timeout  time.Duration // of one check
	Retries  int           // failures one after the other that make it unhealthy
	Grace    time.Duration // from the task's start, in which failures do not count
}

// OneShot is the policy of an onboot or onshutdown container.
type OneShot struct {
	Timeout   time.Duration // 0 is none
	OnFailure Action
	Retries   int // for ActionRetry
	Console   bool
	LogDrop   bool

	Walls
}

// Problem is an annotation that was not understood.
type Problem struct {
	Key, Value string
	Want       string // what would be right
}

// Error says what is wrong and what would be right.
func (p Problem) Error() string {
	return fmt.Sprintf("annotations: %s: %q: %s", p.Key, p.Value, p.Want)
}

// DefaultService is the policy of a service without annotations.
func DefaultService() Service {
	return Service{
		Restart:      RestartAlways,
		BackoffMin:   100 * time.Millisecond,
		BackoffMax:   30 * time.Second,
		OnFailure:    ActionNone,
		Ready:        Probe{Kind: ProbeStarted},
		ReadyTimeout: 90 * time.Second,
		Health:       Health{Interval: 10 * time.Second, Timeout: 3 * time.Second, Retries: 3},
		StopSignal:   unix.SIGTERM,
		StopTimeout:  10 * time.Second,
		Walls:        Walls{Harden: harden.Auto},
	}
}

// DefaultOneShot is the policy of a one-shot without annotations; one that runs
// at shutdown has a bound, so that the machine does end. One-shots set the machine
// up, and are not kept from it.
func DefaultOneShot(onshutdown bool) OneShot {
	p := OneShot{OnFailure: ActionContinue, Console: true, Walls: Walls{Harden: harden.LinuxKit}}
	if onshutdown {
		p.Timeout = 30 * time.Second
	}
	return p
}
