package forward

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"keelson/services/logs"
)

// port is a virtio-serial port, on which records are lines of JSON.
type port struct {
	path string
	wall func(time.Duration) time.Time
	fd   int
	open bool
}

var errNobody = errors.New("nobody on the host has opened it")

func (p *port) connect(context.Context) error {
	p.close()
	fd, err := unix.Open(p.path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", p.path, err)
	}
	p.fd, p.open = fd, true
	if ready, gone := p.poll(0); gone || !ready {
		p.close()
		return fmt.Errorf("%s: %w", p.path, errNobody)
	}
	// Ends the line of which a reader may have the beginning. Readers of JSON lines
	// pass over an empty one.
	return p.write(context.Background(), []byte("\n"))
}

// poll says whether the port takes more, and whether nobody is there any more.
func (p *port) poll(limit time.Duration) (ready, gone bool) {
	f := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(f, int(limit/time.Millisecond))
	if n <= 0 {
		return false, err != nil && err != unix.EINTR
	}
	return f[0].Revents&unix.POLLOUT != 0, f[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
}

func (p *port) send(ctx context.Context, r logs.Record) error {
	r.Position = logs.Position{} // nobody there can go on from it
	line, err := r.Encode(p.wall(r.At).UTC())
	if err != nil {
		return nil // no record at all
	}
	return p.write(ctx, line)
}

// pollAtATime is how long a look at the context can take.
const pollAtATime = 200 * time.Millisecond

func (p *port) write(ctx context.Context, b []byte) error {
	for end := time.Now().Add(sendBound); len(b) > 0; {
		n, err := unix.Write(p.fd, b)
		if n > 0 {
			b = b[n:]
			continue
		}
		if err != nil && err != unix.EAGAIN && err != unix.EINTR {
			return fmt.Errorf("write %s: %w", p.path, err)
		}
		if _, gone := p.poll(pollAtATime); gone {
			return fmt.Errorf("%s: %w", p.path, errNobody)
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return fmt.Errorf("%s: nothing was read there for %v", p.path, sendBound)
		}
	}
	return nil
}

func (p *port) close() {
	if p.open {
		_ = unix.Close(p.fd)
		p.open = false
	}
}
