package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// explain turns mount(2)'s errno into what it means for this entry. The errno
// stays in the chain.
func (e Entry) explain(err error, o Options) error {
	return fmt.Errorf("mount %s: %w%s", e, err, e.hint(err, o))
}

func (e Entry) hint(err error, o Options) string {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return ""
	}
	switch errno {
	case unix.ENODEV:
		return fmt.Sprintf(": the kernel has no %s file system (modules tried: %s)", e.Type, e.Type)
	case unix.ENOENT:
		if o.Flags&unix.MS_REMOUNT == 0 && (e.isBind(o) || filepath.IsAbs(e.Source)) {
			if _, serr := os.Stat(e.Source); errors.Is(serr, os.ErrNotExist) {
				return fmt.Sprintf(": source %s does not exist", e.Source)
			}
		}
		if dir := missingFolder(o.Data); dir != "" {
			return fmt.Sprintf(": %s does not exist", dir)
		}
	case unix.ENOTBLK:
		return fmt.Sprintf(": source %s is not a block device", e.Source)
	case unix.ENXIO, unix.ENOMEDIUM:
		return fmt.Sprintf(": no device behind %s", e.Source)
	case unix.ENOTDIR:
		return ": one of source and destination is a folder and the other a file"
	case unix.EROFS, unix.EACCES:
		return fmt.Sprintf(`: %s cannot be written: put "ro" into options, or remove the write protection`, e.Source)
	case unix.EBUSY:
		if o.Flags&unix.MS_REMOUNT != 0 {
			return ": a file on it is open for writing"
		}
		return fmt.Sprintf(": %s is in use or mounted already", e.Source)
	case unix.EINVAL:
		if o.Flags&unix.MS_REMOUNT != 0 {
			if root, known := isMountRoot(e.Target); known && !root {
				return fmt.Sprintf(": nothing is mounted on %s", e.Target)
			}
		}
		if dir := missingFolder(o.Data); dir != "" {
			return fmt.Sprintf(": %s does not exist", dir)
		}
		if o.Data != "" {
			return fmt.Sprintf(": the kernel refused one of the options %q, or the source does not hold a %s file system; its log says which", o.Data, e.Type)
		}
		if e.Type != "" && filepath.IsAbs(e.Source) && !e.isBind(o) {
			return fmt.Sprintf(": %s holds no %s file system", e.Source, e.Type)
		}
	case unix.EPERM:
		return ": not permitted: it takes CAP_SYS_ADMIN"
	case unix.ENOSPC, unix.ENOMEM:
		return Full(e.Target)
	}
	return ""
}

// missingFolder finds the folder named in overlay's options that is not there:
// the kernel says only that something is missing.
func missingFolder(data string) string {
	for _, word := range Words(data) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "lowerdir", "upperdir", "workdir":
		default:
			continue
		}
		for _, dir := range strings.Split(value, ":") {
			if _, err := os.Stat(dir); dir != "" && errors.Is(err, os.ErrNotExist) {
				return fmt.Sprintf("%s %s", key, dir)
			}
		}
	}
	return ""
}

// Full words a full file system for the end of an error message about path:
// ": the tmpfs on /run is full (12.6 MiB)". It is empty when path's file system
// has room.
func Full(path string) string {
	for ; ; path = filepath.Dir(path) {
		if _, err := os.Lstat(path); err == nil || path == "/" || path == "." {
			break
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return ""
	}
	what := fmt.Sprintf("the file system of %s", path)
	if in, err := mountinfo.GetMounts(mountinfo.ParentsFilter(path)); err == nil && len(in) > 0 {
		longest := in[0]
		for _, m := range in {
			if len(m.Mountpoint) >= len(longest.Mountpoint) {
				longest = m
			}
		}
		what = fmt.Sprintf("the %s on %s", longest.FSType, longest.Mountpoint)
	}
	switch {
	case fs.Blocks > 0 && fs.Bavail == 0:
		return fmt.Sprintf(": %s is full (%.1f MiB)", what, float64(fs.Blocks)*float64(fs.Bsize)/(1<<20))
	case fs.Files > 0 && fs.Ffree == 0:
		return fmt.Sprintf(": %s has no inodes left (%d)", what, fs.Files)
	}
	return ""
}

// MkdirAll is os.MkdirAll with mode 0755 and an error that says which file
// system is full or read-only when that is why.
func MkdirAll(dir string) error {
	return ExplainMake(dir, os.MkdirAll(dir, 0o755))
}

// ExplainMake adds to the error of making a directory or a file what is behind it.
func ExplainMake(dir string, err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%w%s", err, Full(dir))
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: mount something writable there first, or have the folder in the image", err)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: a file is where a folder should be", err)
	}
	return err
}
