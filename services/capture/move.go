package capture

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"keelson/internal/beneath"
)

const (
	// mostFiles is how many files of a directory are moved.
	mostFiles = 4096
	// mostMoved is how large a file is that is moved, at most: ours are far smaller, and a
	// hole of any size can be somebody's.
	mostMoved = 64 << 20
)

// MoveFolder moves a directory of log files to another path, if that is on a disk, and
// leaves a link to it behind, so that its files are found by either name and outlive
// the machine's run. Files of the same name there are appended to. It reports whether
// the files are on a disk now; what is no log file is left in a directory beside the link,
// which is an error as well. Nobody may write to them meanwhile.
func (y *System) MoveFolder(from, to string) (bool, error) {
	above, err := y.cfg.Links.Open(filepath.Dir(to))
	if err != nil {
		return false, nil
	}
	defer above.Close()
	if fs, err := above.Statfs(); err != nil || fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC {
		return false, nil
	}
	fail := func(err error) (bool, error) {
		return false, fmt.Errorf("move the logs in %s to a disk: %w", from, err)
	}
	beside, err := y.cfg.Links.Make(filepath.Dir(from), 0o755)
	if err != nil {
		return fail(err)
	}
	defer beside.Close()
	if is, err := beside.Readlink(filepath.Base(from)); err == nil && is == to {
		return true, nil
	}
	disk, err := logDir(above, filepath.Base(to))
	if err != nil {
		return fail(err)
	}
	defer disk.Close()
	left, err := moveFiles(beside, filepath.Base(from), disk)
	if err != nil {
		return fail(err)
	}
	if err := beside.Symlink(to, filepath.Base(from)); err != nil {
		return fail(err)
	}
	if left != "" {
		return true, fmt.Errorf("%s was not moved to a disk with the logs, as not all in it is a log file: it is %s now; see what is in it, and remove it",
			from, filepath.Join(filepath.Dir(from), left))
	}
	return true, nil
}

// logDir opens the directory on the disk, or makes it.
func logDir(above *beneath.Dir, name string) (*beneath.Dir, error) {
	if _, err := above.Readlink(name); err == nil { // the link of an earlier run
		if err := above.Remove(name); err != nil {
			return nil, err
		}
	}
	if err := above.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return above.Sub(name)
}

// moveFiles moves the files of a directory to another, and the directory away. It returns
// the new name of one that has something else left in it.
func moveFiles(beside *beneath.Dir, name string, disk *beneath.Dir) (left string, err error) {
	d, err := beside.Sub(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case beneath.IsRefused(err): // a link of somebody else's, or no directory
		return beside.PutAside(name)
	case err != nil:
		return "", err
	}
	defer d.Close()
	files, err := d.List(mostFiles)
	if err != nil {
		return "", err
	}
	var done []string
	for _, f := range files {
		// Copied whole before it is removed: a disk may be too small.
		switch moved, err := appendFile(d, disk, f); {
		case err != nil:
			return "", err
		case moved:
			done = append(done, f)
		}
	}
	for _, f := range done {
		if err := d.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	if beside.Remove(name) == nil {
		return "", nil
	}
	return beside.PutAside(name)
}

// appendFile appends a file to that of the same name in another directory, all of it or
// nothing. It reports whether it is a log file at all.
func appendFile(from, to *beneath.Dir, name string) (bool, error) {
	in, err := from.OpenFile(name, os.O_RDONLY, 0)
	if beneath.IsRefused(err) || errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer in.Close()
	if fi, err := in.Stat(); err != nil || fi.Size() > mostMoved {
		return false, err
	}
	out, err := to.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o644)
	if beneath.IsRefused(err) {
		if _, err := to.PutAside(name); err != nil {
			return false, err
		}
		out, err = to.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o644)
	}
	if err != nil {
		return false, err
	}
	defer out.Close()
	end, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	if _, err := io.CopyN(out, in, mostMoved); err != nil && !errors.Is(err, io.EOF) {
		_ = out.Truncate(end)
		return false, err
	}
	return true, nil
}
