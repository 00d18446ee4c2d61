package control

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/policy"
	"keelson/internal/steer"
)

// check returns who has made a connection, or why it may not be let in.
//
// Who that is was settled by the kernel when the connection was made: a process that
// passes its end on to another passes its rights on, and gains none.
func (g *guard) check(conn *net.UnixConn) (c steer.Client, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return c, err
	}
	cerr := raw.Control(func(fd uintptr) { c, err = g.who(int(fd)) })
	if cerr != nil {
		return c, cerr
	}
	return c, err
}

func (g *guard) who(conn int) (steer.Client, error) {
	machine := steer.Client{Control: policy.ControlAll}
	cred, err := unix.GetsockoptUcred(conn, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return machine, fmt.Errorf("who is it: %w", err)
	}
	if err := g.allowed(*cred); err != nil || g.client == nil || cred.Pid == 0 {
		return machine, err // 0 is outside of our pid namespace, so above us
	}
	// The number may be another process's by now. With the descriptor, which older
	// kernels do not give of the peer itself, it is the same one as long as it lives.
	peer, err := unix.GetsockoptInt(conn, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil {
		peer, err = unix.PidfdOpen(int(cred.Pid), 0)
	}
	if err != nil {
		return machine, fmt.Errorf("process %d exited before it was known whose it is: %w", cred.Pid, err)
	}
	defer unix.Close(peer)
	c, err := g.client(int(cred.Pid))
	if err != nil {
		return machine, fmt.Errorf("find out whose process %d is: %w", cred.Pid, err)
	}
	exited := []unix.PollFd{{Fd: int32(peer), Events: unix.POLLIN}}
	if n, err := unix.Poll(exited, 0); err != nil || n > 0 {
		return machine, fmt.Errorf("process %d exited before it was known whose it is: wait for the answer", cred.Pid)
	}
	return c, nil
}

// mayChange reports whether a client may change anything, and refuses it if not.
func (s *Server) mayChange(x *exchange, what string) bool {
	c := x.conn.client
	if c.Control == policy.ControlAll || c.Control == policy.ControlDefault {
		return true
	}
	text := fmt.Sprintf("%s may look, but not change anything: %s is refused", c.Name, what)
	s.refused.add(c.Name, text)
	fail(x, http.StatusForbidden, text, "keelson.control: all among the annotations of its container")
	return false
}

// refusalPause is how long nothing more is reported of a container that goes on asking
// for what it may not.
const refusalPause = time.Hour

// refusals reports what containers ask and may not: of each the first, and after that
// one for each pause, with the number of those between.
type refusals struct {
	report func(container, text string)
	now    func() time.Time

	mu   sync.Mutex
	last map[string]refusal // guarded by mu; by container, of which there is a bounded number
}

type refusal struct {
	at   time.Time
	more int // since then
}

// maxRefused bounds how many names are remembered: a process of no container is named
// after its cgroup.
const maxRefused = 1024

func newRefusals(report func(container, text string), now func() time.Time) *refusals {
	return &refusals{report: report, now: now, last: map[string]refusal{}}
}

func (r *refusals) add(container, text string) {
	if r.report == nil {
		return
	}
	r.mu.Lock()
	was, known := r.last[container]
	now := r.now()
	if known && now.Sub(was.at) < refusalPause {
		was.more++
		r.last[container] = was
		r.mu.Unlock()
		return
	}
	if !known && len(r.last) >= maxRefused {
		r.mu.Unlock()
		return
	}
	r.last[container] = refusal{at: now}
	r.mu.Unlock()
	if was.more > 0 {
		text += fmt.Sprintf(" (and %d more since the last report)", was.more)
	}
	r.report(container, text)
}
