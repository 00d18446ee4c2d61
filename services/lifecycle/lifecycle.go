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

// The states. Starting, Running and Stopping have something under way that
// ends by itself or is ended at a bound; Backoff has a timer armed; Stopped and
// Failed are left only by a request.
const (
	Stopped  State = "stopped"  // nothing runs: not started yet, ended for good, or asked to stop
	Starting State = "starting" // mounts, container and task are being made
	Running  State = "running"  // the task runs
	Backoff  State = "backoff"  // it ended or could not start, and a timer will start it again
	Stopping State = "stopping" // it was asked to stop and has not ended yet
	Failed   State = "failed"   // it cannot be started, or was restarted too often
)

// Event is something that happened to a service.
type Event string

// The events.
const (
	StartAsked  Event = "start asked"  // the boot, or a person
	Started     Event = "started"      // the task runs
	StartFailed Event = "start failed" // it could not be made or started
	Exited      Event = "exited"       // the task's first process ended
	RetryAt     Event = "retry set"    // a timer was armed after an end
	TimerFired  Event = "timer fired"  // that timer
	Ended       Event = "ended"        // an end that the policy does not follow by a start
	GaveUp      Event = "gave up"      // the restart limit was reached, or the bundle cannot be used
	StopAsked   Event = "stop asked"   // a person, or the shutdown
	Adopted     Event = "adopted"      // a restarted supervisor found the task running
)

// moves is every move there is: from a state, by an event, to a state.
var moves = map[State]map[Event]State{
	Stopped: {StartAsked: Starting, Adopted: Running, GaveUp: Failed, RetryAt: Backoff, Ended: Stopped, StopAsked: Stopped},
	Starting: {
		Started:   Running,
		StopAsked: Stopping,
		// A failed start is settled by what the policy makes of it.
		RetryAt: Backoff, Ended: Stopped, GaveUp: Failed,
	},
	Running:  {StopAsked: Stopping, RetryAt: Backoff, Ended: Stopped, GaveUp: Failed},
	Backoff:  {TimerFired: Starting, StartAsked: Starting, StopAsked: Stopped},
	Stopping: {Exited: Stopped, StartFailed: Stopped, Started: Stopping, StopAsked: Stopping},
	Failed:   {StartAsked: Starting, StopAsked: Failed},
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

// NewMachine returns a machine of a service that is stopped.
func NewMachine() *Machine { return &Machine{state: Stopped} }

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
