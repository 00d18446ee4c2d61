package task

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// leavesNothing begins the ID of an exec that ends with all it has started: the
// supervisor's probes.
const leavesNothing = "keelson-probe-"

// An execGroup is the cgroup of one exec, below its container's. A process can leave
// its session and its parent, but not its cgroup, so whatever the exec has started is
// found there when it ends. Its zero pointer is none.
type execGroup struct{ dir string }

// newExecGroup makes a cgroup for an exec; nil where there can be none, and then the
// exec is started in its container's.
func newExecGroup(e *engine, exec string) *execGroup {
	parent := e.cgroup()
	if parent == "" || strings.Contains(exec, "/") {
		return nil
	}
	g := &execGroup{filepath.Join(parent, exec)}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		logger.Warn("make a cgroup for an exec", "exec", exec, "error", err)
		return nil
	}
	// Below a container that has made its own cgroup a threaded one no process can be put.
	kind, err := os.ReadFile(filepath.Join(g.dir, "cgroup.type"))
	if err != nil || strings.TrimSpace(string(kind)) != "domain" {
		_ = os.Remove(g.dir)
		return nil
	}
	return g
}

// name is the cgroup's below the container's.
func (g *execGroup) name() string {
	if g == nil {
		return ""
	}
	return filepath.Base(g.dir)
}

// Bounds of the removal of an exec's cgroup.
const (
	groupPause = time.Millisecond
	groupBound = 10 * time.Second
)

// end kills what is left in the cgroup and removes it. It does not wait for what was
// killed.
func (g *execGroup) end() {
	if g == nil {
		return
	}
	err := unix.Rmdir(g.dir)
	if !errors.Is(err, unix.EBUSY) {
		g.removed(err)
		return
	}
	g.kill()
	go func() { // with a bound
		for pause := groupPause; ; pause *= 2 {
			time.Sleep(pause)
			if err = unix.Rmdir(g.dir); !errors.Is(err, unix.EBUSY) || pause > groupBound/2 {
				g.removed(err)
				return
			}
			g.kill() // one by one, what was started meanwhile is left
		}
	}()
}

func (g *execGroup) removed(err error) {
	if err != nil && !errors.Is(err, unix.ENOENT) { // gone with its container
		logger.Warn("remove the cgroup of an exec", "error", fmt.Errorf("%s: %w", g.dir, err))
	}
}

// kill sends SIGKILL to all processes of the cgroup and of those below it.
func (g *execGroup) kill() {
	// Linux 5.14: none escapes by forking.
	if os.WriteFile(filepath.Join(g.dir, "cgroup.kill"), []byte("1"), 0) == nil {
		return
	}
	data, err := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for _, word := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
