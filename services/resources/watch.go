// Package resources owns what the kernel's cgroups say of containers: how much of
// the machine each uses, and when one of its limits was hit.
//
// It promises that a container which is at peace with its limits costs nothing
// but two watches of the kernel's, that one which hits a limit a million times a
// second costs a few readings a second, and that its figures and the reason of its
// end are read before its cgroup goes. It must never change a cgroup.
package resources

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/api"
)

// pause is how long hits gather before they are read: the kernel tells of each
// file up to a hundred times a second.
const pause = 100 * time.Millisecond

// near is how long before the end of a container a process of it may have been
// killed to count as the cause.
const near = 2 * time.Second

// Watcher watches any number of cgroups through one inotify instance, which is
// there from the first on.
type Watcher struct {
	now func() time.Time

	mu      sync.Mutex // guards what follows
	inotify *os.File
	byWatch map[int32]*Watch
	closed  chan struct{}
}

// NewWatcher returns a watcher.
func NewWatcher() *Watcher {
	return &Watcher{now: time.Now, byWatch: map[int32]*Watch{}, closed: make(chan struct{})}
}

// Watch is one cgroup that is watched, from a container's start to its end.
type Watch struct {
	watcher *Watcher
	dir     string
	on      func(Hit)

	mu      sync.Mutex // guards what follows; never taken with the watcher's held
	watches []int32
	base    counters // when the watch began
	last    counters
	oom     Hit       // the last one
	oomAt   time.Time // of it; zero if there was none
	ended   bool
}

// Watch begins to watch the cgroup in folder dir: on is told of each hit, one
// after the other, and must not wait for anything. Where the kernel cannot be
// asked to tell, as with cgroup v1, what was hit is found out at the End only; the
// error says why and the watch can be used all the same.
func (w *Watcher) Watch(dir string, on func(Hit)) (*Watch, error) {
	x := &Watch{watcher: w, dir: dir, on: on}
	x.mu.Lock()
	defer x.mu.Unlock()
	if !unified(dir) {
		x.base.read(dir)
		x.last = x.base
		return x, nil
	}
	// Watched before it is read, so that nothing is missed in between.
	var failed error
	for _, name := range []string{"memory.events", "pids.events"} {
		wd, err := w.add(filepath.Join(dir, name), x)
		switch {
		case err == nil:
			x.watches = append(x.watches, wd)
		case !os.IsNotExist(err): // the kernel lacks that controller
			failed = err
		}
	}
	x.base.read(dir)
	x.last = x.base
	return x, failed
}

func (w *Watcher) add(path string, x *Watch) (int32, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.inotify == nil {
		select {
		case <-w.closed:
			return 0, fs.ErrClosed
		default:
		}
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return 0, fmt.Errorf("watch the limits of containers: %w", err)
		}
		w.inotify = os.NewFile(uintptr(fd), "inotify")
		go w.read(w.inotify)
	}
	var wd int
	var err error
	if cerr := w.control(func(fd int) { wd, err = unix.InotifyAddWatch(fd, path, unix.IN_MODIFY) }); cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, &fs.PathError{Op: "watch", Path: path, Err: err}
	}
	w.byWatch[int32(wd)] = x
	return int32(wd), nil
}

// control calls f with the inotify instance; w.mu is held.
func (w *Watcher) control(f func(fd int)) error {
	conn, err := w.inotify.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Control(func(fd uintptr) { f(int(fd)) })
}

// remove ends watches; the cgroup, and with it they, may be gone already.
func (w *Watcher) remove(watches []int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, wd := range watches {
		delete(w.byWatch, wd)
		if w.inotify != nil {
			_ = w.control(func(fd int) { _, _ = unix.InotifyRmWatch(fd, uint32(wd)) })
		}
	}
}

