// Package uevent receives what the kernel says about devices that come and go
// (NETLINK_KOBJECT_UEVENT).
//
// It promises that only the kernel's own messages are returned, that a message
// lost for want of room is reported and not passed over in silence, and that a
// wait ends with its context. It keeps no goroutine and acts on nothing.
package uevent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLost says that the kernel had more to say than the socket holds: look at
// all devices again.
var ErrLost = errors.New("device events were lost")

// ErrFormat says that a message is none of the kernel's.
var ErrFormat = errors.New("not a device event")

// Event is one message of the kernel.
type Event struct {
	Action string            // add, remove, change, move, bind, unbind, online, offline
	Path   string            // below /sys: /devices/pci0000:00/...
	Env    map[string]string // SUBSYSTEM, MODALIAS, DEVNAME, MAJOR ...
}

// Parse takes a message apart: "ACTION@PATH", then KEY=VALUE words, all ended by
// a zero byte.
func Parse(message []byte) (Event, error) {
	head, rest, _ := bytes.Cut(message, []byte{0})
	action, path, ok := strings.Cut(string(head), "@")
	if !ok || action == "" || !strings.HasPrefix(path, "/") {
		return Event{}, ErrFormat // "libudev" begins the messages of udevd
	}
	e := Event{Action: action, Path: path, Env: map[string]string{}}
	for len(rest) > 0 {
		var word []byte
		word, rest, _ = bytes.Cut(rest, []byte{0})
		if key, value, ok := strings.Cut(string(word), "="); ok && key != "" {
			e.Env[key] = value
		}
	}
	return e, nil
}

// buffer is how much of what the kernel says may wait: a machine with hundreds of
// devices says it all at once. The kernel counts some 1 KB for each message.
const buffer = 4 << 20

// group is the kernel's multicast group; udevd's is 2.
const group = 1

// Listener is an open socket. Events wait in it from Listen on.
type Listener struct {
	f *os.File
}

// Listen starts to listen, in the network namespace the process is in.
func Listen() (*Listener, error) { return listen(buffer) }

func listen(buffer int) (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("listen for device events: %w", err)
	}
	// beyond rmem_max with CAP_NET_ADMIN only; less is reported by ErrLost
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer); err != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: group}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listen for device events: %w", err)
	}
	return &Listener{f: os.NewFile(uintptr(fd), "uevent")}, nil
}

// Close stops listening; a Receive under way ends with an error.
func (l *Listener) Close() error { return l.f.Close() }

// Receive waits for the next event. Its error is ErrLost where events were lost,
// after which it can be called again, or the context's.
func (l *Listener) Receive(ctx context.Context) (Event, error) {
	conn, err := l.f.SyscallConn()
	if err != nil {
		return Event{}, fmt.Errorf("wait for a device event: %w", err)
	}
	if err := l.f.SetReadDeadline(time.Time{}); err != nil {
		return Event{}, fmt.Errorf("wait for a device event: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = l.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	message := make([]byte, 16<<10) // the kernel's are 2 KB at most, plus its head
	for {
		var n int
		var from unix.Sockaddr
		var received error
		err := conn.Read(func(fd uintptr) bool {
			for {
				n, from, received = unix.Recvfrom(int(fd), message, 0)
				if received != unix.EINTR {
					return received != unix.EAGAIN
				}
			}
		})
		if ctx.Err() != nil {
			return Event{}, fmt.Errorf("wait for a device event: %w", ctx.Err())
		}
		if err == nil {
			err = received
		}
		switch {
		case errors.Is(err, unix.ENOBUFS):
			return Event{}, ErrLost
		case err != nil:
			return Event{}, fmt.Errorf("wait for a device event: %w", err)
		}
		// anybody with CAP_NET_ADMIN may send to the group: only port 0 is the kernel
		if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
			continue
		}
		if e, err := Parse(message[:n]); err == nil {
			return e, nil
		}
	}
}
