package parts

import "time"

// State is what is known of a part.
type State string

// The states.
const (
	Answering State = "answering" // it answered the last call
	Silent    State = "silent"    // calls are not answered
	Aborted   State = "aborted"   // it is hung and has got SIGABRT, for its stacks
	Killed    State = "killed"    // it has got SIGKILL too
	Gone      State = "gone"      // its process has exited; nothing leaves this state
)

// Event is what happened. Exactly one of the types below.
type Event interface{ event() }

type (
	// Answered: a call was answered, whatever the answer.
	Answered struct{}
	// Unanswered: no call was answered for an interval.
	Unanswered struct{ Evidence }
	// Exited: the process has.
	Exited struct{}
)

func (Answered) event()   {}
func (Unanswered) event() {}
func (Exited) event()     {}

// Evidence is what an interval without an answer says of the part.
type Evidence struct {
	// Interval is how long it was to be, and Took how long it was: more where the
	// watcher was late, as on a machine without time for it or one that was paused.
	Interval, Took time.Duration
	// Worked says that the part ran or waited for a processor meanwhile.
	Worked bool
}

// onTime reports whether the interval says anything.
func (e Evidence) onTime() bool { return e.Took < e.Interval+e.Interval/2 }

// Order is what the caller has to do.
type Order int

// The orders.
const (
	Nothing Order = iota
	Abort         // send SIGABRT, and SIGCONT so that a stopped process gets it
	Kill          // send SIGKILL
)

// Limits are how long a part may be silent.
type Limits struct {
	// Idle is how long it may do nothing while a call waits for its answer.
	Idle time.Duration
	// Busy is how long it may work without an answer; 0 is for ever.
	Busy time.Duration
	// Abort is how long it may take to write its stacks.
	Abort time.Duration
}

// Machine is the state of one part.
//
//	           Unanswered           Idle or Busy is over       Abort is over
//	Answering ───────────▶ Silent ─────────────────────▶ Aborted ─────────▶ Killed
//	    ▲                    │                              │                  │
//	    └──── Answered ──────┘             any ── Exited ──▶ Gone ◀────────────┘
type Machine struct {
	limits Limits
	state  State
	since  time.Duration // when it came into this state
	idle   time.Duration // without an answer and without work
	silent time.Duration // without an answer
}

// NewMachine returns one of a part that is taken to answer.
func NewMachine(l Limits, now time.Duration) *Machine {
	return &Machine{limits: l, state: Answering, since: now}
}

// State returns the state and since when it is so.
func (m *Machine) State() (State, time.Duration) { return m.state, m.since }

// Idle is for how long it has done nothing while a call waited for its answer.
func (m *Machine) Idle() time.Duration { return m.idle }

// Doubtful reports whether it is better not to count on an answer: it did nothing for an
// interval although it was asked, or is being ended for that.
func (m *Machine) Doubtful() bool {
	return m.idle > 0 || m.state == Aborted || m.state == Killed
}

// Next takes an event.
func (m *Machine) Next(e Event, now time.Duration) Order {
	if m.state == Gone {
		return Nothing
	}
	switch e := e.(type) {
	case Exited:
		m.to(Gone, now)
	case Answered:
		if m.state == Silent {
			m.to(Answering, now)
		}
	case Unanswered:
		return m.unanswered(e.Evidence, now)
	}
	return Nothing
}

func (m *Machine) unanswered(e Evidence, now time.Duration) Order {
	if m.state == Answering {
		m.to(Silent, now)
	}
	if !e.onTime() {
		return Nothing
	}
	m.silent += e.Interval
	m.idle += e.Interval
	if e.Worked {
		m.idle = 0 // it is slow
	}
	switch {
	case m.state == Silent && (m.idle >= m.limits.Idle || m.limits.Busy > 0 && m.silent >= m.limits.Busy):
		m.to(Aborted, now)
		return Abort
	case m.state == Aborted && m.silent >= m.limits.Abort:
		m.to(Killed, now)
		return Kill
	}
	return Nothing
}

// to changes the state. What was counted belongs to the state before.
func (m *Machine) to(s State, now time.Duration) {
	m.state, m.since, m.idle, m.silent = s, now, 0, 0
}
