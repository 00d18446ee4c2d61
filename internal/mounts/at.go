package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Private makes dir, with a tmpfs on it that no mount namespace shares: what is
// mounted below it for a moment is seen nowhere else, and fills nothing.
func Private(dir string) error {
	private.Lock()
	defer private.Unlock()
	if root, known := isMountRoot(dir); known && root {
		return nil
	}
	if err := MkdirAll(dir); err != nil {
		return err
	}
	_, err := Entry{Source: "keelson", Target: dir, Type: "tmpfs", Options: []string{"nosuid,nodev,noexec,mode=0700,size=256k", "private"}}.Ensure()
	return err
}

var private sync.Mutex // two at once would mount one over the other

// At is an entry whose target, and source where it is a file, are open: what
// happens to their names changes nothing.
type At struct {
	Entry        // with paths for messages
	TargetFD int // O_PATH, of the topmost mount there
	SourceFD int // O_PATH; -1 where the source is no file
	// Stage is a directory on a Private mount, to make a file system on before it
	// is moved to its target.
	Stage string
}

// Ensure makes the mount unless the same is mounted on the target already, and
// reports whether it made one.
func (a At) Ensure() (bool, error) {
	o := Parse(a.Options)
	if a.OnlyChanges() {
		target := a.Entry
		target.Target = proc(a.TargetFD)
		return false, target.mount()
	}
	there, err := a.Mounted()
	if err != nil || there {
		return false, err
	}
	tree, err := a.tree(o)
	if errors.Is(err, errNoSource) {
		return false, nil
	}
	if err != nil {
		return false, a.explain(err, o)
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", a.TargetFD, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return false, a.explain(err, o)
	}
	made := proc(tree)
	if extra := o.Flags & bindFlags; extra != 0 && a.isBind(o) {
		if err := unix.Mount("", made, "", unix.MS_BIND|unix.MS_REMOUNT|extra, ""); err != nil {
			_ = unix.Unmount(made, unix.MNT_DETACH)
			return false, a.explain(err, o)
		}
	}
	for _, p := range o.Propagation {
		if err := unix.Mount("", made, "", p, ""); err != nil {
			_ = unix.Unmount(made, unix.MNT_DETACH)
			return false, a.explain(err, o)
		}
	}
	return true, nil
}

// tree opens what is to be mounted, as a mount that is nowhere yet.
func (a At) tree(o Options) (int, error) {
	if a.isBind(o) {
		return Clone(a.SourceFD, o.Flags&unix.MS_REC != 0)
	}
	source := a.Source
	if a.SourceFD >= 0 {
		source = proc(a.SourceFD)
	}
	if source == "" {
		source = "none"
	}
	// The target cannot be named for the propagation of what is mounted on it, as its
	// name is not ours: so it is made where nobody else comes.
	stage, err := os.MkdirTemp(a.Stage, "stage")
	if err != nil {
		return -1, err
	}
	defer os.Remove(stage)
	if err := unix.Mount(source, stage, a.Type, o.Flags, o.Data); err != nil {
		if o.NoFail && sourceMissing(err) {
			return -1, errNoSource
		}
		return -1, err
	}
	defer func() { _ = unix.Unmount(stage, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) }()
	return unix.OpenTree(unix.AT_FDCWD, stage, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
}

// Clone returns a mount of what fd has open, with all that is mounted below it if
// that is asked for. It goes when the descriptor is closed before it is attached.
func Clone(fd int, recursive bool) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return unix.OpenTree(fd, "", flags)
}

// Mounted reports whether a mount like this one is what the target is the root of.
func (a At) Mounted() (bool, error) {
	var at unix.Statx_t
	if err := unix.Statx(a.TargetFD, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &at); err != nil {
		return false, fmt.Errorf("look at %s: %w", a.Target, err)
	}
	if at.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false, nil
	}
	if a.SourceFD >= 0 {
		var st unix.Stat_t
		if err := unix.Fstat(a.SourceFD, &st); err != nil {
			return false, fmt.Errorf("look at %s: %w", a.Source, err)
		}
		dev := unix.Mkdev(at.Dev_major, at.Dev_minor)
		if !a.IsBind() {
			return dev == st.Rdev, nil
		}
		return dev == st.Dev && at.Ino == st.Ino, nil
	}
	here, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return uint64(m.ID) != at.Mnt_id, false })
	if err != nil {
		return false, fmt.Errorf("read mountinfo: %w", err)
	}
	return slices.ContainsFunc(here, a.describes), nil
}

// Detach unmounts the tree at a path that only we use, and keeps that from the
// mounts it was cloned from, which it shares its propagation with.
func Detach(path string) error {
	if err := unix.Mount("", path, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil // nothing is mounted there
		}
		return fmt.Errorf("make the mount on %s private: %w", path, err)
	}
	if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}

// UnmountIn unmounts what is mounted on a name in an open directory. A mount that
// somebody uses is left alone.
func UnmountIn(dir int, name string) error {
	err := unix.Unmount(filepath.Join(proc(dir), name), unix.UMOUNT_NOFOLLOW)
	if err == nil || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

func proc(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
