package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"keelson/internal/bundle"
	"keelson/internal/pidfd"
	"keelson/internal/prepare"
)

// Streams are the paths of the FIFOs a task writes to; an empty one is /dev/null.
type Streams struct{ Stdout, Stderr string }

// Runtime makes tasks out of container folders.
type Runtime struct {
	Client *Client
	// StateDir is containerd's --state folder, where the shim leaves exit.json.
	StateDir string
	// CgroupRoot is where the cgroup2 file system is mounted; empty on a
	// machine with cgroup v1.
	CgroupRoot string
	// Ready returns nil as soon as containerd answers, or an error when it
	// cannot be waited for any longer.
	Ready func(ctx context.Context) error

	// group keeps the shared shim whole: two shims started at once for one group
	// fight over its socket, and a shim whose last member is deleted ends even
	// while it makes the next one. So the first create and the last delete have
	// it alone; the others may go side by side.
	group sync.RWMutex

	mu    sync.Mutex
	tasks map[string]*Task // running ones by namespace/ID, guarded by mu
	exits map[string]Exit  // what SaveExits found, by namespace/ID, guarded by mu
}

// Task is a running task.
type Task struct {
	Bundle *bundle.Bundle
	PID    int
	// StartedAt is the time since the machine's start, as far as this
	// supervisor knows.
	StartedAt time.Duration

	runtime *Runtime
	process *pidfd.Process
}

// Exit is how a task ended.
type Exit struct {
	Status int // as containerd has it: 128+N for a signal N
	Known  bool
	At     time.Time
}

// Success reports whether the task ended by itself with code 0.
func (e Exit) Success() bool { return e.Known && e.Status == 0 }

// String is the exit in words.
func (e Exit) String() string {
	switch {
	case !e.Known:
		return "ended, its exit code was lost with containerd"
	case e.Status > 128 && e.Status <= 128+64:
		sig := unix.Signal(e.Status - 128)
		if name := unix.SignalName(sig); name != "" {
			return "killed by " + name
		}
		return fmt.Sprintf("killed by signal %d", int(sig))
	default:
		return fmt.Sprintf("exited with code %d", e.Status)
	}
}

// Start makes and starts the task of a container folder. What stands in its way
// from before is removed first; what a failure leaves behind is removed too.
func (r *Runtime) Start(ctx context.Context, b *bundle.Bundle, io Streams) (*Task, error) {
	if err := r.Ready(ctx); err != nil {
		return nil, err
	}
	if fi, err := os.Stat(filepath.Dir(b.Rootfs())); err != nil || !fi.IsDir() {
		return nil, fmt.Errorf("%s: root.path: %s is not there", filepath.Join(b.Dir, "config.json"), b.Rootfs())
	}
	if err := prepare.Before(ctx, b); err != nil {
		_ = prepare.Cleanup(context.WithoutCancel(ctx), b)
		return nil, err
	}
	t, err := r.start(ctx, b, io)
	if err != nil {
		// The caller's time may be over; tidying up has its own bounds.
		r.Remove(context.WithoutCancel(ctx), b)
		return nil, explain(b, err)
	}
	return t, nil
}

func (r *Runtime) start(ctx context.Context, b *bundle.Bundle, io Streams) (*Task, error) {
	shimCgroup := ""
	if r.CgroupRoot != "" {
		shimCgroup = ShimCgroup
	}
	opts, err := runtimeOptions(shimCgroup)
	if err != nil {
		return nil, err
	}
	s, err := spec(b)
	if err != nil {
		return nil, err
	}
	record := &containersapi.CreateContainerRequest{Container: &containersapi.Container{
		ID:      b.ID,
		Runtime: &containersapi.Container_Runtime{Name: runtimeName, Options: opts},
		Spec:    s,
	}}
	create := func() error {
		ctx, cancel := call(ctx, b.Namespace(), callTimeout)
		defer cancel()
		_, err := r.Client.containers.Create(ctx, record)
		return native(err)
	}
	if err = create(); errdefs.IsAlreadyExists(err) {
		r.forget(ctx, b)
		err = create()
	}
	if err != nil {
		return nil, fmt.Errorf("create the container: %w", err)
	}

	pid, err := r.create(ctx, b, io, opts)
	if err != nil {
		return nil, fmt.Errorf("create the task: %w", err)
	}
	process, err := pidfd.Open(pid) // before the start, so that no end is missed
	if err != nil {
		return nil, err
	}
	if err := prepare.Attach(ctx, b, pid); err != nil {
		process.Close()
		return nil, err
	}
	sctx, cancel := call(ctx, b.Namespace(), createTimeout)
	_, err = r.Client.tasks.Start(sctx, &tasksapi.StartRequest{ContainerID: b.ID})
	cancel()
	if err != nil {
		process.Close()
		return nil, fmt.Errorf("start the task: %w", native(err))
	}
	return r.hold(b, pid, process), nil
}

