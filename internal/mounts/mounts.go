// Package mounts makes and undoes file system mounts described the way an
// fstab line or an OCI mount describes them.
//
// It owns the translation from option words to mount(2) calls, the question
// "is this already mounted so", and unmounting a tree newest first. It promises
// that Ensure called twice mounts once, that one entry becomes as many system
// calls as the kernel needs (a bind that is read-only takes two, a propagation
// word always its own), and that an error says in plain words what the kernel
// meant. It must never remove a file, and never unmount anything it was not
// asked to.
package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Entry is one mount to make. Target is absolute. Source is a path for a bind
// and for a file system on a device or below a folder, and just a name for
// tmpfs, overlay and their kind.
type Entry struct {
	Source  string
	Target  string
	Type    string
	Options []string
}

// String names the mount as it appears in messages: "overlay on /x",
// "/a (bind) on /b".
func (e Entry) String() string {
	o := Parse(e.Options)
	switch {
	case e.isBind(o):
		return fmt.Sprintf("%s (bind) on %s", e.Source, e.Target)
	case o.Flags&unix.MS_REMOUNT != 0:
		return "again (remount) " + e.Target
	case e.Type == "":
		return "propagation of " + e.Target
	case e.Source == "" || e.Source == e.Type || e.Source == "none":
		return fmt.Sprintf("%s on %s", e.Type, e.Target)
	}
	return fmt.Sprintf("%s (%s) on %s", e.Source, e.Type, e.Target)
}

// IsBind reports whether the entry binds a file or folder that is there already.
func (e Entry) IsBind() bool { return e.isBind(Parse(e.Options)) }

// Recursive reports whether a bind takes along what is mounted below its source.
func (e Entry) Recursive() bool { return Parse(e.Options).Flags&unix.MS_REC != 0 }

func (e Entry) isBind(o Options) bool {
	return o.Flags&unix.MS_REMOUNT == 0 && (o.Flags&unix.MS_BIND != 0 || e.Type == "bind")
}

// OnlyChanges reports whether the entry changes a mount that is there already
// (remount, propagation) and so makes none of its own.
func (e Entry) OnlyChanges() bool {
	o := Parse(e.Options)
	return o.Flags&unix.MS_REMOUNT != 0 || (e.Type == "" || e.Type == "none") && o.Flags&unix.MS_BIND == 0
}

// Check says what is wrong with the entry as it is written, before anything is
// tried; nil when nothing is.
func (e Entry) Check() error {
	o := Parse(e.Options)
	switch {
	case e.Target == "":
		return errors.New("destination is empty: name the folder to mount on")
	case !filepath.IsAbs(e.Target):
		return fmt.Errorf("destination %q is not absolute", e.Target)
	case (e.Type == "" || e.Type == "none") && o.Flags&(unix.MS_BIND|unix.MS_REMOUNT) == 0 && len(o.Propagation) == 0:
		return errors.New(`type is empty: name a file system ("tmpfs", "ext4" ...), or put "bind", "remount" or a propagation word into options`)
	case e.isBind(o) && e.Source == "":
		return errors.New("source is empty: a bind needs the file or folder to bind")
	}
	return nil
}

// Ensure makes the mount unless the same is mounted on Target already, and
// reports whether it made one. The target must exist.
func (e Entry) Ensure() (bool, error) {
	if err := e.Check(); err != nil {
		return false, err
	}
	if !e.OnlyChanges() {
		there, err := e.Mounted()
		if err != nil || there {
			return false, err
		}
	}
	err := e.mount()
	if errors.Is(err, errNoSource) {
		return false, nil
	}
	return err == nil && !e.OnlyChanges(), err
}

// errNoSource: there is nothing to mount, and the entry says nofail.
var errNoSource = errors.New("no source")

// Mounted reports whether a mount like this one is on Target now: the same file
// system type and source, or for a bind the same file. Options are not compared:
// the kernel rewrites them.
func (e Entry) Mounted() (bool, error) {
	if root, known := isMountRoot(e.Target); known && !root {
		return false, nil
	}
	target, err := filepath.EvalSymlinks(e.Target)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at %s: %w", e.Target, err)
	}
	here, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != target, false })
	if err != nil {
		return false, fmt.Errorf("read mountinfo: %w", err)
	}
	if len(here) == 0 {
		return false, nil
	}
	if e.isBind(Parse(e.Options)) {
		return sameFile(e.Source, target), nil
	}
	return slices.ContainsFunc(here, e.describes), nil
}

// describes compares a mount that is no bind with a line of mountinfo. The
// kernel shows an empty source as "none".
func (e Entry) describes(m *mountinfo.Info) bool {
	source := e.Source
	if source == "" {
		source = "none"
	}
	fstype, _, _ := strings.Cut(m.FSType, ".") // fuse.sshfs is mounted as fuse
	return m.Root == "/" && (m.FSType == e.Type || fstype == e.Type) && m.Source == source
}

func sameFile(a, b string) bool {
	sa, errA := os.Stat(a)
	sb, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(sa, sb)
}

// isMountRoot asks the kernel for one file instead of reading the whole table.
// known is false where the kernel (before 5.8) cannot say.
func isMountRoot(path string) (root, known bool) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_NO_AUTOMOUNT, 0, &st); err != nil {
		return false, err == unix.ENOENT
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false, false
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, true
}

// bindFlags are the flags that belong to a mount and not to its file system: a
// bind takes them only in a second, remounting call.
const bindFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME |
	unix.MS_NODIRATIME | unix.MS_RELATIME | unix.MS_STRICTATIME | unix.MS_NOSYMFOLLOW

func (e Entry) mount() error {
	o := Parse(e.Options)
	source, fstype := e.Source, e.Type
	if fstype == "bind" || fstype == "none" {
		fstype = ""
	}
	switch {
	case e.isBind(o):
		if err := unix.Mount(source, e.Target, "", unix.MS_BIND|o.Flags&unix.MS_REC, ""); err != nil {
			return e.explain(err, o)
		}
		if extra := o.Flags & bindFlags; extra != 0 {
			if err := unix.Mount("", e.Target, "", unix.MS_BIND|unix.MS_REMOUNT|extra, ""); err != nil {
				// half a bind is a writable one: not what was asked for
				_ = unix.Unmount(e.Target, unix.MNT_DETACH)
				return e.explain(err, o)
			}
		}
	case o.Flags&unix.MS_REMOUNT != 0:
		// "remount,private" asks for private: a remount without any word of its
		// own would clear the mount's flags.
		if o.Flags == unix.MS_REMOUNT && o.Data == "" && len(o.Propagation) > 0 {
			break
		}
		if err := unix.Mount(source, e.Target, fstype, o.Flags, o.Data); err != nil {
			return e.explain(err, o)
		}
	case fstype != "":
		if source == "" {
			source = "none"
		}
		if err := unix.Mount(source, e.Target, fstype, o.Flags, o.Data); err != nil {
			if o.NoFail && sourceMissing(err) {
				return errNoSource
			}
			return e.explain(err, o)
		}
	}
	for _, p := range o.Propagation {
		if err := unix.Mount("", e.Target, "", p, ""); err != nil {
			return e.explain(err, o)
		}
	}
	return nil
}

func sourceMissing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENOTBLK) || errors.Is(err, unix.ENOMEDIUM)
}
