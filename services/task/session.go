package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// endOfOutput is how long a terminal's output may take to come to its end after the
// process has exited. Only a shim that hangs needs it.
const endOfOutput = time.Minute

// SessionConfig says what a session is.
type SessionConfig struct {
	Namespace, Container string
	PID                  int            // of the container's first process
	Process              *specs.Process // its Terminal counts
	Stdin                bool           // it has an input, which else is /dev/null
	// Dir is where the sessions' pipes are made, each in a folder of its own.
	Dir string
}

// Session is a process that somebody has started in a container that runs, with
// pipes of its own. It belongs to one caller, who must Close it.
type Session struct {
	added
	dir     string
	in      *os.File // nil without an input
	out     *output
	err     *output // nil with a terminal
	once    struct{ close, settle sync.Once }
	settled chan struct{}
}

var sessionNumber struct {
	sync.Mutex
	last int64
}

// sessionID makes a name no other session of this boot has, under any supervisor.
func sessionID() string {
	sessionNumber.Lock()
	defer sessionNumber.Unlock()
	sessionNumber.last = max(sessionNumber.last+1, time.Now().UnixNano())
	return fmt.Sprintf("keelson-%d", sessionNumber.last)
}

// StartSession starts a process in a container. ctx bounds the start only.
func (r *Runtime) StartSession(ctx context.Context, cfg SessionConfig) (*Session, error) {
	if err := r.Ready(ctx); err != nil {
		return nil, err
	}
	s := &Session{added: added{r, cfg.Namespace, cfg.Container, sessionID(), cfg.PID}, settled: make(chan struct{})}
	s.dir = filepath.Join(cfg.Dir, s.id)
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the pipes of a process: %w", err)
	}
	// For a next supervisor, which has nobody to give the output to.
	if err := os.Symlink(cfg.Namespace+"/"+cfg.Container, filepath.Join(s.dir, "of")); err != nil {
		s.remove()
		return nil, fmt.Errorf("make the pipes of a process: %w", err)
	}
	paths, release, err := s.makePipes(cfg)
	defer release()
	if err != nil {
		s.closeFiles()
		s.remove()
		return nil, err
	}
	if _, err := s.start(ctx, cfg.Process, paths); err != nil {
		s.Close()
		return nil, fmt.Errorf("start a process in it: %w", err)
	}
	return s, nil
}

// makePipes makes the session's pipes. Their writing ends are held until release is
// called, or until the shim has them: a reader without a writer is at the end at once.
func (s *Session) makePipes(cfg SessionConfig) (paths pipes, release func(), err error) {
	var holders []*os.File
	release = func() {
		for _, h := range holders {
			_ = h.Close()
		}
	}
	pipe := func(name string, path *string) (*os.File, error) {
		*path = filepath.Join(s.dir, name)
		if err := unix.Mkfifo(*path, 0o600); err != nil {
			return nil, fmt.Errorf("make a pipe: %w", err)
		}
		h, err := os.OpenFile(*path, unix.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, fmt.Errorf("open a pipe: %w", err)
		}
		return h, nil
	}
	outlet := func(name string, path *string) (*output, error) {
		h, err := pipe(name, path)
		if err != nil {
			return nil, err
		}
		holders = append(holders, h)
		f, err := os.OpenFile(*path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, fmt.Errorf("open a pipe: %w", err)
		}
		o := &output{file: f, exited: make(chan struct{}), idle: idleOutput, settle: s.settle}
		if cfg.Process.Terminal {
			o.idle, o.settle = endOfOutput, nil
		}
		return o, nil
	}
	if cfg.Stdin {
		s.in, err = pipe("stdin", &paths.stdin)
	}
	if err == nil {
		s.out, err = outlet("stdout", &paths.stdout)
	}
	if err == nil && !cfg.Process.Terminal {
		s.err, err = outlet("stderr", &paths.stderr)
	}
	return paths, release, err
}

