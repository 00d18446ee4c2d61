package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
	"keelson/internal/pidfd"
	"keelson/services/resources"
)

// Task is a running task. None of its methods needs a containerd that lives.
type Task interface {
	// PID is the number of its first process.
	PID() int
	// Identity names that process for a next supervisor; it is the zero value if
	// the process has ended.
	Identity() pidfd.Identity
	// Wait waits for the first process to end and says how it did. The error is
	// the context's.
	Wait(ctx context.Context) (Exit, error)
	// Stop sends the stop signal and reports whether anybody will hear it.
	Stop(sig unix.Signal) (heard bool, err error)
	// Alone reports whether the first process could not hear the signal of the last
	// Stop, and either is left alone and has started no others since it was last asked,
	// or goes on as it did before.
	Alone(sig unix.Signal) bool
	// Signal sends a signal to the first process.
	Signal(sig unix.Signal) error
	// Kill ends everything in the container at once.
	Kill() error
}

// running is a Task by its pidfd.
type running struct {
	bundle  *bundle.Bundle
	runtime *Runtime
	process *pidfd.Process
	watch   *resources.Watch
	// Of the caller of Stop and Alone.
	deaf   bool   // the first process could not hear the last Stop
	reaped string // what it had waited for at the last look, "" before the first
	// The other processes that the last Stop sent the signal to, and their commands.
	told, commands map[string]bool
	again          bool // one of the commands was seen to run once more
}

// Exit is how a task ended.
type Exit struct {
	Status int // as containerd has it: 128+N for a signal N
	Known  bool
	PID    int // 0 where it is not known
	At     time.Time
	// Ending is what its cgroup said of it at the end.
	Ending resources.Ending
}

// Success reports whether the task ended by itself with code 0.
func (e Exit) Success() bool { return e.Known && e.Status == 0 }

// Signal returns the signal it was killed by, if it was.
func (e Exit) Signal() (unix.Signal, bool) {
	if e.Known && e.Status > 128 && e.Status <= 128+64 {
		return unix.Signal(e.Status - 128), true
	}
	return 0, false
}

// OutOfMemory reports whether the kernel brought the task's end about by killing
// processes of it for want of memory: its first process, or another one without
// which that could not go on.
func (e Exit) OutOfMemory() bool { return e.Ending.OOM != nil && !e.Success() }

// String is the exit in words.
func (e Exit) String() string {
	sig, _ := e.Signal()
	switch {
	case !e.OutOfMemory():
		return e.words()
	case !e.Known || sig == unix.SIGKILL:
		return "killed by " + e.Ending.OOM.Killer() + ": " + e.Ending.OOM.Cause()
	default: // it has missed one of its own
		return e.words() + " when " + e.Ending.OOM.String()
	}
}

func (e Exit) words() string {
	sig, signalled := e.Signal()
	switch {
	case !e.Known:
		return "ended, its exit code was lost with its shim or containerd"
	case signalled:
		if name := unix.SignalName(sig); name != "" {
			return "killed by " + name
		}
		return fmt.Sprintf("killed by signal %d", int(sig))
	default:
		return fmt.Sprintf("exited with code %d", e.Status)
	}
}

func (r *Runtime) hold(b *bundle.Bundle, process *pidfd.Process, watch *resources.Watch) *running {
	t := &running{bundle: b, runtime: r, process: process, watch: watch}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tasks == nil {
		r.tasks = map[string]*running{}
	}
	r.tasks[key(b)] = t
	delete(r.exits, key(b)) // of the task before this one
	return t
}

// PID is the number of the first process.
func (t *running) PID() int { return t.process.PID }

// Identity names the first process.
func (t *running) Identity() pidfd.Identity {
	id, err := t.process.Identity()
	if err != nil {
		return pidfd.Identity{} // ended
	}
	return id
}

