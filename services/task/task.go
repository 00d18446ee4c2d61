package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"keelson/internal/bundle"
	"keelson/internal/pidfd"
	"keelson/internal/prepare"
	"keelson/internal/safepath"
	"keelson/internal/steer"
	"keelson/internal/workshop"
	"keelson/services/resources"
)

// Streams are the paths of the FIFOs a task writes to; an empty one is /dev/null.
type Streams struct{ Stdout, Stderr string }

// Runtime makes tasks out of container folders.
type Runtime struct {
	Client *Client
	// StateDir is containerd's --state folder, where the shim leaves exit.json.
	StateDir string
	// RuncState is where runc has its containers' state files, below a folder for each
	// namespace; empty for nowhere.
	RuncState string
	// CgroupRoot is where the cgroup2 file system is mounted; empty on a
	// machine with cgroup v1.
	CgroupRoot string
	// Ready returns nil as soon as containerd answers, or an error when it
	// cannot be waited for any longer.
	Ready func(ctx context.Context) error
	// Answering waits until containerd and those shims answer of whose containers, named
	// NAMESPACE/ID, needs says so. Nil waits for nothing.
	Answering func(ctx context.Context, needs func(containers []string) bool) error

	// ShimCgroup is where shims live, below CgroupRoot; empty for where
	// containerd does.
	ShimCgroup string
	// ShimLingers says that the shim is ours, which knows the seccomp profile by its
	// name, stays for a while when its last member is gone, and whose next start waits
	// for its end. A stock one removes its socket at some time after its last delete,
	// even if a new shim of the group has taken its place.
	ShimLingers bool

	// Workshop is the mount namespace that containers are made in, and containerd is.
	Workshop *workshop.Workshop

	// Writers are the directories that services can write, asked for when the first
	// container is started for which it matters; nil for none.
	Writers func() *safepath.Writers

	// Prepare makes the kernel able to give a container what its configuration asks
	// for, before anything is mounted for it. Nil is for nothing.
	Prepare func(ctx context.Context, b *bundle.Bundle)

	// NotifyDir holds a folder for the socket of each service that says itself how
	// it is, ExecDir a pipe for each command that is run in a container.
	NotifyDir, ExecDir string

	// Walls is how containers are hardened.
	Walls Walls

	// Pids is how many processes and threads all containers together may have; 0 for
	// no limit.
	Pids uint64

	// Limits watches the limits of what runs. OnHit is told when a container hits
	// one, and OnEnd when a container that was watched has ended and what came of
	// it; neither may wait for anything. Nil OnHit and OnEnd tell nobody.
	Limits *resources.Watcher
	OnHit  func(b *bundle.Bundle, h resources.Hit)
	OnEnd  func(b *bundle.Bundle, e Exit)

	group  group
	making making

	mu    sync.Mutex
	tasks map[string]*running // running ones by namespace/ID, guarded by mu
	exits map[string]Exit     // what SaveExits found, by namespace/ID, guarded by mu
	setUp bool                // the last start was a service's, guarded by mu

	options []string // of the machine's cgroup2 file system, guarded by mu
}

// startTries is how often a start is tried while containerd goes away under it, or it or
// the shim hangs, which is no failure of the container's.
const startTries = 3

// Start makes and starts the task of a container folder. What stands in its way
// from before is removed first; what a failure leaves behind is removed too.
func (r *Runtime) Start(ctx context.Context, b *bundle.Bundle, io Streams) (Task, error) {
	for try := 1; ; try++ {
		if err := r.answers(ctx, b); err != nil {
			return nil, err
		}
		if fi, err := os.Stat(filepath.Dir(b.Rootfs())); err != nil || !fi.IsDir() {
			return nil, fmt.Errorf("%s: root.path: %s is not there", filepath.Join(b.Dir, "config.json"), b.Rootfs())
		}
		if r.Prepare != nil {
			r.Prepare(ctx, b)
		}
		paths := r.paths(b)
		if err := prepare.Before(ctx, b, paths, r.Workshop); err != nil {
			_ = prepare.Cleanup(context.WithoutCancel(ctx), b, paths, r.Workshop)
			return nil, err
		}
		t, err := r.start(ctx, b, paths, io)
		if err == nil {
			return t, nil
		}
		hangs := r.hangs(b) // before the removal, which takes a while
		// The caller's time may be over; tidying up has its own bounds.
		r.Remove(context.WithoutCancel(ctx), b)
		if !errdefs.IsUnavailable(err) && !hangs || ctx.Err() != nil || try == startTries {
			return nil, explain(b, err)
		}
	}
}

