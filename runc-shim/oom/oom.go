// Package oom says when the kernel killed something in a container's cgroup
// for want of memory.
//
// On cgroup v2 one inotify instance watches memory.events of every container;
// on v1 an eventfd per container is registered with memory.oom_control. Both
// sit in the runtime's poller: a quiet container costs nothing.
package oom

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A Watcher watches any number of cgroups.
type Watcher struct {
	notify func(id string)

	mu     sync.Mutex // guards what follows
	ino    *os.File   // inotify, opened with the first v2 cgroup
	v2     map[int32]*watch
	byID   map[string]func()
	closed bool
}

type watch struct {
	id     string
	file   string
	killed uint64
}

// New makes a watcher that calls notify, from a goroutine of its own, for
// every cgroup in which a process was killed.
func New(notify func(id string)) *Watcher {
	return &Watcher{notify: notify, v2: map[int32]*watch{}, byID: map[string]func(){}}
}

// AddV2 watches a cgroup v2 folder. One without the memory controller has
// nothing to watch, which is no error.
func (w *Watcher) AddV2(id, cgroup string) error {
	file := filepath.Join(cgroup, "memory.events")
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return os.ErrClosed
	}
	if w.ino == nil {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return os.NewSyscallError("inotify_init1", err)
		}
		w.ino = os.NewFile(uintptr(fd), "inotify")
		go w.read(w.ino)
	}
	wd, err := w.addWatch(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	killed, err := oomKills(file)
	if err != nil {
		return err
	}
	w.v2[wd] = &watch{id: id, file: file, killed: killed}
	w.byID[id] = func() { w.removeWatch(wd) }
	return nil
}

func (w *Watcher) addWatch(file string) (int32, error) {
	conn, err := w.ino.SyscallConn()
	if err != nil {
		return 0, err
	}
	var wd int
	var werr error
	if err := conn.Control(func(fd uintptr) {
		wd, werr = unix.InotifyAddWatch(int(fd), file, unix.IN_MODIFY)
	}); err != nil {
		return 0, err
	}
	if werr != nil {
		return 0, &os.PathError{Op: "watch", Path: file, Err: werr}
	}
	return int32(wd), nil
}

// removeWatch is called with w.mu held.
func (w *Watcher) removeWatch(wd int32) {
	delete(w.v2, wd)
	if w.ino == nil {
		return
	}
	if conn, err := w.ino.SyscallConn(); err == nil {
		// The watch is gone already where the cgroup is.
		_ = conn.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(wd)) })
	}
}

// AddV1 watches a cgroup of the v1 memory hierarchy, see
// Documentation/admin-guide/cgroup-v1/memory.rst, "OOM Control".
func (w *Watcher) AddV1(id, cgroup string) error {
	control, err := os.Open(filepath.Join(cgroup, "memory.oom_control"))
	if err != nil {
		return err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	event := os.NewFile(uintptr(fd), "eventfd")
	line := fmt.Sprintf("%d %d", fd, control.Fd())
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.event_control"), []byte(line), 0); err != nil {
		event.Close()
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		event.Close()
		return os.ErrClosed
	}
	w.byID[id] = func() { event.Close() }
	go func() {
		buf := make([]byte, 8)
		for {
			if _, err := event.Read(buf); err != nil {
				return
			}
			// The removal of the cgroup is reported the same way.
			if _, err := os.Stat(cgroup); err != nil {
				return
			}
			w.notify(id)
		}
	}()
	return nil
}

// Remove ends the watch of a container, if there is one.
func (w *Watcher) Remove(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f := w.byID[id]; f != nil {
		f()
		delete(w.byID, id)
	}
}

// Close ends every watch.
func (w *Watcher) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for id, f := range w.byID {
		f()
		delete(w.byID, id)
	}
	if w.ino != nil {
		w.ino.Close()
		w.ino = nil
	}
}

func (w *Watcher) read(ino *os.File) {
	buf := make([]byte, 4096)
	for {
		n, err := ino.Read(buf)
		if err != nil {
			return
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(b))
			size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
			if size > len(b) {
				break
			}
			b = b[size:]
			if id, ok := w.check(wd); ok {
				w.notify(id)
			}
		}
	}
}

// check says whether the watched cgroup has lost another process.
func (w *Watcher) check(wd int32) (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.v2[wd]
	if e == nil {
		return "", false
	}
	n, err := oomKills(e.file)
	if err != nil || n <= e.killed {
		return "", false
	}
	e.killed = n
	return e.id, true
}

// oomKills reads oom_kill of a memory.events file.
func oomKills(file string) (uint64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(data) {
		if v, ok := strings.CutPrefix(string(line), "oom_kill "); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: oom_kill: %w", file, err)
			}
			return n, nil
		}
	}
	return 0, nil
}
