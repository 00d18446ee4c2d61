package control

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// HTTP/1.1 as far as it is needed here: one request a connection, read as a whole,
// and an answer in pieces as it comes. The server of net/http would bring TLS along,
// some two megabytes of a program that every machine holds in memory.

// exchange is one request and its answer. It is an http.ResponseWriter and an
// http.Flusher.
type exchange struct {
	conn    *counted
	in      *bufio.Reader
	stall   time.Duration // how long the client may take nothing
	request *http.Request

	header   http.Header
	status   int
	body     []byte // not sent yet
	begun    bool   // the head was sent
	pieces   bool   // the body goes in chunks
	hijacked bool
	err      error // of a write: the client has gone
}

// sendAt is how much of an answer is sent at once.
const sendAt = 16 << 10

// readRequest reads the one request of a connection.
func readRequest(conn *counted, head, stall time.Duration) (*exchange, error) {
	if err := conn.SetReadDeadline(time.Now().Add(head)); err != nil {
		return nil, err
	}
	x := &exchange{conn: conn, stall: stall, header: http.Header{}, status: http.StatusOK}
	limit := &io.LimitedReader{R: conn, N: maxHeader}
	x.in = bufio.NewReader(limit)
	r, err := http.ReadRequest(x.in)
	if err != nil {
		if limit.N == 0 {
			err = fmt.Errorf("%w: its head has more than %d bytes", errTooLarge, maxHeader)
		}
		return x, err
	}
	limit.N += maxBody + 1
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return x, err
	}
	if len(body) > maxBody {
		return x, fmt.Errorf("%w: its body has more than %d bytes", errTooLarge, maxBody)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	x.request = r
	limit.N = 1<<63 - 1 // what comes now is an upgraded connection's
	return x, conn.SetReadDeadline(time.Time{})
}

var errTooLarge = errors.New("the request is too large")

// Header returns the fields of the answer, until it has begun.
func (x *exchange) Header() http.Header { return x.header }

// WriteHeader sets the status.
func (x *exchange) WriteHeader(status int) { x.status = status }

// Write adds to the answer.
func (x *exchange) Write(p []byte) (int, error) {
	if x.err != nil {
		return 0, x.err
	}
	x.body = append(x.body, p...)
	if len(x.body) >= sendAt {
		x.Flush()
	}
	return len(p), x.err
}

// Flush sends what was written so far.
func (x *exchange) Flush() {
	if x.err != nil || x.hijacked {
		return
	}
	var b bytes.Buffer
	if !x.begun {
		x.pieces = x.request == nil || x.request.ProtoAtLeast(1, 1)
		if x.pieces {
			x.header.Set("Transfer-Encoding", "chunked")
		}
		x.head(&b)
	}
	x.piece(&b)
	x.send(b.Bytes())
}

// finish sends the rest of the answer.
func (x *exchange) finish() {
	if x.err != nil || x.hijacked {
		return
	}
	var b bytes.Buffer
	if !x.begun {
		x.header.Set("Content-Length", strconv.Itoa(len(x.body)))
		x.head(&b)
	}
	x.piece(&b)
	if x.pieces {
		b.WriteString("0\r\n\r\n")
	}
	x.send(b.Bytes())
}

func (x *exchange) head(b *bytes.Buffer) {
	x.begun = true
	fmt.Fprintf(b, "HTTP/1.1 %d %s\r\n", x.status, http.StatusText(x.status))
	x.header.Set("Connection", "close")
	_ = x.header.Write(b) // into memory
	b.WriteString("\r\n")
}

func (x *exchange) piece(b *bytes.Buffer) {
	if len(x.body) == 0 || x.request != nil && x.request.Method == http.MethodHead {
		x.body = nil
		return
	}
	if x.pieces {
		fmt.Fprintf(b, "%x\r\n%s\r\n", len(x.body), x.body)
	} else {
		b.Write(x.body)
	}
	x.body = x.body[:0]
}

func (x *exchange) send(data []byte) {
	if len(data) == 0 {
		return
	}
	if x.err = x.conn.SetWriteDeadline(time.Now().Add(x.stall)); x.err == nil {
		_, x.err = x.conn.Write(data)
	}
}

// hijack gives the connection away, and what was read of it and not used.
func (x *exchange) hijack() (net.Conn, *bufio.Reader) {
	x.hijacked = true
	_ = x.conn.SetDeadline(time.Time{}) // a terminal may be stopped for as long as its user likes
	return x.conn, x.in
}

// lookEvery is how often a client is looked at that cannot be read from.
const lookEvery = time.Second

// watch calls gone when the client has gone. It ends with the connection. A client
// that will send no more, but still listens, is there.
func (x *exchange) watch(ctx context.Context, gone func()) {
	defer gone()
	if _, err := io.Copy(io.Discard, x.in); err != nil {
		return
	}
	for !hungUp(x.conn) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookEvery):
		}
	}
}

// hungUp reports whether the other side of a connection is closed.
func hungUp(conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(p, 0)
		gone = err == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
	return err != nil || gone
}
