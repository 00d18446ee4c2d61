package task

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"keelson/internal/bundle"
)

// clearRemains removes the folder of an earlier task, which containerd has forgotten
// without it: it does so where a shim was killed and what was to clean up after it was
// not done in time, as on a machine that is short of CPU. Then no task of that name
// could be created any more. It reports whether that was what err, of such an attempt,
// is about, and the folder has gone.
func (r *Runtime) clearRemains(b *bundle.Bundle, err error) bool {
	dir := filepath.Join(r.StateDir, taskDir, key(b))
	if !strings.Contains(err.Error(), dir+": file exists") {
		return false
	}
	// Of the processes none is left, or containerd would know their task; but it costs
	// nothing to be sure.
	if r.CgroupRoot != "" {
		_ = os.WriteFile(filepath.Join(r.CgroupRoot, b.CgroupsPath(), "cgroup.kill"), []byte("1"), 0)
	}
	// Something may be mounted here, which is not to be removed through it.
	if err := os.Remove(filepath.Join(dir, "rootfs")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		slog.Warn("what is left of an earlier task cannot be removed: "+err.Error(), "container", b.ID)
		return false
	}
	if err := os.RemoveAll(dir); err != nil {
		slog.Warn("what is left of an earlier task cannot be removed: "+err.Error(), "container", b.ID)
		return false
	}
	return true
}
