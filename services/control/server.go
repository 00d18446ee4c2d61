// Package control owns the control socket: who may connect, what can be asked, and
// in which words it is answered. The protocol is HTTP with JSON, so that curl
// speaks it; see docs/control.md.
//
// It promises that no client, however slow, dead or hostile, holds up the
// supervisor or makes it grow: connections are counted, requests and answers are
// bounded in size and time, and whoever takes nothing is dropped. Only root of the
// machine's own user namespace is answered, and a container's process only what that
// container may ask. It must never change anything by itself: what is asked goes to
// whoever owns it.
package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/api"
	"keelson/internal/policy"
	"keelson/internal/steer"
	"keelson/services/events"
)

// Services is what people may ask about services; *roster.Roster is one.
type Services interface {
	Names() []string
	Info(name string) (api.Service, bool)
	All() []api.Service
	Start(ctx context.Context, name string) error
	Stop(ctx context.Context, name string) error
	Restart(ctx context.Context, name string) error
	Kill(name string, sig unix.Signal) error
	Reload(ctx context.Context, name string) error
}

// Config is what the server asks for its answers. All of it may be called at any
// time, by many goroutines.
type Config struct {
	Socket string
	// Services returns nil until the boot has come to them.
	Services func() Services
	Machine  func() api.Machine
	Boot     func() api.Boot
	// Figures reads what a cgroup, named below the cgroup file system, says.
	Figures func(cgroup string) (api.Figures, error)
	// Tail returns the last lines a service wrote.
	Tail   func(name string, lines int) []string
	Logs   http.Handler
	Events *events.Hub
	// Power begins the end of the machine: poweroff, reboot or halt.
	Power func(action string) error
	// Audit judges a service that runs.
	Audit func(ctx context.Context, svc api.Service) (api.Audit, error)
	// Exec starts a process in a running service's container.
	Exec func(ctx context.Context, svc api.Service, r ExecRequest) (Process, error)
	// Warn tells people that the socket does not work.
	Warn func(format string, a ...any)
	// Allowed decides who may connect; nil is the machine's root.
	Allowed func(unix.Ucred) error
	// Client tells whose a process is and what that may ask; nil is the machine's own.
	Client func(pid int) (steer.Client, error)
	// Grant adds to a service's status how far it may steer.
	Grant func(*api.Service)
	// Refused tells people of what a container asked and may not; it is not called often.
	Refused func(container, text string)

	head  time.Duration // how long a request may take to arrive; 0 is headBound
	stall time.Duration // how long a client may take nothing; 0 is stallBound
}

// Bounds of what clients may take.
const (
	maxConns   = 64
	maxOfOne   = 24 // of them, of one container
	maxLookers = 32 // of them, of all containers that may only look
	maxExecs   = 16
	maxBody    = 1 << 20 // of a request: a command line and its environment
	maxHeader  = 64 << 10
	headBound  = 10 * time.Second // for a request to arrive
)

// stallBound is how long a client may take nothing of what it asked for: long
// enough for somebody who pages through the log, and an end for who has gone.
const stallBound = time.Minute

// Server answers on the control socket.
type Server struct {
	cfg     Config
	listen  *guard
	execs   chan struct{} // holds one for each process that was started for a client
	refused *refusals
	head    time.Duration
	stall   time.Duration
	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	serves  sync.WaitGroup // of what was started for the listener and each connection
}

// Listen makes the socket, in place of one that an earlier supervisor left, and
// begins to answer.
func Listen(cfg Config) (*Server, error) {
	l, err := listen(cfg.Socket)
	if err != nil {
		return nil, fmt.Errorf("make the control socket: %w", err)
	}
	s := &Server{cfg: cfg, execs: make(chan struct{}, maxExecs), head: cmp.Or(cfg.head, headBound), stall: cmp.Or(cfg.stall, stallBound)}
	if s.cfg.Allowed == nil {
		s.cfg.Allowed = machineRoot
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.refused = newRefusals(s.cfg.Refused, time.Now)
	s.listen = &guard{Listener: l, allowed: s.cfg.Allowed, client: s.cfg.Client, refused: s.refused, slots: make(chan struct{}, maxConns), refusals: make(chan struct{}, maxRefusals)}
	s.serves.Go(s.accept)
	return s, nil
}

// listen makes the socket under two names: SOCKET, and one in a directory that holds
// nothing else, for containers that may see the socket and nothing beside it.
//
// It is made under another name with its final mode, then put in place: nobody can
// connect to it before, and a client finds the old one or the new one.
func listen(socket string) (*net.UnixListener, error) {
	dir := filepath.Join(filepath.Dir(socket), strings.TrimSuffix(filepath.Base(socket), ".sock"))
	if err := errors.Join(os.MkdirAll(filepath.Dir(dir), 0o700), os.MkdirAll(dir, 0o755)); err != nil {
		return nil, err
	}
	alone := filepath.Join(dir, filepath.Base(socket))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh(alone), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	for _, step := range []func() error{
		func() error { return os.Chmod(alone+".new", 0o600) },
		func() error { return os.Link(alone+".new", fresh(socket)) },
		func() error { return os.Rename(alone+".new", alone) },
		func() error { return os.Rename(socket+".new", socket) },
	} {
		if err := step(); err != nil {
			_ = l.Close()
			return nil, err
		}
	}
	return l, nil
}

// fresh is the name under which a new file is made, which is then put in place.
func fresh(name string) string {
	_ = os.Remove(name + ".new") // what an earlier supervisor left
	return name + ".new"
}

// Close ends every connection at once.
func (s *Server) Close() {
	s.stop()
	_ = s.listen.Close()
	s.serves.Wait()
}

// acceptPause is how long nobody is let in after the machine had no file or memory
// for another connection.
const acceptPause = 100 * time.Millisecond

// accept lets clients in until the server is closed.
func (s *Server) accept() {
	for {
		conn, err := s.listen.accept()
		switch {
		case s.ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return
		case err == nil:
			s.serves.Go(func() { s.connection(conn) })
		case errors.Is(err, net.ErrClosed):
			s.cfg.Warn("the control socket does not answer any more: %v", err)
			return
		default:
			select {
			case <-s.ctx.Done():
			case <-time.After(acceptPause):
			}
		}
	}
}

// connection answers one request.
func (s *Server) connection(conn *counted) {
	ctx, gone := context.WithCancel(s.ctx)
	defer gone()
	defer conn.Close()
	defer context.AfterFunc(ctx, func() {
		if s.ctx.Err() != nil { // the server is closed: what waits for the client ends
			_ = conn.Close()
		}
	})()
	defer func() {
		// A mistake in an answer is no reason to lose the supervisor.
		if e := recover(); e != nil && e != http.ErrAbortHandler {
			s.cfg.Warn("a request on the control socket has failed: %v\n%s", e, debug.Stack())
		}
	}()
	x, err := readRequest(conn, s.head, s.stall)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) || x == nil:
		return // nothing was asked
	case errors.Is(err, errTooLarge):
		fail(x, http.StatusRequestEntityTooLarge, err.Error(), fmt.Sprintf("%d bytes of head and %d of body at most", maxHeader, maxBody))
	case err != nil:
		fail(x, http.StatusBadRequest, "this is no HTTP request: "+err.Error(), There)
	default:
		if x.request.Header.Get("Upgrade") == "" {
			go x.watch(ctx, gone) // ends with the connection
		}
		s.serve(x, x.request.WithContext(ctx))
	}
	x.finish()
}

