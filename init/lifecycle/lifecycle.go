// Package lifecycle is the state machine of PID 1: when the supervisor runs,
// when it is started again, and how a stop of the machine goes.
//
//	          Boot                Started             Ended, Lost
//	Booting ────────▶ Launching ──────────▶ Running ──────────────▶ Waiting
//	                    ▲  │ StartFailed      │ Look: hangs            ▲ ▲ │ Tick
//	                    │  │                  └────▶ Aborting ─────────┘ │ │
//	                    │  └───────────────────────── Ended, Lost ───────┘ │
//	                    └──────────────────────────────────────────────────┘
//	any ──(stopping, and: ended with 0 | out of time | hopeless | impatient)──▶ Done
//
// A stop asked for does not leave these states: it sets Kind, which says what
// happens in each. Running: the supervisor is asked to stop everything. Waiting:
// it is started at once, told to stop everything.
//
// It promises that one function, Next, changes the state and refuses what
// cannot happen; that time and every system call are the caller's; that the
// supervisor is started again for ever while no stop is under way, and that a
// stop under way ends in bounded time.
package lifecycle

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// State is where the supervisor is.
type State int

const (
	Booting   State = iota // nothing has been started
	Launching              // the caller is starting the supervisor
	Running                // the supervisor lives
	Aborting               // it hangs, and is being ended for that
	Waiting                // it has ended and will be started again
	Done                   // the caller is ending the machine; nothing leaves this state
)

func (s State) String() string {
	return [...]string{"booting", "launching", "running", "aborting", "waiting", "done"}[s]
}

// Kind is how the machine ends.
type Kind int

const (
	None Kind = iota
	Poweroff
	Reboot
	Halt
)

// String is also the value of KEELSON_STOP.
func (k Kind) String() string { return [...]string{"none", "poweroff", "reboot", "halt"}[k] }

// KindOf says what a signal to PID 1 asks for, by busybox's convention.
func KindOf(sig syscall.Signal) Kind {
	switch sig {
	case syscall.SIGUSR1:
		return Halt
	case syscall.SIGUSR2:
		return Poweroff
	case syscall.SIGTERM, syscall.SIGINT:
		return Reboot
	}
	return None
}

const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = 5 * time.Second
	// soundAfter is how long a supervisor lives before its death is a new matter.
	soundAfter = 10 * time.Second
	// stopTries bounds how often a supervisor that fails is started to stop things.
	stopTries = 5
	// sayEvery start that fails in the same way at the longest delay is told:
	// one a minute.
	sayEvery = 12
	// A supervisor hangs that has shown no beat for hungIdle and done nothing meanwhile, or
	// for hungBusy whatever it did.
	hungIdle = 30 * time.Second
	hungBusy = 5 * time.Minute
	// Impatient stop signals within impatience of each other end the wait.
	impatient  = 3
	impatience = 5 * time.Second
)

// Event is what happened. Exactly one of the types below.
type Event interface{ event() }

type (
	// Boot: the machine is set up.
	Boot struct{}
	// Started: the supervisor runs as Pid.
	Started struct{ Pid int }
	// StartFailed: it could not be started.
	StartFailed struct{ Err error }
	// Ended: the supervisor is gone.
	Ended struct{ Status syscall.WaitStatus }
	// Lost: the supervisor has been killed, and the kernel does not let it end.
	Lost struct{}
	// Look: PID 1 has looked at the supervisor, on time. Beat says that it has shown since
	// the last look that it goes round, Worked that it ran or waited for a processor, and
	// Since how long ago that look was.
	Look struct {
		Beat, Worked bool
		Since        time.Duration
	}
	// Tick: time has passed; due at Machine.Wake, harmless at any other time.
	Tick struct{}
	// Stop: somebody sent a stop signal.
	Stop struct{ Signal syscall.Signal }
)

func (Boot) event()        {}
func (Started) event()     {}
func (StartFailed) event() {}
func (Ended) event()       {}
func (Lost) event()        {}
func (Look) event()        {}
func (Tick) event()        {}
func (Stop) event()        {}

// Order is what the caller has to do.
type Order int

const (
	Nothing   Order = iota
	Launch          // start the supervisor, with KEELSON_STOP if Kind is set; then Started or StartFailed
	Terminate       // send the supervisor SIGTERM
	Abort           // send it SIGABRT, for its stacks, and SIGCONT so that a stopped one gets that
	Kill            // send it SIGKILL
	Finish          // end the machine as Kind says
)

