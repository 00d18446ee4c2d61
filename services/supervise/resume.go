package supervise

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// bootID names this run of the machine: the kernel's boot, and when PID 1
// began, for a container may be started many times in one boot.
func bootID(cfg Config) string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		id = []byte("unknown")
	}
	return fmt.Sprintf("%s-%d", strings.TrimSpace(string(id)), cfg.InitStart)
}

// resume reports whether the supervisor's folder was made in this run of the
// machine. One of an earlier run, which a container with a /run on disk has, is
// removed: what it says is not true any more. The run is kept as the target of a
// symbolic link, for which there is room where a file system is full.
func resume(runDir, id string) (bool, error) {
	link := filepath.Join(runDir, "boot")
	switch was, err := os.Readlink(link); {
	case err == nil && was == id:
		return true, nil
	case err == nil || !errors.Is(err, fs.ErrNotExist):
		if err := os.RemoveAll(runDir); err != nil {
			return false, fmt.Errorf("remove what an earlier run of the machine left: %w", err)
		}
	}
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return false, fmt.Errorf("make the supervisor's folder: %w", err)
	}
	if err := os.Symlink(id, link); err != nil {
		return false, fmt.Errorf("a restarted supervisor will begin anew: %w", err)
	}
	return false, nil
}
