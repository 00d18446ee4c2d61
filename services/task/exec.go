package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"keelson/internal/pidfd"
)

// Execer is a Task in whose container commands can be run.
type Execer interface {
	// Exec runs a command in the container, as its first process is run: with its
	// environment, folder, user and rights. It returns the exit code, 128+N for a
	// signal N, and the end of what it wrote. When ctx ends the command is killed
	// with what it started, and Exec does not wait for that.
	Exec(ctx context.Context, argv []string) (code int, output string, err error)
}

const (
	// outputBytes is how much of a command's output is kept.
	outputBytes = 4 << 10
	// execPause is how long to wait for containerd that went away under a command.
	execPause = 20 * time.Millisecond
	// execEnd bounds the removal of a command.
	execEnd = 10 * time.Second
)

// Exec is Execer's. Whether containerd is there is no property of the service:
// where it goes away under the command, the command is run again.
func (t *running) Exec(ctx context.Context, argv []string) (code int, output string, err error) {
	for {
		if err := t.runtime.Ready(ctx); err != nil {
			return 0, "", err
		}
		code, output, err = t.exec(ctx, argv)
		if ctx.Err() != nil {
			return 0, "", ctx.Err()
		}
		if !errdefs.IsUnavailable(err) {
			return code, output, err
		}
		select {
		case <-ctx.Done():
			return 0, "", ctx.Err()
		case <-time.After(execPause):
		}
	}
}

func (t *running) exec(ctx context.Context, argv []string) (code int, output string, err error) {
	p := process(t.bundle.Spec)
	p.Args, p.Terminal, p.ConsoleSize, p.CommandLine = argv, false, nil, ""
	if t.runtime.NotifyDir != "" && Notifies(t.bundle.Service) {
		s := *t.bundle.Spec
		s.Process = p
		withNotify(&s, t.bundle.Service, t.runtime.NotifyFolder(t.bundle))
		p = s.Process
	}
	data, err := json.Marshal(p)
	if err != nil {
		return 0, "", fmt.Errorf("encode the process: %w", err)
	}
	x, err := t.newCommand()
	if err != nil {
		return 0, "", err
	}
	ran := false
	defer func() {
		if !ran {
			go x.kill() // bounded; nobody waits for it
		}
	}()
	c := t.runtime.Client.tasks
	ectx, cancel := call(ctx, x.namespace, createTimeout)
	defer cancel()
	_, err = c.Exec(ectx, &tasksapi.ExecProcessRequest{
		ContainerID: x.container, ExecID: x.id, Stdout: x.pipe, Stderr: x.pipe,
		Spec: &anypb.Any{TypeUrl: processURL, Value: data},
	})
	if err != nil {
		return 0, "", fmt.Errorf("run it in the container: %w", native(err))
	}
	started, err := c.Start(ectx, &tasksapi.StartRequest{ContainerID: x.container, ExecID: x.id})
	if err != nil {
		if text := err.Error(); notInImage(text) {
			return 0, "", fmt.Errorf("%q is not in the image", argv[0])
		}
		return 0, "", fmt.Errorf("run it in the container: %w", native(err))
	}
	if process, err := pidfd.Open(int(started.Pid)); err == nil {
		x.process = process
	} // else it has ended already
	wctx, cancelWait := call(ctx, x.namespace, 24*time.Hour) // the caller's bound is the one that counts
	defer cancelWait()
	w, err := c.Wait(wctx, &tasksapi.WaitRequest{ContainerID: x.container, ExecID: x.id})
	if err != nil {
		return 0, "", fmt.Errorf("wait for it: %w", native(err))
	}
	ran = true
	dctx, cancelDelete := call(ctx, x.namespace, execEnd)
	_, err = c.DeleteProcess(dctx, &tasksapi.DeleteProcessRequest{ContainerID: x.container, ExecID: x.id})
	cancelDelete()
	if err != nil {
		go x.kill()
		return int(w.ExitStatus), "", nil
	}
	return int(w.ExitStatus), x.close(), nil
}

// command is one command in a container, with the pipe of its output. The pipe's
// path names it, for a next supervisor that finds it there.
type command struct {
	runtime                  *Runtime
	namespace, container, id string
	pipe                     string
	process                  *pidfd.Process // nil before it runs
	file                     *os.File
	tail                     []byte        // of the reading goroutine until read is closed
	read                     chan struct{} // closed when the reading goroutine has returned
}

