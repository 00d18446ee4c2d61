package forward

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keelson/services/logs"
)

// bound ends a test that hangs.
const bound = 30 * time.Second

// world is a store, a target whose behaviour a test sets, and a clock that moves
// only when the forwarder waits.
type world struct {
	t     *testing.T
	dir   string
	store *logs.Store

	mu      sync.Mutex
	now     time.Duration
	refuse  error // what connect returns
	relent  int   // the first try that is not refused, 0 for none
	failing error // what send returns, once
	sent    []string
	said    []string
	room    int  // how many records the receiver takes before it hangs, 0 for all
	stuck   bool // it hangs
	tries   int
	waits   []time.Duration
	changed chan struct{}
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir(), now: time.Second, changed: make(chan struct{}, 1)}
	w.store = logs.New(logs.Config{Now: w.clock, Wall: time.Now})
	t.Cleanup(w.store.Close)
	return w
}

func (w *world) clock() time.Duration { w.mu.Lock(); defer w.mu.Unlock(); return w.now }

func (w *world) note(f func()) {
	w.mu.Lock()
	f()
	w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

func (w *world) connect(context.Context) error {
	var err error
	w.note(func() {
		if w.tries++; w.relent == 0 || w.tries < w.relent {
			err = w.refuse
		}
	})
	return err
}

func (w *world) send(ctx context.Context, r logs.Record) error {
	var err error
	w.mu.Lock()
	full := w.room != 0 && len(w.sent) >= w.room
	w.mu.Unlock()
	if full {
		w.note(func() { w.stuck = true })
		<-ctx.Done()
		return ctx.Err()
	}
	w.note(func() {
		if err, w.failing = w.failing, nil; err == nil && !r.Gap {
			w.sent = append(w.sent, string(r.Text))
		}
	})
	return err
}

func (w *world) close() {}

func (w *world) wait(ctx context.Context, d time.Duration) bool {
	w.note(func() { w.waits = append(w.waits, d); w.now += d })
	return ctx.Err() == nil
}

// start begins to forward, and returns what ends it.
func (w *world) start(target Target) (*Forwarder, func()) {
	w.t.Helper()
	say := func(mark string) func(string, ...any) {
		return func(format string, a ...any) {
			w.note(func() { w.said = append(w.said, mark+fmt.Sprintf(format, a...)) })
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := Start(ctx, Config{Target: target, Store: w.store, Dir: w.dir, Now: w.clock, Info: say(""), Warn: say("warning: "), sink: w, wait: w.wait,
		Wall: func(time.Duration) time.Time { return time.Time{} }})
	end := func() { cancel(); f.Wait() }
	w.t.Cleanup(end)
	return f, end
}

func (w *world) log(at time.Duration, text string, dropped int64) {
	if dropped > 0 {
		w.store.Append(logs.Record{At: at, Source: "web", Stream: logs.Stdout, Gap: true, Dropped: dropped, Priority: logs.NoPriority})
	}
	w.store.Append(logs.Record{At: at, Source: "web", Stream: logs.Stdout, Text: []byte(text), Priority: logs.NoPriority})
}

// until waits until something holds of what is guarded by mu.
func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	end := time.After(bound)
	for {
		w.mu.Lock()
		ok := holds()
		w.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-w.changed:
		case <-end:
			w.mu.Lock()
			defer w.mu.Unlock()
			w.t.Fatalf("waited in vain: %s; sent %q, said %q", what, w.sent, w.said)
		}
	}
}

func (w *world) awaitSent(want ...string) {
	w.t.Helper()
	w.until(fmt.Sprintf("sent %q", want), func() bool { return slices.Equal(w.sent, want) })
}

var tcp = Target{kindTCP, "log.example:514"}

// The network comes after the first lines, and nobody is told of the wait.
func TestWaitsQuietlyForTheNetwork(t *testing.T) {
	w := newWorld(t)
	w.refuse, w.relent = errors.New("network is unreachable"), 8
	w.log(1, "early", 0)
	w.start(tcp)
	w.awaitSent("early")
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.waits, []time.Duration{retryMin, 2 * retryMin, 4 * retryMin, 8 * retryMin, 16 * retryMin, 32 * retryMin, 64 * retryMin}) {
		t.Errorf("waited %v", w.waits)
	}
	if len(w.said) != 1 || w.said[0] != "tcp://log.example:514: the logs go there" {
		t.Errorf("said %q", w.said)
	}
}

func TestSaysOnceThatATargetIsAway(t *testing.T) {
	w := newWorld(t)
	w.refuse = errors.New("connection refused")
	w.log(1, "a", 0)
	w.start(tcp)
	w.until("patience is over", func() bool { return w.now > 3*patience })
	w.mu.Lock()
	defer w.mu.Unlock()
	if want := "warning: tcp://log.example:514: connection refused; it is tried again, and the logs wait for it as far as they have room"; len(w.said) != 1 || w.said[0] != want {
		t.Errorf("said %q", w.said)
	}
	if last := w.waits[len(w.waits)-1]; last != retryMax {
		t.Errorf("the last wait was %v", last)
	}
}

