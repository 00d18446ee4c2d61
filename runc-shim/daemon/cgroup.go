package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
)

// joinCgroup moves the shim into the cgroup of the option ShimCgroup, a path
// from the root of the hierarchy. On cgroup v2 it is made if it is not there.
func joinCgroup(path string, pid int) error {
	if !strings.HasPrefix(path, "/") || strings.Contains(path, "..") {
		return fmt.Errorf("runtime option ShimCgroup %q: not a path from the root of the cgroup hierarchy, such as /keelson/shim", path)
	}
	line := []byte(strconv.Itoa(pid))
	const root = "/sys/fs/cgroup"
	if cgroups.IsCgroup2UnifiedMode() {
		dir := filepath.Join(root, path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("runtime option ShimCgroup: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), line, 0); err != nil {
			return fmt.Errorf("move shim to cgroup %s: %w", path, err)
		}
		return nil
	}
	subs, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("move shim to cgroup %s: %w", path, err)
	}
	joined := 0
	for _, s := range subs {
		err := os.WriteFile(filepath.Join(root, s.Name(), path, "cgroup.procs"), line, 0)
		switch {
		case err == nil:
			joined++
		case !errors.Is(err, os.ErrNotExist) && s.Type()&os.ModeSymlink == 0:
			return fmt.Errorf("move shim to cgroup %s: %w", path, err)
		}
	}
	if joined == 0 {
		return fmt.Errorf("runtime option ShimCgroup: no cgroup %s in any hierarchy below %s", path, root)
	}
	return nil
}