// paths resolves paths for a container. What one-shots mount may be what services write.
func (r *Runtime) paths(b *bundle.Bundle) *safepath.Resolver {
	r.mu.Lock()
	defer r.mu.Unlock()
	fresh := b.Section != bundle.Services || !r.setUp
	r.setUp = b.Section == bundle.Services
	return safepath.NewResolver(r.Writers, fresh)
}

func (r *Runtime) start(ctx context.Context, b *bundle.Bundle, paths *safepath.Resolver, io Streams) (*running, error) {
	opts, err := runtimeOptions(b, r.ShimCgroup)
	if err != nil {
		return nil, err
	}
	notifyFolder := ""
	if r.NotifyDir != "" && Notifies(b.Service) {
		notifyFolder = r.NotifyFolder(b)
		if err := r.makeNotifyFolder(b); err != nil {
			return nil, fmt.Errorf("make the folder of its notify socket: %w", err)
		}
	}
	hardened, err := r.Walls.hardened(b, r.ShimLingers)
	if err != nil {
		return nil, err
	}
	pinned, release, err := r.pin(hardened, paths)
	if err != nil {
		return nil, err
	}
	defer release()
	hidden := steer.Hides(b)
	if len(hidden) > 0 {
		if err := makeHiding(); err != nil {
			return nil, err
		}
	}
	s, err := spec(pinned, r.grouped(b), notifyFolder, hidden, r.hierarchyOptions())
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
		_, err := r.Client.containers.Create(ctx, record, grpc.WaitForReady(true))
		return native(err)
	}
	if err = create(); errdefs.IsAlreadyExists(err) {
		r.forget(ctx, b)
		err = create()
	}
	if err != nil {
		return nil, fmt.Errorf("create the container: %w", err)
	}

	pid := 0
	made := r.making.begin(r.CgroupDir(b))
	defer func() { made(pid) }()
	pid, err = r.create(ctx, b, io, opts)
	if err != nil && r.clearRemains(b, err) {
		pid, err = r.create(ctx, b, io, opts)
	}
	if err != nil {
		return nil, fmt.Errorf("create the task: %w", err)
	}
	release()
	process, err := pidfd.Open(pid) // before the start, so that no end is missed
	if err != nil {
		return nil, err
	}
	r.killTogether(b)
	r.leaveOthersProcesses(b)
	watch := r.watch(b)
	if err := prepare.Attach(ctx, b, paths, pid); err != nil {
		watch.End()
		process.Close()
		return nil, err
	}
	if err := r.execute(ctx, b, process); err != nil {
		watch.End()
		process.Close()
		return nil, err
	}
	return r.hold(b, process, watch), nil
}

// execute starts a created task. It has been started when its command was executed.
func (r *Runtime) execute(ctx context.Context, b *bundle.Bundle, process *pidfd.Process) error {
	root, release := heldRoot(process.PID)
	defer release()
	why := ""
	if !r.ShimLingers { // a stock shim does not tell, and what is mounted in the root is gone with the process
		why = whyNotRun(root, b.Spec.Process)
	}
	sctx, cancel := call(ctx, b.Namespace(), createTimeout)
	defer cancel()
	if _, err := r.Client.tasks.Start(sctx, &tasksapi.StartRequest{ContainerID: b.ID}); err != nil {
		err = native(err)
		if why := refusal(root, b.Spec.Process, err); why != nil {
			return refused(b, why)
		}
		return fmt.Errorf("start the task: %w", err)
	}
	err := notExecuted(ctx, process, b.Spec.Process, func() string {
		if why != "" {
			return why
		}
		return whyNotRun(root, b.Spec.Process) // for a runtime binary that our shim runs
	}, func(ctx context.Context) (int, bool) {
		e := r.status(ctx, b, process.PID)
		return e.Status, e.Known
	})
	if errors.Is(err, ErrNotExecutable) {
		return refused(b, err)
	}
	return err
}

