// Package tasktest owns what stands in for the container runtime and for the console
// where the keeping of services is tested: a task that ends when the test says so, and
// a console that remembers its lines.
package tasktest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/pidfd"
	"keelson/services/task"
)

// Task is a task.Task that a test ends. What it makes of signals may be changed before
// it is used.
type Task struct {
	// OnStop is what the stop signal does; it reports whether that was heard.
	OnStop func(*Task) (heard bool)
	// OnKill is what SIGKILL does; nil is nothing.
	OnKill func(*Task)
	// OnAlone says whether only its first process is left, deaf; nil is that it is not.
	OnAlone func() bool
	// OnEnd is called once, before the end is known; nil is nothing.
	OnEnd func()

	pid  int
	end  chan task.Exit
	once sync.Once
}

// New makes a task that ends at once when it is told to.
func New(pid int) *Task {
	return &Task{
		pid: pid, end: make(chan task.Exit, 1),
		OnStop: func(t *Task) bool { t.Ends(128 + 15); return true },
		OnKill: func(t *Task) { t.Ends(128 + 9) },
	}
}

// Ends ends it, unless it has ended already.
func (t *Task) Ends(status int) {
	t.once.Do(func() {
		if t.OnEnd != nil {
			t.OnEnd()
		}
		t.end <- task.Exit{Status: status, Known: true}
	})
}

// PID is its process.
func (t *Task) PID() int { return t.pid }

// Identity is what a next supervisor would know it by.
func (t *Task) Identity() pidfd.Identity { return pidfd.Identity{PID: t.pid, Start: 7} }

// Wait waits for its end, which is told once.
func (t *Task) Wait(ctx context.Context) (task.Exit, error) {
	select {
	case e := <-t.end:
		return e, nil
	case <-ctx.Done():
		return task.Exit{}, ctx.Err()
	}
}

// Alone is OnAlone.
func (t *Task) Alone(unix.Signal) bool { return t.OnAlone != nil && t.OnAlone() }

// Stop is OnStop.
func (t *Task) Stop(unix.Signal) (bool, error) { return t.OnStop(t), nil }

// Signal ends it.
func (t *Task) Signal(sig unix.Signal) error { t.Ends(128 + int(sig)); return nil }

// Kill is OnKill.
func (t *Task) Kill() error {
	if t.OnKill != nil {
		t.OnKill(t)
	}
	return nil
}

// Console remembers what it is to show, each line with its time: "2s web: ready".
type Console struct {
	Now   func() time.Duration
	Round time.Duration // of the times; 0 leaves them as they are

	mu    sync.Mutex
	lines []string // guarded by mu
}

func (c *Console) say(mark, name, format string, a ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, fmt.Sprintf("%v %s: %s", c.Now().Round(c.Round), name, mark+fmt.Sprintf(format, a...)))
}

// Line remembers a line.
func (c *Console) Line(name, format string, a ...any) { c.say("", name, format, a...) }

// Warn remembers a warning.
func (c *Console) Warn(name, format string, a ...any) { c.say("warning: ", name, format, a...) }

// Error remembers an error.
func (c *Console) Error(name, format string, a ...any) { c.say("ERROR: ", name, format, a...) }

// Shown returns all lines.
func (c *Console) Shown() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lines)
}

// Count is how many lines hold the text.
func (c *Console) Count(text string) (n int) {
	for _, line := range c.Shown() {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}
