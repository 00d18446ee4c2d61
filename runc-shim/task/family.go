package task

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// family keeps apart whose child is whose in a shim that runs runtime
// binaries. Such a shim is a child subreaper: the containers' processes, whose
// parents were runtimes that have ended, become its own, and with them
// whatever those processes orphan. The former are waited for by name; nobody
// waits for the latter, and Adopt's goroutine collects them.
//
// A child is left alone as long as mu is held for reading by whoever has
// started it and has not said yet whose it is.
var family kin

type kin struct {
	mu sync.RWMutex

	knownMu sync.Mutex
	known   map[int]bool
}

// Adopt makes the process a child subreaper and collects orphans until ctx is
// over. It is called once, before any external container is made.
func Adopt(ctx context.Context) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become child subreaper: %w", err)
	}
	family.known = map[int]bool{}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	go func() {
		defer signal.Stop(ended)
		for {
			select {
			case <-ctx.Done():
				return
			case <-ended:
				family.collect()
			}
		}
	}()
	return nil
}

// run runs a command to its end. Inside adopt it is runHeld, since a lock for
// reading is not taken twice.
func (k *kin) run(cmd *exec.Cmd) error {
	k.mu.RLock()
	err := cmd.Start()
	if err == nil {
		k.remember(cmd.Process.Pid)
	}
	k.mu.RUnlock()
	if err != nil {
		return err
	}
	defer k.forget(cmd.Process.Pid)
	return cmd.Wait()
}

func (k *kin) runHeld(cmd *exec.Cmd) error { return cmd.Run() }

// adopt calls f, which runs a runtime and returns the pid of the process that
// has thereby become a child.
func (k *kin) adopt(f func() (int, error)) error {
	k.mu.RLock()
	defer k.mu.RUnlock()
	pid, err := f()
	if err == nil {
		k.remember(pid)
	}
	return err
}

func (k *kin) remember(pid int) {
	k.knownMu.Lock()
	defer k.knownMu.Unlock()
	if k.known != nil {
		k.known[pid] = true
	}
}

func (k *kin) forget(pid int) {
	k.knownMu.Lock()
	defer k.knownMu.Unlock()
	delete(k.known, pid)
}

func (k *kin) knows(pid int) bool {
	k.knownMu.Lock()
	defer k.knownMu.Unlock()
	return k.known[pid]
}

// collect waits for the ended children that are nobody's.
func (k *kin) collect() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, pid := range children() {
		if !k.knows(pid) {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
	}
}

// children lists this process's children, from /proc/self/task/*/children.
func children() []int {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil
	}
	var out []int
	for _, t := range tasks {
		data, err := os.ReadFile("/proc/self/task/" + t.Name() + "/children")
		if err != nil {
			continue
		}
		for _, f := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(f); err == nil {
				out = append(out, pid)
			}
		}
	}
	return out
}
