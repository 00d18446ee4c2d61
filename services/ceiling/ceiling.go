// Package ceiling owns what all containers together may take of the machine: the
// limits of the cgroup that they are below, and who is ended when it is used up.
//
// It promises that
//   - the machine's own parts (PID 1, the supervisor, containerd, the shims, the
//     kernel) keep their room, whatever containers do: the ceiling comes from the
//     memory that is free when the first container may start, less the reserve;
//   - it is decided once in a boot: a supervisor that comes back finds it;
//   - memory that a container's end gives back is had by ending the container that
//     has most of it, and what stays behind, files in the memory that containers
//     share, is bounded before it takes the place of everything else.
//
// It must never limit the machine's own parts, and never set memory.oom.group on
// the parent: all services would die for one.
package ceiling

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Group is the parent of all containers, below the root of the cgroup hierarchy.
const Group = "/services"

const (
	kib = 1 << 10
	mib = 1 << 20
)

// What the machine's own parts take after the decision. Measured at 128 MB: supervisor,
// containerd, shim and kernel grow by 11.5 MB until one service runs, and by 0.55 MB
// with each other one.
const (
	reserveBase = 14 * mib
	reserveEach = 640 * kib
	// saved is what the machine's own parts take less where there is little: they collect
	// garbage more often, and the kernel boosts no watermark. Measured at 128 MB: 8 MB
	// stay free while containers use up all they may have, and some is for commands.
	saved = 3 * mib
	// least is what containers get where there is less: they would not start.
	least = 8 * mib
	// reserveThreads are the kernel's and the machine's own, of those there can be.
	reserveThreads = 256
	leastThreads   = 128
)

// Limits are what all containers together may take; 0 is no limit.
type Limits struct {
	Memory uint64 // bytes
	Pids   uint64 // processes and threads
	// Short says that there was less memory than containers need at least.
	Short bool
}

// String is the limits for people.
func (l Limits) String() string {
	var words []string
	if l.Memory > 0 {
		words = append(words, fmt.Sprintf("%d MiB of memory", l.Memory/mib))
	}
	if l.Pids > 0 {
		words = append(words, fmt.Sprintf("%d processes and threads", l.Pids))
	}
	return strings.Join(words, ", ")
}

// Little reports whether there is so little memory that the machine's own parts have to
// be frugal.
func (l Limits) Little() bool { return l.Memory > 0 && l.Memory < little }

// Own is what the machine has for itself.
type Own struct {
	Services int    // that it keeps
	Logs     uint64 // bytes of memory that logs may take
}

// decide computes the limits from the memory that is free now, and from how many
// processes there can be.
func decide(available, threads uint64, own Own) Limits {
	reserve := reserveBase + uint64(own.Services)*reserveEach + own.Logs
	l := Limits{Memory: least, Pids: leastThreads}
	room := available - min(available, reserve-saved)
	if room >= little {
		room = max(available-reserve, little-mib)
	}
	if room >= least {
		l.Memory = room
	} else {
		l.Short = true
	}
	l.Memory = l.Memory / mib * mib
	if free := threads * 7 / 8; free >= reserveThreads+leastThreads {
		l.Pids = free - reserveThreads
	}
	return l
}

// Set sets the limits on the parent of all containers unless an earlier supervisor
// of this boot has, and returns those in force. proc is where /proc is, root where
// the cgroup file systems are: a directory of cgroup2, or one with a directory for
// each hierarchy of cgroup v1.
func Set(proc, root string, own Own) (Limits, error) {
	memory, pids := files(root)
	for _, f := range []string{memory, pids} {
		if err := os.Mkdir(filepath.Dir(f), 0o755); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			return Limits{}, fmt.Errorf("make the cgroup of all containers: %w", err)
		}
	}
	var errs []error
	l, err := measure(proc, own)
	if err != nil {
		return Limits{}, err
	}
	decided := l.Memory
	l.Memory, err = put(memory, l.Memory)
	l.Short = l.Short && l.Memory == decided
	errs = append(errs, err)
	l.Pids, err = put(pids, l.Pids)
	return l, errors.Join(append(errs, err)...)
}

// files are those of the parent that hold its limits.
func files(root string) (memory, pids string) {
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return filepath.Join(root, Group, "memory.max"), filepath.Join(root, Group, "pids.max")
	}
	return filepath.Join(root, "memory", Group, "memory.limit_in_bytes"), filepath.Join(root, "pids", Group, "pids.max")
}

// noLimit is above what cgroup v1 has where nobody has set one.
const noLimit = 1 << 62

// put writes a limit unless there is one, and returns the one in force: 0 where
// the kernel has no such limits.
func put(path string, n uint64) (uint64, error) {
	was, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if v, err := strconv.ParseUint(strings.TrimSpace(string(was)), 10, 64); err == nil && v < noLimit {
		return v, nil
	}
	if err == nil {
		err = os.WriteFile(path, []byte(strconv.FormatUint(n, 10)), 0)
	}
	if err != nil {
		return 0, fmt.Errorf("limit all containers together: %w", err)
	}
	return n, nil
}

// measure reads what the decision needs.
func measure(proc string, own Own) (Limits, error) {
	f, err := os.Open(filepath.Join(proc, "meminfo"))
	if err != nil {
		return Limits{}, fmt.Errorf("find out how much memory is free: %w", err)
	}
	defer f.Close()
	var available, slab uint64
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch name {
		case "MemAvailable":
			available = n * kib
		case "SReclaimable":
			slab = n * kib
		}
	}
	if available == 0 {
		return Limits{}, fmt.Errorf("find out how much memory is free: %s has no MemAvailable", f.Name())
	}
	threads := uint64(noLimit)
	for _, name := range []string{"pid_max", "threads-max"} {
		data, err := os.ReadFile(filepath.Join(proc, "sys/kernel", name))
		if n, perr := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64); err == nil && perr == nil {
			threads = min(threads, n)
		}
	}
	if threads == noLimit {
		threads = 4096
	}
	// The kernel takes part of this for what it can take back; but just after the boot
	// it is the names of a root in RAM, which stay.
	return decide(available-min(slab, available), threads, own), nil
}
