package roster

import (
	"fmt"
	"slices"
	"sync/atomic"

	"keelson/services/lifecycle"
	"keelson/services/runner"
)

func (r *Roster) status(name string) runner.Status {
	st, _ := r.services[name].Status()
	return st
}

// Gate says what a service has to wait for before it is started.
func (r *Roster) Gate(name string) (waitsFor []string, with map[string]uint64) {
	requires, after, leaving := r.orderOf(name)
	if leaving {
		return []string{"the end: the machine goes down"}, nil
	}
	with = map[string]uint64{}
	for _, other := range requires {
		if st := r.status(other); ready(st) {
			with[other] = st.Run
		} else {
			waitsFor = append(waitsFor, words(other, st))
		}
	}
	for _, other := range after {
		if slices.Contains(requires, other) {
			continue
		}
		if st := r.status(other); !ready(st) && !r.cameToNothing(other) {
			waitsFor = append(waitsFor, words(other, st))
		}
	}
	return waitsFor, with
}

func ready(st runner.Status) bool { return st.State == lifecycle.Ready && st.Run != 0 }

// words is a service that another one waits for, and why it is not there.
func words(name string, st runner.Status) string { return fmt.Sprintf("%s (%s)", name, word(st)) }

// word is the state of a service in a word. One that has ended is ready until that
// is settled.
func word(st runner.Status) string {
	if st.State == lifecycle.Ready && st.Run == 0 {
		return "ended"
	}
	return string(st.State)
}

// sentence is word in a sentence.
func sentence(st runner.Status) string {
	switch w := word(st); w {
	case "ended":
		return "has ended"
	case string(lifecycle.Backoff):
		return "has ended or could not start"
	case string(lifecycle.Stopped), string(lifecycle.Failed):
		return "has " + w
	default:
		return "is " + w
	}
}

// cameToNothing reports whether a service has tried to become ready and has not, or
// does not try: what is only ordered after it need not wait for it.
func (r *Roster) cameToNothing(name string) bool {
	st := r.status(name)
	switch st.State {
	case lifecycle.Backoff, lifecycle.Unhealthy, lifecycle.Stopped, lifecycle.Failed:
		return true
	case lifecycle.Queued:
		return st.Retried
	case lifecycle.Stopping:
		return !st.Comes
	case lifecycle.Waiting:
		return r.waitsInVain(name)
	}
	return st.Over
}

// waitsInVain reports whether something that a service requires has come to nothing.
func (r *Roster) waitsInVain(name string) bool {
	requires, _, _ := r.orderOf(name)
	return slices.ContainsFunc(requires, r.cameToNothing)
}

// Hopeless reports whether something that a waiting service requires will not come
// by itself.
func (r *Roster) Hopeless(name string) bool {
	requires, _, _ := r.orderOf(name)
	return slices.ContainsFunc(requires, func(other string) bool {
		switch r.status(other).State {
		case lifecycle.Stopped, lifecycle.Failed:
			return true
		case lifecycle.Waiting:
			return r.Hopeless(other)
		}
		return false
	})
}

// Lost says why a service that was started with these may not go on.
func (r *Roster) Lost(name string, with map[string]uint64) string {
	requires, _, leaving := r.orderOf(name)
	if leaving {
		return "" // everything is stopped in order
	}
	for _, other := range requires {
		st := r.status(other)
		was := with[other]
		if st.State == lifecycle.Unknown || st.State == lifecycle.Running && st.Run == was {
			continue // a restarted supervisor has yet to find out; it was ready
		}
		if !ready(st) {
			return fmt.Sprintf("%s, which it requires, %s", other, sentence(st))
		}
		if was != 0 && was != st.Run {
			return fmt.Sprintf("%s, which it requires, was started again", other)
		}
	}
	return ""
}

// StopFirst names those that have to be stopped before a service is: those that
// require it, and when the machine goes down those that are ordered after it too.
// One that cannot be stopped is not waited for.
func (r *Roster) StopFirst(name string) []string {
	r.mu.Lock()
	users := r.comeAfter(name, r.leaving)
	r.mu.Unlock()
	return slices.DeleteFunc(users, func(other string) bool {
		st := r.status(other)
		return !st.State.Active() || st.Over || st.Stuck != "" || st.State == lifecycle.Unknown && st.Settled
	})
}

// comeAfter returns those that require a service themselves, and if ordered those that are
// ordered after it too, sorted. mu is held.
func (r *Roster) comeAfter(name string, ordered bool) (users []string) {
	for _, svc := range r.tell[name] { // among them are all that come after it
		other := svc.Name()
		if o := r.order[other]; slices.Contains(o.Requires, name) || ordered && slices.Contains(o.After, name) {
			users = append(users, other)
		}
	}
	return users
}

// waitsFor says in words what a service waits for at present, if it does.
func (r *Roster) waitsFor(name string) []string {
	switch r.status(name).State {
	case lifecycle.Waiting:
		list, _ := r.Gate(name)
		return list
	case lifecycle.Queued:
		return []string{"its turn to start"}
	case lifecycle.Stopping:
		var list []string
		for _, other := range r.StopFirst(name) {
			list = append(list, words(other, r.status(other)))
		}
		return list
	}
	return nil
}

// Settled reports whether no service is on its first way up any more. It may be asked at
// each move of a thousand services: most times it looks at one.
func (r *Roster) Settled() bool {
	return r.all(&r.unsettled, func(name string, st runner.Status) bool {
		return st.Settled || st.State == lifecycle.Waiting && r.waitsInVain(name)
	})
}

// Gone reports whether every service has stopped, after Leave.
func (r *Roster) Gone() bool {
	return r.all(&r.staying, func(_ string, st runner.Status) bool { return st.Over })
}

// all reports whether something is true of all services, and begins with the one of which
// it was not the last time.
func (r *Roster) all(from *atomic.Int64, is func(name string, st runner.Status) bool) bool {
	start := int(from.Load())
	for i := range r.names {
		at := (start + i) % len(r.names)
		if name := r.names[at]; !is(name, r.status(name)) {
			from.Store(int64(at))
			return false
		}
	}
	return true
}

// Unsettled says in words which services are still on their first way up: not those
// that are ready, have failed, or wait for one that did.
func (r *Roster) Unsettled() []string {
	var list []string
	for _, name := range r.names {
		st := r.status(name)
		if st.Settled || st.State == lifecycle.Waiting && r.waitsInVain(name) {
			continue
		}
		list = append(list, words(name, st))
	}
	return list
}

// Leave begins to stop everything, because the machine goes down.
func (r *Roster) Leave() {
	r.mu.Lock()
	r.leaving = true
	r.mu.Unlock()
	for _, name := range r.names {
		r.services[name].Leave()
	}
}

// Hurry kills what has not stopped yet, after Leave.
func (r *Roster) Hurry() {
	for _, name := range r.names {
		r.services[name].Hurry()
	}
}

// Left says in words which services have not stopped yet, after Leave.
func (r *Roster) Left() []string {
	var list []string
	for _, name := range r.names {
		if st := r.status(name); !st.Over {
			list = append(list, words(name, st))
		}
	}
	return list
}
