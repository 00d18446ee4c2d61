package prepare

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"keelson/internal/mounts"
)

// makeCgroup makes the cgroup name below root: with cgroup v2 one folder, with
// the controllers of every folder above it handed down as far as the kernel lets
// them; with v1 one folder in each hierarchy.
func makeCgroup(root, name string) error {
	if name == "" || strings.Contains(name, "\x00") {
		return fmt.Errorf("%q is no cgroup: name a path below %s", name, root)
	}
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return fmt.Errorf("%q leads out of %s: name a path below it", name, root)
		}
	}
	name = filepath.Join("/", name)
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return makeUnified(root, name)
	}
	hierarchies, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("make cgroup %s: no cgroup file system: %w", name, err)
	}
	made := 0
	for _, h := range hierarchies {
		if !h.IsDir() { // cpu -> cpu,cpuacct and such
			continue
		}
		if err := mounts.MkdirAll(filepath.Join(root, h.Name(), name)); err != nil {
			return fmt.Errorf("make cgroup %s: %w", name, err)
		}
		made++
	}
	if made == 0 {
		return fmt.Errorf("make cgroup %s: no cgroup file system is mounted at %s", name, root)
	}
	return nil
}

func makeUnified(root, name string) error {
	dir := root
	for part := range strings.SplitSeq(strings.TrimPrefix(name, "/"), "/") {
		if part == "" {
			continue
		}
		enableControllers(dir)
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			if errors.Is(err, syscall.EAGAIN) {
				return fmt.Errorf("make cgroup %s: %w: the cgroup above it allows no more (cgroup.max.depth, cgroup.max.descendants)", name, err)
			}
			return fmt.Errorf("make cgroup %s: %w", name, err)
		}
	}
	return nil
}

// enableControllers hands every controller dir has down to its children. One by
// one and without an error: a controller that cannot be handed down (processes
// in dir, one that is threaded only) must not take the others along.
func enableControllers(dir string) {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	control := filepath.Join(dir, "cgroup.subtree_control")
	on, _ := os.ReadFile(control)
	enabled := strings.Fields(string(on))
	var missing []string
next:
	for _, c := range strings.Fields(string(have)) {
		for _, e := range enabled {
			if c == e {
				continue next
			}
		}
		missing = append(missing, "+"+c)
	}
	if len(missing) == 0 || os.WriteFile(control, []byte(strings.Join(missing, " ")), 0) == nil {
		return
	}
	for _, c := range missing {
		_ = os.WriteFile(control, []byte(c), 0)
	}
}