// pin returns the container with paths in its configuration that nobody can change until
// release is called, for the first time: once the runtime has what it needs of them, and of
// the container's root. Then those are not mounted any more where the next container is made.
func (r *Runtime) pin(b *bundle.Bundle, paths *safepath.Resolver) (pinned *bundle.Bundle, release func(), err error) {
	copied := *b
	unshare, err := r.machineNamespaces(&copied, paths)
	if err != nil {
		return nil, nil, err
	}
	var unpin func() error
	if err := r.Workshop.Do(func() (err error) {
		copied.Spec, unpin, err = prepare.Pin(&copied, paths)
		return err
	}); err != nil {
		unshare()
		return nil, nil, err
	}
	return &copied, sync.OnceFunc(func() {
		unshare()
		if err := r.Workshop.Do(func() error {
			if r.Workshop != nil {
				prepare.Leave(b)
			}
			return unpin()
		}); err != nil {
			slog.Warn(err.Error(), "container", b.FullName())
		}
	}), nil
}

// machineNamespaces puts open files in the place of the mount namespaces that a container
// joins: those that a bindNS keeps are seen by their names in the machine's namespace alone,
// as the kernel gives a mount of a mount namespace to no other one. done closes them.
func (r *Runtime) machineNamespaces(b *bundle.Bundle, paths *safepath.Resolver) (done func(), err error) {
	var open []*safepath.Place
	done = func() {
		for _, p := range open {
			p.Close()
		}
	}
	if r.Workshop == nil {
		return done, nil
	}
	spec, linux := *b.Spec, *b.Spec.Linux
	linux.Namespaces = slices.Clone(linux.Namespaces)
	spec.Linux = &linux
	for i, n := range linux.Namespaces {
		if n.Type != specs.MountNamespace || !filepath.IsAbs(n.Path) {
			continue
		}
		p, err := paths.Open(n.Path, safepath.Options{})
		if err != nil {
			done()
			return nil, fmt.Errorf("%s: %s: linux.namespaces[%d].path: %w", b.Name, filepath.Join(b.Dir, "config.json"), i, err)
		}
		open = append(open, p)
		if p.Exists() { // else the runtime says that it is not there
			linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.FD)
		}
	}
	b.Spec = &spec
	return done, nil
}

// makeHiding sees to it that there is something to mount before what a container does
// not get to see, and that this is there: what hides /run/runc is mounted before a
// container could put something there for runc to find.
func makeHiding() error {
	for dir, mode := range map[string]os.FileMode{steer.EmptyDir: 0o555, steer.ControlDir: 0o755, steer.RuncDir: 0o700, steer.UsersDir: 0o755} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("make what hides the runtime's directories: %w", err)
		}
	}
	return nil
}

// create makes the task, which starts its shim if need be, and returns the
// process number it will have.
func (r *Runtime) create(ctx context.Context, b *bundle.Bundle, io Streams, opts *anypb.Any) (int, error) {
	ctx, cancel := call(ctx, b.Namespace(), createTimeout)
	defer cancel()
	unlock, err := r.lockGroup(ctx, b)
	if err != nil {
		return 0, err
	}
	defer unlock()
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
func (r *Runtime) lockGroup(ctx context.Context, b *bundle.Bundle) (unlock func(), err error) {
	if !r.grouped(b) {
		return func() {}, nil
	}
	unlock, err = r.group.lock(ctx, !r.groupRuns(b))
	if err != nil {
		return nil, fmt.Errorf("wait for the shim that others use: %w", err)
	}
	return unlock, nil
}

// grouped reports whether a container shares its shim. With a stock shim the
// one-shots do not: one after the other, each would find its predecessor's end.
func (r *Runtime) grouped(b *bundle.Bundle) bool {
	return !b.Service.OwnShim && (r.ShimLingers || b.Section == bundle.Services)
}

// groupRuns reports whether another member of b's group runs.
func (r *Runtime) groupRuns(b *bundle.Bundle) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.tasks {
		if t.bundle.ID != b.ID && r.grouped(t.bundle) && t.bundle.Namespace() == b.Namespace() && !t.process.Ended() {
			return true
		}
	}
	return false
}

