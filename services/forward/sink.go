package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/beneath"
	"keelson/services/logs"
)

// Bounds of what is done on a network.
const (
	connectBound = 10 * time.Second // with the resolution of a name
	sendBound    = 10 * time.Second
)

// A sink takes records. It belongs to one goroutine.
type sink interface {
	// connect makes ready to send. It is called again after a send has failed.
	connect(ctx context.Context) error
	// send sends a record, or fails within a bound. Where that is known, a record
	// which was sent in part or may have been is not sent again.
	send(ctx context.Context, r logs.Record) error
	close()
}

// open makes the sink of a target.
func open(t Target, wall func(time.Duration) time.Time) sink {
	switch t.Kind {
	case kindVirtio:
		return &port{path: "/dev/virtio-ports/" + t.Address, wall: wall}
	case kindMemlogd:
		return &external{path: t.Address}
	}
	return &syslog{target: t, wall: wall}
}

// syslog is a receiver of RFC 5424 messages: framed by octet counting (RFC 6587)
// on a stream, one in each datagram else.
type syslog struct {
	target Target
	wall   func(time.Duration) time.Time
	conn   net.Conn
	stream bool
	gone   *atomic.Bool // the other side has closed the stream
	format formatter
}

var errClosed = errors.New("the other side has closed the connection")

func (s *syslog) connect(ctx context.Context) error {
	s.close()
	ctx, cancel := context.WithTimeout(ctx, connectBound)
	defer cancel()
	d := net.Dialer{Resolver: &net.Resolver{PreferGo: true}}
	var err error
	if s.target.Kind == kindUnix {
		s.conn, err = dialUnix(ctx, &d, s.target.Address)
	} else {
		s.conn, err = d.DialContext(ctx, s.target.Kind, s.target.Address)
	}
	if err != nil {
		s.conn = nil
		return err
	}
	network := s.conn.RemoteAddr().Network()
	s.stream = network == "tcp" || network == "unix"
	s.format.max = maxDatagram
	if network != "udp" {
		s.format.max = maxStream
	}
	if s.format.hostname, err = os.Hostname(); err != nil || s.format.hostname == "(none)" {
		s.format.hostname = ""
	}
	s.gone = new(atomic.Bool)
	if s.stream {
		// A receiver says nothing; what can be read is the end. Without this the
		// first message after it would be lost: the kernel takes it all the same.
		go func(conn net.Conn, gone *atomic.Bool) {
			var b [64]byte
			for {
				if _, err := conn.Read(b[:]); err != nil {
					gone.Store(true)
					return
				}
			}
		}(s.conn, s.gone)
	}
	return nil
}

// dialUnix connects to a socket of either kind, which a container may have made.
func dialUnix(ctx context.Context, d *net.Dialer, path string) (net.Conn, error) {
	socket, address, err := beneath.Machine.Socket(path)
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	conn, err := d.DialContext(ctx, "unixgram", address)
	if err != nil {
		conn, err = d.DialContext(ctx, "unix", address)
	}
	if named := (*net.OpError)(nil); errors.As(err, &named) {
		err = fmt.Errorf("connect %s: %w", path, named.Err)
	}
	return conn, err
}

func (s *syslog) send(_ context.Context, r logs.Record) error {
	if s.gone.Load() {
		return errClosed
	}
	message := s.format.format(r, s.wall(r.At))
	if s.stream {
		message = append([]byte(strconv.Itoa(len(message))+" "), message...)
	}
	_ = s.conn.SetWriteDeadline(time.Now().Add(sendBound))
	if _, err := s.conn.Write(message); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// drain waits until the receiver has what was sent to it over TCP.
func (s *syslog) drain(ctx context.Context) {
	conn, ok := s.conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	for waiting := 1; waiting > 0 && ctx.Err() == nil && !s.gone.Load(); {
		err := raw.Control(func(fd uintptr) {
			if waiting, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err != nil {
				waiting = 0
			}
		})
		if err != nil || waiting == 0 {
			return
		}
		wait(ctx, 5*time.Millisecond)
	}
}

func (s *syslog) close() {
	if s.conn != nil {
		_ = s.conn.Close()
		s.conn = nil
	}
}
