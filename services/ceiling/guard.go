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
// limit, has the kernel slow down the processes that take more and tell the guard, which ends
// the container whose exit frees most. Files in memory that several containers share
// (/tmp, /var, volumes) stay when a container is ended: once they are nearly half of
// it all, the file systems get no larger than they are, and a writer gets ENOSPC.
//
//	a mark before the last --> shared files too many? --yes--> bound them, last mark
//	                                   \--no--> next mark
//	the last mark          --> shared files too many, not bound yet? --yes--> bound them
//	                                   \--no--> end the one whose exit frees most,
//	                                            or let one that is being made go on
type Guard struct {
	// Root is where cgroup2 is mounted, Proc where /proc is.
	Root, Proc string
	// Limit is the parent's memory.max.
	Limit uint64
	// Making reports whether a process is being made in the container of a cgroup, a
	// directory: its first one, or a command that is added.
	Making func(dir string) bool
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
	// ended: its root is unmounted after its exit, on a busy machine some time after.
	settle = 15 * time.Second
	// startBound is how long a process may take to be made with the room up to the limit.
	startBound = 3 * time.Second
	// lookEvery is how often memory is looked at where the kernel does not report it.
	lookEvery = time.Second
	// fileCost is what a file in memory takes beside its contents.
	fileCost = 1 * kib
)

const (
	// little is below what each start and each file is a matter of the whole.
	little = 64 * mib
	// startRoom is what a container takes until its command runs.
	startRoom = 4 * mib
)

// firstMark is where the guard looks for the first time.
func firstMark(limit uint64) uint64 {
	if limit < little {
		return limit / 4
	}
	return limit / 4 * 3
}

// lastMark is where it ends containers, with so much in shared files that cannot
// grow: far enough from the limit for the kernel to slow down what takes memory.
func lastMark(limit, bounded uint64) uint64 {
	room := limit - min(bounded, limit)
	return limit - min(max(room/8, 1*mib), 32*mib)
}

// nextMark follows a mark at which all is well. Where there is little the steps are
// small, so that shared files are bounded before they have taken all of it.
func nextMark(limit, mark uint64) uint64 {
	if limit < little {
		return min(mark+limit/8, lastMark(limit, 0))
	}
	return lastMark(limit, 0)
}

// sharedMost is how much shared files may take before they are bounded: half of what a
// start leaves.
func sharedMost(limit uint64) uint64 { return (limit - min(startRoom, limit/2)) / 2 }

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
	end           // end a container
)

func next(s state) order {
	last, near := s.mark >= lastMark(s.limit, 0), s.mark-s.mark/16
	switch {
	case !last && s.current < near, last && s.used < near:
		return nothing // what fills it is cache, which the kernel takes back
	case !s.bound && s.files >= sharedMost(s.limit):
		return bind
	case !last:
		return raise
	}
	return end
}

// Run guards until the context ends.
func (g *Guard) Run(ctx context.Context) error {
	first := firstMark(g.Limit)
	switch number(g.file("memory.high")) {
	case 0: // no earlier supervisor has set it
	case g.Limit: // one died while a container was being made
		first = lastMark(g.Limit, 0)
	default:
		first = 0
	}
	if first > 0 {
		if err := g.setMark(first); err != nil {
			return err
		}
	}
	events, err := g.events()
	if err != nil { // containers have used up the instances of uid 0, and this is not the first supervisor
		g.Warn("the memory of all containers is looked at each second, as the kernel cannot be asked to report it: %v", err)
		for ctx.Err() == nil {
			g.look(ctx)
			wait(ctx, lookEvery)
		}
		return nil
	}
	defer events.Close()
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

// events returns a file that can be read whenever the kernel reports something.
func (g *Guard) events() (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, g.file("memory.events"), unix.IN_MODIFY); err != nil {
		_ = f.Close()
		return nil, &os.PathError{Op: "watch", Path: g.file("memory.events"), Err: err}
	}
	return f, nil
}

