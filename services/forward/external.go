package forward

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/beneath"
	"keelson/services/logs"
)

// Memlogd is the target of an image that brings a memlogd of its own, which
// listens on a socket of that path.
func Memlogd(socket string) Target { return Target{kindMemlogd, socket} }

// external is a memlogd: each stream of each source is a pipe, whose end for
// reading is handed over with the stream's name.
type external struct {
	path  string
	pipes map[string]int // ends for writing, by the stream's name
}

// connect finds out whether somebody listens.
func (x *external) connect(context.Context) error {
	x.close()
	x.pipes = map[string]int{}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(fd)
	socket, address, err := beneath.Machine.Socket(x.path)
	if err != nil {
		return fmt.Errorf("connect %s: %w", x.path, err)
	}
	defer socket.Close()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: address}); err != nil {
		return fmt.Errorf("connect %s: %w", x.path, err)
	}
	return nil
}

func (x *external) send(ctx context.Context, r logs.Record) error {
	name := r.Source
	if r.Stream == logs.Stdout {
		name += ".out" // as LinuxKit calls it
	}
	w, ok := x.pipes[name]
	if !ok {
		var err error
		if w, err = x.handOver(name); err != nil {
			return err
		}
		x.pipes[name] = w
	}
	var text []byte
	if r.Dropped > 0 || r.DroppedBytes > 0 {
		text = append([]byte(missing(r)), '\n')
	}
	if !r.Gap {
		text = append(append(text, r.Text...), '\n')
	}
	return x.write(ctx, name, w, text)
}

// handOver makes a pipe and gives its end for reading away.
func (x *external) handOver(name string) (int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return -1, fmt.Errorf("make a pipe: %w", err)
	}
	defer unix.Close(p[0])
	socket, address, err := beneath.Machine.Socket(x.path)
	if err == nil {
		defer socket.Close()
		err = unix.SetNonblock(p[1], true) // ours alone: each end is an open file of its own
	}
	if err == nil {
		var fd int
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
			// Its queue has room for ten messages; more than that are sent at the first start.
			_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: int64(sendBound / time.Second)})
			err = unix.Sendmsg(fd, []byte(name[:min(len(name), 512)]), unix.UnixRights(p[0]), &unix.SockaddrUnix{Name: address}, unix.MSG_NOSIGNAL)
			_ = unix.Close(fd)
		}
	}
	if err != nil {
		_ = unix.Close(p[1])
		return -1, fmt.Errorf("hand %s over to %s: %w", name, x.path, err)
	}
	return p[1], nil
}

func (x *external) write(ctx context.Context, name string, w int, b []byte) error {
	for end := time.Now().Add(sendBound); len(b) > 0; {
		n, err := unix.Write(w, b)
		if n > 0 {
			b = b[n:]
			continue
		}
		switch err {
		case unix.EAGAIN, unix.EINTR:
			p := []unix.PollFd{{Fd: int32(w), Events: unix.POLLOUT}}
			_, _ = unix.Poll(p, int(pollAtATime/time.Millisecond))
			if ctx.Err() != nil || time.Now().After(end) {
				return fmt.Errorf("%s: nothing of %s was read for %v", x.path, name, sendBound)
			}
		default: // it has died, and with it the pipes of the others
			return fmt.Errorf("%s: %s: %w", x.path, name, errors.Join(errClosed, err))
		}
	}
	return nil
}

func (x *external) close() {
	for _, w := range x.pipes {
		_ = unix.Close(w)
	}
	x.pipes = nil
}
