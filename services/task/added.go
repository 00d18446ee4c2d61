package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"keelson/internal/pidfd"
)

const processURL = "types.containerd.io/opencontainers/runtime-spec/1/Process"

// addedEnd bounds the removal of a process.
const addedEnd = 10 * time.Second

// ErrNoProgram says that a container lacks what was to be started in it.
var ErrNoProgram = errors.New("no such program")

// added is a process beside the first one of a container: a probe's command, or
// what a person has started.
type added struct {
	runtime                  *Runtime
	namespace, container, id string
	main                     int // PID of the container's first process, 0 where nothing is started any more
}

// pipes are the paths of a process's input and output; "" is none.
type pipes struct{ stdin, stdout, stderr string }

// start starts it and returns its PID. Once the start is under way it is not cut with
// ctx, as what was started would then be unknown.
func (x added) start(ctx context.Context, process *specs.Process, io pipes) (int, error) {
	spec, err := json.Marshal(process)
	if err != nil {
		return 0, fmt.Errorf("encode the process: %w", err)
	}
	actx, cancelAdd := call(ctx, x.namespace, createTimeout)
	defer cancelAdd()
	c := x.runtime.Client.tasks
	if _, err := c.Exec(actx, &tasksapi.ExecProcessRequest{
		ContainerID: x.container, ExecID: x.id, Terminal: process.Terminal, Stdin: io.stdin, Stdout: io.stdout, Stderr: io.stderr,
		Spec: &anypb.Any{TypeUrl: processURL, Value: spec},
	}, grpc.WaitForReady(true)); err != nil {
		return 0, native(err)
	}
	pid := 0
	if b := x.runtime.runs(x.namespace, x.container); b != nil {
		made := x.runtime.making.begin(x.runtime.CgroupDir(b))
		defer func() { made(pid) }()
	}
	sctx, cancelStart := call(context.WithoutCancel(ctx), x.namespace, createTimeout)
	defer cancelStart()
	root, release := heldRoot(x.main)
	defer release()
	started, err := c.Start(sctx, &tasksapi.StartRequest{ContainerID: x.container, ExecID: x.id})
	if err != nil {
		if err = native(err); notInImage(err.Error()) {
			return 0, fmt.Errorf("%w: %q is not in the image", ErrNoProgram, process.Args[0])
		}
		if why := refusal(root, process, err); why != nil {
			return 0, why
		}
		return 0, err
	}
	pid = int(started.Pid)
	p, err := pidfd.Open(pid)
	if err != nil {
		p = nil // it has exited
	} else {
		defer p.Close()
	}
	return pid, notExecuted(sctx, p, process, func() string { return whyNotRun(root, process) }, func(ctx context.Context) (int, bool) {
		code, err := x.wait(ctx)
		return code, err == nil
	})
}

// wait waits for its end and returns its exit code, 128+N for a signal N.
func (x added) wait(ctx context.Context) (int, error) {
	// The caller's bound is the one that counts, if there is any: a shell may be open all day.
	ctx, cancel := call(ctx, x.namespace, 24*time.Hour)
	defer cancel()
	w, err := x.runtime.Client.tasks.Wait(ctx, &tasksapi.WaitRequest{ContainerID: x.container, ExecID: x.id}, grpc.WaitForReady(true))
	if err != nil {
		return 0, native(err)
	}
	return int(w.ExitStatus), nil
}

// signal sends it a signal.
func (x added) signal(ctx context.Context, sig unix.Signal) error {
	ctx, cancel := call(ctx, x.namespace, callTimeout)
	defer cancel()
	_, err := x.runtime.Client.tasks.Kill(ctx, &tasksapi.KillRequest{ContainerID: x.container, ExecID: x.id, Signal: uint32(sig)}, grpc.WaitForReady(true))
	return native(err)
}

// delete removes it from its container's shim. It has to have ended.
func (x added) delete(ctx context.Context) error {
	ctx, cancel := call(ctx, x.namespace, callTimeout)
	defer cancel()
	_, err := x.runtime.Client.tasks.DeleteProcess(ctx, &tasksapi.DeleteProcessRequest{ContainerID: x.container, ExecID: x.id})
	return native(err)
}

// end removes it, and kills it if need be.
func (x added) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), addedEnd)
	defer cancel()
	if err := x.runtime.Ready(ctx); err != nil {
		return err
	}
	var last error
	for range 3 {
		if last = x.delete(ctx); last == nil || errdefs.IsNotFound(last) {
			return nil // the latter if it, or its container, has gone
		}
		_ = x.signal(ctx, unix.SIGKILL)
		_, _ = x.wait(ctx)
	}
	return last
}
