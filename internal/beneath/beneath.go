// Package beneath owns file operations with the machine's rights in directories that a
// container, or a disk that one wrote, can change.
//
//   - The way to a directory follows no symbolic link but the machine's own: those of a
//     Links table that lead where the table says, and those of the image, on a root that
//     nobody can write.
//   - A file is opened only where it is a regular file, belongs to us and has one name. It
//     is looked at by a descriptor that cannot do anything, so that no FIFO waits, no device
//     is touched and nothing can be put in its place between the look and the opening.
//   - Everything else takes one name in a directory that is open, and works on what has the
//     name, never on what it leads to.
//   - Refused says what is in the way; other errors are *fs.PathError. Both name the path.
//   - It must never open by a path that the kernel resolves by itself, nor wait.
//
// It needs openat2(2) only to be quick: a kernel before 5.6 walks one name after the other.
package beneath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// most is how often something is tried again that changes while it is done.
const most = 100

// Dir is a directory that is open. It stays the same one whatever becomes of its path.
type Dir struct {
	fd   int
	path string
}

// Open opens a directory by its absolute path, which may have the machine's own links.
func Open(path string) (*Dir, error) { return Machine.Open(path) }

// Make is Open, and makes the directory and those above it that are missing.
func Make(path string, perm fs.FileMode) (*Dir, error) { return Machine.Make(path, perm) }

// At makes a Dir of a descriptor, which it owns from then on, and the path to name it by.
func At(fd int, path string) *Dir { return &Dir{fd, path} }

// FD returns the descriptor, an O_PATH one. The directory still owns it.
func (d *Dir) FD() int { return d.fd }

// Path returns the path by which it was opened.
func (d *Dir) Path() string { return d.path }

// Close closes the directory; nil is none.
func (d *Dir) Close() error {
	if d == nil {
		return nil
	}
	return unix.Close(d.fd)
}

// OpenFile opens a file as os.OpenFile does, if it is a regular one that belongs to us and
// has one name. Flags are an access mode, and O_CREATE, O_EXCL, O_TRUNC and O_APPEND.
func (d *Dir) OpenFile(name string, flags int, perm fs.FileMode) (*os.File, error) {
	if err := d.single("open", name); err != nil {
		return nil, err
	}
	create := flags & os.O_CREATE
	plain := flags &^ (os.O_CREATE | os.O_EXCL | os.O_TRUNC)
	for range most {
		if create == 0 || flags&os.O_EXCL == 0 {
			f, err := d.reopen(name, plain)
			if err == nil && flags&os.O_TRUNC != 0 {
				if err = f.Truncate(0); err != nil {
					_ = f.Close()
					return nil, err
				}
			}
			if create == 0 || !errors.Is(err, unix.ENOENT) {
				return f, err
			}
		}
		fd, err := retry(func() (int, error) {
			return unix.Openat(d.fd, name, plain|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(perm.Perm()))
		})
		if err == nil {
			return os.NewFile(uintptr(fd), d.join(name)), nil
		}
		if flags&os.O_EXCL != 0 || !errors.Is(err, unix.EEXIST) {
			return nil, d.error("open", name, err)
		}
	}
	return nil, d.error("open", name, unix.EAGAIN)
}

// reopen opens a file that is there.
func (d *Dir) reopen(name string, flags int) (*os.File, error) {
	look, err := retry(func() (int, error) { return unix.Openat(d.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, d.error("open", name, err)
	}
	defer unix.Close(look)
	var st unix.Stat_t
	if err := unix.Fstat(look, &st); err != nil {
		return nil, d.error("stat", name, err)
	}
	if st.Nlink == 0 { // it went meanwhile
		return nil, d.error("open", name, unix.ENOENT)
	}
	if err := d.allow(name, look, &st); err != nil {
		return nil, err
	}
	// Without O_NONBLOCK it would wait for somebody who holds a lease on the file.
	fd, err := retry(func() (int, error) {
		return unix.Open(ofDescriptor(look), flags|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	})
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&unix.O_APPEND)
	}
	if errors.Is(err, unix.EAGAIN) {
		err = fmt.Errorf("somebody holds a lease on it: %w", err)
	}
	if err != nil {
		return nil, d.error("open", name, err)
	}
	return os.NewFile(uintptr(fd), d.join(name)), nil
}

// ofDescriptor is a path that leads to what a descriptor is of, and nowhere else.
func ofDescriptor(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// allow refuses what is no file of ours alone.
func (d *Dir) allow(name string, fd int, st *unix.Stat_t) error {
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return &Refused{Path: d.join(name), Reason: Link, target: readlink(fd, "")}
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return &Refused{Path: d.join(name), Reason: Kind, mode: st.Mode}
	case st.Uid != uint32(os.Geteuid()):
		return &Refused{Path: d.join(name), Reason: Owner, uid: st.Uid}
	case st.Nlink > 1:
		return &Refused{Path: d.join(name), Reason: Names, names: uint64(st.Nlink)}
	}
	return nil
}

// OpenPath opens what has a path below the directory, of whatever kind but a symbolic
// link, so that nothing can be done with it but to look, to go on from there or to mount.
func (d *Dir) OpenPath(path string) (*os.File, error) {
	fd, err := d.below(path, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), d.join(path)), nil
}

