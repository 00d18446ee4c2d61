// Package handover makes the initramfs a root like any other without copying it.
//
// The kernel's first mount has no parent, so pivot_root(2) inside containers
// refuses it. Binding it onto one of its own folders and moving that mount over
// "/" gives it a parent: the same files, in the same memory, no copy. A root
// that is a disk has a parent already and is left where it is.
//
// It promises that the root holds nothing afterwards that it did not hold
// before, and that a failure leaves the old root in place and usable.
package handover

import (
	"fmt"

	"golang.org/x/sys/unix"

	"keelson/init/kernel"
)

// Root says what "/" is.
type Root struct {
	// InMemory: it is the initramfs, unpacked by the kernel.
	InMemory bool
	// Type is ramfs, tmpfs or "disk".
	Type string
}

// Look says what "/" is.
func Look(k kernel.Calls) (Root, error) {
	st, err := k.Statfs("/")
	if err != nil {
		return Root{Type: "unknown"}, fmt.Errorf("look at the root: %w", err)
	}
	switch st.Magic {
	case unix.RAMFS_MAGIC:
		return Root{true, "ramfs"}, nil
	case unix.TMPFS_MAGIC:
		return Root{true, "tmpfs"}, nil
	}
	return Root{false, "disk"}, nil
}

// bindPoints are folders any root has; one of them carries the mount for a moment.
var bindPoints = []string{"/run", "/proc", "/sys", "/dev", "/tmp", "/var", "/mnt"}

// made is the folder used where the root has none of them.
const made = "/newroot"

// Do hands the root over.
func Do(k kernel.Calls) error {
	point := ""
	for _, p := range bindPoints {
		if k.IsDir(p) {
			point = p
			break
		}
	}
	if point == "" {
		if err := k.Mkdir(made, 0o755); err != nil {
			return fmt.Errorf("hand over the root: make %s: %w", made, err)
		}
		defer func() { _ = k.Rmdir(made) }()
		point = made
	}
	if err := k.Mount("/", point, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("hand over the root: bind / to %s: %w", point, err)
	}
	if err := k.Chdir(point); err != nil {
		_ = k.Unmount(point, unix.MNT_DETACH)
		return fmt.Errorf("hand over the root: chdir %s: %w", point, err)
	}
	if err := k.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		_ = k.Chdir("/")
		_ = k.Unmount(point, unix.MNT_DETACH)
		return fmt.Errorf("hand over the root: move it: %w", err)
	}
	if err := k.Chroot("."); err != nil {
		// The old root below still shows the same files.
		_ = k.Chdir("/")
		return fmt.Errorf("hand over the root: chroot: %w", err)
	}
	return nil
}

// Seal makes the root read-only and its mounts shared with the containers that
// ask for it. In memory only the mount is made read-only, and a disk's whole
// file system, so that nothing is half written when power goes.
func Seal(k kernel.Calls, r Root) []error {
	var failed []error
	flags := uintptr(unix.MS_REMOUNT | unix.MS_RDONLY)
	if r.InMemory {
		flags |= unix.MS_BIND
	}
	if err := k.Mount("", "/", "", flags, ""); err != nil {
		failed = append(failed, fmt.Errorf("remount the root read-only: %w", err))
	}
	if err := k.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		failed = append(failed, fmt.Errorf("make the root's mounts shared: %w", err))
	}
	return failed
}