// create makes the task, which starts its shim if need be, and returns the
// process number it will have.
func (r *Runtime) create(ctx context.Context, b *bundle.Bundle, io Streams, opts *anypb.Any) (int, error) {
	defer r.lockGroup(b)()
	ctx, cancel := call(ctx, b.Namespace(), createTimeout)
	defer cancel()
	made, err := r.Client.tasks.Create(ctx, &tasksapi.CreateTaskRequest{
		ContainerID: b.ID, Stdout: io.Stdout, Stderr: io.Stderr, Options: opts,
	})
	if err != nil {
		return 0, native(err)
	}
	return int(made.Pid), nil
}

// lockGroup takes the group lock as a create or delete of b needs it, and
// returns what lets go of it.
func (r *Runtime) lockGroup(b *bundle.Bundle) (unlock func()) {
	if b.Service.OwnShim {
		return func() {}
	}
	r.mu.Lock()
	others := false
	for _, t := range r.tasks {
		others = others || t.Bundle.ID != b.ID && !t.Bundle.Service.OwnShim && t.Bundle.Namespace() == b.Namespace() && !t.process.Ended()
	}
	r.mu.Unlock()
	if others {
		r.group.RLock()
		return r.group.RUnlock
	}
	r.group.Lock()
	return r.group.Unlock
}

func key(b *bundle.Bundle) string { return b.Namespace() + "/" + b.ID }

func (r *Runtime) hold(b *bundle.Bundle, pid int, process *pidfd.Process) *Task {
	t := &Task{Bundle: b, PID: pid, runtime: r, process: process}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tasks == nil {
		r.tasks = map[string]*Task{}
	}
	r.tasks[key(b)] = t
	delete(r.exits, key(b)) // of the task before this one
	return t
}

// Adopt takes over a task that an earlier supervisor started. It returns a nil
// Task where there is none that runs; then exit says how the last one ended, if
// there was one.
func (r *Runtime) Adopt(ctx context.Context, b *bundle.Bundle) (t *Task, exit *Exit, err error) {
	if err := r.Ready(ctx); err != nil {
		return nil, nil, err
	}
	p, err := r.get(ctx, b)
	switch {
	case errdefs.IsNotFound(err):
		if e, ok := r.readExit(b); ok {
			return nil, &e, nil
		}
		return nil, nil, nil
	case err != nil:
		return nil, nil, fmt.Errorf("look for the task of an earlier supervisor: %w", err)
	case p.Status == tasktypes.Status_STOPPED:
		return nil, exitOf(p), nil
	case p.Status == tasktypes.Status_CREATED:
		return nil, nil, nil // made but never started: begin anew
	}
	process, err := pidfd.Open(int(p.Pid))
	if errors.Is(err, unix.ESRCH) {
		return nil, &Exit{}, nil
	}
	if err != nil {
		return nil, nil, err
	}
	// The number may have been given anew between the two calls.
	if again, err := r.get(ctx, b); err != nil || again.Pid != p.Pid || again.Status == tasktypes.Status_STOPPED {
		process.Close()
		if err == nil {
			return nil, exitOf(again), nil
		}
		return nil, &Exit{}, nil
	}
	return r.hold(b, int(p.Pid), process), nil, nil
}

func (r *Runtime) get(ctx context.Context, b *bundle.Bundle) (*tasktypes.Process, error) {
	ctx, cancel := call(ctx, b.Namespace(), callTimeout)
	defer cancel()
	g, err := r.Client.tasks.Get(ctx, &tasksapi.GetRequest{ContainerID: b.ID})
	if err != nil {
		return nil, native(err)
	}
	return g.Process, nil
}

func exitOf(p *tasktypes.Process) *Exit {
	return &Exit{Status: int(p.ExitStatus), Known: true, At: p.ExitedAt.AsTime()}
}

// Wait waits for the task's first process to end and says how it did. The
// error is the context's.
func (t *Task) Wait(ctx context.Context) (Exit, error) {
	if err := t.process.Wait(ctx); err != nil {
		return Exit{}, err
	}
	return t.status(ctx), nil
}

// exitBound is how long an exit code may take to reach us after the process has
// ended; after that it counts as lost.
const exitBound = 5 * time.Second

