package roster

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"keelson/internal/bundle"
	"keelson/services/queue"
)

// queued is a machine on which so many services are started at a time, each in a second.
func queued(t *testing.T, width int, services map[string]map[string]string) *world {
	w := newWorld(t, nil)
	w.queues = Queues{Starts: queue.New(width, w.now, queue.After), Removals: queue.New(width, w.now, queue.After)}
	w.make(services)
	for name := range services {
		w.change(name, func(a *act) { a.startTime = time.Second })
	}
	return w
}

func TestStartsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := queued(t, 2, map[string]map[string]string{
			"a": keys("ready", "started"), "b": keys("ready", "started"), "c": keys("ready", "started"),
			"d": keys(), "z": keys(), "needs-z": keys("requires", "z", "ready", "started"),
		})
		w.change("z", func(a *act) { a.readyTime = 10 * time.Second })
		w.run()
		w.are(keys("z", "starting", "a", "starting", "b", "queued: its turn to start", "c", "queued: its turn to start", "d", "queued: its turn to start"))
		if i, _ := w.r.Info("b"); i.Cause != "boot" {
			t.Errorf("b is queued as %q", i.Cause)
		}
		w.until(1500 * time.Millisecond)
		w.are(keys("z", "running", "a", "ready", "b", "starting", "c", "starting", "needs-z", "waiting: z (running)"))
		w.until(20 * time.Second)
		w.are(keys("z", "ready", "d", "ready", "needs-z", "ready"))
		// Waiting for readiness holds no turn.
		w.happened("1s +a", "1s +z", "2s +b", "2s +c", "3s +d", "13s +needs-z")
		w.end()
	})
}

// Ten services that fail again and again do not delay the first start of healthy ones.
func TestFirstStartsComeBeforeRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		services := map[string]map[string]string{}
		for i := range 10 {
			services[fmt.Sprintf("bad%d", i)] = keys("restart.backoff", "100ms..100ms")
		}
		for i := range 10 {
			services[fmt.Sprintf("good%d", i)] = keys("ready", "started")
		}
		w := queued(t, 1, services)
		for i := range 10 {
			w.change(fmt.Sprintf("bad%d", i), func(a *act) { a.startErr = errors.New("not in the image") })
		}
		w.run()
		w.until(20*time.Second + 500*time.Millisecond)
		for i := range 10 {
			w.are(keys(fmt.Sprintf("good%d", i), "ready"))
		}
		w.until(60 * time.Second)
		w.end()
	})
}

// A mount of a dead disk hangs for as long as a start may, and is not in the others' way.
func TestAStartThatHangsDoesNotHoldUpTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := queued(t, 1, map[string]map[string]string{"a": keys("ready", "started"), "b": keys("ready", "started"), "c": keys("ready", "started")})
		w.change("a", func(a *act) { a.startTime = time.Hour })
		w.run()
		w.until(13 * time.Second)
		w.are(keys("a", "starting", "b", "ready", "c", "ready"))
		w.until(4 * time.Minute)
		if w.Count("a: ERROR: failed to start") == 0 {
			t.Errorf("its bound did not end it: %q", w.Shown())
		}
		w.end()
	})
}

// A start's bound counts from its turn.
func TestBoundsCountFromTheTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		services := map[string]map[string]string{}
		for i := range 100 {
			services[fmt.Sprintf("s%02d", i)] = keys("ready", "started")
		}
		w := queued(t, 1, services)
		for name := range services {
			w.change(name, func(a *act) { a.startTime = 9 * time.Second })
		}
		w.run()
		w.until(100*9*time.Second + time.Second)
		for name := range services {
			w.are(keys(name, "ready"))
		}
		w.end()
	})
}

func TestQueuedServicesCanBeStoppedAndAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := queued(t, 1, map[string]map[string]string{"a": keys("ready", "started"), "b": keys("ready", "started"), "c": keys("ready", "started"), "d": keys("ready", "started")})
		w.run()
		if err := w.r.Stop(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		w.are(keys("b", "stopped"))
		go func() { _ = w.r.Start(t.Context(), "d") }() // before c
		w.until(10 * time.Second)
		w.are(keys("a", "ready", "b", "stopped", "c", "ready", "d", "ready"))
		w.happened("1s +a", "2s +d", "3s +c")
		w.end()
	})
}

// What is only ordered after a service that fails does not wait for its next try, however
// long that waits for its turn.
func TestAfterDoesNotWaitForAQueuedRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := queued(t, 1, map[string]map[string]string{
			"bad": keys("restart.backoff", "1s..1s"), "slow": keys("ready", "started"), "slow2": keys("ready", "started"),
			"other": keys("ready", "started"), "user": keys("after", "bad,other", "ready", "started"),
		})
		w.change("bad", func(a *act) { a.startErr = errors.New("no") })
		for _, name := range []string{"slow", "slow2"} {
			w.change(name, func(a *act) { a.startTime = 9 * time.Second })
		}
		w.run()
		w.until(4 * time.Second)
		w.are(keys("bad", "queued: its turn to start", "user", "queued: its turn to start"))
		w.until(25 * time.Second)
		w.are(keys("user", "ready"))
		w.end()
	})
}

// The machine goes down while most still wait for their turn.
func TestTheQueueDoesNotHoldUpTheShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		services := map[string]map[string]string{}
		for i := range 50 {
			services[fmt.Sprintf("s%02d", i)] = keys("ready", "started")
		}
		w := queued(t, 2, services)
		w.run()
		w.until(3500 * time.Millisecond)
		w.end()
		if now := w.now(); now > 5*time.Second {
			t.Errorf("it took until %v", now)
		}
	})
}

func TestTheImagesOrderCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := queued(t, 1, map[string]map[string]string{"a": keys("ready", "started"), "b": keys("ready", "started"), "c": keys("ready", "started")})
		var loaded []Loaded
		for i, name := range []string{"c", "a", "b"} {
			b, _ := w.r.Bundle(name)
			placed := *b
			placed.Runtime = bundle.Runtime{Order: i + 1}
			loaded = append(loaded, Loaded{Bundle: &placed})
		}
		w.r, _ = New(w.cfg, w.queues, loaded)
		w.run()
		w.until(10 * time.Second)
		w.happened("1s +c", "2s +a", "3s +b")
		w.end()
	})
}