// answers waits until containerd and the shim of a container answer.
func (r *Runtime) answers(ctx context.Context, b *bundle.Bundle) error {
	if err := r.Ready(ctx); err != nil || r.Answering == nil {
		return err
	}
	return r.Answering(ctx, func(containers []string) bool { return r.shares(b, containers) })
}

// hangs reports whether containerd or the shim of a container does not answer now.
func (r *Runtime) hangs(b *bundle.Bundle) bool {
	if r.Answering == nil {
		return false
	}
	now, cancel := context.WithCancel(context.Background())
	cancel()
	return r.Answering(now, func(containers []string) bool { return r.shares(b, containers) }) != nil
}

// shares reports whether a container is, or is going to be, in the shim of others.
func (r *Runtime) shares(b *bundle.Bundle, others []string) bool {
	if slices.Contains(others, key(b)) {
		return true
	}
	if !r.grouped(b) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(others, func(name string) bool {
		t := r.tasks[name]
		return t != nil && r.grouped(t.bundle) && t.bundle.Namespace() == b.Namespace()
	})
}

func key(b *bundle.Bundle) string { return b.Namespace() + "/" + b.ID }

// Adopt takes over a task that an earlier supervisor started. It returns a nil
// Task where there is none that runs; then exit says how the last one ended, if
// there was one. was is what is remembered of its first process, if anything: one
// that still runs is taken over without containerd. After an error nothing is
// known, and the task may run.
func (r *Runtime) Adopt(ctx context.Context, b *bundle.Bundle, was pidfd.Identity) (t Task, exit *Exit, err error) {
	if process, err := pidfd.OpenSame(was); err == nil {
		return r.hold(b, process, r.watch(b)), nil, nil
	}
	if e, ok := r.readExit(b, was.PID); ok && was.PID != 0 {
		return nil, r.missed(b, e), nil
	}
	if err := r.Ready(ctx); err != nil {
		return nil, nil, err
	}
	p, err := r.get(ctx, b)
	switch {
	case errdefs.IsNotFound(err):
		if e, ok := r.readExit(b, was.PID); ok {
			return nil, r.missed(b, e), nil
		}
		if process := r.unlisted(b); process != nil {
			return r.hold(b, process, r.watch(b)), nil, nil
		}
		return nil, nil, nil
	case err != nil:
		return nil, nil, fmt.Errorf("look for the task of an earlier supervisor: %w", err)
	case p.Status == tasktypes.Status_STOPPED:
		return nil, r.missed(b, exitOf(p)), nil
	case p.Status == tasktypes.Status_CREATED:
		return nil, nil, nil // made but never started: begin anew
	}
	process, err := pidfd.Open(int(p.Pid))
	if errors.Is(err, unix.ESRCH) { // it ended between the two calls, which containerd learns any moment
		return nil, r.missed(b, r.status(ctx, b, int(p.Pid))), nil
	}
	if err != nil {
		return nil, nil, err
	}
	// The number may have been given anew between the two calls.
	again, err := r.get(ctx, b)
	switch {
	case errdefs.IsNotFound(err):
		process.Close()
		return nil, r.missed(b, r.status(ctx, b, int(p.Pid))), nil
	case err != nil:
		process.Close()
		return nil, nil, fmt.Errorf("look for the task of an earlier supervisor: %w", err)
	case again.Pid != p.Pid || again.Status == tasktypes.Status_STOPPED:
		process.Close()
		return nil, r.missed(b, exitOf(again)), nil
	}
	return r.hold(b, process, r.watch(b)), nil, nil
}

