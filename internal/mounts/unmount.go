package mounts

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Below returns the mount points at dir and below it, in the order of the
// kernel's table, one for each mount (two mounts on one folder are two).
func Below(dir string) ([]string, error) {
	dir = resolve(dir)
	infos, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return !within(m.Mountpoint, dir), false })
	if err != nil {
		return nil, fmt.Errorf("read mountinfo: %w", err)
	}
	points := make([]string, len(infos))
	for i, m := range infos {
		points[i] = m.Mountpoint
	}
	return points, nil
}

func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// resolve follows symbolic links: the kernel's table shows none.
func resolve(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return filepath.Clean(path)
}

// UnmountBelow unmounts everything at dir and below it, newest first, until
// nothing is left. What stays busy is detached: it goes for good when its last
// user ends, and is out of everybody else's way at once. Nothing mounted there is
// no error.
func UnmountBelow(dir string) error {
	var failed error
	// Each pass must make progress; the first one without detaches what is left.
	for how := 0; ; {
		points, err := Below(dir)
		if err != nil {
			return err
		}
		if len(points) == 0 {
			return nil
		}
		progress := false
		failed = nil
		for _, p := range slices.Backward(points) {
			err := unmount(p, how)
			switch {
			case err == nil:
				progress = true
			case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
				// went away together with another one
			default:
				failed = errors.Join(failed, fmt.Errorf("unmount %s: %w", p, err))
			}
		}
		if progress {
			continue
		}
		if how == unix.MNT_DETACH {
			return failed
		}
		how = unix.MNT_DETACH
	}
}

// unmount unmounts what the kernel's table has at a path. There are no links in it: one
// that is there by now was put there since, by a container in its root file system.
func unmount(path string, how int) error {
	dir, err := unix.Openat2(unix.AT_FDCWD, filepath.Dir(path), &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if errors.Is(err, unix.ENOSYS) || path == "/" { // before Linux 5.6
		return unix.Unmount(path, unix.UMOUNT_NOFOLLOW|how)
	}
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return unix.Unmount(filepath.Join(proc(dir), filepath.Base(path)), unix.UMOUNT_NOFOLLOW|how)
}

// Unmount undoes the entry where the newest mount on its target is that entry's.
// A mount that somebody uses is left alone: that is not an error, and the next
// Ensure finds it in place.
func (e Entry) Unmount() error {
	if e.OnlyChanges() {
		return nil
	}
	there, err := e.Mounted()
	if err != nil || !there {
		return err
	}
	err = unix.Unmount(resolve(e.Target), unix.UMOUNT_NOFOLLOW)
	if err == nil || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return fmt.Errorf("unmount %s: %w", e.Target, err)
}
