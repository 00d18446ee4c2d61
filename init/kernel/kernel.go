// Package kernel is the one seam between PID 1 and the system it runs on:
// every system call it makes for the machine goes through Calls.
//
// It promises thin wrappers: one call each, errors as the kernel gave them
// (syscall.Errno), no logging, no retry but for EINTR. It must never decide
// anything; that is for the packages above it, which a test can so drive
// through each failure in turn (package kerneltest).
package kernel

import (
	"syscall"
	"time"
)

// Calls are the system calls of PID 1.
type Calls interface {
	// Mount is mount(2).
	Mount(source, target, fstype string, flags uintptr, data string) error
	// Unmount is umount2(2).
	Unmount(target string, flags int) error
	// Mkdir is mkdir(2) followed by chmod(2), so that the umask has no say.
	Mkdir(path string, mode uint32) error
	// Rmdir is rmdir(2).
	Rmdir(path string) error
	// Mknod is mknod(2) of a character device.
	Mknod(path string, mode uint32, major, minor uint32) error
	// Symlink is symlink(2): path will point at target.
	Symlink(target, path string) error
	// Chdir is chdir(2).
	Chdir(path string) error
	// Chroot is chroot(2).
	Chroot(path string) error
	// Statfs is statfs(2).
	Statfs(path string) (FileSystem, error)
	// IsDir tells whether path is a folder, without following a link.
	IsDir(path string) bool
	// SameFile tells whether two paths lead to one file.
	SameFile(a, b string) bool

	// ReadFile returns a whole file.
	ReadFile(path string) ([]byte, error)
	// WriteFile writes data to a file that exists, with one write(2).
	WriteFile(path, data string) error
	// ReadDir returns the names in a folder, unordered.
	ReadDir(path string) ([]string, error)
	// Readlink is readlink(2).
	Readlink(path string) (string, error)

	// SetLimit sets soft and hard value of a resource limit, as setrlimit(2).
	SetLimit(resource int, soft, hard uint64) error
	// SetHostname is sethostname(2).
	SetHostname(name string) error
	// Subreaper makes orphaned descendants children of this process, as
	// prctl(2) PR_SET_CHILD_SUBREAPER.
	Subreaper() error
	// Reboot is reboot(2).
	Reboot(cmd int) error
	// Sync is sync(2).
	Sync()
	// Swapoff is swapoff(2).
	Swapoff(path string) error
	// DetachLoop is ioctl(2) LOOP_CLR_FD on a loop device.
	DetachLoop(device string) error
	// RemoveMapping is ioctl(2) DM_DEV_REMOVE of a device-mapper device, which
	// fails with EBUSY while it is used.
	RemoveMapping(name string) error
	// Drain waits until a terminal has sent what was written to it, as
	// tcdrain(3). A terminal that is stopped makes it wait for ever.
	Drain(terminal string) error
	// KernelLog returns the lines of the kernel's log that contain word, as
	// syslog(2) SYSLOG_ACTION_READ_ALL has them.
	KernelLog(word string) ([]string, error)
	// Memory is the machine's RAM in bytes, from sysinfo(2).
	Memory() (uint64, error)

	// Getpid is getpid(2).
	Getpid() int
	// Kill is kill(2).
	Kill(pid int, sig syscall.Signal) error
	// Wait is wait4(-1, WNOHANG): pid 0 where children live and none has
	// ended, ECHILD where there are none.
	Wait() (pid int, status syscall.WaitStatus, err error)
	// Socketpair is socketpair(2): two connected ends that keep messages apart.
	Socketpair() (a, b int, err error)
	// ReceiveFile takes a descriptor from a socket, as recvmsg(2) with SCM_RIGHTS:
	// EAGAIN where none has been sent.
	ReceiveFile(socket int) (fd int, err error)
	// Close is close(2).
	Close(fd int)
	// Keepalive is ioctl(2) WDIOC_KEEPALIVE on a watchdog.
	Keepalive(fd int) error
	// WatchdogTimeout is ioctl(2) WDIOC_GETTIMEOUT on a watchdog.
	WatchdogTimeout(fd int) (time.Duration, error)
	// StopWatchdog stops a watchdog in both ways there are, WDIOS_DISABLECARD and
	// the magic character, and closes it. The error says that it goes on.
	StopWatchdog(fd int) error
	// Start is fork and exec. It returns when the program runs or has failed to.
	Start(Program) (pid int, err error)
}

// Program is what Start starts.
type Program struct {
	Path string
	Args []string
	Env  []string
	// Console is the terminal for standard output and error; empty: inherited.
	Console string
	// Cgroup is the folder of a cgroup v2 to start in; empty: PID 1's own.
	Cgroup string
	// Files are open files of PID 1 that the program gets as 3 and up.
	Files []int
}

// FileSystem is what Statfs says. Blocks and Files are 0 where the file system
// has no limit.
type FileSystem struct {
	Magic              int64 // unix.RAMFS_MAGIC and so on
	Blocks, BlocksFree uint64
	Files, FilesFree   uint64
}