// look decides and acts, and lets events gather where they are about cache.
func (g *Guard) look(ctx context.Context) {
	if mark := number(g.file("memory.high")); number(g.file("memory.current")) < mark-mark/16 {
		return // the rest is dear, and the boot passes here
	}
	s := g.state()
	switch next(s) {
	case raise:
		g.warn(g.setMark(nextMark(g.Limit, s.mark)))
	case bind:
		g.bound = true
		g.warn(errors.Join(boundFiles(g.shared(), spare(g.Limit)), g.setMark(lastMark(g.Limit, s.files))))
		g.Warn("files in memory that containers share take %d MiB of the %d MiB that all services may have: there is no room for more; remove some (%s)",
			s.files/mib, s.limit/mib, names(g.shared()))
	case end:
		switch v := g.choose(); {
		case v.start:
			g.letStart(ctx, s.mark)
		case v.kill != "":
			g.end(ctx, v)
		default: // the kernel is to choose
			wait(ctx, gather)
		}
	case nothing:
		wait(ctx, gather)
	}
}

func (g *Guard) state() state {
	s := state{limit: g.Limit, mark: number(g.file("memory.high")), bound: g.bound}
	use := usage(g.file(""))
	s.current, s.used = use.current, use.used
	s.files = size(g.shared())
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

// use is what a cgroup has in memory.
type use struct {
	current uint64
	used    uint64 // of it, what the kernel cannot take back
	files   uint64 // of that, at most what is in files in memory
}

func usage(dir string) use {
	u := use{current: number(filepath.Join(dir, "memory.current"))}
	data, _ := os.ReadFile(filepath.Join(dir, "memory.stat"))
	var cache uint64
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, _ := strconv.ParseUint(value, 10, 64)
		switch name {
		case "active_file", "inactive_file", "slab_reclaimable":
			cache += n
		case "shmem", "slab_unreclaimable": // their contents, and their inodes
			u.files += n
		}
	}
	u.used = u.current - min(cache, u.current)
	return u
}

// end ends a container, and waits until its memory has come back.
func (g *Guard) end(ctx context.Context, v verdict) {
	before := usage(g.file("")).used
	g.Chosen(v.kill, number(filepath.Join(v.kill, "pids.current")))
	if err := os.WriteFile(filepath.Join(v.kill, "cgroup.kill"), []byte("1"), 0); err != nil {
		g.Warn("end the container that has most memory: %v", err)
	}
	gone := 0
	g.await(ctx, settle, func() bool {
		if number(filepath.Join(v.kill, "pids.current")) == 0 {
			gone++ // its file systems, which are its own alone, go in a moment
		}
		return gone > 9 || usage(g.file("")).used <= before-min(v.frees/2, before)
	})
	if now := usage(g.file("")).used; !g.bound { // shared files are not to take the room unseen
		g.warn(g.setMark(max(firstMark(g.Limit), nextMark(g.Limit, now))))
	}
}

// letStart gives a process that is being made room up to the limit, a little at a time: it
// would be slowed down for ever, and nobody has much that could make room for it. Who
// takes that room in its place is killed.
func (g *Guard) letStart(ctx context.Context, mark uint64) {
	defer func() { g.warn(g.setMark(mark)) }()
	ctx, cancel := context.WithTimeout(ctx, startBound)
	defer cancel()
	for ctx.Err() == nil {
		g.warn(g.setMark(min(g.Limit, max(mark, usage(g.file("")).used+g.Limit/16))))
		wait(ctx, gather/4)
		if v := g.choose(); !v.start {
			if v.kill != "" && usage(g.file("")).used >= mark {
				g.end(ctx, v)
			}
			return
		}
	}
}

// await waits until something holds, within a bound.
func (g *Guard) await(ctx context.Context, bound time.Duration, holds func() bool) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	for ctx.Err() == nil && !holds() {
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
