package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// SignalAll sends sig to every process of the container's cgroup. SIGKILL
// goes through cgroup.kill where the kernel has it, so that nothing forks away.
func SignalAll(c *libcontainer.Container, sig unix.Signal) error {
	if sig == unix.SIGKILL {
		if killed, err := cgroupKill(c); killed || err != nil {
			return err
		}
	}
	// A process may fork between being listed and being killed, so a kill is
	// repeated while there is somebody left; the bound is against a cgroup
	// that forks faster than it is killed.
	for range 100 {
		pids, err := c.Processes()
		if err != nil {
			return fmt.Errorf("list the container's processes: %w", err)
		}
		left := 0
		for _, pid := range pids {
			if err := unix.Kill(pid, sig); err == nil {
				left++
			} else if !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("signal process %d: %w", pid, err)
			}
		}
		if sig != unix.SIGKILL || left == 0 {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

func cgroupKill(c *libcontainer.Container) (bool, error) {
	st, err := c.State()
	if err != nil {
		return false, err
	}
	path, ok := st.CgroupPaths[""]
	if !ok || path == "" {
		return false, nil
	}
	err = os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENODEV):
		return false, nil
	default:
		return false, fmt.Errorf("kill the container's cgroup: %w", err)
	}
}

// ErrStillRunning is returned by ForceDelete when the container outlived
// SIGKILL by ten seconds.
var ErrStillRunning = errors.New("container init still running 10s after SIGKILL")

// ForceDelete kills the container and removes what it holds. It waits up to
// ten seconds for the end. A container that is not there is no error.
func ForceDelete(root, id string) error {
	c, err := libcontainer.Load(root, id)
	if err != nil {
		if !errors.Is(err, libcontainer.ErrNotExist) {
			return err
		}
		// A create that was cut short leaves a state directory without
		// state.json, which Load does not see.
		if id == "" || strings.ContainsRune(id, os.PathSeparator) || id == "." || id == ".." {
			return nil
		}
		if err := os.RemoveAll(filepath.Join(root, id)); err != nil {
			return fmt.Errorf("remove state directory: %w", err)
		}
		return nil
	}
	return Kill(c)
}

// Kill kills a loaded container and destroys it, waiting up to ten seconds.
func Kill(c *libcontainer.Container) error {
	_ = c.Signal(unix.SIGKILL)
	for range 1000 {
		if err := c.Signal(unix.Signal(0)); err != nil {
			return c.Destroy()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return ErrStillRunning
}
