package prepare

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
	"keelson/internal/mounts"
	"keelson/internal/safepath"
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
func (n binding) bind(paths *safepath.Resolver, pid int) error {
	if !filepath.IsAbs(n.path) {
		return fmt.Errorf("%q is not absolute: name a file for the bind mount, as in /run/netns/%s", n.path, n.field)
	}
	source := fmt.Sprintf("/proc/%d/ns/%s", pid, n.field)
	at, err := paths.Open(n.path, safepath.Options{Make: true, MakeFile: true})
	if err != nil {
		return fmt.Errorf("make the file to bind on: %w", mounts.ExplainMake(n.path, err))
	}
	defer at.Close()
	if sameNamespace(source, at.Proc()) {
		return nil
	}
	if at.IsDir() {
		return fmt.Errorf("%s is a folder: name a file", n.path)
	}
	target, err := n.clear(at)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	onto := safepath.Proc(target)
	if n.field == "mnt" {
		carrier, err := n.carry(target)
		if err != nil {
			return err
		}
		defer unix.Close(carrier)
		onto = safepath.Proc(carrier)
	}
	if err := unix.Mount(source, onto, "", unix.MS_BIND, ""); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("bind %s on %s: %w: the container has ended, or the kernel has no %s namespaces", source, n.path, err, n.field)
		}
		if errors.Is(err, unix.EINVAL) && n.field == "mnt" {
			if err := n.unmount(at); err != nil {
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

// clear takes off the file what is bound to it, and returns a descriptor of the file
// below: it, and not what has its name by then, is what is bound on.
func (n binding) clear(at *safepath.Place) (int, error) {
	if err := n.unmount(at); err != nil {
		return -1, err
	}
	fd, err := unix.Openat(at.Dir, at.Name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", n.path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("%s is no file: remove it, or name another", n.path)
	}
	return fd, nil
}

// carry puts a private mount of the file on it, and returns that. The kernel refuses to
// propagate a mount of a mount namespace, into that very namespace above all.
func (n binding) carry(target int) (int, error) {
	carrier, err := mounts.Clone(target, false)
	if err != nil {
		return -1, fmt.Errorf("bind %s on itself: %w", n.path, err)
	}
	err = unix.MoveMount(carrier, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err == nil {
		err = unix.Mount("", safepath.Proc(carrier), "", unix.MS_PRIVATE, "")
	}
	if err != nil {
		_ = unix.Close(carrier)
		return -1, fmt.Errorf("bind %s on itself: %w", n.path, err)
	}
	return carrier, nil
}

// unbind lets the namespace go and removes the file that stood for it.
func (n binding) unbind(paths *safepath.Resolver) error {
	if !filepath.IsAbs(n.path) {
		return nil
	}
	at, err := paths.Open(n.path, safepath.Options{})
	if err != nil {
		if link, ok := errors.AsType[*safepath.LinkError](err); ok {
			return link
		}
		return nil
	}
	defer at.Close()
	if !at.Exists() || at.Dir < 0 || !isNamespace(at.Proc()) {
		return nil
	}
	if err := n.unmount(at); err != nil {
		return err
	}
	var st unix.Stat_t
	if unix.Fstatat(at.Dir, at.Name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0 {
		_ = unix.Unlinkat(at.Dir, at.Name, 0) // still a bind mount elsewhere, a read-only folder: the empty file does no harm
	}
	return nil
}

// unmount takes every namespace off the file, and the private mount below a
// mount namespace.
func (n binding) unmount(at *safepath.Place) error {
	name := at.ProcName()
	for isNamespace(name) {
		if err := unix.Unmount(name, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", n.path, err)
		}
	}
	if n.field == "mnt" {
		if err := unix.Unmount(name, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
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
