package events

import (
	"sync"
	"testing"
	"time"

	"keelson/internal/api"
)

func hub() *Hub {
	var mu sync.Mutex
	var now time.Duration
	return New(func() time.Duration { mu.Lock(); defer mu.Unlock(); now++; return now })
}

func publish(h *Hub, n int) {
	for range n {
		h.Publish(api.Event{Kind: "state"})
	}
}

func TestEventsAreNumberedAndTimed(t *testing.T) {
	h := hub()
	s := h.Subscribe(false)
	defer s.Close()
	h.Publish(api.Event{Kind: "state", Service: "web", Seq: 99, Missed: 99})
	h.Publish(api.Event{Kind: "machine", At: 40 * time.Second})
	if e := <-s.C(); e.Seq != 1 || e.At != 1 || e.Service != "web" || e.Missed != 0 {
		t.Errorf("the first is %+v", e)
	}
	if e := <-s.C(); e.Seq != 2 || e.At != 40*time.Second {
		t.Errorf("the second is %+v", e)
	}
}

func TestBacklog(t *testing.T) {
	h := hub()
	publish(h, 3)
	without, with := h.Subscribe(false), h.Subscribe(true)
	defer without.Close()
	defer with.Close()
	publish(h, 1)
	if e := <-without.C(); e.Seq != 4 || e.Missed != 0 {
		t.Errorf("without a backlog the first is %+v", e)
	}
	for want := uint64(1); want <= 4; want++ {
		if e := <-with.C(); e.Seq != want || e.Missed != 0 {
			t.Errorf("with a backlog number %d is %+v", want, e)
		}
	}
}

func TestBacklogIsBoundedAndSaysWhatIsMissing(t *testing.T) {
	h := hub()
	publish(h, keep+7)
	s := h.Subscribe(true)
	defer s.Close()
	if e := <-s.C(); e.Seq != 8 || e.Missed != 7 {
		t.Errorf("the first is %+v", e)
	}
	if e := <-s.C(); e.Seq != 9 || e.Missed != 0 {
		t.Errorf("the second is %+v", e)
	}
}

// One that takes nothing holds up neither who publishes nor the others, and learns
// what it has missed.
func TestSlowSubscriber(t *testing.T) {
	h := hub()
	slow, quick := h.Subscribe(false), h.Subscribe(false)
	defer slow.Close()
	defer quick.Close()
	const n = 2*(keep+waiting) + 5
	for range n {
		publish(h, 1)
		if e := <-quick.C(); e.Missed != 0 {
			t.Fatalf("the quick one has missed some: %+v", e)
		}
	}
	got := uint64(0)
	for range keep + waiting {
		if e := <-slow.C(); e.Missed == 0 {
			got = e.Seq
		}
	}
	if got != keep+waiting {
		t.Errorf("the slow one has got up to %d", got)
	}
	publish(h, 1)
	if e := <-slow.C(); e.Seq != n+1 || e.Missed != n-got {
		t.Errorf("after the gap came %+v, want %d missed", e, n-got)
	}
}

func TestClose(t *testing.T) {
	h := hub()
	s := h.Subscribe(true)
	s.Close()
	s.Close()
	publish(h, 1)
	if _, ok := <-s.C(); ok {
		t.Error("an event came after the end")
	}
	if len(h.subs) != 0 {
		t.Error("the hub still knows the subscription")
	}
}

func TestManyAtOnce(t *testing.T) {
	h := hub()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { publish(h, 500) })
		wg.Go(func() {
			for range 100 {
				h.Subscribe(true).Close()
			}
		})
	}
	wg.Wait()
	s := h.Subscribe(true)
	defer s.Close()
	if e := <-s.C(); e.Missed+1 != e.Seq {
		t.Errorf("the backlog begins with %+v", e)
	}
}
