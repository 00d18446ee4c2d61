package resources

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"keelson/services/ceiling"
)

// Kind is which limit was hit.
type Kind int

// The kinds.
const (
	OOM  Kind = iota // the kernel has killed processes for want of memory
	Pids             // the kernel has refused to make processes
)

// Hit says that a limit of a cgroup was hit.
type Hit struct {
	Kind  Kind
	Count uint64 // processes killed, or refused
	// Limit is the cgroup's, in bytes or processes; 0 where it has none, or where
	// it was not its own that was hit.
	Limit uint64
	// Above is the cgroup whose limit was hit where it was not its own, AboveLimit
	// that limit.
	Above      string
	AboveLimit uint64
	Peak       uint64 // memory in use at most, in bytes, where the kernel tells
	// Chosen says that the supervisor ended the container as the one that had most,
	// before the kernel had to choose.
	Chosen bool
}

// String is the hit in words, as what has happened to a container.
func (h Hit) String() string {
	if h.Kind == Pids {
		return fmt.Sprintf("%s: %d more refused", h.limit(), h.Count)
	}
	return fmt.Sprintf("%s killed %s of it: %s", h.Killer(), plural(h.Count, "process", "processes"), h.Cause())
}

// Killer is who did it.
func (h Hit) Killer() string {
	if h.Chosen {
		return "the supervisor"
	}
	return "the kernel"
}

// Cause is why it was done.
func (h Hit) Cause() string {
	if h.Kind == Pids {
		return h.limit()
	}
	var more []string
	what := "the machine is out of memory"
	switch {
	case h.Limit > 0:
		what = "out of memory"
		more = append(more, "limit "+size(h.Limit))
	case h.Above == ceiling.Group:
		what = "out of memory"
		more = append(more, "all services together: limit "+size(h.AboveLimit))
	case h.Above != "":
		what = "out of memory"
		more = append(more, "limit of the cgroup "+h.Above+" above it")
	}
	if h.Chosen {
		more = append(more, "this one had most")
	}
	if h.Peak > 0 {
		more = append(more, "peak "+tenths(h.Peak))
	}
	if len(more) == 0 {
		return what
	}
	return what + " (" + strings.Join(more, ", ") + ")"
}

func (h Hit) limit() string {
	switch {
	case h.Limit > 0:
		return fmt.Sprintf("at its limit of %d processes and threads", h.Limit)
	case h.Above == ceiling.Group:
		return fmt.Sprintf("at the limit of %d processes and threads of all services together", h.AboveLimit)
	case h.Above != "":
		return "at the limit of processes and threads of the cgroup " + h.Above + " above it"
	}
	return "at a limit of processes and threads"
}

func plural(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// size is a number of bytes that a person has chosen: 64 MiB, not 64.0.
func size(n uint64) string {
	switch {
	case n%gib == 0:
		return fmt.Sprintf("%d GiB", n/gib)
	case n%mib == 0:
		return fmt.Sprintf("%d MiB", n/mib)
	case n < mib && n%kib == 0:
		return fmt.Sprintf("%d KiB", n/kib)
	}
	return tenths(n)
}

// tenths is a number of bytes that was measured.
func tenths(n uint64) string {
	switch {
	case n >= gib:
		return fmt.Sprintf("%.1f GiB", float64(n)/gib)
	case n >= mib:
		return fmt.Sprintf("%.1f MiB", float64(n)/mib)
	default:
		return fmt.Sprintf("%.1f KiB", float64(n)/kib)
	}
}

// counters are how often a cgroup's limits were hit.
type counters struct {
	limit uint64 // times memory could not be had within its own limit
	above uint64 // and within that of the nearest cgroup above it that has one
	kills uint64 // processes killed for want of memory, whoever's
	pids  uint64 // processes that were not made
}

// read reads the counters of a cgroup; those that are not there are 0.
func (c *counters) read(dir string) {
	if unified(dir) {
		m := flat(filepath.Join(dir, "memory.events"))
		*c = counters{limit: m["oom"], kills: m["oom_kill"], pids: flat(filepath.Join(dir, "pids.events"))["max"]}
		if name, _ := above(Root, dir, "memory.max"); name != "" {
			c.above = oom(filepath.Join(Root, name))
		}
		// Where all of a cgroup is killed, the kernel counts the one it chose twice.
		c.kills -= min(m["oom_group_kill"], c.kills)
		return
	}
	h := hierarchies{Root, dir}
	kills := flat(h.file("memory", "memory.oom_control"))["oom_kill"]
	*c = counters{limit: kills, kills: kills, pids: flat(h.file("pids", "pids.events"))["max"]}
}

// keep keeps what was counted already: counters only grow.
func (c *counters) keep(before counters) {
	c.limit, c.kills, c.pids = max(c.limit, before.limit), max(c.kills, before.kills), max(c.pids, before.pids)
	c.above = max(c.above, before.above)
}

// oom is how often memory could not be had within a cgroup's own limit: what hit
// those of cgroups below it is not counted, where the kernel (from 5.2) can tell.
func oom(dir string) uint64 {
	if local := flat(filepath.Join(dir, "memory.events.local")); local != nil {
		return local["oom"]
	}
	return flat(filepath.Join(dir, "memory.events"))["oom"]
}

// hits says what was hit between two readings of a cgroup's counters.
func hits(dir string, base, before, now counters) (all []Hit) {
	f, _ := Read(dir)
	if now.kills > before.kills {
		h := Hit{Kind: OOM, Count: now.kills - before.kills, Peak: f.MemoryPeak}
		if now.limit > base.limit && f.MemoryMax > 0 {
			h.Limit = f.MemoryMax
		} else if now.above > base.above {
			h.Above, h.AboveLimit = above(Root, dir, "memory.max")
		}
		all = append(all, h)
	}
	if now.pids > before.pids {
		h := Hit{Kind: Pids, Count: now.pids - before.pids, Limit: f.PidsMax}
		if h.Limit == 0 {
			h.Above, h.AboveLimit = above(Root, dir, "pids.max")
		}
		all = append(all, h)
	}
	return all
}

// above returns the nearest cgroup above dir that has a limit in the file name,
// as a path below root, and that limit; "" if none has.
func above(root, dir, name string) (string, uint64) {
	for dir = filepath.Dir(dir); strings.HasPrefix(dir, root+"/"); dir = filepath.Dir(dir) {
		if n := number(filepath.Join(dir, name)); n > 0 {
			return strings.TrimPrefix(dir, root), n
		}
	}
	return "", 0
}

// gone reports whether a cgroup is not there any more.
func gone(dir string) bool {
	_, err := os.Stat(dir)
	return err != nil
}
