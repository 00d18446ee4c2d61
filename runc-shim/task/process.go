package task

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/runc-shim/stdio"
)

// The states of a process, init or exec:
//
//	added ──> created ──> running ──> stopped ──> deleted
//	  │          └────────────────────^            ^
//	  └────────────────────────────────────────────┘
//
// An exec is added by Exec and goes to running with Start. An init is created
// by Create, which has its process wait at the exec FIFO; it may end there.
type state int

const (
	added state = iota
	created
	running
	stopped
	deleted
)

func (s state) String() string {
	return [...]string{"added", "created", "running", "stopped", "deleted"}[s]
}

// next lists what may follow each state.
var next = map[state][]state{
	added:   {created, running, stopped, deleted},
	created: {running, stopped},
	running: {stopped},
	stopped: {deleted},
	deleted: nil,
}

// A process is the init process of a container or one exec'd into it.
type process struct {
	id     string // of the exec; empty for init
	config stdio.Config
	spec   *specs.Process // of an exec that was not started yet
	group  *execGroup     // of an exec that leaves nothing behind, else nil; set before it starts

	// start is held while the process is being started and while its end is
	// made known, so that nobody hears of an end before the beginning.
	start sync.Mutex

	mu       sync.Mutex // guards what follows
	state    state
	pid      int
	status   int
	exitedAt time.Time
	child    *child
	streams  *stdio.Streams

	done chan struct{} // closed on the way to stopped
}

func newProcess(id string, c stdio.Config) *process {
	return &process{id: id, config: c, done: make(chan struct{})}
}

// to is the one place where a process changes its state.
func (p *process) to(s state) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.toLocked(s)
}

func (p *process) toLocked(s state) error {
	for _, n := range next[p.state] {
		if n == s {
			p.state = s
			if s == stopped {
				close(p.done)
			}
			return nil
		}
	}
	return fmt.Errorf("process is %s and cannot be %s: %w", p.state, s, errdefs.ErrFailedPrecondition)
}

func (p *process) is() state {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// began records a process that has been started.
func (p *process) began(s state, c *child, pid int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.child, p.pid = c, pid
	return p.toLocked(s)
}

// ended records how the process ended.
func (p *process) ended(status int, at time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status, p.exitedAt = status, at
	return p.toLocked(stopped)
}

// exit is how the process ended, all zero if it has not.
func (p *process) exit() (pid, status int, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid, p.status, p.exitedAt
}

func (p *process) getPid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// signal sends sig to this one process.
func (p *process) signal(sig unix.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.state {
	case created, running:
		// Not collected yet, or the state would be another: the pid is ours.
		if err := p.child.signal(sig); err != nil {
			return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
		}
		return nil
	case added:
		return fmt.Errorf("process not created: %w", errdefs.ErrFailedPrecondition)
	default:
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
}

// executed waits until the command of the process, which has begun, has been executed.
func (p *process) executed() error {
	p.mu.Lock()
	ch := p.child
	p.mu.Unlock()
	return ch.executed()
}

func (p *process) setStreams(s *stdio.Streams) {
	p.mu.Lock()
	p.streams = s
	p.mu.Unlock()
}

func (p *process) getStreams() *stdio.Streams {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.streams
}

// drainTimeout bounds how long Delete waits for a terminal's last output.
const drainTimeout = 10 * time.Second

// release moves on what is left of the output and lets go of the streams.
func (p *process) release(ctx context.Context) {
	p.mu.Lock()
	ch := p.child
	p.mu.Unlock()
	if ch != nil {
		ch.close()
	}
	s := p.getStreams()
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	if err := s.Drain(ctx); err != nil {
		logger.Warn("drain output", "exec", p.id, "error", err)
	}
	s.Close()
}