// status finds out how a task that has ended did so: from the shim's file, or
// from containerd.
func (t *Task) status(ctx context.Context) Exit {
	ctx, cancel := call(ctx, t.Bundle.Namespace(), exitBound)
	defer cancel()
	for {
		if e, ok := t.runtime.readExit(t.Bundle); ok {
			return e
		}
		// The wait is cut where containerd dies; then it is asked anew, or the
		// file has come.
		w, err := t.runtime.Client.tasks.Wait(ctx, &tasksapi.WaitRequest{ContainerID: t.Bundle.ID})
		if err == nil {
			return Exit{Status: int(w.ExitStatus), Known: true, At: w.ExitedAt.AsTime()}
		}
		if e, ok := t.runtime.readExit(t.Bundle); ok {
			return e
		}
		if err := native(err); !errdefs.IsUnavailable(err) {
			return Exit{} // not found: containerd came back and has forgotten it
		}
		select {
		case <-ctx.Done():
			return Exit{}
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Signal sends a signal to the task's first process. It needs no containerd.
func (t *Task) Signal(sig unix.Signal) error { return t.process.Signal(sig) }

// Kill ends everything in the container at once: the whole cgroup, or where
// there is no cgroup2 the first process, and with it its pid namespace. It
// needs no containerd.
func (t *Task) Kill() error {
	if root := t.runtime.CgroupRoot; root != "" {
		err := os.WriteFile(filepath.Join(root, t.Bundle.CgroupsPath(), "cgroup.kill"), []byte("1"), 0)
		if err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			slog.Warn("kill the cgroup", "container", t.Bundle.ID, "err", err)
		}
	}
	return t.process.Signal(unix.SIGKILL)
}

// Remove removes all that is left of a container: its task, killed if it still
// runs, its record, and what was mounted for it. What cannot be removed is
// said in the log; a next Start tries again.
func (r *Runtime) Remove(ctx context.Context, b *bundle.Bundle) {
	r.mu.Lock()
	if t := r.tasks[key(b)]; t != nil {
		t.process.Close()
		delete(r.tasks, key(b))
	}
	delete(r.exits, key(b)) // or a next Adopt would find it again
	r.mu.Unlock()
	r.forget(ctx, b)
	if err := prepare.Cleanup(ctx, b); err != nil {
		slog.Warn(err.Error(), "container", b.ID)
	}
}

// forget removes a container's task and record from containerd.
func (r *Runtime) forget(ctx context.Context, b *bundle.Bundle) {
	for range 3 {
		err := r.delete(ctx, b)
		if !errdefs.IsFailedPrecondition(err) {
			if err != nil && !errdefs.IsNotFound(err) {
				slog.Warn("remove the task: "+err.Error(), "container", b.ID)
			}
			break
		}
		// It still runs, or has ended and the shim has yet to notice.
		kctx, cancel := call(ctx, b.Namespace(), callTimeout)
		_, _ = r.Client.tasks.Kill(kctx, &tasksapi.KillRequest{ContainerID: b.ID, Signal: uint32(unix.SIGKILL), All: true})
		_, _ = r.Client.tasks.Wait(kctx, &tasksapi.WaitRequest{ContainerID: b.ID})
		cancel()
	}
	dctx, cancel := call(ctx, b.Namespace(), callTimeout)
	defer cancel()
	_, err := r.Client.containers.Delete(dctx, &containersapi.DeleteContainerRequest{ID: b.ID})
	if err = native(err); err != nil && !errdefs.IsNotFound(err) {
		slog.Warn("remove the container: "+err.Error(), "container", b.ID)
	}
}

func (r *Runtime) delete(ctx context.Context, b *bundle.Bundle) error {
	defer r.lockGroup(b)()
	ctx, cancel := call(ctx, b.Namespace(), callTimeout)
	defer cancel()
	_, err := r.Client.tasks.Delete(ctx, &tasksapi.DeleteTaskRequest{ContainerID: b.ID})
	return native(err)
}

// explain makes a runtime's error one a person can act on.
func explain(b *bundle.Bundle, err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "no space left on device"):
		var st unix.Statfs_t
		if unix.Statfs("/run", &st) == nil && st.Bavail == 0 {
			return fmt.Errorf("/run is full (%d MiB): %w", st.Blocks*uint64(st.Bsize)>>20, err)
		}
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "exec: ") && strings.Contains(text, "no such file"):
		return fmt.Errorf("%s: process.args: %q is not in the image: %w", filepath.Join(b.Dir, "config.json"), b.Spec.Process.Args[0], err)
	}
	return err
}