// Level of a line to say.
type Level int

const (
	Info Level = iota
	Warning
	Error
)

// Step is what follows from an event.
type Step struct {
	Order Order
	Level Level
	Say   string // a line for the console; may be empty
}

// Machine is the state machine. The zero value is not ready; see New.
type Machine struct {
	state       State
	kind        Kind
	timeout     time.Duration // for a stop
	pid         int
	since       time.Time     // start of the running supervisor
	idle        time.Duration // it has neither beaten nor done anything
	silent      time.Duration // it has not beaten
	delay       time.Duration // before the next start
	due         time.Time     // of the next start, in Waiting
	restarts    int
	failures    int       // of the supervisor since the stop began
	lastFailure string    // to start it
	deadline    time.Time // of the stop
	told        bool      // the running supervisor knows of the stop
	repeats     int       // stop signals in a row while stopping
	last        time.Time // of the last stop signal
}

// New returns a machine that gives a stop the time timeout.
func New(timeout time.Duration) *Machine { return &Machine{timeout: timeout} }

// State returns the state.
func (m *Machine) State() State { return m.state }

// Kind returns how the machine is to end; None while no stop is under way.
func (m *Machine) Kind() Kind { return m.kind }

// Pid returns the running supervisor's, 0 if none runs.
func (m *Machine) Pid() int { return m.pid }

// Wake returns when the machine wants a Tick; ok is false if it wants none.
func (m *Machine) Wake() (at time.Time, ok bool) {
	if m.state == Done {
		return time.Time{}, false
	}
	if m.kind != None {
		at, ok = m.deadline, true
	}
	if m.state == Waiting && (!ok || m.due.Before(at)) {
		at, ok = m.due, true
	}
	return at, ok
}

// ErrImpossible is in the chain of Next's error for an event that cannot happen
// in the state the machine is in. The state is then as before.
var ErrImpossible = errors.New("impossible")

// Next takes an event.
func (m *Machine) Next(e Event, now time.Time) (Step, error) {
	switch e := e.(type) {
	case Boot:
		if m.state == Booting {
			return m.launch(), nil
		}
	case Started:
		if m.state == Launching {
			return m.started(e.Pid, now), nil
		}
	case StartFailed:
		if m.state == Launching {
			return m.startFailed(e.Err, now), nil
		}
	case Ended:
		if m.alive() {
			return m.ended(e.Status, now), nil
		}
	case Look:
		if m.alive() {
			return m.look(e), nil
		}
	case Lost:
		if m.alive() {
			lived := now.Sub(m.since)
			m.pid = 0
			return m.again(fmt.Sprintf("supervisor was killed and does not end, as one of its threads waits in the kernel, after %s", short(lived)), now), nil
		}
	case Tick:
		return m.tick(now), nil
	case Stop:
		if k := KindOf(e.Signal); k != None {
			return m.stop(k, now), nil
		}
	}
	return Step{}, fmt.Errorf("%w: %T while %s", ErrImpossible, e, m.state)
}

// alive reports whether there is a supervisor.
func (m *Machine) alive() bool { return m.state == Running || m.state == Aborting }

// look finds out whether the supervisor hangs. A stop that is under way changes nothing:
// another one that goes round is started to go on with it.
func (m *Machine) look(e Look) Step {
	if m.state == Aborting {
		s := Step{Order: Kill}
		if m.silent += e.Since; m.silent == e.Since {
			s.Level, s.Say = Warning, fmt.Sprintf("supervisor has not ended %s after SIGABRT: SIGKILL", e.Since)
		}
		return s
	}
	if e.Beat {
		m.idle, m.silent = 0, 0
		return Step{}
	}
	m.silent += e.Since
	m.idle += e.Since
	if e.Worked {
		m.idle = 0 // it is slow
	}
	if m.idle < hungIdle && m.silent < hungBusy {
		return Step{}
	}
	s := Step{Abort, Error, fmt.Sprintf("supervisor (pid %d) hangs: no sign of life for %s; SIGABRT for its stacks (/run/keelson/stacks.txt), then it is started again", m.pid, m.silent)}
	m.state, m.silent = Aborting, 0
	return s
}

func (m *Machine) launch() Step {
	m.state = Launching
	m.told = m.kind != None
	return Step{Order: Launch}
}

func (m *Machine) started(pid int, now time.Time) Step {
	m.state, m.pid, m.since = Running, pid, now
	m.idle, m.silent = 0, 0
	s := Step{}
	if m.restarts > 0 {
		s.Say = fmt.Sprintf("supervisor started again, pid %d", pid)
	}
	if m.kind != None && !m.told { // a stop came while it was being started
		m.told = true
		s.Order = Terminate
	}
	return s
}

