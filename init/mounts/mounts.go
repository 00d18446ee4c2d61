// Package mounts owns the table of what PID 1 mounts and makes before anything
// else runs: the file systems, folders, device nodes and links that LinuxKit's
// images count on.
//
// It promises to go through the whole table whatever fails: an essential thing
// that fails is told with its errno, an optional one that the kernel does not
// have is skipped without a word. It must never touch the root file system but
// for a mount point that is missing.
package mounts

import (
	"errors"
	"fmt"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"keelson/init/kernel"
)

const (
	plain  = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV
	public = 0o1777
)

// Mount is one file system to mount.
type Mount struct {
	Source, Target, Type string
	Flags                uintptr
	Data                 string
	// Essential: users' images count on it, so its failure is told.
	Essential bool
	// Instead is what to mount where the kernel does not have Type.
	Instead *Mount
}

// Folder is a folder to make.
type Folder struct {
	Path string
	Mode uint32
}

// Device is a character device that must exist. devtmpfs has them already;
// an older kernel, or a tmpfs in its place, has not.
type Device struct {
	Path         string
	Mode         uint32
	Major, Minor uint32
}

// Link is a symbolic link.
type Link struct{ Path, Target string }

// Proc comes before all else: the kernel command line is in it.
var Proc = Mount{"proc", "/proc", "proc", plain | unix.MS_RELATIME, "", true, nil}

// Table is what is mounted once /proc is there, in order. Sizes are shares of
// the RAM. cgroups are not in it: package cgroups has them.
var Table = []Mount{
	{"tmpfs", "/run", "tmpfs", plain | unix.MS_RELATIME, "size=10%,mode=755", true, nil},
	{"tmpfs", "/tmp", "tmpfs", plain | unix.MS_RELATIME, "size=10%,mode=1777", true, nil},
	{"tmpfs", "/var", "tmpfs", plain | unix.MS_RELATIME, "size=50%,mode=755", true, nil},
	{"dev", "/dev", "devtmpfs", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_RELATIME, "size=10m,nr_inodes=248418,mode=755", true,
		&Mount{"dev", "/dev", "tmpfs", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_RELATIME, "size=10m,mode=755", true, nil}},
	{"sysfs", "/sys", "sysfs", plain, "", true, nil},
}

// Below is what lies in the file systems of Table and needs its Folders.
var Below = []Mount{
	{"mqueue", "/dev/mqueue", "mqueue", plain, "", false, nil},
	{"shm", "/dev/shm", "tmpfs", plain, "mode=1777", true, nil},
	// The machine's own files: who fills /run must not keep the supervisor and
	// containerd from theirs. A thousand services take 16 MB and 20,000 files of each.
	{"keelson", "/run/keelson", "tmpfs", plain | unix.MS_RELATIME, "size=5%,nr_inodes=65536,mode=700", true, nil},
	{"containerd", "/run/containerd", "tmpfs", plain | unix.MS_RELATIME, "size=10%,nr_inodes=65536,mode=711", true, nil},
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=0620", true, nil},
	{"securityfs", "/sys/kernel/security", "securityfs", plain, "", false, nil},
	{"debugfs", "/sys/kernel/debug", "debugfs", plain, "", false, nil},
	{"configfs", "/sys/kernel/config", "configfs", plain, "", false, nil},
	{"fusectl", "/sys/fs/fuse/connections", "fusectl", plain, "", false, nil},
	{"selinuxfs", "/sys/fs/selinux", "selinuxfs", unix.MS_NOSUID | unix.MS_NOEXEC, "", false, nil},
	{"pstore", "/sys/fs/pstore", "pstore", plain, "", false, nil},
	{"bpffs", "/sys/fs/bpf", "bpf", unix.MS_NODEV, "", false, nil},
	{"efivarfs", "/sys/firmware/efi/efivars", "efivarfs", plain, "", false, nil},
	{"binfmt_misc", "/proc/sys/fs/binfmt_misc", "binfmt_misc", plain, "", false, nil},
}

// Folders of the file systems in Table.
var Folders = []Folder{
	{"/var/cache", 0o755}, {"/var/empty", 0o555}, {"/var/lib", 0o755}, {"/var/local", 0o755},
	{"/var/lock", 0o755}, {"/var/log", 0o755}, {"/var/opt", 0o755}, {"/var/spool", 0o755}, {"/var/tmp", public},
	{"/dev/mqueue", public}, {"/dev/shm", public}, {"/dev/pts", 0o755},
	{"/run/keelson", 0o700}, {"/run/containerd", 0o711},
}

// Devices of /dev.
var Devices = []Device{
	{"/dev/console", 0o600, 5, 1}, {"/dev/tty1", 0o620, 4, 1}, {"/dev/tty", 0o666, 5, 0},
	{"/dev/null", 0o666, 1, 3}, {"/dev/kmsg", 0o660, 1, 11},
}

// Links of /var and /dev.
var Links = []Link{
	{"/var/run", "/run"}, {"/dev/fd", "/proc/self/fd"}, {"/dev/stdin", "/proc/self/fd/0"},
	{"/dev/stdout", "/proc/self/fd/1"}, {"/dev/stderr", "/proc/self/fd/2"}, {"/dev/kcore", "/proc/kcore"},
}

// All mounts Table with everything in it, and returns how many file systems
// were mounted and what failed.
func All(k kernel.Calls) (mounted int, failed []error) {
	do := func(list []Mount) {
		for _, m := range list {
			if err := Do(k, m); err == nil {
				mounted++
			} else if m.Essential {
				failed = append(failed, err)
			}
		}
	}
	made := func(what, name string, err error) {
		if err != nil && !errors.Is(err, syscall.EEXIST) {
			failed = append(failed, fmt.Errorf("%s %s: %w", what, name, Errno(err)))
		}
	}
	do(Table)
	for _, f := range Folders {
		made("make folder", f.Path, k.Mkdir(f.Path, f.Mode))
	}
	for _, d := range Devices {
		made("make device", d.Path, k.Mknod(d.Path, d.Mode, d.Major, d.Minor))
	}
	for _, l := range Links {
		made("make link", l.Path, k.Symlink(l.Target, l.Path))
	}
	do(Below)
	return mounted, failed
}

// Do mounts m, making a missing mount point at the top of the root. What is
// mounted there already, as a kernel with CONFIG_DEVTMPFS_MOUNT does, is fine.
func Do(k kernel.Calls, m Mount) error {
	err := k.Mount(m.Source, m.Target, m.Type, m.Flags, m.Data)
	if errors.Is(err, syscall.ENOENT) && m.Essential && path.Dir(m.Target) == "/" {
		if err := k.Mkdir(m.Target, 0o755); err != nil {
			return fmt.Errorf("mount %s on %s: the root has no %s, and making it: %w", m.Type, m.Target, m.Target, Errno(err))
		}
		err = k.Mount(m.Source, m.Target, m.Type, m.Flags, m.Data)
	}
	if errors.Is(err, syscall.ENODEV) && m.Instead != nil {
		return Do(k, *m.Instead)
	}
	if err == nil || errors.Is(err, syscall.EBUSY) {
		return nil
	}
	return fmt.Errorf("mount %s on %s: %w", m.Type, m.Target, Errno(err))
}

// Errno adds the number to an error of the kernel: names differ between
// libraries, numbers do not, and it is what people search for.
func Errno(err error) error {
	var e syscall.Errno
	if !errors.As(err, &e) {
		return err
	}
	return fmt.Errorf("%w (errno %d)", err, int(e))
}
