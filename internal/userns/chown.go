package userns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"keelson/internal/mounts"
)

// chownAll gives everything in a directory, and the directory, to the owner that a
// mapping has for it. It goes from descriptor to descriptor, and follows no links.
func chownAll(ctx context.Context, dir string, m *Mapping) error {
	if err := chownTree(ctx, unix.AT_FDCWD, dir, dir, m); err != nil {
		return fmt.Errorf("give the image's files to the container's users: %w%s", err, full(err, dir))
	}
	return nil
}

// chownTree does it to what has a name in an open directory. path is its own.
func chownTree(ctx context.Context, at int, name, path string, m *Mapping) error {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	dir := os.NewFile(uintptr(fd), path)
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if err := chown(fd, ".", path, &st, m); err != nil {
		return err
	}
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(path, e.Name())
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.IsDir() {
			if err := chownTree(ctx, fd, e.Name(), path, m); err != nil {
				return err
			}
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstatat(fd, e.Name(), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &os.PathError{Op: "lstat", Path: path, Err: err}
		}
		if err := chown(fd, e.Name(), path, &st, m); err != nil {
			return err
		}
	}
	return nil
}

func full(err error, dir string) string {
	if errors.Is(err, unix.ENOSPC) {
		return mounts.Full(filepath.Dir(dir))
	}
	return ""
}

// chown gives one file, which has a name in an open directory, to its new owner. What the
// kernel takes from a file that gets another owner is given back: the bits that make a
// program run as its owner, and its capabilities, which then count in that user's namespace.
func chown(dir int, name, path string, st *unix.Stat_t, m *Mapping) error {
	uid, gid := m.Owner(st.Uid, st.Gid)
	regular := st.Mode&unix.S_IFMT == unix.S_IFREG
	at := fmt.Sprintf("/proc/self/fd/%d/%s", dir, name)
	var caps []byte
	if regular {
		var err error
		if caps, err = capabilities(at, path); err != nil {
			return err
		}
	}
	if err := unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "lchown", Path: path, Err: err}
	}
	if regular && st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
		if err := chmod(dir, name, st); err != nil {
			return &os.PathError{Op: "chmod", Path: path, Err: err}
		}
	}
	if caps != nil {
		root, _ := m.Owner(0, 0)
		if err := unix.Lsetxattr(at, capsName, withRoot(caps, uint32(root)), 0); err != nil {
			return &os.PathError{Op: "setxattr " + capsName, Path: path, Err: err}
		}
	}
	return nil
}

// chmod gives a file its mode again. The system call would follow a link, so it gets the
// file itself.
func chmod(dir int, name string, st *unix.Stat_t) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		return err
	}
	if now.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("it was replaced by something that is no file")
	}
	return syscall.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), st.Mode&0o7777)
}

// The capabilities of a file, as capabilities(7) and the kernel's
// linux/capability.h have them: a word with the version and flags, two pairs of
// words with capabilities, and since version 3 the user that is root where they
// count.
const (
	capsName     = "security.capability"
	capsVersion  = 0xff000000
	capsVersion2 = 0x02000000
	capsVersion3 = 0x03000000
	capsSize2    = 20
	capsSize3    = 24
)

// capabilities returns those of a file, nil if it has none that count on the
// machine.
func capabilities(at, path string) ([]byte, error) {
	buf := make([]byte, capsSize3+1)
	n, err := unix.Lgetxattr(at, capsName, buf)
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
		return nil, nil
	case err != nil:
		return nil, &os.PathError{Op: "getxattr " + capsName, Path: path, Err: err}
	case n != capsSize2 || binary.LittleEndian.Uint32(buf)&capsVersion != capsVersion2:
		return nil, nil // of old, or for another namespace
	}
	return buf[:n], nil
}

// withRoot returns capabilities as those of a namespace whose root is that user.
func withRoot(caps []byte, root uint32) []byte {
	out := make([]byte, capsSize3)
	copy(out, caps)
	binary.LittleEndian.PutUint32(out, binary.LittleEndian.Uint32(caps)&^capsVersion|capsVersion3)
	binary.LittleEndian.PutUint32(out[capsSize2:], root)
	return out
}
