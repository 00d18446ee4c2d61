package task

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/runc-shim/reap"
	"keelson/runc-shim/stdio"
)

// A container is one task of containerd: a libcontainer container, its init
// process and what was exec'd into it.
type container struct {
	id      string
	bundle  string
	rootfs  string // where containerd's mounts are, "" if there are none
	options *options.Options
	engine  *engine
	init    *process

	mu       sync.Mutex // guards what follows
	execs    map[string]*process
	live     int  // execs between Start and the news of their end
	ending   bool // the init has ended, which is about to be on disk and then to be told
	initGone bool // and no exec may start any more
	pausing  bool
	paused   bool
	settled  chan struct{} // closed when initGone and live == 0
}

func (c *container) process(exec string) (*process, error) {
	if exec == "" {
		return c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.execs[exec]
	if p == nil {
		return nil, fmt.Errorf("process %q of container %q does not exist: %w", exec, c.id, errdefs.ErrNotFound)
	}
	return p, nil
}

// add registers an exec under its id.
func (c *container) add(p *process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.execs[p.id]; ok {
		return fmt.Errorf("process %q of container %q: %w", p.id, c.id, errdefs.ErrAlreadyExists)
	}
	c.execs[p.id] = p
	return nil
}

func (c *container) remove(exec string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.execs, exec)
}

// beginExec counts an exec that is about to start. The init's end is not made
// known before endExec has been called as often.
func (c *container) beginExec() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.initGone {
		return fmt.Errorf("container %s init process is not running: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	c.live++
	return nil
}

func (c *container) endExec() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live--
	c.settle()
}

// endsNow says that the init's end is about to be made known.
func (c *container) endsNow() {
	c.mu.Lock()
	c.ending = true
	c.mu.Unlock()
}

// isEnding reports whether the init has ended, told yet or not.
func (c *container) isEnding() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ending
}

// initEnded forbids further execs and returns what is closed once those that
// are under way have ended.
func (c *container) initEnded() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.initGone = true
	c.settle()
	return c.settled
}

// settle is called with c.mu held.
func (c *container) settle() {
	if !c.initGone || c.live > 0 {
		return
	}
	select {
	case <-c.settled:
	default:
		close(c.settled)
	}
}

// launch starts p in the container and gives it its streams. For the init
// process it must be called inside the bundle.
func (c *container) launch(p *process, spec *specs.Process, s state) error {
	streams, err := stdio.Open(p.config)
	if err != nil {
		return fmt.Errorf("open standard streams: %w", err)
	}
	p.setStreams(streams)
	fail := func(err error) error {
		streams.Close()
		return err
	}
	var console, socket *os.File
	if p.config.Terminal {
		if console, socket, err = stdio.ConsoleSocket(); err != nil {
			return fail(fmt.Errorf("terminal socket: %w", err))
		}
		defer console.Close()
		defer socket.Close()
	}
	ch, pid, err := c.engine.launch(p == c.init, spec, p.group.name(), streams, socket)
	if err != nil {
		return fail(err)
	}
	streams.Started()
	abandon := func(err error) error {
		_ = ch.signal(unix.SIGKILL)
		ch.collect()
		ch.close()
		return fail(err)
	}
	if console != nil {
		if err := streams.Attach(console); err != nil {
			return abandon(err)
		}
	}
	if p != c.init {
		if err := ch.executed(); err != nil {
			return abandon(err)
		}
	}
	if err := p.began(s, ch, pid); err != nil {
		return abandon(err)
	}
	return nil
}

// await returns when p has ended and collects it. It needs no lock and is the
// only one who waits for p.
func await(p *process) (status int, at time.Time) {
	p.mu.Lock()
	ch, pid := p.child, p.pid
	p.mu.Unlock()
	if h, err := reap.Open(pid); err == nil {
		if err := h.Wait(); err != nil {
			logger.Error("wait for process", "pid", pid, "error", err)
		}
		h.Close()
	}
	// Without a pidfd this is where the waiting is done.
	return ch.collect(), time.Now()
}

// An exitRecord is exit.json in the bundle: how the task ended, for whoever
// was away when it did. The second half is what stock shims write and read.
type exitRecord struct {
	ID         string    `json:"id"`
	Pid        int       `json:"pid"`
	ExitStatus int       `json:"exit_status"`
	ExitedAt   time.Time `json:"exited_at"`

	Timestamp time.Time
	Status    int
}

// ExitFile is the name of the record of a task's end in its bundle.
const ExitFile = "exit.json"

// writeExit leaves the record, all of it or nothing.
func writeExit(bundle, id string, pid, status int, at time.Time) error {
	data, err := json.Marshal(exitRecord{
		ID: id, Pid: pid, ExitStatus: status, ExitedAt: at,
		Timestamp: at, Status: status,
	})
	if err != nil {
		return err
	}
	tmp := filepath.Join(bundle, "."+ExitFile)
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(bundle, ExitFile))
}

// ReadExit reads the record of a task's end. It fails with os.ErrNotExist if
// the task has not ended.
func ReadExit(bundle string) (pid, status int, at time.Time, err error) {
	path := filepath.Join(bundle, ExitFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, time.Time{}, err
	}
	var r exitRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return 0, 0, time.Time{}, fmt.Errorf("%s: %w", path, err)
	}
	if r.ExitedAt.IsZero() {
		// Written by a stock shim.
		r.ExitedAt, r.ExitStatus = r.Timestamp, r.Status
	}
	if r.Pid <= 0 || r.ExitedAt.IsZero() {
		return 0, 0, time.Time{}, fmt.Errorf("%s: not a record of an exit", path)
	}
	return r.Pid, r.ExitStatus, r.ExitedAt, nil
}

// PidFile holds the init process's pid in a task's bundle.
const PidFile = "init.pid"

func (c *container) writePid() error {
	return os.WriteFile(filepath.Join(c.bundle, PidFile), []byte(strconv.Itoa(c.init.getPid())), 0o644)
}

// destroy removes what the ended container holds.
func (c *container) destroy(ctx context.Context) error {
	c.init.release(ctx)
	return c.engine.destroy()
}