func TestConnectionBreaksAndComesBack(t *testing.T) {
	w := newWorld(t)
	w.start(tcp)
	w.log(1, "a", 0)
	w.awaitSent("a")
	w.mu.Lock()
	w.failing, w.refuse = errors.New("broken pipe"), errors.New("connection refused")
	tries := w.tries
	w.mu.Unlock()
	w.log(2, "b", 0)
	w.until("it is tried again", func() bool { return w.tries > tries+3 })
	w.log(3, "c", 0)
	w.mu.Lock()
	w.refuse = nil
	w.mu.Unlock()
	w.awaitSent("a", "b", "c")
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.said) != 3 || !strings.Contains(w.said[1], "broken pipe; it is tried again") || !strings.HasPrefix(w.said[2], "tcp://log.example:514: back after ") {
		t.Errorf("said %q", w.said)
	}
}

// A datagram that nobody takes fails with the next one: that is no coming back.
func TestDatagramsThatNobodyTakes(t *testing.T) {
	w := newWorld(t)
	w.start(Target{kindUDP, "log.example:514"})
	for i := range 20 {
		w.mu.Lock()
		w.failing = errors.New("connection refused")
		w.mu.Unlock()
		w.log(time.Duration(i+1), fmt.Sprint(i), 0)
		w.until("it is sent", func() bool { return len(w.sent) == i+1 })
	}
	w.mu.Lock()
	if len(w.said) != 2 || !strings.Contains(w.said[1], "connection refused") {
		t.Errorf("said %q", w.said)
	}
	w.now += steady
	w.mu.Unlock()
	w.log(100, "more", 0)
	w.until("it is back", func() bool { return len(w.said) == 3 && strings.Contains(w.said[2], "back after") })
}

func TestSaysWhatTheStoreHadToThrowAway(t *testing.T) {
	w := newWorld(t)
	w.log(1, "a", 1000)
	w.log(2, "b", 200)
	w.start(tcp)
	w.awaitSent("a", "b")
	w.mu.Lock()
	w.now += missedEvery
	w.mu.Unlock()
	w.log(3, "c", 4)
	w.awaitSent("a", "b", "c")
	w.mu.Lock()
	defer w.mu.Unlock()
	var got []string
	for _, s := range w.said {
		if strings.Contains(s, "missing") {
			got = append(got, s)
		}
	}
	if len(got) != 2 || !strings.Contains(got[0], " 1000 lines are missing") || !strings.Contains(got[1], " 204 lines are missing") {
		t.Errorf("said %q", w.said)
	}
}

// The next supervisor goes on behind the last record that was sent, also among
// records of the same time.
func TestGoesOnWhereItWas(t *testing.T) {
	w := newWorld(t)
	_, end := w.start(tcp)
	w.log(5*time.Second, "a", 0)
	w.log(7*time.Second, "b", 0)
	w.log(7*time.Second, "c", 0)
	w.awaitSent("a", "b", "c")
	end()
	w.log(7*time.Second, "d", 0)
	w.log(8*time.Second, "e", 0)
	w.start(tcp)
	w.awaitSent("a", "b", "c", "d", "e")
	// Another target has its own place.
	w.start(Target{kindTCP, "other:514"})
	w.awaitSent("a", "b", "c", "d", "e", "a", "b", "c", "d", "e")
}

// A supervisor dies while its receiver is slow. The next one sends what was not sent, however old it is: the kernel's
// first messages are read when much was logged already, and a line may be on its way while others pass it.
func TestGoesOnWithWhatIsOlder(t *testing.T) {
	w := newWorld(t)
	say := func(source string, stream logs.Stream, at time.Duration, text string) {
		w.store.Append(logs.Record{At: at, Source: source, Stream: stream, Text: []byte(text), Priority: logs.NoPriority})
	}
	w.room = 4
	_, end := w.start(tcp)
	say("web", logs.Stdout, 9*time.Second, "a")
	say("web", logs.Stdout, 10*time.Second, "b")
	w.awaitSent("a", "b")
	for i, text := range []string{"k1", "k2", "k3", "k4"} {
		say(logs.KernelLog, logs.Kernel, time.Duration(i+1)*time.Second, text)
	}
	w.until("the receiver hangs", func() bool { return w.stuck })
	say("db", logs.Stderr, 5*time.Second, "late")
	say("web", logs.Stdout, 11*time.Second, "c")
	end()
	w.mu.Lock()
	w.room = 0
	w.mu.Unlock()
	w.start(tcp)
	w.awaitSent("a", "b", "k1", "k2", "k3", "k4", "late", "c")
}

func TestTheEndIsAwaitedWhereSomebodyIsThere(t *testing.T) {
	w := newWorld(t)
	w.refuse = errors.New("refused")
	f, _ := w.start(tcp)
	if f.Awaiting("the end") != nil {
		t.Error("waits for a target that is away")
	}
	w.mu.Lock()
	w.refuse = nil
	w.mu.Unlock()
	w.log(1, "a", 0)
	w.awaitSent("a")
	end := f.Awaiting("the end")
	select {
	case <-end:
		t.Error("ended at once")
	default:
	}
	w.store.Append(logs.Record{Source: logs.Keelson, Stream: logs.Event, Text: []byte("the end"), Priority: 6})
	select {
	case <-end:
	case <-time.After(bound):
		t.Error("the end was not seen")
	}
	w.awaitSent("a", "the end")
}

// A memlogd is told what containers write, and nothing else.
func TestMemlogdHasOnlyOutput(t *testing.T) {
	w := newWorld(t)
	w.start(Memlogd("/run/x"))
	w.store.Append(logs.Record{Source: logs.Keelson, Stream: logs.Event, Text: []byte("event")})
	w.store.Append(logs.Record{Source: logs.KernelLog, Stream: logs.Kernel, Text: []byte("kernel")})
	w.log(0, "output", 0)
	w.awaitSent("output")
}
