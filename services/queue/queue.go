package queue

import (
	"context"
	"sync"
	"time"
)

// Queue is a Line that several use side by side. A nil Queue gives everybody a turn
// at once.
type Queue struct {
	now   func() time.Duration
	after func(time.Duration, func()) (stop func() bool)

	mu   sync.Mutex
	line Line              // guarded by mu
	call map[string]func() // of those that wait, guarded by mu
	stop func() bool       // ends the timer, nil if there is none; guarded by mu
}

// New makes a queue in which so many have a turn at a time. now is the time since
// some moment, and after calls a function in so much time, as time.AfterFunc does.
func New(width int, now func() time.Duration, after func(time.Duration, func()) (stop func() bool)) *Queue {
	return &Queue{now: now, after: after, line: Line{Width: width}, call: map[string]func(){}}
}

// After is time.AfterFunc for New.
func After(d time.Duration, f func()) (stop func() bool) { return time.AfterFunc(d, f).Stop }

// Admission is an entry, and what is called when its turn comes.
type Admission struct {
	Entry
	Admitted func()
}

// EnterAll asks for turns of many at once: the first turns are those of the first in
// line. Each Enters as well, to know whether it has its turn.
func (q *Queue) EnterAll(all []Admission) {
	if q == nil {
		return
	}
	q.mu.Lock()
	for _, a := range all {
		q.line.Enter(a.Entry)
		q.call[a.Name] = a.Admitted
	}
	calls := q.admit()
	q.mu.Unlock()
	for _, call := range calls {
		call()
	}
}

// Enter asks for a turn, and reports whether it is had by now. Else admitted is
// called when it comes. Who asks again, while it waits or has its turn, asks for
// nothing more.
func (q *Queue) Enter(e Entry, admitted func()) bool {
	if q == nil {
		return true
	}
	q.mu.Lock()
	q.line.Enter(e)
	if !q.line.Has(e.Name) {
		q.call[e.Name] = admitted
	}
	calls := q.admit()
	has := q.line.Has(e.Name)
	if has {
		delete(calls, e.Name)
	}
	q.mu.Unlock()
	for _, call := range calls {
		call()
	}
	return has
}

// Leave ends a turn, or the wait for one. finished says that what it was for was
// done in its own time, well or not: so long a turn takes.
func (q *Queue) Leave(name string, finished bool) {
	if q == nil {
		return
	}
	q.mu.Lock()
	q.line.Leave(name, q.now(), finished)
	delete(q.call, name)
	calls := q.admit()
	q.mu.Unlock()
	for _, call := range calls {
		call()
	}
}

// Waiting is how many wait for a turn.
func (q *Queue) Waiting() int {
	if q == nil {
		return 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.line.Waiting()
}

// Wait waits for a turn; the error is the context's. One that has it must Leave.
func (q *Queue) Wait(ctx context.Context, e Entry) error {
	turn := make(chan struct{})
	if q.Enter(e, func() { close(turn) }) {
		return nil
	}
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		q.Leave(e.Name, false)
		return ctx.Err()
	}
}

// admit returns the calls to those whose turn it is, and arms the timer. mu is held.
func (q *Queue) admit() map[string]func() {
	calls := map[string]func(){}
	for _, name := range q.line.Admit(q.now()) {
		if call := q.call[name]; call != nil {
			calls[name] = call
		}
		delete(q.call, name)
	}
	if q.stop != nil {
		q.stop()
		q.stop = nil
	}
	if at, ok := q.line.Next(); ok {
		q.stop = q.after(max(at-q.now(), 0), q.due)
	}
	return calls
}

// due is called when a turn has lasted too long.
func (q *Queue) due() {
	q.mu.Lock()
	calls := q.admit()
	q.mu.Unlock()
	for _, call := range calls {
		call()
	}
}
