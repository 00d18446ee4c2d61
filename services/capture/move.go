package capture

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// MoveFolder moves a folder of log files to another path, if that is on a disk, and
// leaves a link to it behind, so that its files are found by either name and outlive
// the machine's run. Files of the same name there are appended to. It reports whether
// the files are on a disk now. Nobody may write to them meanwhile.
func MoveFolder(from, to string) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(to), &fs); err != nil || fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC {
		return false, nil
	}
	if is, err := os.Readlink(from); err == nil && is == to {
		return true, nil
	}
	fail := func(err error) (bool, error) {
		return false, fmt.Errorf("move the logs in %s to a disk: %w", from, err)
	}
	if _, err := os.Readlink(to); err == nil { // the link of an earlier run
		if err := os.Remove(to); err != nil {
			return fail(err)
		}
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fail(err)
	}
	files, err := os.ReadDir(from)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail(err)
	}
	for _, f := range files {
		if !f.Type().IsRegular() {
			continue
		}
		// Copied whole before it is removed: a disk may be too small.
		if err := appendFile(filepath.Join(from, f.Name()), filepath.Join(to, f.Name())); err != nil {
			return fail(err)
		}
	}
	if err := os.RemoveAll(from); err != nil {
		return fail(err)
	}
	if err := os.Symlink(to, from); err != nil {
		return fail(err)
	}
	return true, nil
}

// appendFile appends a file to another, all of it or nothing.
func appendFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	end, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Truncate(end)
		return err
	}
	return nil
}