// Stdin is the input; nil where there is none. Closing the pipe is CloseStdin's.
func (s *Session) Stdin() *os.File { return s.in }

// Stdout is the output, with a terminal all of it. It ends after Wait has returned.
func (s *Session) Stdout() io.Reader { return s.out }

// Stderr is nil with a terminal.
func (s *Session) Stderr() io.Reader {
	if s.err == nil {
		return nil
	}
	return s.err
}

// CloseStdin ends the input.
func (s *Session) CloseStdin(ctx context.Context) error {
	_ = s.in.Close()
	ctx, cancel := call(ctx, s.namespace, callTimeout)
	defer cancel()
	_, err := s.runtime.Client.tasks.CloseIO(ctx, &tasksapi.CloseIORequest{ContainerID: s.container, ExecID: s.id, Stdin: true}, grpc.WaitForReady(true))
	return native(err)
}

// Resize sets the size of the terminal.
func (s *Session) Resize(ctx context.Context, rows, cols uint16) error {
	ctx, cancel := call(ctx, s.namespace, callTimeout)
	defer cancel()
	_, err := s.runtime.Client.tasks.ResizePty(ctx, &tasksapi.ResizePtyRequest{
		ContainerID: s.container, ExecID: s.id, Width: uint32(cols), Height: uint32(rows)}, grpc.WaitForReady(true))
	return native(err)
}

// Signal sends a signal to the process.
func (s *Session) Signal(ctx context.Context, sig unix.Signal) error { return s.signal(ctx, sig) }

// Wait waits for the process to end and returns its exit code, 128+N for a signal N.
// A containerd that goes away meanwhile is waited for.
func (s *Session) Wait(ctx context.Context) (int, error) {
	code, err := s.waitOn(ctx)
	for _, o := range []*output{s.out, s.err} {
		if o != nil {
			o.processExited()
		}
	}
	return code, err
}

// settle has the shim move on what it may still hold of the output, which is to be
// read meanwhile.
func (s *Session) settle() <-chan struct{} {
	s.once.settle.Do(func() {
		go func() { // bounded
			_ = s.delete(context.Background()) // Close would find it
			close(s.settled)
		}()
	})
	return s.settled
}

func (s *Session) waitOn(ctx context.Context) (int, error) {
	for {
		code, err := s.wait(ctx)
		switch {
		case err == nil:
			return code, nil
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case errdefs.IsUnavailable(err), errors.Is(err, context.DeadlineExceeded):
		case errdefs.IsNotFound(err):
			return 0, errors.New("its exit code was lost with its container")
		default:
			return 0, fmt.Errorf("wait for its end: %w", err)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Close ends the process if it still runs, and removes what was made for it.
func (s *Session) Close() {
	s.once.close.Do(func() {
		s.closeFiles()
		if err := s.end(); err != nil {
			slog.Warn("a process that was started in the container is left behind: "+err.Error(), "container", s.container)
		}
		s.remove()
	})
}

func (s *Session) closeFiles() {
	if s.in != nil {
		_ = s.in.Close()
	}
	for _, o := range []*output{s.out, s.err} {
		if o != nil {
			_ = o.file.Close()
		}
	}
}

func (s *Session) remove() {
	if err := os.RemoveAll(s.dir); err != nil {
		slog.Warn("remove the pipes of a process: "+err.Error(), "container", s.container)
	}
}

// EndSessions ends those that an earlier supervisor left: whoever asked for them
// has lost the connection.
func (r *Runtime) EndSessions(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // there were none
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if of, err := os.Readlink(filepath.Join(path, "of")); err == nil {
			if namespace, container, ok := strings.Cut(of, "/"); ok {
				if err := (added{r, namespace, container, e.Name(), 0}).end(); err != nil {
					slog.Warn("a process that was started in the container is left behind: "+err.Error(), "container", container)
				}
			}
		}
		_ = os.RemoveAll(path)
	}
}