func (m *Machine) startFailed(err error, now time.Time) Step {
	what := fmt.Sprintf("supervisor did not start: %v", err)
	if m.kind != None && hopeless(err) {
		m.state = Done
		return Step{Finish, Error, what + "; stopping without it"}
	}
	before, same := m.delay, what == m.lastFailure
	m.lastFailure = what
	s := m.again(what, now)
	if hopeless(err) {
		s.Say += "; is the root complete?"
	}
	if same && before == lastDelay && m.restarts%sayEvery != 0 {
		s.Say = "" // the reason is on the console and is not to be scrolled away
	}
	return s
}

// hopeless tells errors of exec that trying again will hardly change.
func hopeless(err error) bool {
	for _, e := range []syscall.Errno{syscall.ENOENT, syscall.EACCES, syscall.ENOEXEC, syscall.ENOTDIR, syscall.ELOOP, syscall.EISDIR, syscall.ETXTBSY} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (m *Machine) ended(st syscall.WaitStatus, now time.Time) Step {
	lived := now.Sub(m.since)
	m.pid = 0
	if m.kind != None && st.Exited() && st.ExitStatus() == 0 {
		m.state = Done
		return Step{Order: Finish}
	}
	if lived >= soundAfter {
		m.delay = 0
	}
	return m.again(fmt.Sprintf("supervisor %s after %s", Reason(st), short(lived)), now)
}

// again goes to Waiting, or to the end if it has failed too often while stopping.
func (m *Machine) again(what string, now time.Time) Step {
	if m.kind != None {
		if m.failures++; m.failures >= stopTries {
			m.state = Done
			return Step{Finish, Error, fmt.Sprintf("%s; failed %d times while stopping, going on without it", what, m.failures)}
		}
	}
	m.delay = min(max(2*m.delay, firstDelay), lastDelay)
	m.state, m.due = Waiting, now.Add(m.delay)
	m.restarts++
	return Step{Nothing, Error, fmt.Sprintf("%s; restart %d in %s", what, m.restarts, m.delay)}
}

func (m *Machine) tick(now time.Time) Step {
	switch {
	case m.state == Done:
	case m.kind != None && !now.Before(m.deadline):
		m.state = Done
		return Step{Finish, Error, fmt.Sprintf("the supervisor did not stop everything within %s; going on without it", m.timeout)}
	case m.state == Waiting && !now.Before(m.due):
		return m.launch()
	}
	return Step{}
}

func (m *Machine) stop(k Kind, now time.Time) Step {
	if m.state == Done {
		return Step{Say: fmt.Sprintf("%s asked for; %s is under way", k, m.kind)}
	}
	if m.kind == None {
		m.kind, m.deadline, m.last = k, now.Add(m.timeout), now
		m.failures, m.delay = 0, 0
		s := Step{Say: fmt.Sprintf("%s asked for", k)}
		switch m.state {
		case Running:
			m.told = true
			s.Order = Terminate
		case Waiting:
			s.Order = m.launch().Order
		case Booting, Launching, Aborting, Done: // Boot or Started sees to it
		}
		return s
	}
	if now.Sub(m.last) > impatience {
		m.repeats = 0
	}
	m.last = now
	if m.repeats++; m.repeats >= impatient {
		m.state = Done
		return Step{Finish, Warning, fmt.Sprintf("%s asked for again and again: not waiting for the supervisor", k)}
	}
	if k != m.kind {
		return Step{Nothing, Warning, fmt.Sprintf("%s asked for, but %s is under way and comes first", k, m.kind)}
	}
	return Step{Say: fmt.Sprintf("%s is under way; %d more such signals within %s end the wait", k, impatient-m.repeats, impatience)}
}

// Reason says how a process ended.
func Reason(st syscall.WaitStatus) string {
	switch {
	case st.Signaled() && st.CoreDump():
		return fmt.Sprintf("killed by %s, core dumped", SignalName(st.Signal()))
	case st.Signaled():
		return "killed by " + SignalName(st.Signal())
	case st.Exited():
		return fmt.Sprintf("exited with %d", st.ExitStatus())
	}
	return fmt.Sprintf("ended with status %#x", int(st))
}

// short rounds a duration for reading.
func short(d time.Duration) time.Duration {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond)
	case d < time.Minute:
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Second)
}