func (r *Runtime) get(ctx context.Context, b *bundle.Bundle) (*tasktypes.Process, error) {
	ctx, cancel := call(ctx, b.Namespace(), callTimeout)
	defer cancel()
	g, err := r.Client.tasks.Get(ctx, &tasksapi.GetRequest{ContainerID: b.ID}, grpc.WaitForReady(true))
	if err != nil {
		return nil, native(err)
	}
	return g.Process, nil
}

func exitOf(p *tasktypes.Process) Exit {
	return Exit{Status: int(p.ExitStatus), Known: true, PID: int(p.Pid), At: p.ExitedAt.AsTime()}
}

// Remove's bounds: until containerd answers, and for all of it.
const (
	removeReady = 5 * time.Second
	removeBound = 20 * time.Second
)

// Remove removes all that is left of a container: its task, killed if it still
// runs, its record, and what was mounted for it. What cannot be removed is
// said in the log; a next Start tries again.
func (r *Runtime) Remove(ctx context.Context, b *bundle.Bundle) {
	r.mu.Lock()
	if t := r.tasks[key(b)]; t != nil {
		t.watch.End()
		t.process.Close()
		delete(r.tasks, key(b))
	}
	delete(r.exits, key(b)) // or a next Adopt would find it again
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, removeBound)
	defer cancel()
	ready, cancelReady := context.WithTimeout(ctx, removeReady)
	err := r.answers(ready, b)
	cancelReady()
	if err == nil {
		r.forget(ctx, b)
	} else {
		slog.Warn("its task is left to the next start: "+err.Error(), "container", b.FullName())
	}
	if err := prepare.Cleanup(context.WithoutCancel(ctx), b, r.paths(b), r.Workshop); err != nil {
		slog.Warn(err.Error(), "container", b.FullName())
	}
}

// forget removes a container's task and record from containerd.
func (r *Runtime) forget(ctx context.Context, b *bundle.Bundle) {
	for range 3 {
		err := r.delete(ctx, b)
		if !errdefs.IsFailedPrecondition(err) {
			if err != nil && !errdefs.IsNotFound(err) {
				slog.Warn("remove the task: "+err.Error(), "container", b.FullName())
				if errdefs.IsDeadlineExceeded(err) {
					return // a containerd that is stuck will not remove the record either
				}
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
		slog.Warn("remove the container: "+err.Error(), "container", b.FullName())
	}
}

func (r *Runtime) delete(ctx context.Context, b *bundle.Bundle) error {
	ctx, cancel := call(ctx, b.Namespace(), callTimeout)
	defer cancel()
	unlock, err := r.lockGroup(ctx, b)
	if err != nil {
		return err
	}
	defer unlock()
	last := r.grouped(b) && !r.ShimLingers && !r.groupRuns(b)
	var before []int
	if last {
		before = r.Shims()
	}
	_, err = r.Client.tasks.Delete(ctx, &tasksapi.DeleteTaskRequest{ContainerID: b.ID}, grpc.WaitForReady(true))
	if err == nil && last {
		r.awaitShimEnd(ctx, before)
	}
	return native(err)
}

// shimEndBound is how long the end of a stock shim is waited for.
const shimEndBound = 500 * time.Millisecond

// Shims returns the processes of the shims, none where they have no cgroup of their own.
func (r *Runtime) Shims() []int {
	if r.CgroupRoot == "" || r.ShimCgroup == "" {
		return nil
	}
	return processes(filepath.Join(r.CgroupRoot, r.ShimCgroup))
}

// awaitShimEnd waits until one of the shims is gone that were there before the
// last member of their group was deleted.
func (r *Runtime) awaitShimEnd(ctx context.Context, before []int) {
	ctx, cancel := context.WithTimeout(ctx, shimEndBound)
	defer cancel()
	for len(before) > 0 {
		now := r.Shims()
		for _, pid := range before {
			if !slices.Contains(now, pid) {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
}
