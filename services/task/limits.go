package task

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"keelson/internal/bundle"
	"keelson/services/resources"
)

// CgroupDir is a container's cgroup, as package resources takes it.
func (r *Runtime) CgroupDir(b *bundle.Bundle) string {
	root := r.CgroupRoot
	if root == "" {
		root = resources.Root
	}
	return filepath.Join(root, b.CgroupsPath())
}

// killTogether has the kernel kill a container as a whole where it must kill one
// of its processes for want of memory: what is left would be in no state that
// anybody has thought of. A config.json that says something else counts.
func (r *Runtime) killTogether(b *bundle.Bundle) {
	const file = "memory.oom.group"
	if r.CgroupRoot == "" {
		return
	}
	if res := b.Spec.Linux.Resources; res != nil {
		if _, set := res.Unified[file]; set {
			return
		}
	}
	// Without the memory controller there is no such file, and nothing to say.
	_ = os.WriteFile(filepath.Join(r.CgroupDir(b), file), []byte("1"), 0)
}

// leaveOthersProcesses keeps a container that says nothing of its own limit of
// processes to half of what all may have together, so that one that forks without
// end leaves its neighbours able to start their own.
func (r *Runtime) leaveOthersProcesses(b *bundle.Bundle) {
	if res := b.Spec.Linux.Resources; r.Pids == 0 || res != nil && res.Pids != nil {
		return
	}
	if res := b.Spec.Linux.Resources; res != nil && res.Unified["pids.max"] != "" {
		return
	}
	path := filepath.Join(r.CgroupDir(b), "pids.max")
	if r.CgroupRoot == "" {
		path = filepath.Join(resources.Root, "pids", b.CgroupsPath(), "pids.max")
	}
	was, err := os.ReadFile(path)
	if err != nil {
		return // the kernel has no such limits
	}
	if n, err := strconv.ParseUint(strings.TrimSpace(string(was)), 10, 64); err != nil || n > r.Pids/2 {
		_ = os.WriteFile(path, []byte(strconv.FormatUint(r.Pids/2, 10)), 0)
	}
}

// watch begins to watch a container's limits.
func (r *Runtime) watch(b *bundle.Bundle) *resources.Watch {
	if r.Limits == nil {
		return nil
	}
	watch, err := r.Limits.Watch(r.CgroupDir(b), func(h resources.Hit) {
		if r.OnHit != nil {
			r.OnHit(b, h)
		}
	})
	if err != nil {
		slog.Warn("limits that it hits will be told at its end only: "+err.Error(), "container", b.FullName())
	}
	return watch
}

// missed is the exit of a task that ended while there was no supervisor, with
// what its cgroup says of it, if that is there still.
func (r *Runtime) missed(b *bundle.Bundle, e Exit) *Exit {
	e.Ending = resources.Last(r.CgroupDir(b))
	if e.Ending.OOM != nil && r.OnHit != nil {
		r.OnHit(b, *e.Ending.OOM)
	}
	if r.OnEnd != nil {
		r.OnEnd(b, e)
	}
	return &e
}