// guard is a listener that lets in only those who may, and not too many.
type guard struct {
	net.Listener
	allowed  func(unix.Ucred) error
	client   func(pid int) (steer.Client, error) // nil is the machine's own
	refused  *refusals
	slots    chan struct{} // holds one for each open connection
	refusals chan struct{} // holds one for each that is being refused
	shares   shares
}

// tooMany is what a client can do that is refused for want of room.
const tooMany = "end some of them: service logs -f, events -f, exec"

// Bounds of refusals: how many at a time, and how long one may take.
const (
	maxRefusals = 16
	refuseBound = 500 * time.Millisecond
)

// accept returns the next connection that is let in.
func (g *guard) accept() (*counted, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		conn := c.(*net.UnixConn)
		client, err := g.check(conn)
		if err != nil {
			g.refuse(conn, http.StatusForbidden, api.Error{Error: err.Error(), Want: "root of the machine, in its own user namespace"})
			continue
		}
		if client.Control == policy.ControlNone {
			text := client.Name + " may not use the control socket"
			g.refused.add(client.Name, text)
			g.refuse(conn, http.StatusForbidden, api.Error{Error: text, Want: "keelson.control: read, or all, among the annotations of its container"})
			continue
		}
		leave, err := g.shares.enter(client)
		if err != nil {
			g.refuse(conn, http.StatusServiceUnavailable, api.Error{Error: err.Error(), Want: tooMany})
			continue
		}
		select {
		case g.slots <- struct{}{}:
			return &counted{UnixConn: conn, client: client, free: func() { leave(); <-g.slots }}, nil
		default:
			leave()
			g.refuse(conn, http.StatusServiceUnavailable, api.Error{
				Error: fmt.Sprintf("%d connections are open, more than that are not taken", maxConns), Want: tooMany})
		}
	}
}

// machineRoot lets in user 0 of our own user namespace. A user namespace may map
// its root to our user 0, without the powers of it: so the namespace counts too.
func machineRoot(c unix.Ucred) error {
	if c.Uid != 0 {
		return fmt.Errorf("user %d may not steer this machine", c.Uid)
	}
	if c.Pid == 0 {
		return nil // outside of our pid namespace, so above us
	}
	own, err := os.Readlink("/proc/self/ns/user")
	if errors.Is(err, os.ErrNotExist) {
		return nil // a kernel without user namespaces
	}
	if err != nil {
		return fmt.Errorf("look at our user namespace: %w", err)
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", c.Pid))
	if err != nil {
		return fmt.Errorf("look at the user namespace of process %d: %w", c.Pid, err)
	}
	if own != theirs {
		return fmt.Errorf("process %d is root of another user namespace and may not steer this machine", c.Pid)
	}
	return nil
}

// refuse answers a connection that is not let in, whatever it asks; where too many
// are being refused already it is closed without a word. It does not wait.
func (g *guard) refuse(conn *net.UnixConn, status int, e api.Error) {
	select {
	case g.refusals <- struct{}{}:
	default:
		_ = conn.Close()
		return
	}
	go func() {
		defer func() { <-g.refusals }()
		defer conn.Close()
		body, err := json.Marshal(e)
		if err != nil {
			return
		}
		_ = conn.SetDeadline(time.Now().Add(refuseBound))
		// A client that still writes when we close would see an error, not the answer.
		_, _ = conn.Read(make([]byte, 4<<10))
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s\n",
			status, http.StatusText(status), len(body)+1, body)
	}()
}

// counted is a connection that gives its place back when it is closed.
type counted struct {
	*net.UnixConn
	client steer.Client // who made the connection
	once   sync.Once
	free   func()
}

// Close closes the connection.
func (c *counted) Close() error {
	defer c.once.Do(c.free)
	return c.UnixConn.Close()
}
