package prepare

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
)

// binding is one namespace kept by a bind mount on a file.
type binding struct {
	field string // in runtime.json, and in /proc/PID/ns
	path  string
}

// bindings lists what bindNS asks for. The mount namespace comes last: a bind
// made after it would be missing in the namespace a process enters through it.
func bindings(n bundle.BindNS) []binding {
	all := []binding{
		{"cgroup", n.Cgroup}, {"ipc", n.IPC}, {"net", n.Net}, {"pid", n.PID},
		{"user", n.User}, {"uts", n.UTS}, {"mnt", n.Mnt},
	}
	var asked []binding
	for _, b := range all {
		if b.path != "" {
			asked = append(asked, b)
		}
	}
	return asked
}

// bind keeps the namespace of pid at the file. An older namespace bound there is
// let go: it is the one of the container's last run.
func (n binding) bind(pid int) error {
	if !filepath.IsAbs(n.path) {
		return fmt.Errorf("%q is not absolute: name a file for the bind mount, as in /run/netns/%s", n.path, n.field)
	}
	source := fmt.Sprintf("/proc/%d/ns/%s", pid, n.field)
	if sameNamespace(source, n.path) {
		return nil
	}
	if err := n.unmount(); err != nil {
		return err
	}
	if info, err := os.Stat(n.path); err == nil && info.IsDir() {
		return fmt.Errorf("%s is a folder: name a file", n.path)
	}
	if err := makeFile(n.path); err != nil {
		return fmt.Errorf("make the file to bind on: %w", err)
	}
	if n.field == "mnt" {
		// The kernel refuses to propagate a mount of a mount namespace, into that
		// very namespace above all: the file gets a private mount to carry it.
		if err := unix.Mount(n.path, n.path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s on itself: %w", n.path, err)
		}
		if err := unix.Mount("", n.path, "", unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make the mount of %s private: %w", n.path, err)
		}
	}
	if err := unix.Mount(source, n.path, "", unix.MS_BIND, ""); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("bind %s on %s: %w: the container has ended, or the kernel has no %s namespaces", source, n.path, err, n.field)
		}
		if errors.Is(err, unix.EINVAL) && n.field == "mnt" {
			if err := n.unmount(); err != nil {
				return err
			}
			if !sameFile(source, "/proc/self/ns/mnt") {
				return fmt.Errorf("bind %s on %s: %w: the kernel takes it for a namespace older than the machine's (Linux 6.18 does so by mistake with several CPUs)", source, n.path, err)
			}
			return fmt.Errorf("bind %s on %s: %w: the container shares the machine's mount namespace; give it its own", source, n.path, err)
		}
		return fmt.Errorf("bind %s on %s: %w", source, n.path, err)
	}
	return nil
}

// unbind lets the namespace go and removes the file that stood for it.
func (n binding) unbind() error {
	if !filepath.IsAbs(n.path) || !isNamespace(n.path) {
		return nil
	}
	if err := n.unmount(); err != nil {
		return err
	}
	if info, err := os.Lstat(n.path); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
		_ = os.Remove(n.path) // still a bind mount elsewhere, a read-only folder: the empty file does no harm
	}
	return nil
}

// unmount takes every namespace off the file, and the private mount below a
// mount namespace.
func (n binding) unmount() error {
	for isNamespace(n.path) {
		if err := unix.Unmount(n.path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", n.path, err)
		}
	}
	if n.field == "mnt" {
		if err := unix.Unmount(n.path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", n.path, err)
		}
	}
	return nil
}

func isNamespace(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && int64(fs.Type) == unix.NSFS_MAGIC
}

func sameNamespace(a, b string) bool {
	return isNamespace(b) && sameFile(a, b)
}

func sameFile(a, b string) bool {
	sa, errA := os.Stat(a)
	sb, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(sa, sb)
}
