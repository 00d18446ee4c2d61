package memlog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// restBytes is the most that is read of a file whose sender has exited: as much as a
// pipe can hold. Whoever else writes to it is not heard.
const restBytes = 1 << 20

// handed is a file that a client gave us to read. Its flags are its sender's as well: a
// pipe is opened once more, and from a socket each call reads without waiting.
type handed struct {
	server *Server
	from   *sender
	key    string // under which it is held
	group  string // in which its sender is, "" if none is known; guarded by the server's mu

	socket int             // -1 for a pipe
	ready  *os.File        // the pipe, or an epoll that tells of the socket
	conn   syscall.RawConn // of ready

	// Of whoever reads:
	over bool // its sender has exited
	rest int  // how much more is read then
	once sync.Once
}

// open prepares to read a descriptor that was handed over, and owns it.
func open(fd int) (*handed, error) {
	h := &handed{socket: -1, rest: restBytes}
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil {
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFIFO:
			err = h.openPipe(fd)
		case unix.S_IFSOCK:
			err = h.openSocket(fd)
		default:
			err = describe("neither a pipe nor a socket")
		}
	}
	if err != nil || h.socket < 0 {
		discard(fd)
	}
	if err != nil {
		return nil, err
	}
	if h.conn, err = h.ready.SyscallConn(); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (h *handed) openPipe(fd int) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	if flags&unix.O_ACCMODE == unix.O_WRONLY || flags&unix.O_PATH != 0 {
		return describe("the end for writing")
	}
	own, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("it cannot be opened for reading: %w", err)
	}
	h.ready = os.NewFile(uintptr(own), "pipe")
	return nil
}

func (h *handed) openSocket(fd int) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return err
	}
	if domain != unix.AF_UNIX || kind != unix.SOCK_STREAM {
		return describe("a socket of another kind")
	}
	if _, err := unix.Getpeername(fd); err != nil {
		return describe("a socket that is not connected")
	}
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.SetNonblock(poll, true), // else Go does not watch it
		unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP})); err != nil {
		_ = unix.Close(poll)
		return fmt.Errorf("it cannot be watched: %w", err)
	}
	h.socket, h.ready = fd, os.NewFile(uintptr(poll), "epoll")
	return nil
}

// Read waits until there is something, or nothing more can come.
func (h *handed) Read(p []byte) (n int, err error) {
	if !h.over {
		stopped := h.conn.Read(func(fd uintptr) bool {
			n, err = h.receive(int(fd), p)
			return !errors.Is(err, unix.EAGAIN)
		})
		if stopped == nil {
			return result(n, err)
		}
		h.over = true
	}
	p = p[:min(len(p), h.rest)]
	if len(p) == 0 {
		return 0, io.EOF
	}
	if cerr := h.conn.Control(func(fd uintptr) { n, err = h.receive(int(fd), p) }); cerr != nil || errors.Is(err, unix.EAGAIN) {
		return 0, io.EOF
	}
	h.rest -= max(n, 0)
	return result(n, err)
}

func result(n int, err error) (int, error) {
	if n <= 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

// receive reads what there is. Descriptors that were sent along are closed by the kernel,
// which may take as long as their sender likes: a sender's sockets are read one after the
// other, so that this costs a single thread.
func (h *handed) receive(fd int, p []byte) (n int, err error) {
	for {
		if h.socket < 0 {
			n, err = unix.Read(fd, p)
		} else {
			h.from.reading.Lock()
			n, _, err = unix.Recvfrom(h.socket, p, unix.MSG_DONTWAIT)
			h.from.reading.Unlock()
		}
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// stop ends the reading once what is there has been read.
func (h *handed) stop() { _ = h.ready.SetReadDeadline(time.Unix(1, 0)) }

// control calls a function with the file's own descriptor.
func (h *handed) control(do func(fd int) error) error {
	var err error
	cerr := h.conn.Control(func(fd uintptr) {
		if h.socket >= 0 {
			fd = uintptr(h.socket)
		}
		err = do(int(fd))
	})
	return errors.Join(cerr, err)
}

// Close lets go of the file, and of its sender's slot.
func (h *handed) Close() error {
	h.once.Do(func() {
		s := h.server
		s.mu.Lock()
		closed := s.closed
		s.mu.Unlock()
		if !closed { // else the next server goes on with it
			s.cfg.Hold.Drop(h.key)
		}
		h.from.reading.Lock()
		h.close()
		h.from.reading.Unlock()
		s.mu.Lock()
		delete(s.files, h)
		h.from.open--
		s.leave(h)
		s.mu.Unlock()
	})
	return nil
}

func (h *handed) close() {
	_ = h.ready.Close()
	if h.socket >= 0 {
		discard(h.socket)
	}
}

// duplicate returns another descriptor of a file, whose flags stay as they are.
func duplicate(f *os.File) (own int, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	if cerr := conn.Control(func(fd uintptr) { own, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil {
		return -1, cerr
	}
	return own, err
}
