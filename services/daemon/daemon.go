// Package daemon owns the containerd process: it starts it, knows when it
// answers, and starts it again when it dies.
//
// It promises that a wait for containerd ends when it answers, when the caller's
// time is up, or with a reason when it cannot be had; that a containerd which an
// earlier supervisor started in the same boot is taken over, not replaced; and
// that whoever must look at things before containerd comes back is asked first.
// It must never kill a containerd that works.
package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/pidfd"
)

// Config says how containerd is run.
type Config struct {
	Binary  string   // /usr/bin/containerd
	Options []string // further options, from runtime-config.toml
	Address string   // its socket
	Root    string   // --root
	State   string   // --state
	// CgroupDir is the folder of its cgroup, "" for none.
	CgroupDir string
	// PIDFile is where its process is remembered for the next supervisor.
	PIDFile string
	// Stdout and Stderr are open for reading and writing, so that containerd
	// survives whoever reads them.
	Stdout, Stderr *os.File
	// BeforeStart is called each time before it is started: what an earlier one
	// left is still there.
	BeforeStart func()
	// Info and Warn write a line for people.
	Info, Warn func(format string, a ...any)
}

// Keeper keeps one containerd running.
type Keeper struct {
	cfg Config

	mu       sync.Mutex
	up       chan struct{} // closed while containerd answers, guarded by mu
	failed   chan struct{} // closed while it cannot be had, guarded by mu
	failure  error         // why, guarded by mu
	pid      int           // guarded by mu
	restarts int           // guarded by mu
}

const (
	readyBound = 60 * time.Second // until a started containerd must answer
	backoffMin = 10 * time.Millisecond
	backoffMax = 5 * time.Second
	wellAfter  = 10 * time.Second
	giveWord   = 3 // so many failures in a row, and waiting ends with an error
)

// New returns a keeper of a containerd that Run will start.
func New(cfg Config) *Keeper {
	return &Keeper{cfg: cfg, up: make(chan struct{}), failed: make(chan struct{})}
}

// remembered is what the PID file holds: a process number and the time of its
// start, which together name one process of one boot.
type remembered struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, field 22 of /proc/PID/stat
}

// Run keeps containerd running until the context ends; it does not stop
// containerd then, which is the shutdown's business.
func (k *Keeper) Run(ctx context.Context) {
	process, child := k.adopt(), (*exec.Cmd)(nil)
	backoff, failures := backoffMin, 0
	for ctx.Err() == nil {
		began := time.Now()
		adopted := process != nil
		if process == nil {
			if k.cfg.BeforeStart != nil {
				k.cfg.BeforeStart()
			}
			var err error
			if child, process, err = k.start(); err != nil {
				failures++
				k.fail(err, failures)
				if !pause(ctx, backoffMax) {
					return
				}
				continue
			}
		}
		err := k.awaitReady(ctx, process)
		if err == nil {
			failures = 0
			if adopted {
				k.cfg.Info("still running (pid %d)", process.PID)
			} else {
				k.cfg.Info("ready in %s (pid %d)", millis(time.Since(began)), process.PID)
			}
			k.setUp(process.PID)
			err = process.Wait(ctx)
		} else if ctx.Err() == nil && !process.Ended() {
			// It runs and never answered: nothing can be lost by ending it.
			_ = process.Signal(unix.SIGKILL)
		}
		if ctx.Err() != nil {
			process.Close()
			return
		}
		how := "ended"
		if child != nil {
			_ = child.Wait()
			how = describe(child.ProcessState)
		}
		process.Close()
		process, child = nil, nil
		k.setDown()
		if err != nil {
			failures++
			k.fail(fmt.Errorf("%w (%s)", err, how), failures)
		}
		if time.Since(began) >= wellAfter {
			backoff = backoffMin
		}
		k.mu.Lock()
		k.restarts++
		n := k.restarts
		k.mu.Unlock()
		k.cfg.Warn("%s after %s; restart %d in %s; the containers run on", how, seconds(time.Since(began)), n, millis(backoff))
		if !pause(ctx, backoff) {
			return
		}
		backoff = min(2*backoff, backoffMax)
	}
}

// adopt takes hold of the containerd an earlier supervisor left running.
func (k *Keeper) adopt() *pidfd.Process {
	data, err := os.ReadFile(k.cfg.PIDFile)
	if err != nil {
		return nil
	}
	var r remembered
	if json.Unmarshal(data, &r) != nil || r.PID <= 1 {
		return nil
	}
	p, err := pidfd.Open(r.PID)
	if err != nil {
		return nil
	}
	if start, err := startTime(r.PID); err != nil || start != r.Start || p.Ended() {
		p.Close()
		return nil
	}
	return p
}