// Sub opens a directory below this one.
func (d *Dir) Sub(path string) (*Dir, error) {
	fd, err := d.below(path, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return &Dir{fd, d.join(path)}, nil
}

// below opens what has a path below the directory, whose names are no links.
func (d *Dir) below(path string, flags int) (int, error) {
	if !filepath.IsLocal(path) || path == "." {
		return -1, &fs.PathError{Op: "open", Path: d.join(path), Err: errors.New("it does not lead below " + d.path)}
	}
	path = filepath.Clean(path)
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_NOFOLLOW | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := retry(func() (int, error) { return unix.Openat2(d.fd, path, &how) })
	if err == nil {
		if err = notLink(fd, d.join(path)); err != nil {
			_ = unix.Close(fd)
			return -1, err
		}
		return fd, nil
	}
	if errors.Is(err, unix.ENOENT) {
		return -1, d.error("open", path, err)
	}
	fd, link, err := walk(d.fd, d.path, path, flags)
	if link != nil {
		_ = unix.Close(link.fd)
	}
	return fd, err
}

// Stat returns what lstat(2) does.
func (d *Dir) Stat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	if err := d.single("stat", name); err != nil {
		return st, err
	}
	return st, d.error("stat", name, unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW))
}

// Statfs returns what is known of the file system that the directory is on.
func (d *Dir) Statfs() (unix.Statfs_t, error) {
	var st unix.Statfs_t
	return st, d.error("statfs", "", unix.Fstatfs(d.fd, &st))
}

// Rename gives a name's file another name in the directory, which it replaces.
func (d *Dir) Rename(from, to string) error { return d.Move(from, d, to, 0) }

// Move gives a name's file a name in another directory. Flags are those of renameat2(2), as
// unix.RENAME_NOREPLACE.
func (d *Dir) Move(from string, to *Dir, name string, flags uint) error {
	if err := errors.Join(d.single("rename", from), to.single("rename", name)); err != nil {
		return err
	}
	if err := unix.Renameat2(d.fd, from, to.fd, name, flags); err != nil {
		return &os.LinkError{Op: "rename", Old: d.join(from), New: to.join(name), Err: err}
	}
	return nil
}

// Remove removes a name, or a directory that is empty.
func (d *Dir) Remove(name string) error {
	if err := d.single("remove", name); err != nil {
		return err
	}
	err := unix.Unlinkat(d.fd, name, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR)
	}
	return d.error("remove", name, err)
}

// Mkdir makes a directory.
func (d *Dir) Mkdir(name string, perm fs.FileMode) error {
	if err := d.single("mkdir", name); err != nil {
		return err
	}
	return d.error("mkdir", name, unix.Mkdirat(d.fd, name, uint32(perm.Perm())))
}

// Symlink makes a symbolic link.
func (d *Dir) Symlink(target, name string) error {
	if err := d.single("symlink", name); err != nil {
		return err
	}
	return d.error("symlink", name, unix.Symlinkat(target, d.fd, name))
}

// Readlink returns where a symbolic link leads.
func (d *Dir) Readlink(name string) (string, error) {
	if err := d.single("readlink", name); err != nil {
		return "", err
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(d.fd, name, buf)
	if err != nil {
		return "", d.error("readlink", name, err)
	}
	return string(buf[:n]), nil
}

// List returns the names in the directory in their order, at most so many.
func (d *Dir) List(most int) ([]string, error) {
	fd, err := retry(func() (int, error) { return unix.Openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, d.error("list", "", err)
	}
	f := os.NewFile(uintptr(fd), d.path)
	defer f.Close()
	var names []string
	for len(names) < most {
		some, err := f.Readdirnames(most - len(names))
		names = append(names, some...)
		if err != nil || len(some) == 0 {
			break
		}
	}
	slices.Sort(names)
	return names, nil
}

// single refuses what is not one name.
func (d *Dir) single(op, name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsRune(name, '/') {
		return &fs.PathError{Op: op, Path: d.join(name), Err: fmt.Errorf("%q is no name in a directory", name)}
	}
	return nil
}

func (d *Dir) join(name string) string { return filepath.Join(d.path, name) }

func (d *Dir) error(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: d.join(name), Err: err}
}

// retry does what the kernel broke off.
func retry(do func() (int, error)) (n int, err error) {
	for range most {
		n, err = do()
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return n, err
}
