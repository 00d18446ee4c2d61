package roster

import (
	"context"
	"slices"

	"keelson/services/queue"
)

// line finds out how each service waits for its turn: the more others come after it, the
// sooner, then as the image has them, then by name.
func (r *Roster) line(loaded []Loaded) {
	r.entries = make(map[string]queue.Entry, len(loaded))
	inOrder := slices.Clone(loaded)
	slices.SortFunc(inOrder, func(a, b Loaded) int { return a.Bundle.Before(b.Bundle) })
	for i, l := range inOrder {
		name := l.Bundle.Name
		awaited := 0
		for _, other := range r.tell[name] {
			if !slices.Contains(r.before(name), other.Name()) {
				awaited++
			}
		}
		r.entries[name] = queue.Entry{Name: name, Index: i, Awaited: awaited}
	}
}

// turnsOf are the entries of services that want to be started for the first time.
func (r *Roster) turnsOf(names []string) (all []queue.Admission) {
	for _, name := range names {
		e := r.entries[name]
		e.Class = queue.First
		all = append(all, queue.Admission{Entry: e, Admitted: r.services[name].Wake})
	}
	return all
}

// StartTurn reports whether a service may be started now.
func (r *Roster) StartTurn(name string, class queue.Class) bool {
	e := r.entries[name]
	e.Class = class
	return r.queues.Starts.Enter(e, r.services[name].Wake)
}

// EndStart ends a service's turn to start, or its wait for one.
func (r *Roster) EndStart(name string, finished bool) { r.queues.Starts.Leave(name, finished) }

// AwaitRemoval waits until what is left of a service may be removed.
func (r *Roster) AwaitRemoval(ctx context.Context, name string) (end func()) {
	if r.queues.Removals.Wait(ctx, queue.Entry{Name: name}) != nil {
		return func() {}
	}
	return func() { r.queues.Removals.Leave(name, true) }
}
