// Package notify owns the socket over which a service says of itself how it is:
// sd_notify(3), with NOTIFY_SOCKET in its environment.
//
// It promises that only processes of the service's own container are believed,
// that whatever a process sends (descriptors, garbage, more than anybody can read)
// costs a bounded amount of work and leaves nothing behind, and that the socket
// can be made anew in the same folder, which is what a container has of it. It
// must never act on a message: what one means is its reader's business.
package notify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/beneath"
)

// SocketName is the socket's name in its folder.
const SocketName = "notify"

const (
	// messageBytes is the longest message, as systemd has it; a longer one is ignored.
	messageBytes = 4096
	// maxFDs is the most descriptors that the kernel passes in one message.
	maxFDs = 253
)

// Listener is the socket of one service.
type Listener struct {
	conn    *net.UnixConn
	belongs func(pid int) bool
	warn    func(format string, a ...any)
	warned  map[string]bool // of the reading goroutine: the kinds of complaint that were made
	out     chan Message
	closing context.Context
	close   context.CancelFunc
	done    chan struct{} // closed when the reading goroutine has returned
	once    sync.Once
}

// Listen makes the socket DIR/notify and the folder, for any user to write to:
// who can reach it is decided by where the folder is mounted. A socket of an
// earlier supervisor is replaced in one step. belongs reports whether a process
// is one of the service's container; warn is told of what is ignored, of each
// kind once.
func Listen(dir string, belongs func(pid int) bool, warn func(format string, a ...any)) (*Listener, error) {
	at, err := beneath.Make(dir, 0o755)
	if err != nil {
		return nil, fmt.Errorf("make the folder of the notify socket: %w", err)
	}
	defer at.Close()
	const fresh = SocketName + ".new"
	if err := at.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("make the notify socket: %w", err)
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		// Before it has a name, or a message could come without its sender.
		if cerr := c.Control(func(fd uintptr) {
			err = os.NewSyscallError("setsockopt SO_PASSCRED", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1))
		}); cerr != nil {
			return cerr
		}
		return err
	}}
	conn, err := config.ListenPacket(context.Background(), "unixgram", fmt.Sprintf("/proc/self/fd/%d/%s", at.FD(), fresh))
	if err != nil {
		return nil, fmt.Errorf("make the notify socket: %w", err)
	}
	if err := errors.Join(open(at, fresh), at.Rename(fresh, SocketName)); err != nil {
		conn.Close()
		return nil, fmt.Errorf("make the notify socket: %w", err)
	}
	l := &Listener{
		conn: conn.(*net.UnixConn), belongs: belongs, warn: warn, warned: map[string]bool{},
		out: make(chan Message), done: make(chan struct{}),
	}
	l.closing, l.close = context.WithCancel(context.Background())
	go l.run()
	return l, nil
}

// open lets everybody write to a socket: to it, and not to what has its name by then.
func open(at *beneath.Dir, name string) error {
	f, err := at.OpenPath(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s is no socket", name)
	}
	return os.Chmod(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), 0o666)
}

// C is where the messages come, one after the other. It is never closed.
func (l *Listener) C() <-chan Message { return l.out }

// Close ends the listening. The socket's name stays, for the next one.
func (l *Listener) Close() {
	l.once.Do(func() {
		l.close()
		_ = l.conn.Close()
	})
	<-l.done
}

func (l *Listener) run() {
	defer close(l.done)
	data := make([]byte, messageBytes+1)
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(4*maxFDs))
	full := newBucket(time.Now())
	for {
		n, oobn, _, _, err := l.conn.ReadMsgUnix(data, oob)
		if err != nil {
			if l.closing.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Nothing is known that leads here; it must not turn into a busy loop.
			l.complain("read", "the notify socket cannot be read: %v", err)
			if !l.pause(time.Second) {
				return
			}
			continue
		}
		sender, fds := senderOf(oob[:oobn])
		m, ok := l.read(data[:n], sender)
		// Not before the message has been judged: libsystemd's barrier (BARRIER=1)
		// is a pipe whose sender lives until we let go of it.
		for _, fd := range fds {
			// A socket may be made to linger for hours, and the next messages with it.
			_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{})
			_ = unix.Close(fd)
		}
		if ok {
			select {
			case l.out <- m:
			case <-l.closing.Done():
				return
			}
		}
		if wait := full.take(time.Now()); wait > 0 {
			l.complain("flood", "sends more than %d notify messages a second: the rest wait", perSecond)
			if !l.pause(wait) {
				return
			}
		}
	}
}

// pause waits, and reports whether the listener is still open.
func (l *Listener) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.closing.Done():
		return false
	}
}

// read judges one datagram.
func (l *Listener) read(data []byte, sender *unix.Ucred) (Message, bool) {
	if sender == nil || !l.believed(sender) {
		return Message{}, false
	}
	if len(data) > messageBytes {
		l.complain("long", "sent a notify message of more than %d bytes, which is ignored", messageBytes)
		return Message{}, false
	}
	m, ok := parse(data)
	if !ok {
		l.complain("garbage", "sent a notify message that is not KEY=VALUE in lines, which is ignored: %.40q", data)
	}
	return m, ok && m != Message{}
}

// believed reports whether a message is the service's own.
//
// A sender may have ended before its message is read, and then nobody can say
// where it belonged: as with systemd, a helper has to stay until it is heard
// (systemd-notify does), or else to be no root. For the folder of the socket is
// closed to everybody but the machine's root, so that who is somebody else can
// only have come to it in the container.
func (l *Listener) believed(sender *unix.Ucred) bool {
	pid := int(sender.Pid)
	if pid > 0 && l.belongs(pid) {
		return true
	}
	gone := pid > 0 && errors.Is(unix.Kill(pid, 0), unix.ESRCH)
	switch {
	case gone && sender.Uid != 0:
		return true
	case gone:
		l.complain("gone", "a notify message is ignored, as its sender (pid %d) had ended before it could be told whose it was: send it from a process that goes on, or wait with systemd-notify's barrier", pid)
	default:
		l.complain("foreign", "a notify message of process %d is ignored, which is not one of the container's", pid)
	}
	return false
}

func (l *Listener) complain(kind, format string, a ...any) {
	if !l.warned[kind] {
		l.warned[kind] = true
		l.warn(format, a...)
	}
}

// senderOf takes the sender and the descriptors out of a message's ancillary
// data. A descriptor that did not fit was never opened: the kernel sees to that.
func senderOf(oob []byte) (sender *unix.Ucred, fds []int) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, nil
	}
	for i := range messages {
		if got, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, got...)
		}
		if got, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			sender = got
		}
	}
	return sender, fds
}