// start starts containerd.
func (k *Keeper) start() (*exec.Cmd, *pidfd.Process, error) {
	for _, dir := range []string{k.cfg.Root, k.cfg.State, filepath.Dir(k.cfg.Address)} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, nil, fmt.Errorf("make containerd's folders: %w", err)
		}
	}
	args := append(k.defaults(), k.cfg.Options...)
	cmd := exec.Command(k.cfg.Binary, args...)
	cmd.Stdout, cmd.Stderr = k.cfg.Stdout, k.cfg.Stderr
	cmd.Env = append(os.Environ(), "GOTRACEBACK=single")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if k.cfg.CgroupDir != "" {
		if dir, err := os.Open(k.cfg.CgroupDir); err == nil {
			defer dir.Close()
			cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
		} else {
			k.cfg.Warn("runs in the supervisor's cgroup: %v", err)
		}
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start containerd: %w", err)
	}
	p, err := pidfd.Open(cmd.Process.Pid)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, nil, err
	}
	if start, err := startTime(p.PID); err == nil {
		data, _ := json.Marshal(remembered{p.PID, start})
		if err := os.WriteFile(k.cfg.PIDFile, data, 0o600); err != nil {
			k.cfg.Warn("a restarted supervisor will not find this containerd: %v", err)
		}
	}
	return cmd, p, nil
}

// defaults are the options that runtime-config.toml does not set itself.
func (k *Keeper) defaults() []string {
	var args []string
	for _, o := range []struct{ long, short, value string }{
		{"--address", "-a", k.cfg.Address},
		{"--root", "", k.cfg.Root},
		{"--state", "", k.cfg.State},
		{"--log-level", "-l", "warn"},
	} {
		set := false
		for _, given := range k.cfg.Options {
			name, _, _ := strings.Cut(given, "=")
			set = set || name == o.long || o.short != "" && name == o.short
		}
		if !set {
			args = append(args, o.long, o.value)
		}
	}
	return args
}

// awaitReady dials until containerd answers. The end of its process ends the
// wait: a daemon that died early will never answer.
func (k *Keeper) awaitReady(ctx context.Context, p *pidfd.Process) error {
	ctx, cancel := context.WithTimeout(ctx, readyBound)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		if p.Wait(ctx) == nil {
			close(ended)
		}
	}()
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "unix", k.cfg.Address)
		if err == nil {
			_ = conn.Close()
			return nil
		}
		select {
		case <-ended:
			return errors.New("containerd ended before it answered")
		case <-ctx.Done():
			return fmt.Errorf("containerd did not answer within %v: %w", readyBound, err)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (k *Keeper) setUp(pid int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.up)
	k.pid = pid
	k.failure = nil
	select {
	case <-k.failed:
		k.failed = make(chan struct{})
	default:
	}
}

func (k *Keeper) setDown() {
	k.mu.Lock()
	defer k.mu.Unlock()
	select {
	case <-k.up:
		k.up = make(chan struct{})
	default:
	}
	k.pid = 0
}

// fail keeps the reason, and ends waiting where it has happened too often.
func (k *Keeper) fail(err error, failures int) {
	k.cfg.Warn("%v", err)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failure = err
	if failures < giveWord && !errors.Is(err, os.ErrNotExist) {
		return
	}
	select {
	case <-k.failed:
	default:
		close(k.failed)
	}
}

// Ready returns nil once containerd answers. It ends with an error when the
// context does, or as soon as containerd has failed several times in a row.
func (k *Keeper) Ready(ctx context.Context) error {
	k.mu.Lock()
	up, failed := k.up, k.failed
	k.mu.Unlock()
	select {
	case <-up:
		return nil
	default:
	}
	select {
	case <-up:
		return nil
	case <-failed:
	case <-ctx.Done():
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failure != nil {
		return fmt.Errorf("containerd is not running: %w", k.failure)
	}
	return fmt.Errorf("wait for containerd: %w", ctx.Err())
}

// PID returns containerd's process number, 0 while it does not run.
func (k *Keeper) PID() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pid
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// startTime reads when a process was started; see proc_pid_stat(5).
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, field 2, may hold blanks and parentheses itself.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	const startField = 22 - 3
	if len(fields) <= startField {
		return 0, fmt.Errorf("/proc/%d/stat: too short", pid)
	}
	var n uint64
	_, err = fmt.Sscan(fields[startField], &n)
	return n, err
}

func describe(s *os.ProcessState) string {
	if s == nil {
		return "ended"
	}
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return "killed by " + unix.SignalName(ws.Signal())
	}
	return fmt.Sprintf("exited with code %d", s.ExitCode())
}

func millis(d time.Duration) string  { return fmt.Sprintf("%dms", d.Milliseconds()) }
func seconds(d time.Duration) string { return fmt.Sprintf("%.1fs", d.Seconds()) }
