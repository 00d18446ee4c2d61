package runner

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keelson/internal/bundle"
	"keelson/internal/pidfd"
	"keelson/internal/policy"
	"keelson/services/lifecycle"
	"keelson/services/store"
	"keelson/services/task"
	"keelson/services/task/tasktest"
)

// life is a service in a world of fakes, and what was seen of it. It is its
// container runtime, its console and its output.
type life struct {
	*tasktest.Console
	t      *testing.T
	begin  time.Time
	cfg    Config
	b      *bundle.Bundle
	svc    *Service
	cancel context.CancelFunc

	// onStart and onAdopt are told which call this is, from 1 on.
	onStart  func(ctx context.Context, n int) (task.Task, error)
	onAdopt  func(ctx context.Context, n int, was pidfd.Identity) (task.Task, *task.Exit, error)
	onRemove func(n int)

	mu                       sync.Mutex
	starts, adopts, removals int
	line                     func([]byte)
	marked                   [2]int64
	broken                   atomic.Bool // its pipes are gone
	opened                   int
	acted                    []policy.Action
}

func newLife(t *testing.T, annotations map[string]string) *life {
	l := &life{t: t, begin: time.Now(), b: &bundle.Bundle{Name: "web", ID: "web", Section: bundle.Services}}
	var problems []policy.Problem
	if l.b.Service, problems = policy.ParseService(annotations); len(problems) > 0 {
		t.Fatal(problems)
	}
	l.Console = &tasktest.Console{Now: l.now}
	l.cfg = Config{
		Tasks: l, Console: l, MemoryDir: t.TempDir(), Now: l.now, After: time.After,
		Jitter:     func() float64 { return 0 },
		Act:        func(a policy.Action, _ string) { l.mu.Lock(); l.acted = append(l.acted, a); l.mu.Unlock() },
		OpenOutput: func(*bundle.Bundle) (Output, error) { l.broken.Store(false); l.opened++; return l, nil },
	}
	l.onStart = func(_ context.Context, n int) (task.Task, error) { return tasktest.New(100 + n), nil }
	l.onAdopt = func(context.Context, int, pidfd.Identity) (task.Task, *task.Exit, error) { return nil, nil, nil }
	return l
}

// run begins the service's life and waits until nothing moves.
func (l *life) run() {
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	l.svc = New(&l.cfg, l.b, nil)
	go l.svc.Run(ctx)
	synctest.Wait()
}

// ends waits for the end of Run, which must come at this time.
func (l *life) ends(at time.Duration) {
	l.t.Helper()
	<-l.svc.Over()
	if now := l.now(); now != at {
		l.t.Errorf("it was over after %v, not %v", now, at)
	}
	l.cancel()
}

// until lets time pass until so long after the beginning.
func (l *life) until(at time.Duration) {
	time.Sleep(at - l.now())
	synctest.Wait()
}

func (l *life) now() time.Duration { return time.Since(l.begin) }

func (l *life) Start(ctx context.Context, _ *bundle.Bundle, _ task.Streams) (task.Task, error) {
	l.mu.Lock()
	l.starts++
	n := l.starts
	l.mu.Unlock()
	return l.onStart(ctx, n)
}

func (l *life) Adopt(ctx context.Context, _ *bundle.Bundle, was pidfd.Identity) (task.Task, *task.Exit, error) {
	l.mu.Lock()
	l.adopts++
	n := l.adopts
	l.mu.Unlock()
	return l.onAdopt(ctx, n, was)
}

func (l *life) Remove(context.Context, *bundle.Bundle) {
	l.mu.Lock()
	l.removals++
	n := l.removals
	l.mu.Unlock()
	if l.onRemove != nil {
		l.onRemove(n)
	}
}

func (l *life) Paths() (string, string) { return "out", "err" }
func (l *life) Mark()                   {}
func (l *life) Intact() bool            { return !l.broken.Load() }
func (l *life) Marked() [2]int64        { return [2]int64{1, 2} }
func (l *life) MarkAt(mark [2]int64)    { l.marked = mark }
func (l *life) Drain()                  {}
func (l *life) Tail(int) []string       { return []string{"last words"} }
func (l *life) Close(bool)              {}

// Watch makes see hear of what the test writes.
func (l *life) Watch(see func([]byte)) func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line = see
	return func() { l.mu.Lock(); defer l.mu.Unlock(); l.line = nil }
}

// writes shows a line to whoever watches the output, and reports whether somebody does.
func (l *life) writes(line string) bool {
	l.mu.Lock()
	see := l.line
	l.mu.Unlock()
	if see != nil {
		see([]byte(line))
	}
	return see != nil
}

// said fails the test unless the console shows exactly these lines.
func (l *life) said(want ...string) {
	l.t.Helper()
	if lines := l.Shown(); !slices.Equal(lines, want) {
		l.t.Errorf("the console shows\n\t%s\nnot\n\t%s", strings.Join(lines, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// is fails the test unless the service is in this state after so many starts,
// and the next supervisor would know.
func (l *life) is(want lifecycle.State, starts int) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if got := l.svc.State(); got != want || l.starts != starts {
		l.t.Errorf("it is %s after %d starts, not %s after %d", got, l.starts, want, starts)
	}
	var m memory
	if known, err := store.Load(l.svc.memoryPath(), &m); err != nil || known && m.State != want {
		l.t.Errorf("remembered is %+v, %v", m, err)
	}
}

// settled reports whether whoever waits for the first start goes on.
func (l *life) settled() bool {
	st, _ := l.svc.Status()
	return st.Settled
}

// remember leaves what an earlier supervisor would have.
func (l *life) remember(m memory) {
	l.t.Helper()
	if err := store.Save(filepath.Join(l.cfg.MemoryDir, "web.json"), m); err != nil {
		l.t.Fatal(err)
	}
}

func (l *life) rememberText(text string) {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.cfg.MemoryDir, "web.json"), []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
}
