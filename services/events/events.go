// Package events owns the stream of what happens on the machine: state changes,
// health, resources, the machine itself.
//
// It promises that publishing never waits: what a subscriber does not take in time
// is dropped for that subscriber alone and counted in the next event it gets. What
// happened lately is kept for those who come later. It must never grow beyond its
// bounds.
package events

import (
	"sync"
	"time"

	"keelson/internal/api"
)

// Bounds in events: what is kept for those who come later, and what may wait for
// one subscriber beyond that.
const (
	keep    = 1024
	waiting = 1024
)

// Hub passes events on to whoever has subscribed.
type Hub struct {
	now func() time.Duration

	mu   sync.Mutex
	seq  uint64                     // of the last event, guarded by mu
	kept []api.Event                // the newest last, guarded by mu
	subs map[*Subscription]struct{} // guarded by mu
}

// New makes a hub. now is the time since the machine's start.
func New(now func() time.Duration) *Hub {
	return &Hub{now: now, subs: map[*Subscription]struct{}{}}
}

// Publish gives an event to every subscriber, with the next number and, unless it
// has one, the present time. It never waits.
func (h *Hub) Publish(e api.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++
	e.Seq, e.Missed = h.seq, 0
	if e.At == 0 {
		e.At = h.now()
	}
	if len(h.kept) == keep {
		copy(h.kept, h.kept[1:])
		h.kept = h.kept[:keep-1]
	}
	h.kept = append(h.kept, e)
	for s := range h.subs {
		s.give(e)
	}
}

// Subscribe begins to collect events: with backlog first those that are kept, and
// how many came before them as missed.
func (h *Hub) Subscribe(backlog bool) *Subscription {
	s := &Subscription{hub: h, c: make(chan api.Event, keep+waiting)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if backlog && len(h.kept) > 0 {
		s.missed = h.kept[0].Seq - 1
		for _, e := range h.kept {
			s.give(e)
		}
	}
	h.subs[s] = struct{}{}
	return s
}

// Subscription is one subscriber's share of the events.
type Subscription struct {
	hub    *Hub
	c      chan api.Event
	missed uint64 // dropped since the last one that was given, guarded by hub.mu
	closed bool   // guarded by hub.mu
}

// C is where the events come. It is closed by Close.
func (s *Subscription) C() <-chan api.Event { return s.c }

// give passes one event on or counts it. hub.mu is held.
func (s *Subscription) give(e api.Event) {
	e.Missed = s.missed
	select {
	case s.c <- e:
		s.missed = 0
	default:
		s.missed++
	}
}

// Close ends the subscription. It may be called more than once.
func (s *Subscription) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	delete(s.hub.subs, s)
	close(s.c)
}
