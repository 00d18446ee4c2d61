// Package daemon owns the containerd process: it starts it, knows when it
// answers, and starts it again when it dies.
//
// It promises that a wait for containerd ends when it answers, when the caller's
// time is up, or with a reason when it cannot be had; that a containerd which an
// earlier supervisor started in the same boot is taken over, not replaced; and
// that whoever must look at things before containerd comes back is asked first.
// It must never kill a containerd that works; whether one hangs is package parts' to find out.
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
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/hugepages"
	"keelson/internal/pidfd"
	"keelson/internal/workshop"
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
	// Frugal has it and the shims that it starts take less memory and more time.
	Frugal bool
	// PIDFile is where its process is remembered for the next supervisor.
	PIDFile string
	// Stdout and Stderr are open for reading and writing, so that containerd
	// survives whoever reads them.
	Stdout, Stderr *os.File
	// Workshop is the mount namespace that it is started in.
	Workshop *workshop.Workshop
	// BeforeStart is called each time before it is started: what an earlier one
	// left is still there.
	BeforeStart func()
	// Answers is told of each containerd that answers, so that it is watched; nil is nobody.
	Answers func(pid int)
	// Info and Warn write a line for people.
	Info, Warn func(format string, a ...any)
}

// Keeper keeps one containerd running.
type Keeper struct {
	cfg         Config
	imageConfig string // where an image has its own configuration

	mu       sync.Mutex
	up       chan struct{} // closed while containerd answers, guarded by mu
	failed   chan struct{} // closed while it cannot be had, guarded by mu
	failure  error         // why, guarded by mu
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
	return &Keeper{cfg: cfg, imageConfig: imageConfig, up: make(chan struct{}), failed: make(chan struct{})}
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
		early := k.awaitReady(ctx, process)
		if early == nil {
			failures = 0
			if adopted {
				k.cfg.Info("still running (pid %d)", process.PID)
			} else {
				k.cfg.Info("ready in %s (pid %d)", millis(time.Since(began)), process.PID)
			}
			k.setUp()
			if k.cfg.Answers != nil {
				k.cfg.Answers(process.PID)
			}
			_ = process.Wait(ctx)
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
		if time.Since(began) >= wellAfter {
			backoff = backoffMin
		}
		k.mu.Lock()
		k.restarts++
		n := k.restarts
		k.mu.Unlock()
		if early != nil {
			failures++
			k.refuse(fmt.Errorf("%w (%s)", early, how), failures)
			k.cfg.Warn("%v: %s after %s; restart %d in %s", early, how, seconds(time.Since(began)), n, millis(backoff))
		} else {
			k.cfg.Warn("%s after %s; restart %d in %s; the containers run on", how, seconds(time.Since(began)), n, millis(backoff))
		}
		if !pause(ctx, backoff) {
			return
		}
		backoff = min(2*backoff, backoffMax)
	}
}

