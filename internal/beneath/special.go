package beneath

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Socket opens a Unix socket by its absolute path. Address is what to connect or send to:
// it leads to that socket for as long as the file is open, whatever its path does.
func (l Links) Socket(path string) (f *os.File, address string, err error) {
	f, err = l.special(path, unix.S_IFSOCK)
	if err != nil {
		return nil, "", err
	}
	return f, ofDescriptor(int(f.Fd())), nil
}

// Writable opens what a path names for appending to it: a file as OpenFile does, which is made
// if it is not there, or a character device below /dev.
func (l Links) Writable(path string, perm fs.FileMode) (*os.File, error) {
	look, err := l.special(path, unix.S_IFCHR)
	if err != nil || !strings.HasPrefix(filepath.Clean(path), "/dev/") {
		if err == nil {
			_ = look.Close()
		}
		return l.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, perm)
	}
	defer look.Close()
	fd, err := retry(func() (int, error) {
		return unix.Open(ofDescriptor(int(look.Fd())), unix.O_WRONLY|unix.O_APPEND|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	})
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// special opens what has a path, if it is of a kind.
func (l Links) special(path string, want uint32) (*os.File, error) {
	f, err := l.OpenPath(path)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &st); err == nil && st.Mode&unix.S_IFMT != want {
		err = &Refused{Path: path, Reason: Kind, mode: st.Mode, want: want}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
