package task

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
	"keelson/internal/harden"
	"keelson/internal/policy"
)

// Walls is how this machine hardens containers.
type Walls struct {
	// Off is keelson.harden=linuxkit: no container is hardened, whatever it asks for.
	Off bool
	// Masked, NoSeccomp and NoPids are what the machine adds to harden.Options.
	Masked            []string
	NoSeccomp, NoPids bool
}

// MachineWalls looks at this machine and its kernel command line. An error is about
// a word for which the default is in force.
func MachineWalls(cmdline string) (w Walls, err error) {
	w.Masked, _ = filepath.Glob("/sys/devices/system/cpu/cpu*/thermal_throttle")
	_, missing := os.Stat("/proc/sys/kernel/seccomp/actions_avail")
	w.NoSeccomp = missing != nil
	w.NoPids = !hasPids("/sys/fs/cgroup")
	for _, word := range strings.Fields(cmdline) {
		name, value, _ := strings.Cut(word, "=")
		switch {
		case name != "keelson.harden":
		case value == string(harden.LinuxKit):
			w.Off = true
		default:
			err = fmt.Errorf("kernel command line: %s is not keelson.harden=linuxkit; each container has its own keelson.harden annotation", word)
		}
	}
	return w, err
}

// hasPids reports whether the kernel can limit the number of processes.
func hasPids(root string) bool {
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if errors.Is(err, os.ErrNotExist) { // cgroup v1: a file system for each
		_, err = os.Stat(filepath.Join(root, "pids"))
		return err == nil
	}
	return slices.Contains(strings.Fields(string(controllers)), "pids")
}

// Level is the level that is in force for a container.
func (w Walls) Level(p policy.Walls) harden.Level {
	if w.Off {
		return harden.LinuxKit
	}
	return p.Harden
}

// Harden returns a container's configuration with what is added to it here, and
// what that is. It fails where the container lacks what its level demands.
func (w Walls) Harden(b *bundle.Bundle) (*specs.Spec, []harden.Added, error) {
	return w.harden(b, false)
}

// harden does what Harden does; byName is harden.Options.ByName.
func (w Walls) harden(b *bundle.Bundle, byName bool) (*specs.Spec, []harden.Added, error) {
	p := b.Walls()
	level := w.Level(p)
	s, added := harden.Apply(b.Spec, level, harden.Options{
		LogOnly: p.SeccompLog, Masked: w.Masked, NoSeccomp: w.NoSeccomp, NoPids: w.NoPids, ByName: byName, Absent: absent,
	})
	for _, d := range harden.Check(b.Spec, level) {
		return s, added, fmt.Errorf("%s: %s", filepath.Join(b.Dir, "config.json"), d.Text)
	}
	return s, added, nil
}

// absent reports whether a path of /proc or /sys, which are the same for all containers
// but for their processes, is not there.
func absent(path string) bool { return unix.Access(path, unix.F_OK) == unix.ENOENT }

// hardened is a container with its configuration hardened; byName is
// harden.Options.ByName.
func (w Walls) hardened(b *bundle.Bundle, byName bool) (*bundle.Bundle, error) {
	s, _, err := w.harden(b, byName)
	if err != nil {
		return nil, err
	}
	copied := *b
	copied.Spec = s
	return &copied, nil
}
