package watchdog

import (
	"fmt"
	"time"

	"keelson/services/lifecycle"
)

// Service is what counts of a critical service.
type Service struct {
	Name     string
	State    lifecycle.State
	Cause    string        // of its last move
	Sick     bool          // it was not well and has not been well since
	Down     bool          // a person has stopped it
	Hopeless bool          // it waits for what will not come by itself
	Grace    time.Duration // how long it may take to be well: its keelson.ready.timeout
}

// waitBound is how long a service may wait for others that are on their way, and
// for its first start, which has a bound of its own.
const waitBound = 10 * time.Minute

// Judge decides whether the critical services are well enough for the watchdog to
// be fed. The zero value has seen none.
type Judge struct {
	since map[string]sight // those that are not well
}

// sight is when a service was first seen not to be well.
type sight struct {
	at     time.Time
	waited bool // with nothing wrong with itself: its time to be ready has not begun
}

// Look judges the services as they are now.
func (j *Judge) Look(services []Service, now time.Time) (ok bool, who string) {
	ok = true
	for _, s := range services {
		if s.well() {
			delete(j.since, s.Name)
			continue
		}
		if j.since == nil {
			j.since = map[string]sight{}
		}
		first, seen := j.since[s.Name]
		waits := s.waits()
		if !seen || first.waited && !waits {
			first = sight{now, waits}
			j.since[s.Name] = first
		}
		if ok && now.Sub(first.at) >= s.grace() {
			ok, who = false, s.words()
		}
	}
	return ok, who
}

// well reports whether there is nothing to wait for: it does its work, has done
// it, or is not wanted.
func (s Service) well() bool {
	return s.Down || !s.Sick && (s.State == lifecycle.Ready || s.State == lifecycle.Stopped)
}

// waits reports whether its time to be ready has not begun yet.
func (s Service) waits() bool {
	return !s.Sick && (s.State == lifecycle.Starting || s.State == lifecycle.Queued || s.State == lifecycle.Waiting && !s.Hopeless)
}

// grace is how long it may stay as it is: no time where nothing is under way.
func (s Service) grace() time.Duration {
	if s.waits() || s.State == lifecycle.Queued || s.State == lifecycle.Waiting && !s.Hopeless {
		return waitBound
	}
	switch s.State {
	case lifecycle.Waiting, lifecycle.Unknown, lifecycle.Starting, lifecycle.Running, lifecycle.Ready, lifecycle.Stopping:
		return s.Grace
	}
	return 0
}

func (s Service) words() string {
	state := string(s.State)
	if s.State == lifecycle.Ready { // and sick
		state = "ready, but not found healthy yet"
	}
	if s.Cause == "" {
		return fmt.Sprintf("critical service %s is %s", s.Name, state)
	}
	return fmt.Sprintf("critical service %s is %s (%s)", s.Name, state, s.Cause)
}