// Chosen tells of the container in the cgroup in folder dir, if it is watched, that
// the supervisor is about to kill it for want of memory.
func (w *Watcher) Chosen(dir string, h Hit) {
	w.mu.Lock()
	var chosen *Watch
	for _, x := range w.byWatch {
		if x.dir == dir {
			chosen = x
		}
	}
	w.mu.Unlock()
	if chosen == nil {
		return
	}
	chosen.mu.Lock()
	defer chosen.mu.Unlock()
	if chosen.ended {
		return
	}
	chosen.oom, chosen.oomAt = h, w.now()
	if chosen.on != nil {
		chosen.on(h)
	}
}

// Close ends the watcher and its goroutine. Watches can be ended after it.
func (w *Watcher) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.closed:
		return
	default:
	}
	close(w.closed)
	if w.inotify != nil {
		_ = w.inotify.Close()
		w.inotify = nil
	}
	clear(w.byWatch)
}

// read tells watches that something has changed until the watcher is closed.
func (w *Watcher) read(inotify *os.File) {
	buf := make([]byte, 4096)
	for {
		n, err := inotify.Read(buf)
		if err != nil {
			return
		}
		for _, x := range w.changed(buf[:n]) {
			x.look()
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-w.closed:
			timer.Stop()
			return
		}
	}
}

// changed returns the watches that a run of inotify events is about; all of them
// if the kernel had too many to tell.
func (w *Watcher) changed(events []byte) []*Watch {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[*Watch]bool{}
	var all []*Watch
	add := func(x *Watch) {
		if x != nil && !seen[x] {
			seen[x] = true
			all = append(all, x)
		}
	}
	for len(events) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(events[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		if mask&unix.IN_Q_OVERFLOW != 0 {
			for _, x := range w.byWatch {
				add(x)
			}
		}
		add(w.byWatch[int32(binary.NativeEndian.Uint32(events))])
		if size > len(events) {
			break
		}
		events = events[size:]
	}
	return all
}

// look reads the counters and tells what was hit since the last look.
func (x *Watch) look() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.ended {
		x.tell()
	}
}

// tell is called with x.mu held, so that hits come one after the other.
func (x *Watch) tell() {
	if gone(x.dir) && !x.v1() {
		return // it has no counters any more, which are not 0
	}
	var now counters
	now.read(x.dir)
	now.keep(x.last) // a reading that failed is not a count of 0
	for _, h := range hits(x.dir, x.base, x.last, now) {
		if h.Kind == OOM {
			x.oom, x.oomAt = h, x.watcher.now()
		}
		if x.on != nil {
			x.on(h)
		}
	}
	x.last = now
}

// v1 reports whether the cgroup is one of cgroup v1.
func (x *Watch) v1() bool {
	_, err := os.Stat(filepath.Join(Root, "cgroup.controllers"))
	return err != nil && len(x.watches) == 0
}

// Ending is what a cgroup said when its container had ended.
type Ending struct {
	Figures *api.Figures // nil where the cgroup had gone already
	OOM     *Hit         // set where the kernel killed processes of it at that time
}

// End ends the watch and returns what there is to say of the container's end. It
// is to be called when the container has ended and before its cgroup is removed.
// What was hit and has not been told is told before it returns. Later calls return
// nothing, and so does one of a nil Watch.
func (x *Watch) End() Ending {
	if x == nil {
		return Ending{}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended {
		return Ending{}
	}
	x.tell()
	x.ended = true
	x.watcher.remove(x.watches)
	var e Ending
	if f, err := Read(x.dir); err == nil {
		e.Figures = &f
	}
	if !x.oomAt.IsZero() && (x.oom.Chosen || x.watcher.now().Sub(x.oomAt) <= near) {
		e.OOM = &x.oom
	}
	return e
}

// Last returns what a cgroup says of a container that ended while nobody watched:
// what it was killed for may then lie further back.
func Last(dir string) Ending {
	f, err := Read(dir)
	if err != nil {
		return Ending{}
	}
	e := Ending{Figures: &f}
	var now counters
	now.read(dir)
	for _, h := range hits(dir, counters{}, counters{}, now) {
		if h.Kind == OOM {
			e.OOM = &h
		}
	}
	return e
}
