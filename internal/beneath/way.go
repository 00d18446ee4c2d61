package beneath

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Links are symbolic links that the machine makes: one of this path may be followed if it
// leads to this target. Somebody who puts another in its place gains nothing.
type Links map[string]string

// Machine has the links that PID 1 makes.
var Machine = Links{"/var/run": "/run"}

// mostLinks is how many links a way may have, as for the kernel.
const mostLinks = 40

// Open opens a directory by its absolute path.
func (l Links) Open(path string) (*Dir, error) {
	fd, err := l.open(path, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return &Dir{fd, filepath.Clean(path)}, nil
}

// OpenPath opens what has an absolute path, of whatever kind but a symbolic link, as
// Dir.OpenPath does.
func (l Links) OpenPath(path string) (*os.File, error) {
	fd, err := l.open(path, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Clean(path)), nil
}

// OpenFile is Dir.OpenFile for an absolute path.
func (l Links) OpenFile(path string, flags int, perm fs.FileMode) (*os.File, error) {
	d, err := l.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.OpenFile(filepath.Base(path), flags, perm)
}

// Make is Open, and makes the directory and those above it that are missing.
func (l Links) Make(path string, perm fs.FileMode) (*Dir, error) {
	path = filepath.Clean(path)
	d, err := l.Open(path)
	if !errors.Is(err, fs.ErrNotExist) || path == "/" {
		return d, err
	}
	above, err := l.Make(filepath.Dir(path), perm)
	if err != nil {
		return nil, err
	}
	defer above.Close()
	if err := above.Mkdir(filepath.Base(path), perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return l.Open(path)
}

// open opens what has a path.
func (l Links) open(path string, flags int) (int, error) {
	if !filepath.IsAbs(path) {
		return -1, &fs.PathError{Op: "open", Path: path, Err: errors.New("it is no absolute path")}
	}
	path = filepath.Clean(path)
	how := unix.OpenHow{Flags: uint64(flags | unix.O_NOFOLLOW | unix.O_CLOEXEC), Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := retry(func() (int, error) { return unix.Openat2(unix.AT_FDCWD, path, &how) })
	if err == nil && (flags&unix.O_DIRECTORY != 0 || notLink(fd, path) == nil) {
		return fd, nil
	}
	if err == nil {
		_ = unix.Close(fd)
	} else if errors.Is(err, unix.ENOENT) { // and not because of a link
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	root, err := retry(func() (int, error) { return unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: "/", Err: err}
	}
	defer unix.Close(root)
	for range mostLinks {
		fd, link, err := walk(root, "/", path[1:], flags)
		if link == nil {
			return fd, err
		}
		own := l[link.path] == link.target || link.sealed(root)
		_ = unix.Close(link.fd)
		if !own {
			return -1, err
		}
		// What is before it has no links: ".." is what it looks like.
		to := link.target
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(link.path), to)
		}
		path = filepath.Join("/", to, link.rest)
	}
	return -1, &fs.PathError{Op: "open", Path: path, Err: unix.ELOOP}
}

// found is a link that a way leads over.
type found struct {
	fd     int
	path   string // its own
	target string
	rest   string // of the way
}

// sealed reports whether a link is on the machine's root, which cannot be written: it is
// the image's own.
func (l *found) sealed(root int) bool {
	var top, own unix.Stat_t
	var at unix.Statfs_t
	return unix.Fstat(root, &top) == nil && unix.Fstat(l.fd, &own) == nil && own.Dev == top.Dev &&
		unix.Fstatfs(l.fd, &at) == nil && at.Flags&unix.ST_RDONLY != 0
}

// walk opens what has a path below a directory, one name after the other. A link is an
// error, and returned with it; the caller closes it.
func walk(from int, at, path string, flags int) (int, *found, error) {
	fd, err := unix.FcntlInt(uintptr(from), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, nil, &fs.PathError{Op: "open", Path: at, Err: err}
	}
	for path != "" {
		name, rest, _ := strings.Cut(path, "/")
		here := filepath.Join(at, name)
		how := unix.O_PATH
		if rest == "" {
			how = flags &^ unix.O_DIRECTORY
		}
		next, err := retry(func() (int, error) { return unix.Openat(fd, name, how|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) })
		_ = unix.Close(fd)
		if err != nil {
			return -1, nil, &fs.PathError{Op: "open", Path: here, Err: err}
		}
		var st unix.Stat_t
		if err := unix.Fstat(next, &st); err != nil {
			_ = unix.Close(next)
			return -1, nil, &fs.PathError{Op: "stat", Path: here, Err: err}
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			link := &found{fd: next, path: here, target: readlink(next, ""), rest: rest}
			return -1, link, &Refused{Path: here, Reason: Link, target: link.target}
		}
		if (rest != "" || flags&unix.O_DIRECTORY != 0) && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			_ = unix.Close(next)
			return -1, nil, &Refused{Path: here, Reason: Kind, mode: st.Mode, want: unix.S_IFDIR}
		}
		fd, at, path = next, here, rest
	}
	return fd, nil, nil
}

// notLink refuses a descriptor of a link.
func notLink(fd int, path string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return &Refused{Path: path, Reason: Link, target: readlink(fd, "")}
	}
	return nil
}

func readlink(fd int, name string) string {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, name, buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}