func (t *running) newCommand() (*command, error) {
	x := &command{
		runtime: t.runtime, namespace: t.bundle.Namespace(), container: t.bundle.ID,
		id: fmt.Sprintf("keelson-%016x", rand.Uint64()), read: make(chan struct{}),
	}
	dir := filepath.Join(t.runtime.ExecDir, x.namespace, x.container)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a pipe for its output: %w", err)
	}
	x.pipe = filepath.Join(dir, x.id)
	if err := unix.Mkfifo(x.pipe, 0o600); err != nil {
		return nil, fmt.Errorf("make the pipe %s for its output: %w", x.pipe, err)
	}
	// Read and write: opening does not wait for a writer.
	var err error
	if x.file, err = os.OpenFile(x.pipe, os.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		_ = os.Remove(x.pipe)
		return nil, fmt.Errorf("open the pipe for its output: %w", err)
	}
	go x.collect()
	return x, nil
}

// collect reads the pipe, so that the command can write, until close has it end.
func (x *command) collect() {
	defer close(x.read)
	buf := make([]byte, outputBytes)
	keep := func(n int) {
		x.tail = append(x.tail, buf[:max(n, 0)]...)
		x.tail = x.tail[max(len(x.tail)-outputBytes, 0):]
	}
	for {
		n, err := x.file.Read(buf)
		keep(n)
		if err != nil {
			break
		}
	}
	// What is left of a command that has ended; one that has not may go on writing.
	conn, err := x.file.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) {
		for range 64<<10/outputBytes + 1 {
			n, err := unix.Read(int(fd), buf)
			if n <= 0 || err != nil {
				return
			}
			keep(n)
		}
	})
}

// close removes the pipe and returns the end of what came through it.
func (x *command) close() string {
	_ = x.file.SetReadDeadline(time.Unix(1, 0))
	<-x.read
	_ = x.file.Close()
	_ = os.Remove(x.pipe)
	if x.process != nil {
		x.process.Close()
	}
	return string(x.tail)
}

// kill ends a command that was given up, and removes what is left of it.
func (x *command) kill() {
	defer x.close()
	if x.process != nil && !x.process.Ended() {
		// It leads a session: with it goes what it started.
		_ = unix.Kill(-x.process.PID, unix.SIGKILL)
	}
	if err := x.runtime.removeExec(x.namespace, x.container, x.id); err != nil {
		slog.Warn("a command that was run in the container is left behind: "+err.Error(), "container", x.container)
	}
}

// removeExec removes a command from its container's shim, killing it if need be.
func (r *Runtime) removeExec(namespace, container, id string) error {
	ctx, cancel := call(context.Background(), namespace, execEnd)
	defer cancel()
	if err := r.Ready(ctx); err != nil {
		return err
	}
	c := r.Client.tasks
	var last error
	for range 3 {
		_, err := c.DeleteProcess(ctx, &tasksapi.DeleteProcessRequest{ContainerID: container, ExecID: id})
		if err = native(err); err == nil || errdefs.IsNotFound(err) {
			return nil // the latter if it, or its container, has gone
		}
		last = err
		_, _ = c.Kill(ctx, &tasksapi.KillRequest{ContainerID: container, ExecID: id, Signal: uint32(unix.SIGKILL)})
		_, _ = c.Wait(ctx, &tasksapi.WaitRequest{ContainerID: container, ExecID: id})
	}
	return last
}

// ClearExecs begins to remove the commands that an earlier supervisor left in
// containers. It is to be called before the first Exec.
func (r *Runtime) ClearExecs() {
	pipes, _ := filepath.Glob(filepath.Join(r.ExecDir, "*", "*", "*"))
	if len(pipes) == 0 {
		return
	}
	go func() { // each one has its bound
		for _, pipe := range pipes {
			container := filepath.Dir(pipe)
			if err := r.removeExec(filepath.Base(filepath.Dir(container)), filepath.Base(container), filepath.Base(pipe)); err != nil {
				slog.Warn("a command of an earlier supervisor is left behind: "+err.Error(), "container", filepath.Base(container))
			}
			if err := os.Remove(pipe); err != nil && !errors.Is(err, os.ErrNotExist) {
				slog.Warn(err.Error())
			}
		}
	}()
}
