package task

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"keelson/internal/bundle"
	"keelson/internal/pidfd"
)

// runcState is what is read of runc's state file of a container.
type runcState struct {
	PID   int    `json:"init_process_pid"`
	Start uint64 `json:"init_process_start"`
}

// unlisted takes hold of the first process of a task that containerd does not know of
// although it runs: its shim died, and what was to clean up after it was not done in
// time, or the task's folder was removed while containerd was away. Nil if there is none.
func (r *Runtime) unlisted(b *bundle.Bundle) *pidfd.Process {
	if r.RuncState == "" {
		return nil
	}
	dir := filepath.Join(r.RuncState, key(b))
	if _, err := os.Lstat(filepath.Join(dir, "exec.fifo")); err == nil {
		return nil // made but never started
	}
	var state runcState
	data, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if err != nil || json.Unmarshal(data, &state) != nil {
		return nil
	}
	process, err := pidfd.OpenSame(pidfd.Identity{PID: state.PID, Start: state.Start})
	if err != nil {
		return nil
	}
	return process
}

// clearRemains removes the folder of an earlier task, which containerd has forgotten
// without it: it does so where a shim was killed and what was to clean up after it was
// not done in time, as on a machine that is short of CPU. Then no task of that name
// could be created any more. It reports whether that was what err, of such an attempt,
// is about, and the folder has gone. Where it is the shim or runc that still has the
// earlier one, containerd has removed it after the attempt.
func (r *Runtime) clearRemains(b *bundle.Bundle, err error) bool {
	if errdefs.IsAlreadyExists(err) || strings.Contains(err.Error(), "container with given ID already exists") {
		return true
	}
	dir := filepath.Join(r.StateDir, Dir, key(b))
	if !strings.Contains(err.Error(), dir+": file exists") {
		return false
	}
	// Of the processes none is left, or containerd would know their task; but it costs
	// nothing to be sure.
	if r.CgroupRoot != "" {
		_ = os.WriteFile(filepath.Join(r.CgroupRoot, b.CgroupsPath(), "cgroup.kill"), []byte("1"), 0)
	}
	if err := r.removeTask(b); err != nil {
		slog.Warn("what is left of an earlier task cannot be removed: "+err.Error(), "container", b.FullName())
		return false
	}
	return true
}

// removeTask removes the directory of an earlier task. It never leaves containerd's state
// directory, whatever links there are.
func (r *Runtime) removeTask(b *bundle.Bundle) error {
	state, err := os.OpenRoot(r.StateDir)
	if err != nil {
		return err
	}
	defer state.Close()
	dir := filepath.Join(Dir, key(b))
	// Something may be mounted here, which is not to be removed through it.
	if err := state.Remove(filepath.Join(dir, "rootfs")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return state.RemoveAll(dir)
}
