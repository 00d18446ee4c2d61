package parts

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"keelson/services/task/tasktest"
)

// process is one on paper: it answers after delay, or never.
type process struct {
	mu       sync.Mutex
	silent   bool
	delay    time.Duration
	wanted   time.Duration // of a processor; guarded by mu
	working  bool          // it wants one all the time
	state    string
	signals  []unix.Signal
	calls    int
	exited   chan struct{}
	diesOf   unix.Signal
	began    time.Time
	stopOnce sync.Once
}

func (p *process) ask(ctx context.Context) error {
	p.mu.Lock()
	p.calls++
	silent, delay := p.silent, p.delay
	p.mu.Unlock()
	if silent {
		<-ctx.Done()
		return ctx.Err()
	}
	select {
	case <-time.After(delay):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *process) signal(sig unix.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.signals = append(p.signals, sig)
	if sig == p.diesOf {
		p.stopOnce.Do(func() { close(p.exited) })
	}
	return nil
}

// ReadDir and ReadFile are its /proc.
func (p *process) ReadDir(string) ([]string, error) { return []string{"7"}, nil }

func (p *process) ReadFile(path string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if strings.HasSuffix(path, "/schedstat") {
		wanted := p.wanted
		if p.working {
			wanted += time.Since(p.began)
		}
		return []byte("1000 " + strconv.FormatInt(int64(wanted), 10) + " 5\n"), nil
	}
	return []byte("7 (a (b) c) " + p.state + strings.Repeat(" 0", 40)), nil
}

// world is a set with one part.
type world struct {
	*tasktest.Console
	set *Set
	p   *process
}

func newWorld(t *testing.T, ctx context.Context, limits Limits, setUp func(p *process)) *world {
	t.Helper()
	began := time.Now()
	w := &world{Console: &tasktest.Console{Now: func() time.Duration { return time.Since(began) }},
		p: &process{exited: make(chan struct{}), diesOf: unix.SIGABRT, state: "S", began: began}}
	w.set = New(w.Console, func() time.Duration { return time.Since(began) }, nil)
	w.set.proc = w.p
	setUp(w.p)
	go w.set.Run(ctx)
	w.set.Watch(ctx, Part{Name: "shim", PID: 7, Members: []string{"ns/web", "ns/db"}, Limits: limits,
		Ask: w.p.ask, Signal: w.p.signal, Exited: w.p.exited})
	return w
}

// play runs f in a bubble, with a shim that setUp has made as it is to be.
func play(t *testing.T, setUp func(p *process), f func(ctx context.Context, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f(ctx, newWorld(t, ctx, Shim, setUp))
		cancel()
		synctest.Wait()
	})
}

func TestAPartThatAnswersIsAskedSeldom(t *testing.T) {
	play(t, func(p *process) { p.delay = time.Second }, func(ctx context.Context, w *world) {
		time.Sleep(50*time.Minute + time.Minute)
		synctest.Wait()
		if w.p.calls < 9 || w.p.calls > 10 || len(w.p.signals) > 0 || len(w.Shown()) > 0 {
			t.Errorf("%d calls, signals %v, console %q", w.p.calls, w.p.signals, w.Shown())
		}
	})
}

func TestAPartThatHangsIsEnded(t *testing.T) {
	stopped := func(p *process) { p.silent, p.state, p.diesOf = true, "T", unix.SIGKILL }
	play(t, stopped, func(ctx context.Context, w *world) {
		w.set.Doubt()
		time.Sleep(6 * time.Second)
		cut, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := w.set.Answering(cut, func(members []string) bool { return slices.Contains(members, "ns/db") }); err == nil || !strings.Contains(err.Error(), "shim does not answer") {
			t.Errorf("one that is silent counts as answering: %v", err)
		}
		if err := w.set.Answering(ctx, func([]string) bool { return false }); err != nil {
			t.Errorf("one that does not matter is waited for: %v", err)
		}
		began := time.Now()
		if err := w.set.Answering(ctx, func([]string) bool { return true }); err != nil {
			t.Error(err)
		}
		if waited := time.Since(began); waited < time.Minute || waited > 80*time.Second {
			t.Errorf("it took %v", waited)
		}
		if want := []unix.Signal{unix.SIGABRT, unix.SIGCONT, unix.SIGKILL}; !slices.Equal(w.p.signals, want) {
			t.Errorf("signals %v", w.p.signals)
		}
		want := []string{
			"30s shim: warning: does not answer and does nothing: it is killed with its containers (web, db) in 30s unless that changes",
			"1m0s shim: ERROR: hangs: it does not answer and was stopped by a signal; SIGABRT for its stacks, then it is killed with its containers (web, db) and started again",
			"1m10s shim: warning: has not exited 10s after SIGABRT: SIGKILL",
		}
		if got := w.Shown(); !slices.Equal(got, want) {
			t.Errorf("console %q", got)
		}
		if len(w.set.Status()) != 0 {
			t.Errorf("what has exited is still shown: %+v", w.set.Status())
		}
	})
}

// What the kernel does not let go is reported, once, and nobody waits for it for ever.
func TestAPartThatCannotBeKilled(t *testing.T) {
	immortal := func(p *process) { p.silent, p.state, p.diesOf = true, "D", 0 }
	play(t, immortal, func(ctx context.Context, w *world) {
		w.set.Doubt()
		time.Sleep(10 * time.Minute)
		if n := w.Count("cannot be killed: it is stuck in the kernel"); n != 1 {
			t.Errorf("console %q", w.Shown())
		}
		cut, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := w.set.Answering(cut, func([]string) bool { return true }); err == nil {
			t.Error("it answers")
		}
	})
}

// A machine that is too slow for an answer within minutes loses no container.
func TestASlowPartIsLeftAlone(t *testing.T) {
	starved := func(p *process) { p.delay, p.working, p.state = 50*time.Second, true, "R" }
	play(t, starved, func(ctx context.Context, w *world) {
		for range 20 {
			w.set.Doubt()
			time.Sleep(70 * time.Second)
		}
		if len(w.p.signals) > 0 || len(w.Shown()) > 0 {
			t.Errorf("signals %v, console %q", w.p.signals, w.Shown())
		}
		if err := w.set.Answering(ctx, func([]string) bool { return true }); err != nil {
			t.Error(err)
		}
	})
}

func TestAPartThatComesBackIsLeftAlone(t *testing.T) {
	play(t, func(p *process) { p.silent = true }, func(ctx context.Context, w *world) {
		w.set.Doubt()
		time.Sleep(42 * time.Second)
		if s := w.set.Status(); len(s) != 1 || s[0].State != "silent" || s[0].PID != 7 || len(s[0].Members) != 2 {
			t.Errorf("status %+v", s)
		}
		w.p.mu.Lock()
		w.p.silent = false
		w.p.mu.Unlock()
		time.Sleep(10 * time.Second)
		if s := w.set.Status(); len(s) != 1 || s[0].State != "answering" || len(w.p.signals) > 0 {
			t.Errorf("status %+v, signals %v", s, w.p.signals)
		}
		if shown := strings.Join(w.Shown(), "\n"); !strings.Contains(shown, "answers again after") {
			t.Errorf("console %q", shown)
		}
		w.p.stopOnce.Do(func() { close(w.p.exited) })
		synctest.Wait()
		if len(w.set.Status()) != 0 {
			t.Errorf("status %+v", w.set.Status())
		}
	})
}