// adopt takes hold of the containerd an earlier supervisor left running: the one
// it remembered, or else one in containerd's cgroup that it had no time to.
func (k *Keeper) adopt() *pidfd.Process {
	var id pidfd.Identity
	if data, err := os.ReadFile(k.cfg.PIDFile); err == nil && json.Unmarshal(data, &id) == nil {
		if p, err := pidfd.OpenSame(id); err == nil {
			return p
		}
	}
	if k.cfg.CgroupDir == "" {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(k.cfg.CgroupDir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	for _, word := range strings.Fields(string(data)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			continue
		}
		// The program's name, and its first argument as start gives it, tell it
		// from what it starts itself.
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		args := strings.Split(string(line), "\x00")
		if err != nil || args[0] != k.cfg.Binary || !slices.Contains(args, k.cfg.Address) {
			continue
		}
		if p, err := pidfd.Open(pid); err == nil {
			k.remember(p)
			return p
		}
	}
	return nil
}

// remember writes down which process containerd is.
func (k *Keeper) remember(p *pidfd.Process) {
	id, err := p.Identity()
	if err != nil {
		return // ended already
	}
	data, err := json.Marshal(id)
	if err == nil {
		err = os.WriteFile(k.cfg.PIDFile, data, 0o600)
	}
	if err != nil {
		k.cfg.Warn("its process number is not remembered: %v", err)
	}
}

// start starts containerd.
func (k *Keeper) start() (*exec.Cmd, *pidfd.Process, error) {
	for _, dir := range []string{k.cfg.Root, k.cfg.State, filepath.Dir(k.cfg.Address)} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, nil, fmt.Errorf("make containerd's folders: %w", err)
		}
	}
	args := append(k.defaults(), k.cfg.Options...)
	if !k.ours() {
		args = append(k.configure(), args...)
	}
	cmd := exec.Command(k.cfg.Binary, args...)
	cmd.Stdout, cmd.Stderr = k.cfg.Stdout, k.cfg.Stderr
	cmd.Env = append(os.Environ(), "GOTRACEBACK=single")
	if k.cfg.Frugal && os.Getenv("GOGC") == "" {
		cmd.Env = append(cmd.Env, "GOGC=50")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if k.cfg.CgroupDir != "" {
		if dir, err := os.Open(k.cfg.CgroupDir); err == nil {
			defer dir.Close()
			cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
		} else {
			k.cfg.Warn("runs in the supervisor's cgroup: %v", err)
		}
	}
	begin := cmd.Start
	if k.ours() {
		begin = func() error { return hugepages.Without(cmd.Start) }
	}
	if err := k.cfg.Workshop.Do(begin); err != nil {
		return nil, nil, fmt.Errorf("start containerd: %w", err)
	}
	p, err := pidfd.Open(cmd.Process.Pid)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, nil, err
	}
	k.remember(p)
	return cmd, p, nil
}

// ours says whether containerd is this very program under another name, not one
// that the image brought.
func (k *Keeper) ours() bool {
	containerd, err := os.Stat(k.cfg.Binary)
	if err != nil {
		return false
	}
	self, err := os.Stat("/proc/self/exe")
	return err == nil && os.SameFile(containerd, self)
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

const (
	// imageConfig is the configuration that containerd takes by itself, if an image has one.
	imageConfig = "/etc/containerd/config.toml"
	// patience is the configuration of a containerd that the image brings without one.
	// On its start it asks every shim for its process, and kills the containers of one
	// that does not answer within 5 s, which on a slow machine happens to shims that
	// are quite well. Every containerd since 1.3 knows version 2.
	patience = `version = 2
[timeouts]
"io.containerd.timeout.shim.load" = "30s"
"io.containerd.timeout.shim.cleanup" = "1m"
`
)

// configure returns the options that name a configuration for a stock containerd, and
// none where it has one.
func (k *Keeper) configure() []string {
	for _, given := range k.cfg.Options {
		if name, _, _ := strings.Cut(given, "="); name == "--config" || name == "-c" {
			return nil
		}
	}
	if _, err := os.Lstat(k.imageConfig); !errors.Is(err, os.ErrNotExist) {
		return nil
	}
	path := filepath.Join(filepath.Dir(k.cfg.PIDFile), "containerd.toml")
	if err := os.WriteFile(path, []byte(patience), 0o644); err != nil {
		k.cfg.Warn("has its own short limits for shims that are slow: %v", err)
		return nil
	}
	return []string{"--config", path}
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
	for began := time.Now(); ; {
		conn, err := d.DialContext(ctx, "unix", k.cfg.Address)
		if err == nil {
			_ = conn.Close()
			return nil
		}
		select {
		case <-ended:
			return errors.New("it ended before it answered")
		case <-ctx.Done():
			return fmt.Errorf("it did not answer within %v: %w", readyBound, err)
		case <-time.After(min(max(time.Since(began)/16, 2*time.Millisecond), 25*time.Millisecond)):
		}
	}
}

func (k *Keeper) setUp() {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.up)
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
}

// fail is told that containerd could not be started; it says so once, as long as
// the reason stays the same.
func (k *Keeper) fail(err error, failures int) {
	k.mu.Lock()
	said := k.failure != nil && k.failure.Error() == err.Error()
	k.mu.Unlock()
	if !said {
		k.cfg.Warn("%v; trying again every %v", err, backoffMax)
	}
	k.refuse(err, failures)
}

// refuse keeps the reason, and ends waiting where it has happened too often.
func (k *Keeper) refuse(err error, failures int) {
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
