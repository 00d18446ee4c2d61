// Package workshop owns the mount namespace in which containers are made.
//
// Each container begins with a copy of the mount namespace that it is made in, and each
// mount or unmount there is repeated in all of them: with the roots of a thousand
// containers in the machine's namespace every start would be dearer than the one before.
// So containerd, the shims and who prepares containers are in a namespace of their own, the
// workshop. What is mounted in the machine's namespace is mounted in the workshop too, and
// the other way round, but for a few directories (below which roots are mounted), where
// what is mounted in the workshop is seen only there. A root is unmounted there as soon as
// its container has it.
//
// It promises that
//   - the workshop lasts as long as the machine does: a restarted supervisor finds it;
//   - without one (a machine that is a container, a PID 1 that keeps no files) everything
//     is done in the machine's namespace, and works.
//
// It must never leave a thread of the supervisor in the workshop that does something else.
package workshop

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"keelson/internal/hold"
	"keelson/internal/mounts"
)

// heldAs is the name under which PID 1 keeps the namespace.
const heldAs = "workshop"

// Workshop is the namespace. A nil one is the machine's own.
type Workshop struct{ ns *os.File }

// Open returns the workshop: the one that h holds, or the one that a process is in which an
// earlier supervisor started there (0 for none), or a new one. What is mounted there below the
// private directories is seen nowhere else.
func Open(h *hold.Hold, process int, private ...string) (*Workshop, error) {
	files, err := h.Files()
	if err != nil {
		return nil, fmt.Errorf("find the mount namespace of containers: %w", err)
	}
	var w *Workshop
	for _, f := range files {
		if f.Name == heldAs && w == nil {
			w = &Workshop{f.File}
			continue
		}
		_ = f.Close()
	}
	if w != nil || process != 0 {
		if w == nil {
			w, err = of(process)
		}
		return w, err
	}
	if w, err = build(private); err != nil {
		return nil, fmt.Errorf("make a mount namespace for containers: %w", err)
	}
	if err := h.Put(heldAs, int(w.ns.Fd())); err != nil {
		_ = w.ns.Close()
		return nil, err
	}
	return w, nil
}

// of returns the namespace that a process is in, nil if it is the machine's.
func of(process int) (*Workshop, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", process))
	if err != nil {
		return nil, err
	}
	own, err := os.Stat("/proc/self/ns/mnt")
	if err != nil {
		_ = ns.Close()
		return nil, err
	}
	if its, err := ns.Stat(); err != nil || os.SameFile(own, its) {
		_ = ns.Close()
		return nil, err
	}
	return &Workshop{ns}, nil
}

// build makes a workshop.
func build(private []string) (*Workshop, error) {
	root, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != "/", false })
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(root, func(m *mountinfo.Info) bool { return strings.HasPrefix(m.Optional, "shared:") }) {
		return nil, errors.New("the machine's root does not share its mounts")
	}
	for _, dir := range private {
		if err := isolate(dir); err != nil {
			return nil, err
		}
	}
	var w *Workshop
	err = aside(func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		ns, err := os.Open("/proc/thread-self/ns/mnt")
		w = &Workshop{ns}
		return err
	})
	return w, err
}

// isolate makes a directory a mount of its own that shares nothing.
func isolate(dir string) error {
	if err := mounts.MkdirAll(dir); err != nil {
		return err
	}
	if mounted, err := mountinfo.Mounted(dir); err != nil || mounted {
		return err // it has been done
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s on itself: %w", dir, err)
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mount on %s private: %w", dir, err)
	}
	return nil
}

// Do calls f in the workshop.
func (w *Workshop) Do(f func() error) error {
	if w == nil {
		return f()
	}
	return aside(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := unix.Setns(int(w.ns.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter the mount namespace of containers: %w", err)
		}
		return f()
	})
}

// aside calls f in a thread that is ended afterwards. That is never the process's first
// one, which cannot end, and by which /proc shows where the process is.
func aside(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			result <- aside(f) // in another one, as this is taken
			runtime.UnlockOSThread()
			return
		}
		result <- f()
	}()
	return <-result
}
