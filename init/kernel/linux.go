package kernel

import (
	"bytes"
	"errors"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"keelson/internal/hugepages"
)

// Linux is the real thing.
type Linux struct{}

func (Linux) Mount(source, target, fstype string, flags uintptr, data string) error {
	return unix.Mount(source, target, fstype, flags, data)
}

func (Linux) Unmount(target string, flags int) error { return unix.Unmount(target, flags) }

func (Linux) Mkdir(path string, mode uint32) error {
	if err := unix.Mkdir(path, mode); err != nil {
		return err
	}
	return unix.Chmod(path, mode)
}

func (Linux) Rmdir(path string) error { return unix.Rmdir(path) }

func (Linux) Mknod(path string, mode uint32, major, minor uint32) error {
	if err := unix.Mknod(path, unix.S_IFCHR|mode, int(unix.Mkdev(major, minor))); err != nil {
		return err
	}
	return unix.Chmod(path, mode)
}

func (Linux) Symlink(target, path string) error { return unix.Symlink(target, path) }
func (Linux) Chdir(path string) error           { return unix.Chdir(path) }
func (Linux) Chroot(path string) error          { return unix.Chroot(path) }

func (Linux) Statfs(path string) (FileSystem, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return FileSystem{}, err
	}
	return FileSystem{int64(st.Type), st.Blocks, st.Bfree, st.Files, st.Ffree}, nil
}

func (Linux) IsDir(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

func (Linux) SameFile(a, b string) bool {
	var sa, sb unix.Stat_t
	return unix.Stat(a, &sa) == nil && unix.Stat(b, &sb) == nil && sa.Dev == sb.Dev && sa.Ino == sb.Ino
}

// ReadFile reads without package os, whose files join an epoll set that PID 1
// has no use for.
func (Linux) ReadFile(path string) ([]byte, error) {
	fd, err := open(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 0, 4096)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, err
		case n == 0:
			return buf, nil
		default:
			buf = buf[:len(buf)+n]
		}
	}
}

func (Linux) WriteFile(path, data string) error {
	fd, err := open(path, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		_, err := unix.Write(fd, []byte(data))
		if err != unix.EINTR {
			return err
		}
	}
}

func (Linux) ReadDir(path string) ([]string, error) {
	fd, err := open(path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var names []string
	buf := make([]byte, 8192)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

func (Linux) Readlink(path string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlink(path, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// SetLimit goes through package syscall, which then knows that the limit was
// set on purpose: it would otherwise give children the one from before Go
// raised RLIMIT_NOFILE for itself.
func (Linux) SetLimit(resource int, soft, hard uint64) error {
	return syscall.Setrlimit(resource, &syscall.Rlimit{Cur: soft, Max: hard})
}

func (Linux) SetHostname(name string) error { return unix.Sethostname([]byte(name)) }
func (Linux) Subreaper() error              { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }
func (Linux) Reboot(cmd int) error          { return unix.Reboot(cmd) }
func (Linux) Sync()                         { unix.Sync() }
func (Linux) Getpid() int                   { return unix.Getpid() }

func (Linux) Swapoff(path string) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	return call(unix.SYS_SWAPOFF, p)
}

func (Linux) DetachLoop(device string) error {
	fd, err := open(device, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0)
}

// RemoveMapping sends a struct dm_ioctl (linux/dm-ioctl.h).
func (Linux) RemoveMapping(name string) error {
	const (
		size, nameAt, nameSize = 312, 48, 128
		remove                 = 0xc138fd04 // _IOWR(0xfd, 4, struct dm_ioctl)
	)
	if len(name) >= nameSize {
		return unix.ENAMETOOLONG
	}
	fd, err := open("/dev/mapper/control", unix.O_RDWR)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request := [size / 4]uint32{4, 0, 0, size, size} // version, data size and start
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&request)), size)[nameAt:], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), remove, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}

func (Linux) Drain(terminal string) error {
	fd, err := open(terminal, unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.IoctlSetInt(fd, unix.TCSBRK, 1)
}

// KernelLog reads into memory of its own, given back at once: the buffer is as
// large as the kernel's, and PID 1 would keep it for good.
func (Linux) KernelLog(word string) ([]string, error) {
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		return nil, err
	}
	buf, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Munmap(buf) }()
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buf)
	if err != nil {
		return nil, err
	}
	var kept []string
	for line := range bytes.Lines(buf[:n]) {
		if bytes.Contains(line, []byte(word)) {
			kept = append(kept, string(bytes.TrimSpace(line)))
		}
	}
	return kept, nil
}

func (Linux) Memory() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, err
	}
	return uint64(info.Totalram) * uint64(info.Unit), nil
}

func (Linux) Kill(pid int, sig syscall.Signal) error { return unix.Kill(pid, sig) }

func (Linux) Wait() (int, syscall.WaitStatus, error) {
	for {
		var st unix.WaitStatus
		pid, err := unix.Wait4(-1, &st, unix.WNOHANG, nil)
		if err != unix.EINTR {
			return pid, syscall.WaitStatus(st), err
		}
	}
}

// Start uses vfork semantics, as package syscall does: PID 1 stands still until
// the child has called execve, which waits for nothing but the root itself.
func (Linux) Start(p Program) (int, error) {
	null, err := open("/dev/null", unix.O_RDWR)
	if err != nil {
		// A root without /dev/null still gets its supervisor, with PID 1's own input.
		null = 0
	} else {
		defer unix.Close(null)
	}
	out, errOut := 1, 2
	if p.Console != "" {
		if fd, err := openConsole(p.Console); err == nil {
			defer unix.Close(fd)
			out, errOut = fd, fd
		} else if null != 0 {
			out, errOut = null, null
		}
	}
	attr := &syscall.ProcAttr{
		Dir:   "/",
		Env:   p.Env,
		Files: []uintptr{uintptr(null), uintptr(out), uintptr(errOut)},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	for _, fd := range p.Files {
		attr.Files = append(attr.Files, uintptr(fd))
	}
	if p.Cgroup != "" {
		if fd, err := open(p.Cgroup, unix.O_RDONLY|unix.O_DIRECTORY); err == nil {
			defer unix.Close(fd)
			attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, fd
			pid, err := forkExec(p, attr)
			if !cgroupRefused(err) {
				return pid, err
			}
			attr.Sys.UseCgroupFD = false
		}
	}
	return forkExec(p, attr)
}

// forkExec starts the supervisor, which asks to be started without huge pages.
func forkExec(p Program, attr *syscall.ProcAttr) (pid int, err error) {
	err = hugepages.Without(func() error {
		pid, err = syscall.ForkExec(p.Path, p.Args, attr)
		return err
	})
	return pid, err
}

// cgroupRefused tells errors that clone3(2) gives for the cgroup, not for the
// process: a kernel without it, a cgroup that was removed or takes no processes.
func cgroupRefused(err error) bool {
	for _, e := range []syscall.Errno{unix.ENOSYS, unix.EINVAL, unix.EBADF, unix.EBUSY, unix.ENODEV, unix.EOPNOTSUPP, unix.E2BIG, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// openConsole opens without waiting for a carrier, and without leaving the
// terminal non-blocking for the program that gets it.
func openConsole(path string) (int, error) {
	fd, err := open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK)
	if err != nil {
		return -1, err
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func open(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
