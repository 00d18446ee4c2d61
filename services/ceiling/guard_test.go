package ceiling

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// life is a guard of one container, web, which has 1 MiB of the memory.
type life struct {
	*testing.T
	*Guard
	making   atomic.Bool // web is
	chosen   []string    // to read after stop
	warnings atomic.Int32
	stop     func()
}

func live(t *testing.T, limit uint64, files map[string]string) *life {
	t.Helper()
	all := map[string]string{
		"services/memory.high": "max\n", "services/memory.events": "high 0\n", "services/memory.current": "1048576\n", "services/memory.stat": "",
		"services/web/cgroup.kill": "", "services/web/memory.current": "1048576\n", "services/web/memory.stat": "",
		"services/web/memory.oom.group": "1\n", "services/web/cgroup.procs": "1\n", "services/web/pids.current": "3\n",
	}
	for name, text := range files {
		all[name] = text
	}
	l := &life{T: t}
	l.Guard = &Guard{
		Root: tree(t, all), Proc: tree(t, map[string]string{"1/mountinfo": ""}), Limit: limit,
		Making: func(string) bool { return l.making.Load() },
		Chosen: func(dir string, n uint64) {
			l.chosen = append(l.chosen, fmt.Sprint(filepath.Base(dir), n))
			l.write("memory.current", 1*mib) // it comes back
		},
		Warn: func(string, ...any) { l.warnings.Add(1) },
	}
	return l
}

func (l *life) run() {
	ctx, cancel := context.WithCancel(l.Context())
	done := make(chan error, 1)
	go func() { done <- l.Guard.Run(ctx) }()
	l.stop = func() {
		cancel()
		if err := <-done; err != nil {
			l.Error(err)
		}
	}
}

func (l *life) write(name string, value any) {
	l.Helper()
	if err := os.WriteFile(filepath.Join(l.Root, "services", name), fmt.Append(nil, value), 0o644); err != nil {
		l.Error(err)
	}
}

// until waits for something that an event of the kernel brings about.
func (l *life) until(what string, holds func() bool) {
	l.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			l.Fatalf("waited in vain: %s", what)
		}
		if _, err := os.Stat(l.file("memory.events")); err == nil {
			l.write("memory.events", "high 1\n")
		}
	}
}

func (l *life) mark() uint64 { return number(l.file("memory.high")) }

func (l *life) killed() bool {
	return read(l.T, filepath.Join(l.Root, "services/web/cgroup.kill")) == "1"
}

// TestRun is a life: cache, then memory that a container has, which is killed.
func TestRun(t *testing.T) {
	const limit = 160 * mib
	l := live(t, limit, nil)
	l.run()
	l.until("the first mark is set", func() bool { return l.mark() == firstMark(limit) })
	l.write("memory.stat", fmt.Sprintf("active_file %d\n", 100*mib))
	l.write("memory.current", 130*mib)
	l.until("the next mark is set", func() bool { return l.mark() == lastMark(limit, 0) })
	l.write("memory.stat", fmt.Sprintf("active_file %d\n", 1*mib))
	l.write("memory.current", 150*mib)
	l.until("the one with most is killed", l.killed)
	l.stop()
	if want := []string{"web3"}; !slices.Equal(l.chosen, want) || l.warnings.Load() != 0 {
		t.Errorf("%q, want %q; %d warnings", l.chosen, want, l.warnings.Load())
	}
}

// TestLittle is a life where there is little: the mark goes up in steps, and comes down after a kill.
func TestLittle(t *testing.T) {
	const limit = 16 * mib
	l := live(t, limit, nil)
	l.run()
	for mark := firstMark(limit); ; mark = nextMark(limit, mark) {
		l.until(fmt.Sprintf("the mark is at %d MiB", mark/mib), func() bool { return l.mark() == mark })
		l.write("memory.current", mark)
		if mark == lastMark(limit, 0) {
			break
		}
	}
	l.until("the one with most is killed", l.killed)
	l.until("the mark has come down", func() bool { return l.mark() == firstMark(limit) })
	l.stop()
}

// A container that is being made, and that nobody could make room for, gets the room up to the limit.
func TestStart(t *testing.T) {
	const limit = 16 * mib
	l := live(t, limit, map[string]string{"services/memory.high": fmt.Sprint(lastMark(limit, 0)), "services/memory.current": fmt.Sprint(15 * mib)})
	l.making.Store(true)
	l.run()
	l.until("the limit alone holds", func() bool { return l.mark() == limit })
	l.write("memory.current", lastMark(limit, 0)-limit/16)
	l.until("no more room than it needs", func() bool { return l.mark() == lastMark(limit, 0) })
	l.write("memory.current", 2*mib)
	l.making.Store(false)
	l.until("the mark is as before", func() bool { return l.mark() == lastMark(limit, 0) })
	l.stop()
	if len(l.chosen) > 0 {
		t.Errorf("%q was killed", l.chosen)
	}
}

// A supervisor that died meanwhile leaves a mark that says nothing.
func TestAfterADeath(t *testing.T) {
	const limit = 160 * mib
	l := live(t, limit, map[string]string{"services/memory.high": fmt.Sprint(limit)})
	l.run()
	l.until("the last mark is set", func() bool { return l.mark() == lastMark(limit, 0) })
	l.stop()
}

// Where the kernel cannot be asked to report, memory is looked at all the same.
func TestWithoutEvents(t *testing.T) {
	const limit = 160 * mib
	l := live(t, limit, nil)
	if err := os.Remove(l.file("memory.events")); err != nil {
		t.Fatal(err)
	}
	l.run()
	l.until("the first mark is set", func() bool { return l.mark() == firstMark(limit) })
	l.write("memory.current", 155*mib)
	l.until("the one with most is killed", l.killed)
	l.stop()
	if n := l.warnings.Load(); n != 1 {
		t.Errorf("%d warnings", n)
	}
}
