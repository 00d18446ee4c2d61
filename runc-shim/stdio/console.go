package stdio

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/containerd/console"
	"github.com/opencontainers/runc/libcontainer/utils"
	"golang.org/x/sys/unix"
)

// A Console is the master end of a container's pty.
type Console struct {
	master *console.EpollConsole
	poller *console.Epoller
	once   sync.Once
	files  []*os.File
}

// poller watches the ptys of all containers. A pty cannot be left to the
// runtime's poller: its master hangs up whenever nobody has the slave open,
// which a getty inside does on purpose, and works again afterwards.
var poller struct {
	sync.Mutex
	*console.Epoller
}

func thePoller() (*console.Epoller, error) {
	poller.Lock()
	defer poller.Unlock()
	if poller.Epoller == nil {
		e, err := console.NewEpoller()
		if err != nil {
			return nil, fmt.Errorf("watch terminals: %w", err)
		}
		poller.Epoller = e
		// Lives as long as the shim.
		go func() {
			if err := e.Wait(); err != nil {
				slog.Error("watch terminals", "error", err)
			}
		}()
	}
	return poller.Epoller, nil
}

// ConsoleSocket makes the pair over which the container's init hands out the
// pty it opened inside the container.
func ConsoleSocket() (parent, child *os.File, err error) {
	return utils.NewSockPair("console")
}

// Attach receives the pty from the socket, after the process has been started,
// and begins to move bytes between it and the streams.
func (s *Streams) Attach(socket *os.File) error {
	f, err := receiveFile(socket)
	if err != nil {
		return fmt.Errorf("receive terminal from container: %w", err)
	}
	master, err := console.ConsoleFromFile(f)
	if err != nil {
		f.Close()
		return fmt.Errorf("terminal from container: %w", err)
	}
	e, err := thePoller()
	if err != nil {
		f.Close()
		return err
	}
	em, err := e.Add(master)
	if err != nil {
		f.Close()
		return fmt.Errorf("watch terminal: %w", err)
	}
	c := &Console{master: em, poller: e}
	s.mu.Lock()
	s.console = c
	s.mu.Unlock()
	return s.connect(c)
}

func (s *Streams) connect(c *Console) error {
	u, err := address(s.config.Stdout)
	if err != nil {
		return fmt.Errorf("stdout: %w", err)
	}
	var out *os.File
	switch u.Scheme {
	case "binary", "binary-v2":
		if s.logger, err = startLogger(u, s.config); err != nil {
			return err
		}
		out = s.logger.stdout
		s.logger.stdout = nil
		s.logger.started()
	case "file":
		out, err = openFile(u.Path, true)
	default:
		out, err = s.openPolled(u.Path)
	}
	if err != nil {
		return fmt.Errorf("stdout: %w", err)
	}
	if out != nil {
		s.copying.Add(1)
		go func() {
			defer s.copying.Done()
			defer out.Close()
			buf := make([]byte, 4096)
			if _, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{c.master}, buf); err != nil && !errors.Is(err, os.ErrClosed) && !hungUp(err) {
				slog.Warn("copy from terminal", "id", s.config.ID, "error", err)
			}
		}()
	}
	if s.config.Stdin == "" {
		return nil
	}
	in, err := os.OpenFile(s.config.Stdin, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	w, err := openFIFO(s.config.Stdin, unix.O_WRONLY)
	if err != nil {
		in.Close()
		return fmt.Errorf("stdin: %w", err)
	}
	s.mu.Lock()
	s.writer = w
	s.mu.Unlock()
	c.files = append(c.files, in)
	go func() {
		defer in.Close()
		buf := make([]byte, 4096)
		_, _ = io.CopyBuffer(struct{ io.Writer }{c.master}, struct{ io.Reader }{in}, buf)
	}()
	return nil
}

// hungUp reports whether an error is a terminal's end: a read of one that no process
// has open any more fails with EIO.
func hungUp(err error) bool {
	failed, ok := errors.AsType[*os.PathError](err)
	return ok && failed.Op == "read" && failed.Err == unix.EIO
}

// openPolled opens path for the shim itself to write to: nonblocking, so that
// a FIFO nobody reads parks a goroutine and no thread.
func (s *Streams) openPolled(path string) (*os.File, error) {
	return s.openKept(path, func() (*os.File, error) {
		return os.OpenFile(path, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	})
}

// Ended says that the process is gone: what is still in the terminal is moved
// on, then the copying ends.
func (s *Streams) Ended() {
	s.mu.Lock()
	c := s.console
	s.mu.Unlock()
	if c != nil {
		_ = c.master.Shutdown(c.poller.CloseConsole)
	}
}

// Resize sets the size of the terminal.
func (s *Streams) Resize(width, height uint16) error {
	s.mu.Lock()
	c := s.console
	s.mu.Unlock()
	if c == nil {
		return ErrNoTerminal
	}
	return c.master.Resize(console.WinSize{Width: width, Height: height})
}

func (c *Console) close() {
	c.once.Do(func() {
		_ = c.master.Shutdown(c.poller.CloseConsole)
		_ = c.master.Close()
		for _, f := range c.files {
			f.Close()
		}
	})
}

// receiveFile receives one file descriptor over a Unix socket (SCM_RIGHTS, see
// unix(7)).
func receiveFile(socket *os.File) (*os.File, error) {
	name := make([]byte, 4096)
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(int(socket.Fd()), name, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	if len(msgs) != 1 {
		return nil, fmt.Errorf("expected one control message, got %d", len(msgs))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return nil, err
	}
	if len(fds) != 1 {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("expected one file descriptor, got %d", len(fds))
	}
	return os.NewFile(uintptr(fds[0]), string(name[:n])), nil
}
