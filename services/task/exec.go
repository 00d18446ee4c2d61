package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/pidfd"
	"keelson/internal/policy"
)

// Execer is a Task in whose container commands can be run.
type Execer interface {
	// Exec runs a command in the container, as its first process is run: with its
	// environment, folder, user and rights. It returns the exit code, 128+N for a
	// signal N, and the end of what it wrote. When ctx ends the command is killed, and
	// Exec does not wait for that. What it started ends with it in any case. The error is
	// policy.ErrUnknown where the command did not come to run or its exit was not
	// reported, for want of an answer of containerd or the shim.
	Exec(ctx context.Context, argv []string) (code int, output string, err error)
}

const (
	// outputBytes is how much of a command's output is kept.
	outputBytes = 4 << 10
	// probeID begins the ID of a command: our shim ends one of such a name with all that
	// it has started, whatever that has done to become independent.
	probeID = "keelson-probe-"
	// leftBound is how long a command is kept in mind that nobody answers for.
	leftBound = 3 * time.Minute
	// execPause is how long to wait for containerd that went away under a command.
	execPause = 20 * time.Millisecond
)

// Exec is Execer's. Whether containerd is there is no property of the service:
// where it goes away under the command, the command is run again.
func (t *running) Exec(ctx context.Context, argv []string) (code int, output string, err error) {
	for {
		if err := t.runtime.answers(ctx, t.bundle); err != nil {
			return 0, "", &unknown{err.Error(), err}
		}
		code, output, err = t.exec(ctx, argv)
		if !errdefs.IsUnavailable(err) {
			return code, output, err
		}
		select {
		case <-ctx.Done():
			return 0, "", &unknown{err.Error(), err}
		case <-time.After(execPause):
		}
	}
}

func (t *running) exec(ctx context.Context, argv []string) (code int, output string, err error) {
	p, err := t.runtime.Process(t.bundle)
	if err != nil {
		return 0, "", err
	}
	p.Args, p.Terminal, p.ConsoleSize, p.CommandLine = argv, false, nil, ""
	if t.runtime.NotifyDir != "" && Notifies(t.bundle.Service) {
		s := *t.bundle.Spec
		s.Process = p
		withNotify(&s, t.bundle.Service, t.runtime.NotifyFolder(t.bundle))
		p = s.Process
	}
	x, err := t.newCommand()
	if err != nil {
		return 0, "", err
	}
	// Neither the start nor the wait is cut with the caller. Of a command whose start was
	// cut nobody would know the PID, nor end what it has started; and a wait that is given
	// up leaves the shim with an answer for nobody, which containerd reports as an error.
	wctx, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	kill := func() { // bounded, so nobody waits for it
		x.kill()
		hangUp()
	}
	type end struct {
		code int
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		code, err := x.run(ctx, wctx, p)
		ended <- end{code, err}
	}()
	select {
	case <-ctx.Done():
		err := x.cut(ctx.Err())
		go kill()
		return 0, "", err
	case e := <-ended:
		if e.err != nil {
			if ctx.Err() != nil {
				e.err = x.cut(ctx.Err())
			}
			go kill()
			return 0, "", e.err
		}
		if err := x.delete(wctx); err != nil {
			go kill()
			return e.code, "", nil
		}
		hangUp()
		return e.code, x.close(), nil
	}
}

// command is one command in a container, with the pipe of its output. The pipe's
// path names it, for a next supervisor that finds it there.
type command struct {
	added
	pipe    string
	started chan struct{}  // closed when the start has come to something
	process *pidfd.Process // nil where it does not run; set before started is closed
	file    *os.File
	tail    []byte        // of the reading goroutine until read is closed
	read    chan struct{} // closed when the reading goroutine has returned
}

func (t *running) newCommand() (*command, error) {
	x := &command{
		added:   added{t.runtime, t.bundle.Namespace(), t.bundle.ID, fmt.Sprintf("%s%016x", probeID, rand.Uint64()), t.PID()},
		started: make(chan struct{}), read: make(chan struct{}),
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

// unknown is the error of a command of which nobody can say what it would have found out.
type unknown struct {
	why   string
	cause error
}

func (u *unknown) Error() string   { return u.why }
func (u *unknown) Unwrap() []error { return []error{policy.ErrUnknown, u.cause} }

// cut is the error for a command that was given up because of err.
func (x *command) cut(err error) error {
	select {
	case <-x.started:
	default:
		return &unknown{"its start is not answered by containerd or the shim", err}
	}
	if x.process == nil || x.process.Ended() {
		return &unknown{"its exit is not reported by containerd or the shim", err}
	}
	return err
}

// run starts it and waits for its end.
func (x *command) run(ctx, wait context.Context, p *specs.Process) (code int, err error) {
	pid, err := x.start(ctx, p, pipes{stdout: x.pipe, stderr: x.pipe})
	if err == nil {
		if process, err := pidfd.Open(pid); err == nil {
			x.process = process
		} // else it has ended already
	}
	close(x.started)
	switch {
	case errors.Is(err, ErrNoProgram), errors.Is(err, ErrNotExecutable):
		return 0, err
	case errors.Is(err, context.DeadlineExceeded):
		return 0, &unknown{err.Error(), err}
	case err != nil:
		return 0, fmt.Errorf("run it in the container: %w", err)
	}
	if code, err = x.wait(wait); err != nil {
		return 0, fmt.Errorf("wait for it: %w", err)
	}
	return code, nil
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
	<-x.started
	defer x.close()
	if x.process != nil && !x.process.Ended() {
		// It leads a session: with it goes what it started.
		_ = unix.Kill(-x.process.PID, unix.SIGKILL)
	}
	if err := x.endWhenAnswered(); err != nil {
		slog.Warn("a command that was run in the container is left behind: "+err.Error(), "container", x.container)
	}
}

// endWhenAnswered is end, and again while nobody answers: who hangs is about to be started
// again.
func (x *command) endWhenAnswered() error {
	ctx, cancel := context.WithTimeout(context.Background(), leftBound)
	defer cancel()
	for {
		err := x.end()
		if !errors.Is(err, context.DeadlineExceeded) || x.runtime.Answering == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
		if x.runtime.Answering(ctx, func(containers []string) bool {
			return slices.Contains(containers, x.namespace+"/"+x.container)
		}) != nil {
			return err
		}
	}
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
			x := added{r, filepath.Base(filepath.Dir(container)), filepath.Base(container), filepath.Base(pipe), 0}
			if err := x.end(); err != nil {
				slog.Warn("a command of an earlier supervisor is left behind: "+err.Error(), "container", filepath.Base(container))
			}
			if err := os.Remove(pipe); err != nil && !errors.Is(err, os.ErrNotExist) {
				slog.Warn(err.Error())
			}
		}
	}()
}
