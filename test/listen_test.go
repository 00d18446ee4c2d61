//go:build vm

package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// listened collects what arrives on the host, a line or a message each.
type listened struct {
	mu    sync.Mutex
	lines []string
	busy  sync.Mutex // held while whoever reads from a socket for it does not read
}

func (l *listened) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

// free waits until who reads for it may.
func (l *listened) free() {
	l.busy.Lock()
	defer l.busy.Unlock()
}

func (l *listened) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

// matching returns what matches a pattern.
func (l *listened) matching(pattern string) []string {
	re := regexp.MustCompile(pattern)
	var found []string
	for _, line := range l.all() {
		if re.MatchString(line) {
			found = append(found, line)
		}
	}
	return found
}

// heard waits until something that matches has arrived.
func (m *vm) heard(l *listened, pattern string) {
	m.t.Helper()
	re := regexp.MustCompile(pattern)
	for seen := 0; ; {
		all := l.all()
		if slices.ContainsFunc(all[seen:], re.MatchString) {
			return
		}
		seen = len(all) // there may be hundreds of thousands
		select {
		case <-m.ctx.Done():
			m.t.Fatalf("%q did not arrive; the last of %d:\n%s", pattern, len(all), strings.Join(all[max(0, len(all)-20):], "\n"))
		case <-time.After(poll):
		}
	}
}

// receiver reads messages with octet counting (RFC 6587) from every connection.
type receiver struct {
	t    *testing.T
	to   *listened
	port int

	mu       sync.Mutex
	listener net.Listener // nil while it is away
	conns    []net.Conn
}

func frames(t *testing.T, to *listened) *receiver {
	t.Helper()
	r := &receiver{t: t, to: to}
	r.comes()
	r.port = r.listener.Addr().(*net.TCPAddr).Port
	t.Cleanup(r.goes)
	return r
}

// comes listens, the second time where it did the first time.
func (r *receiver) comes() {
	r.t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", r.port))
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	r.listener = l
	r.mu.Unlock()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			if r.listener == l {
				r.conns = append(r.conns, conn)
				go r.read(conn)
			} else {
				conn.Close()
			}
			r.mu.Unlock()
		}
	}()
}

func (r *receiver) read(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		var size int
		if _, err := fmt.Fscanf(in, "%d ", &size); err != nil || size > 1<<20 {
			return
		}
		message := make([]byte, size)
		if _, err := io.ReadFull(in, message); err != nil {
			return
		}
		r.to.add(string(message))
	}
}

// goes away: nobody listens, and all connections are closed.
func (r *receiver) goes() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listener != nil {
		r.listener.Close()
		r.listener = nil
	}
	for _, conn := range r.conns {
		conn.Close()
	}
	r.conns = nil
}

// datagrams reads a message from each.
func datagrams(t *testing.T, to *listened) (port int) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, _, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			to.add(string(b[:n]))
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).Port
}

// lines reads lines from a socket that QEMU connects to; what is written to the returned connection goes into
// the machine.
func lines(t *testing.T, name string, to *listened) (path string, peer func() net.Conn) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "keelson-edge-") // a socket's path has room for 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, name)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	connected := make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		connected <- conn
		for r := bufio.NewReader(conn); ; {
			to.free()
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			to.add(strings.TrimRight(line, "\r\n"))
		}
	}()
	return path, func() net.Conn { return <-connected }
}
