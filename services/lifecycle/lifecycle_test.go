package lifecycle

import (
	"slices"
	"testing"
	"time"

	"keelson/internal/policy"
)

func TestWholeLives(t *testing.T) {
	for name, tc := range map[string]struct {
		events []Event
		want   []State
	}{
		"runs, dies, comes back, is stopped": {
			[]Event{StartBegun, Started, BecameReady, RetrySet, StartBegun, Started, StopBegun, StopDone},
			[]State{Starting, Running, Ready, Backoff, Starting, Running, Stopping, Stopped},
		},
		"waits, is ready, loses what it requires, waits, is ready again": {
			[]Event{HeldUp, StartBegun, Started, BecameReady, StopBegun, HeldUp, StartBegun, Started, BecameReady},
			[]State{Waiting, Starting, Running, Ready, Stopping, Waiting, Starting, Running, Ready},
		},
		"is unhealthy and restarted": {
			[]Event{StartBegun, Started, BecameReady, Sickened, RetrySet, StartBegun},
			[]State{Starting, Running, Ready, Unhealthy, Backoff, Starting},
		},
		"is not ready in time": {
			[]Event{StartBegun, Started, StopBegun, RetrySet, StartBegun, Started, StopBegun, GaveUp},
			[]State{Starting, Running, Stopping, Backoff, Starting, Running, Stopping, Failed},
		},
		"never starts and is given up": {
			[]Event{StartBegun, RetrySet, StartBegun, GaveUp, StopBegun, StartBegun},
			[]State{Starting, Backoff, Starting, Failed, Failed, Starting},
		},
		"stopped while it is being started": {
			[]Event{StartBegun, StopBegun, StopDone},
			[]State{Starting, Stopping, Stopped},
		},
		"stopped while it waits, and in backoff": {
			[]Event{HeldUp, StopBegun, StartBegun, RetrySet, StopBegun},
			[]State{Waiting, Stopped, Starting, Backoff, Stopped},
		},
		"restarted by a person": {
			[]Event{StartBegun, Started, BecameReady, StopBegun, StopBegun, StartBegun},
			[]State{Starting, Running, Ready, Stopping, Stopping, Starting},
		},
		"adopted by a new supervisor, then done": {
			[]Event{Adopted, Ended},
			[]State{Running, Stopped},
		},
		"found dead by a new supervisor": {
			[]Event{RetrySet, StartBegun},
			[]State{Backoff, Starting},
		},
	} {
		m := NewMachine()
		var got []State
		for i, e := range tc.events {
			if err := m.Apply(e, name, time.Duration(i)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			got = append(got, m.State())
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
		last := m.Moves()[len(m.Moves())-1]
		if last.Cause != name || last.At != time.Duration(len(tc.events)-1) || last.To != m.State() {
			t.Errorf("%s: the last move was kept as %+v", name, last)
		}
	}
}

func TestImpossibleMovesAreRefusedAndChangeNothing(t *testing.T) {
	refused := 0
	for _, s := range States {
		for _, e := range Events {
			m := &Machine{state: s}
			if _, ok := moves[s][e]; ok {
				continue
			}
			refused++
			if err := m.Apply(e, "", 0); err == nil || m.State() != s || len(m.Moves()) > 0 {
				t.Errorf("%s took %q: %v", s, e, m.State())
			}
		}
	}
	if refused == 0 {
		t.Error("no move is impossible")
	}
}

func TestNoStateIsADeadEnd(t *testing.T) {
	for _, s := range States {
		reached := map[State]bool{s: true}
		for queue := []State{s}; len(queue) > 0; queue = queue[1:] {
			for _, to := range moves[queue[0]] {
				if !reached[to] {
					reached[to] = true
					queue = append(queue, to)
				}
			}
		}
		if !reached[Ready] {
			t.Errorf("a %s service can never be ready again", s)
		}
	}
}

func TestMovesAreBounded(t *testing.T) {
	m := NewMachine()
	for range 1000 {
		for _, e := range []Event{StartBegun, StopBegun, StopDone} {
			if err := m.Apply(e, "", 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(m.Moves()) != keepMoves {
		t.Errorf("%d moves are kept", len(m.Moves()))
	}
}

func TestBackoffDoublesAndBeginsAnewAfterBeingWell(t *testing.T) {
	p := policy.DefaultService()
	var r Restarts
	var got []time.Duration
	for _, ran := range []time.Duration{time.Second, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10 * time.Second, 9 * time.Second, 0} {
		d := r.Decide(p, ran, false, 0, 0)
		if d.Event != RetrySet {
			t.Fatalf("got %+v", d)
		}
		got = append(got, d.Delay)
	}
	ms := time.Millisecond
	want := []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 6400 * ms, 12800 * ms, 25600 * ms, 30000 * ms, 30000 * ms, 0, 100 * ms, 200 * ms}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if r.Count != len(want) {
		t.Errorf("counted %d restarts of %d", r.Count, len(want))
	}
}

func TestJitterIsATenth(t *testing.T) {
	for jitter, want := range map[float64]time.Duration{-1: 90 * time.Millisecond, 0: 100 * time.Millisecond, 0.5: 105 * time.Millisecond} {
		var r Restarts
		if d := r.Decide(policy.DefaultService(), 0, false, 0, jitter); d.Delay != want {
			t.Errorf("jitter %v: %v, want %v", jitter, d.Delay, want)
		}
	}
}

func TestLimitCountsWithinItsWindow(t *testing.T) {
	p := policy.DefaultService()
	p.Limit = policy.Limit{Count: 2, Window: time.Minute}
	var r Restarts
	var got []Event
	for _, at := range []time.Duration{0, 30 * time.Second, 61 * time.Second, 62 * time.Second} {
		got = append(got, r.Decide(p, 0, false, at, 0).Event)
	}
	if want := []Event{RetrySet, RetrySet, RetrySet, GaveUp}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRestartSettings(t *testing.T) {
	for _, tc := range []struct {
		restart policy.Restart
		success bool
		want    Event
	}{
		{policy.RestartAlways, true, RetrySet},
		{policy.RestartAlways, false, RetrySet},
		{policy.RestartOnFailure, true, Ended},
		{policy.RestartOnFailure, false, RetrySet},
		{policy.RestartNever, true, Ended},
		{policy.RestartNever, false, GaveUp},
	} {
		p := policy.DefaultService()
		p.Restart = tc.restart
		var r Restarts
		if d := r.Decide(p, time.Second, tc.success, 0, 0); d.Event != tc.want {
			t.Errorf("%s after success %v: %s, want %s", tc.restart, tc.success, d.Event, tc.want)
		}
	}
}
