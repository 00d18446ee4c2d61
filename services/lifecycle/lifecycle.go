// Package lifecycle owns what a service's life is made of: its states, the
// moves between them, and when one that ended is started again.
//
// It promises that nothing but Machine.Apply changes a state, that a move the
// table does not have is refused, and that every move is kept with its cause
// and time. It reads no clock, starts nothing and waits for nothing: whoever
// drives it says what happened and when.
package lifecycle

import (
	"fmt"
	"time"
)

// State is where a service is in its life.
type State string

// The states. In Starting, Unhealthy and Stopping something is under way that
// ends by itself or is ended at a bound; so is Running, unless it is ready by then.
// Waiting is left when what it waits for has come, Queued when its turn has; Backoff has a
// timer armed;
// Stopped and Failed are left only by a request.
const (
	Unknown   State = "unknown"   // the supervisor has just come and has not looked at it yet
	Waiting   State = "waiting"   // it is to be started, and others come first
	Queued    State = "queued"    // nothing is in the way of its start but the starts of others
	Starting  State = "starting"  // mounts, container and task are being made
	Running   State = "running"   // the task runs and is not known to be ready yet
	Ready     State = "ready"     // the task runs and does its work
	Unhealthy State = "unhealthy" // its health checks failed, and it is being killed for it
	Backoff   State = "backoff"   // it ended or could not start, and a timer will start it again
	Stopping  State = "stopping"  // it is to stop and has not ended yet
	Stopped   State = "stopped"   // nothing runs: ended for good, or asked to stop
	Failed    State = "failed"    // it cannot be started, or was restarted too often
)

// States lists every state, in the order of a life.
var States = []State{Unknown, Waiting, Queued, Starting, Running, Ready, Unhealthy, Backoff, Stopping, Stopped, Failed}

// Active reports whether something of the service may be there that has to be
// stopped before what it uses.
func (s State) Active() bool {
	switch s {
	case Unknown, Starting, Running, Ready, Unhealthy, Stopping:
		return true
	}
	return false
}

// Up reports whether its task runs as it should.
func (s State) Up() bool { return s == Running || s == Ready }

// Event is something that happened to a service.
type Event string

// The events.
const (
	HeldUp      Event = "held up"      // it is to be started, but what comes before it is not there
	Enqueued    Event = "enqueued"     // what comes before it is there, but as many are being started as may be
	StartBegun  Event = "start begun"  // nothing is in the way of its start
	Started     Event = "started"      // the task runs
	BecameReady Event = "became ready" // it said so, or its probe did
	Sickened    Event = "sickened"     // too many health checks failed
	RetrySet    Event = "retry set"    // a timer was armed after an end or a failed start
	Ended       Event = "ended"        // an end that the policy does not follow by a start
	GaveUp      Event = "gave up"      // the restart limit was reached, or the bundle cannot be used
	StopBegun   Event = "stop begun"   // asked for by a person or the shutdown, or by what became of another service
	StopDone    Event = "stop done"    // everything of it has ended, and it is to stay so
	Adopted     Event = "adopted"      // a restarted supervisor found the task running
)

// Events lists every event.
var Events = []Event{HeldUp, Enqueued, StartBegun, Started, BecameReady, Sickened, RetrySet, Ended, GaveUp, StopBegun, StopDone, Adopted}

// moves is every move there is: from a state, by an event, to a state.
var moves = map[State]map[Event]State{
	Unknown:  {HeldUp: Waiting, Enqueued: Queued, StartBegun: Starting, Adopted: Running, RetrySet: Backoff, Ended: Stopped, GaveUp: Failed, StopBegun: Stopped},
	Waiting:  {Enqueued: Queued, StartBegun: Starting, StopBegun: Stopped},
	Queued:   {HeldUp: Waiting, StartBegun: Starting, StopBegun: Stopped},
	Starting: {Started: Running, RetrySet: Backoff, GaveUp: Failed, StopBegun: Stopping},
	Running:  {BecameReady: Ready, RetrySet: Backoff, Ended: Stopped, GaveUp: Failed, StopBegun: Stopping},
	Ready:    {Sickened: Unhealthy, RetrySet: Backoff, Ended: Stopped, GaveUp: Failed, StopBegun: Stopping},
	// One that is killed for its health has failed, however it ends.
	Unhealthy: {RetrySet: Backoff, GaveUp: Failed, StopBegun: Stopping},
	Backoff:   {StartBegun: Starting, Enqueued: Queued, HeldUp: Waiting, StopBegun: Stopped},
	// What follows a stop depends on why it was stopped: for good, to be started
	// again, or because it was not ready in time.
	Stopping: {StopDone: Stopped, StartBegun: Starting, Enqueued: Queued, HeldUp: Waiting, RetrySet: Backoff, GaveUp: Failed, StopBegun: Stopping},
	Stopped:  {StartBegun: Starting, Enqueued: Queued, HeldUp: Waiting, StopBegun: Stopped},
	Failed:   {StartBegun: Starting, Enqueued: Queued, HeldUp: Waiting, StopBegun: Failed},
}

// Next returns the state an event leads to, or an error if the state does not
// have that move.
func Next(from State, e Event) (State, error) {
	to, ok := moves[from][e]
	if !ok {
		return from, fmt.Errorf("a %s service has no move for %q", from, e)
	}
	return to, nil
}

// Move is one move that was made.
type Move struct {
	From, To State
	Event    Event
	Cause    string        // in words, for people
	At       time.Duration // since the machine's start
}

// Machine is one service's state and the moves that led to it.
type Machine struct {
	state State
	moves []Move // the newest last, at most keepMoves
}

const keepMoves = 32

// NewMachine returns a machine of a service that nobody has looked at yet.
func NewMachine() *Machine { return &Machine{state: Unknown} }

// State returns the present state.
func (m *Machine) State() State { return m.state }

// Moves returns the last moves, the newest last.
func (m *Machine) Moves() []Move { return m.moves }

// Apply makes the move an event leads to. A move that does not exist is an
// error and changes nothing.
func (m *Machine) Apply(e Event, cause string, at time.Duration) error {
	to, err := Next(m.state, e)
	if err != nil {
		return err
	}
	m.moves = append(m.moves, Move{m.state, to, e, cause, at})
	if len(m.moves) > keepMoves {
		m.moves = append(m.moves[:0], m.moves[len(m.moves)-keepMoves:]...)
	}
	m.state = to
	return nil
}
