// Package stdio gives container processes their standard streams.
//
// A stream that leads to a FIFO or a file is handed to the process itself:
// nothing is copied, no goroutine sits in between, and what the process wrote
// is in the FIFO at the moment it was written, even if the shim is killed. The
// shim only keeps the other end of each FIFO open, so that a reader that goes
// away costs the process nothing but waiting, and a writer of its standard
// input that goes away is no end of file until CloseIO says so.
//
// A terminal is the exception: somebody has to move bytes between the pty and
// the FIFOs, and that is the shim.
//
// The addresses are those of containerd: a path (FIFO or regular file),
// `fifo://`, `file://`, `binary://` and `binary-v2://`, or empty for none.
package stdio

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"keelson/internal/beneath"
)

// Config names the streams of one process.
type Config struct {
	ID        string // of the container or exec, for a binary logger
	Namespace string // for a binary logger
	Stdin     string
	Stdout    string
	Stderr    string
	Terminal  bool
	UID, GID  int // who owns the pipes made here
}

// Streams are the open streams of one process.
type Streams struct {
	// What the process gets. Nil means /dev/null; all are nil for a terminal.
	Stdin, Stdout, Stderr *os.File

	config Config
	kept   []*os.File // other ends, open for as long as the process lives
	logger *logger

	mu      sync.Mutex
	writer  *os.File // our write end of the stdin FIFO, until CloseStdin
	console *Console
	copying sync.WaitGroup // of the console
}

// Open opens what a process without a terminal needs, and checks the addresses
// of one with a terminal.
func Open(c Config) (_ *Streams, err error) {
	s := &Streams{config: c}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if c.Terminal {
		return s, nil
	}
	if c.Stdin != "" {
		if err := s.openStdin(); err != nil {
			return nil, err
		}
	}
	u, err := address(c.Stdout)
	if err != nil {
		return nil, fmt.Errorf("stdout: %w", err)
	}
	switch u.Scheme {
	case "binary", "binary-v2":
		s.logger, err = startLogger(u, c)
		if err != nil {
			return nil, err
		}
		s.Stdout, s.Stderr = s.logger.stdout, s.logger.stderr
		return s, nil
	case "file":
		// One file for both streams, as the stock shim has it.
		if s.Stdout, err = openFile(u.Path, true); err != nil {
			return nil, fmt.Errorf("stdout: %w", err)
		}
		s.Stderr = s.Stdout
		return s, nil
	}
	if s.Stdout, err = s.openOutput(u.Path); err != nil {
		return nil, fmt.Errorf("stdout: %w", err)
	}
	if c.Stderr != "" && c.Stderr == c.Stdout {
		s.Stderr = s.Stdout
		return s, nil
	}
	u, err = address(c.Stderr)
	if err != nil {
		return nil, fmt.Errorf("stderr: %w", err)
	}
	if s.Stderr, err = s.openOutput(u.Path); err != nil {
		return nil, fmt.Errorf("stderr: %w", err)
	}
	return s, nil
}

// address parses the address of a stream. A bare path is a FIFO's.
func address(raw string) (*url.URL, error) {
	if raw == "" || raw[0] == '/' {
		return &url.URL{Scheme: "fifo", Path: raw}, nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "fifo", "binary", "binary-v2":
		return u, nil
	case "file":
		if !filepath.IsAbs(u.Path) {
			return nil, fmt.Errorf("%q: file:// needs an absolute path", raw)
		}
		return u, nil
	default:
		return nil, fmt.Errorf("%q: unknown scheme %q (a path, fifo://, file://, binary:// or binary-v2://)", raw, u.Scheme)
	}
}

// openOutput opens path for a process to write to.
func (s *Streams) openOutput(path string) (*os.File, error) {
	return s.openKept(path, func() (*os.File, error) {
		w, err := openFIFO(path, unix.O_WRONLY)
		if err != nil {
			return nil, err
		}
		return w, s.own(w)
	})
}

// openKept opens path for writing, by way of write where it is a FIFO. Then a
// read end is kept: without one a write would fail with EPIPE while nobody
// listens.
func (s *Streams) openKept(path string, write func() (*os.File, error)) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	fifo, err := isFIFO(path)
	if err != nil {
		return nil, err
	}
	if !fifo {
		return openFile(path, false)
	}
	r, err := openFIFO(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	s.kept = append(s.kept, r)
	return write()
}

func (s *Streams) openStdin() error {
	r, err := openFIFO(s.config.Stdin, unix.O_RDONLY)
	if err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	s.Stdin = r
	w, err := openFIFO(s.config.Stdin, unix.O_WRONLY)
	if err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	s.writer = w
	return s.own(r)
}

// own gives f to the process's user where that is somebody else, so that it
// can open /dev/stdout.
func (s *Streams) own(f *os.File) error {
	if s.config.UID == 0 && s.config.GID == 0 {
		return nil
	}
	if err := f.Chown(s.config.UID, s.config.GID); err != nil {
		return fmt.Errorf("give stream to its user: %w", err)
	}
	return nil
}

func isFIFO(path string) (bool, error) {
	st, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	return st.Mode()&os.ModeNamedPipe != 0, nil
}

// openFIFO opens one end of a FIFO without waiting for the other, and leaves
// the descriptor blocking, as a process expects its streams to be.
func openFIFO(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "set blocking", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openFile opens a file, or a device, to append to. Containers may write to its directory.
func openFile(path string, create bool) (*os.File, error) {
	if !create {
		if _, err := os.Lstat(path); err != nil {
			return nil, err
		}
	} else if d, err := beneath.Make(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	} else {
		_ = d.Close()
	}
	return beneath.Machine.Writable(path, 0o644)
}

// Started closes the ends that now belong to the process.
func (s *Streams) Started() {
	closeOnce(s.Stdin, s.Stdout, s.Stderr)
	s.Stdin, s.Stdout, s.Stderr = nil, nil, nil
	if s.logger != nil {
		s.logger.started()
	}
}

// CloseStdin lets the process see the end of its standard input once the
// client has closed its own end.
func (s *Streams) CloseStdin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writer == nil {
		return nil
	}
	w := s.writer
	s.writer = nil
	return w.Close()
}

// Drain waits until the output of an ended process has been moved on. Only a
// terminal has anything to move.
func (s *Streams) Drain(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		s.copying.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("move the terminal's last output: %w", ctx.Err())
	}
}

// Close lets go of everything.
func (s *Streams) Close() {
	s.Started()
	_ = s.CloseStdin()
	s.mu.Lock()
	c := s.console
	s.console = nil
	s.mu.Unlock()
	if c != nil {
		c.close()
	}
	closeOnce(s.kept...)
	s.kept = nil
	if s.logger != nil {
		s.logger.stop()
		s.logger = nil
	}
}

func closeOnce(files ...*os.File) {
	for i, f := range files {
		if f == nil {
			continue
		}
		again := false
		for _, g := range files[:i] {
			again = again || g == f
		}
		if !again {
			f.Close()
		}
	}
}

// ErrNoTerminal is returned for a resize of a process without a terminal.
var ErrNoTerminal = errors.New("process has no terminal")
