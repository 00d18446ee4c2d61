package lifecycle

import (
	"fmt"
	"time"

	"keelson/internal/policy"
)

// WellAfter is how long a service must have been ready and healthy before it
// counts as well: its next restart is immediate and its backoff begins anew.
const WellAfter = 10 * time.Second

// Restarts decides whether and when a service that ended is started again. It
// is what a supervisor has to remember of a service across its own death, so
// its fields are exported for JSON.
type Restarts struct {
	Count int           `json:"count"`           // restarts since boot
	Delay time.Duration `json:"delay"`           // the last delay without jitter, 0 after a time of being well
	Times []int64       `json:"times,omitempty"` // when the restarts within the limit's window were decided, nanoseconds since the machine's start
}

// Decision is what becomes of a service that ended or could not be started.
type Decision struct {
	Event  Event         // RetrySet, Ended or GaveUp
	Delay  time.Duration // for RetrySet: until the start
	Reason string        // for Ended and GaveUp, in words
}

// Forget makes what comes count from here on, as a person's request to start does;
// the count since the boot stays.
func (r *Restarts) Forget() { r.Delay, r.Times = 0, nil }

// Decide says what follows an end. well is how long the service had been ready
// and healthy, 0 for a failed start; success says that it ended by itself with code 0; now is the
// time since the machine's start; jitter is a number in [-1, 1).
func (r *Restarts) Decide(p policy.Service, well time.Duration, success bool, now time.Duration, jitter float64) Decision {
	switch {
	case p.Restart == policy.RestartNever:
		if success {
			return Decision{Event: Ended, Reason: "not restarted (keelson.restart: never)"}
		}
		return Decision{Event: GaveUp, Reason: "not restarted (keelson.restart: never)"}
	case p.Restart == policy.RestartOnFailure && success:
		return Decision{Event: Ended, Reason: "not restarted (keelson.restart: on-failure)"}
	}
	if p.Limit.Count > 0 {
		kept := r.Times[:0]
		for _, t := range r.Times {
			if now-time.Duration(t) < p.Limit.Window {
				kept = append(kept, t)
			}
		}
		r.Times = kept
		if len(r.Times) >= p.Limit.Count {
			return Decision{Event: GaveUp, Reason: fmt.Sprintf("restarted %d times within %v (keelson.restart.limit: %v)", len(r.Times), p.Limit.Window, p.Limit)}
		}
		r.Times = append(r.Times, int64(now))
	}
	r.Count++
	if well >= WellAfter {
		r.Delay = 0
		return Decision{Event: RetrySet}
	}
	if r.Delay == 0 {
		r.Delay = p.BackoffMin
	} else {
		r.Delay = min(2*r.Delay, p.BackoffMax)
	}
	return Decision{Event: RetrySet, Delay: r.Delay + time.Duration(jitter*0.1*float64(r.Delay))}
}
