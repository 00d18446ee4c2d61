package ceiling

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Guard acts when containers have used up nearly all that they may have together.
//
// The kernel alone would choose by the memory of single processes, in which files
// in memory do not count: who fills its root with dd is small, and a neighbour
// would die for it, again and again. So memory.high of the parent, short of the
// limit, has the kernel slow down whoever takes more and tell the guard, which ends
// the container that has most. Files in memory that several containers share (/tmp,
// /var, volumes) stay when a container is ended: once they are half of it all, the
// file systems get no larger than they are, and a writer gets ENOSPC.
//
//	first mark (3/4) --> shared files >= half? --yes--> bound them, next mark
//	                             \--no--> next mark
//	next mark        --> shared files >= half, not bound yet? --yes--> bound them, next mark
//	                             \--no--> end the largest
type Guard struct {
	// Root is where cgroup2 is mounted, Proc where /proc is.
	Root, Proc string
	// Limit is the parent's memory.max.
	Limit uint64
	// Chosen is told of a container's cgroup, a directory, before it is killed.
	Chosen func(dir string, processes uint64)
	// Warn reports what is done about shared files.
	Warn func(format string, a ...any)

	bound bool // shared files were bounded
}

const (
	// gather is how long events gather before they are looked at.
	gather = 100 * time.Millisecond
	// settle is how long memory may take to come back from a container that was
	// ended: its root is unmounted after its exit.
	settle = 3 * time.Second
	// fileCost is what a file in memory takes beside its contents.
	fileCost = 1 * kib
)

// firstMark is where the guard looks for the first time.
func firstMark(limit uint64) uint64 { return limit / 4 * 3 }

// nextMark is where it ends containers, with so much in shared files that cannot
// grow: far enough from the limit for the kernel to slow down what takes memory.
func nextMark(limit, bounded uint64) uint64 {
	room := limit - min(bounded, limit)
	return limit - min(max(room/8, 1*mib), 32*mib)
}

// state is what a decision depends on.
type state struct {
	limit   uint64
	mark    uint64 // memory.high
	current uint64
	used    uint64 // of current, what the kernel cannot take back
	files   uint64 // shared files, and what they take beside their contents
	bound   bool   // they cannot grow any more
}

type order int

const (
	nothing order = iota
	raise         // go on to the next mark
	bind          // keep shared files from growing
	end           // end the largest container
)

func next(s state) order {
	first, near := s.mark == firstMark(s.limit), s.mark-s.mark/16
	switch {
	case first && s.current < near, !first && s.used < near:
		return nothing // what fills it is cache, which the kernel takes back
	case !s.bound && s.files >= s.limit/2:
		return bind
	case first:
		return raise
	}
	return end
}

