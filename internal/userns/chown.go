package userns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"keelson/internal/mounts"
)

// chownAll gives everything in a folder, and the folder, to the owner that a
// mapping has for it. It follows no links.
func chownAll(ctx context.Context, dir string, m *Mapping) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: path, Err: err}
		}
		return chown(path, &st, m)
	})
	if err != nil {
		return fmt.Errorf("give the image's files to the container's users: %w%s", err, full(err, dir))
	}
	return nil
}

func full(err error, dir string) string {
	if errors.Is(err, unix.ENOSPC) {
		return mounts.Full(filepath.Dir(dir))
	}
	return ""
}

// chown gives one file to its new owner. What the kernel takes from a file that
// gets another owner is given back: the bits that make a program run as its owner,
// and its capabilities, which then count in that user's namespace.
func chown(path string, st *unix.Stat_t, m *Mapping) error {
	uid, gid := m.Owner(st.Uid, st.Gid)
	regular := st.Mode&unix.S_IFMT == unix.S_IFREG
	var caps []byte
	if regular {
		var err error
		if caps, err = capabilities(path); err != nil {
			return err
		}
	}
	if err := unix.Lchown(path, uid, gid); err != nil {
		return &os.PathError{Op: "lchown", Path: path, Err: err}
	}
	if regular && st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
		if err := syscall.Chmod(path, st.Mode&0o7777); err != nil {
			return &os.PathError{Op: "chmod", Path: path, Err: err}
		}
	}
	if caps != nil {
		root, _ := m.Owner(0, 0)
		if err := unix.Lsetxattr(path, capsName, withRoot(caps, uint32(root)), 0); err != nil {
			return &os.PathError{Op: "setxattr " + capsName, Path: path, Err: err}
		}
	}
	return nil
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
func capabilities(path string) ([]byte, error) {
	buf := make([]byte, capsSize3+1)
	n, err := unix.Lgetxattr(path, capsName, buf)
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