// Wait waits for the task's first process to end and says how it did. The
// error is the context's.
func (t *running) Wait(ctx context.Context) (Exit, error) {
	was := t.Identity()
	if err := t.process.Wait(ctx); err != nil {
		return Exit{}, err
	}
	// It has ended, even if the caller's time is up meanwhile.
	ending := t.watch.End() // now, while it has its cgroup
	e := t.runtime.status(context.WithoutCancel(ctx), t.bundle, t.PID())
	if !e.Known {
		e = unreaped(was)
	}
	e.Ending = ending
	if t.runtime.OnEnd != nil {
		t.runtime.OnEnd(t.bundle, e)
	}
	return e, nil
}

// exitBound is how long an exit code may take to reach us after the process has
// ended; after that it counts as lost.
const exitBound = 5 * time.Second

// exitEach is added to it for each task there is: a thousand that exit at once write
// their codes one after the other.
const exitEach = 50 * time.Millisecond

// The shim's file is looked for after fileMin, doubling up to fileMax.
const (
	fileMin = 2 * time.Millisecond
	fileMax = 100 * time.Millisecond
)

// status finds out how a task, whose first process was pid and has exited, did so: from
// the shim's file or from containerd, whichever tells first.
func (r *Runtime) status(ctx context.Context, b *bundle.Bundle, pid int) Exit {
	if e, ok := r.readExit(b, pid); ok {
		return e
	}
	r.mu.Lock()
	bound := exitBound + time.Duration(len(r.tasks))*exitEach
	r.mu.Unlock()
	ctx, cancel := call(ctx, b.Namespace(), bound)
	answer := make(chan Exit, 1)
	go func() {
		// It is not cut when the file has come: containerd would report an answer that
		// nobody takes as an error.
		defer cancel()
		answer <- r.askStatus(ctx, b, pid)
	}()
	for look := fileMin; ; look = min(2*look, fileMax) {
		var answered *Exit
		select {
		case e := <-answer:
			answered = &e
		case <-time.After(look):
		}
		if e, ok := r.readExit(b, pid); ok {
			return e
		}
		if answered != nil {
			return *answered
		}
	}
}

// askStatus is status by containerd's word alone, within ctx.
func (r *Runtime) askStatus(ctx context.Context, b *bundle.Bundle, pid int) Exit {
	for {
		// The wait is cut where containerd dies; then it is asked anew.
		w, err := r.Client.tasks.Wait(ctx, &tasksapi.WaitRequest{ContainerID: b.ID})
		if err == nil {
			return Exit{Status: int(w.ExitStatus), Known: true, PID: pid, At: w.ExitedAt.AsTime()}
		}
		if err := native(err); !errdefs.IsUnavailable(err) || errors.Is(err, errShimGone) {
			return Exit{} // not found: containerd came back and has forgotten it
		}
		select {
		case <-ctx.Done():
			return Exit{}
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// unreaped is how a process exited by the kernel's word, which is there as long as nobody
// has taken it: the shim hangs.
func unreaped(id pidfd.Identity) Exit {
	read := func(field int) uint64 {
		text, _ := pidfd.Stat(id.PID, field)
		n, _ := strconv.ParseUint(text, 10, 64)
		return n
	}
	state, _ := pidfd.Stat(id.PID, 3)
	if state != "Z" || id.PID == 0 || read(22) != id.Start {
		return Exit{}
	}
	status := unix.WaitStatus(read(52))
	code := status.ExitStatus()
	if status.Signaled() {
		code = 128 + int(status.Signal())
	}
	return Exit{Status: code, Known: true, PID: id.PID, At: time.Now()}
}

// Signal sends a signal to the first process.
func (t *running) Signal(sig unix.Signal) error { return t.process.Signal(sig) }

// Kill ends everything in the container at once: the whole cgroup, or where
// there is no cgroup2 the first process, and with it its pid namespace. It
// needs no containerd.
func (t *running) Kill() error {
	if root := t.runtime.CgroupRoot; root != "" {
		err := os.WriteFile(filepath.Join(root, t.bundle.CgroupsPath(), "cgroup.kill"), []byte("1"), 0)
		if err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			slog.Warn("kill the cgroup", "container", t.bundle.FullName(), "err", err)
		}
	}
	return t.process.Signal(unix.SIGKILL)
}