// Run guards until the context ends.
func (g *Guard) Run(ctx context.Context) error {
	if number(g.file("memory.high")) == 0 { // no earlier supervisor has set it
		if err := g.setMark(firstMark(g.Limit)); err != nil {
			return err
		}
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch the memory of all containers: %w", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer events.Close()
	if _, err := unix.InotifyAddWatch(fd, g.file("memory.events"), unix.IN_MODIFY); err != nil {
		return fmt.Errorf("watch the memory of all containers: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = events.SetReadDeadline(time.Now()) })()
	buf := make([]byte, 4096)
	for {
		g.look(ctx)
		if _, err := events.Read(buf); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch the memory of all containers: %w", err)
		}
	}
}

// look decides and acts, and lets events gather where they are about cache.
func (g *Guard) look(ctx context.Context) {
	if mark := number(g.file("memory.high")); number(g.file("memory.current")) < mark-mark/16 {
		return // the rest is dear, and the boot passes here
	}
	s := g.state()
	switch next(s) {
	case raise:
		g.warn(g.setMark(nextMark(g.Limit, 0)))
	case bind:
		g.bound = true
		g.warn(errors.Join(boundFiles(g.shared()), g.setMark(nextMark(g.Limit, s.files))))
		g.Warn("files in memory that containers share take %d MiB of the %d MiB that all services may have: there is no room for more; remove some (%s)",
			s.files/mib, s.limit/mib, names(g.shared()))
	case end:
		if dir := g.largest(); dir != "" {
			g.end(ctx, dir)
		}
	case nothing:
		wait(ctx, gather)
	}
}

func (g *Guard) state() state {
	s := state{limit: g.Limit, mark: number(g.file("memory.high")), bound: g.bound}
	s.current, s.used = usage(filepath.Join(g.Root, Group))
	for _, f := range g.shared() {
		s.files += f.bytes + f.files*fileCost
	}
	return s
}

func (g *Guard) file(name string) string { return filepath.Join(g.Root, Group, name) }

func (g *Guard) setMark(n uint64) error {
	if err := os.WriteFile(g.file("memory.high"), []byte(strconv.FormatUint(n, 10)), 0); err != nil {
		return fmt.Errorf("have the kernel tell when containers have used up their memory: %w", err)
	}
	return nil
}

func (g *Guard) warn(err error) {
	if err != nil {
		g.Warn("%v", err)
	}
}

// usage is what a cgroup has, and what of it the kernel cannot take back.
func usage(dir string) (current, used uint64) {
	current = number(filepath.Join(dir, "memory.current"))
	data, _ := os.ReadFile(filepath.Join(dir, "memory.stat"))
	var cache uint64
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch name {
		case "active_file", "inactive_file", "slab_reclaimable":
			n, _ := strconv.ParseUint(value, 10, 64)
			cache += n
		}
	}
	return current, current - min(cache, current)
}

// largest returns the container's cgroup that is to be ended: the one that has
// most, its oom_score_adj taken into account as the kernel does. One with -1000 is
// never ended. Where it is one whose memory.oom.group is 0, the choice is left to the
// kernel: the container says so, or is being made, and no neighbour is to pay for that.
func (g *Guard) largest() string {
	var largest string
	most := int64(0)
	for _, pattern := range []string{"*", ".*/*"} {
		dirs, _ := filepath.Glob(filepath.Join(g.Root, Group, pattern, "cgroup.kill"))
		for _, file := range dirs {
			dir := filepath.Dir(file)
			if strings.HasPrefix(filepath.Base(dir), ".") {
				continue
			}
			adj, alive := g.adjustment(dir)
			if !alive || adj <= -1000 {
				continue
			}
			_, used := usage(dir)
			if points := int64(used) + int64(adj)*int64(g.Limit)/1000; points > most {
				largest, most = dir, points
			}
		}
	}
	if number(filepath.Join(largest, "memory.oom.group")) == 0 {
		return ""
	}
	return largest
}

// adjustment is the oom_score_adj of a cgroup's first process, and whether it has any.
func (g *Guard) adjustment(dir string) (adj int, alive bool) {
	procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	pid, _, ok := strings.Cut(string(procs), "\n")
	if !ok {
		return 0, number(filepath.Join(dir, "pids.current")) > 0 // they may be in cgroups below it
	}
	text, _ := os.ReadFile(filepath.Join(g.Proc, pid, "oom_score_adj"))
	adj, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	return adj, true
}

// end ends the container in a cgroup, and waits until its memory has come back.
func (g *Guard) end(ctx context.Context, dir string) {
	_, before := usage(filepath.Join(g.Root, Group))
	g.Chosen(dir, number(filepath.Join(dir, "pids.current")))
	if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); err != nil {
		g.Warn("end the container that has most memory: %v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for ctx.Err() == nil {
		if _, now := usage(filepath.Join(g.Root, Group)); now < before-before/8 {
			return
		}
		wait(ctx, gather)
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// number is the one number of a file; "max" and a file that is not there are 0.
func number(path string) uint64 {
	data, _ := os.ReadFile(path)
	n, _ := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	return n
}
