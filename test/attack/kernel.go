package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// binfmt registers an interpreter, which runs with the rights of who runs a matching file.
func binfmt([]string) (string, error) {
	const dir = "/proc/sys/fs/binfmt_misc"
	mount := func() (string, error) {
		if err := unix.Mount("binfmt_misc", dir, "binfmt_misc", 0, ""); err != nil {
			return "", fmt.Errorf("mount %s: %w", dir, err)
		}
		return "mounted " + dir, nil
	}
	register := func() (string, error) { return write(dir+"/register", ":evil:M::EVIL::/bin/attack:C")(nil) }
	return first(register, mount)
}

// kernelLog reads the kernel's messages in every way there is.
func kernelLog([]string) (string, error) {
	device := func() (string, error) {
		_ = os.Mkdir("/tmp", 0o777)
		if err := unix.Mknod("/tmp/kmsg", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 11))); err != nil {
			return "", fmt.Errorf("mknod kmsg: %w", err)
		}
		return open("/tmp/kmsg")(nil)
	}
	syslog := func() (string, error) {
		n, err := unix.Klogctl(3, make([]byte, 4096)) // SYSLOG_ACTION_READ_ALL
		if err != nil {
			return "", fmt.Errorf("syslog(2): %w", err)
		}
		return fmt.Sprintf("read %d bytes of the kernel's messages", n), nil
	}
	return first(syslog, device)
}

// writable looks for files that can be opened for writing, and writes to none of them.
func writable(roots ...string) attempt {
	return func([]string) (string, error) {
		found, tried := []string{}, 0
		for _, root := range roots {
			_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
				// The container's own network settings would be in /proc/sys/net where it has CAP_NET_ADMIN.
				if err != nil || entry.Type()&(fs.ModeSymlink|fs.ModeDir) != 0 {
					return nil
				}
				tried++
				if fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
					unix.Close(fd)
					found = append(found, path)
				}
				return nil
			})
		}
		if len(found) == 0 {
			return "", fmt.Errorf("none of %d files in %v opens for writing", tried, roots)
		}
		return fmt.Sprintf("%d of %d files open for writing, such as %v", len(found), tried, found[:min(4, len(found))]), nil
	}
}

// cgroup leaves the container's group, makes one, and looks for the old hierarchy's release_agent.
func cgroup([]string) (string, error) {
	make := func() (string, error) {
		if err := os.Mkdir("/sys/fs/cgroup/evil", 0o755); err != nil {
			return "", err
		}
		return "made a cgroup", nil
	}
	move := func() (string, error) { return write("/sys/fs/cgroup/cgroup.procs", "0")(nil) }
	limit := func() (string, error) { return write("/sys/fs/cgroup/memory.max", "max")(nil) }
	mount := func(kind, options string) func() (string, error) {
		return func() (string, error) {
			_ = os.MkdirAll("/tmp/cgroup", 0o755)
			if err := unix.Mount("none", "/tmp/cgroup", kind, 0, options); err != nil {
				return "", fmt.Errorf("mount %s: %w", kind, err)
			}
			return "mounted " + kind, nil
		}
	}
	return first(make, move, limit, mount("cgroup2", ""), mount("cgroup", "rdma"))
}

// deviceNode makes the nodes of memory, of a disk and of the console, and opens them.
func deviceNode([]string) (string, error) {
	_ = os.Mkdir("/tmp", 0o777)
	try := func(name string, mode uint32, major, minor uint32) func() (string, error) {
		return func() (string, error) {
			path := "/tmp/" + name
			if err := unix.Mknod(path, mode|0o600, int(unix.Mkdev(major, minor))); err != nil {
				return "", fmt.Errorf("mknod %s: %w", name, err)
			}
			fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK, 0)
			if err != nil {
				return "", fmt.Errorf("open %s: %w", name, err)
			}
			unix.Close(fd)
			return "opened " + name, nil
		}
	}
	return first(try("mem", unix.S_IFCHR, 1, 1), try("disk", unix.S_IFBLK, 254, 0), try("serial", unix.S_IFCHR, 4, 64), try("kmsg-write", unix.S_IFCHR, 1, 11))
}

// userNamespace makes a user namespace of its own, in which it has every capability.
func userNamespace([]string) (string, error) {
	// A process with several threads may not call unshare(2) for one, and a child needs nothing mapped to have them.
	command := exec.Command("/bin/busybox", "true")
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET}
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("a child in a user namespace: %w %s", err, output)
	}
	return "every capability in a user namespace, and a network namespace to use them in", nil
}

// moduleAutoload has the kernel load modules, for rare families of sockets and protocols.
func moduleAutoload([]string) (string, error) {
	before, err := os.ReadFile("/proc/modules")
	if err != nil {
		return "", err
	}
	var refused error
	for family := range unix.AF_MAX {
		var fd int
		if fd, refused = unix.Socket(family, unix.SOCK_DGRAM, 0); refused == nil {
			unix.Close(fd)
		}
	}
	for protocol := range 32 {
		var fd int
		if fd, refused = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, protocol); refused == nil {
			unix.Close(fd)
		}
	}
	after, err := os.ReadFile("/proc/modules")
	if err != nil {
		return "", err
	}
	if had, has := strings.Count(string(before), "\n"), strings.Count(string(after), "\n"); has > had {
		name, _, _ := strings.Cut(string(after), " ")
		return fmt.Sprintf("%d more modules are loaded, the last is %s", has-had, name), nil
	}
	return "", fmt.Errorf("no module more; the last protocol: %w", refused)
}

// kernelKeys fills the quota of keys, which all of root's processes share.
func kernelKeys([]string) (string, error) {
	made := 0
	for {
		_, err := unix.AddKey("user", fmt.Sprintf("evil-%d", made), make([]byte, 1000), unix.KEY_SPEC_SESSION_KEYRING)
		if err != nil && made == 0 {
			return "", fmt.Errorf("add_key: %w", err)
		}
		if err != nil || made == 200000 {
			return fmt.Sprintf("made %d keys, then %v", made, err), nil
		}
		made++
	}
}

// rareCalls are those that bugs of the kernel are reached by.
func rareCalls([]string) (string, error) {
	var attr [128]byte
	return first(
		call("bpf", unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attr)), uintptr(len(attr))),
		call("perf_event_open", unix.SYS_PERF_EVENT_OPEN, uintptr(unsafe.Pointer(&attr)), 0, ^uintptr(0), ^uintptr(0), 0),
		call("userfaultfd", unix.SYS_USERFAULTFD, 0),
		call("open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, 3, uintptr(unsafe.Pointer(&attr)), 0),
		call("kexec_load", unix.SYS_KEXEC_LOAD, 0, 0, 0, 0),
		call("init_module", unix.SYS_INIT_MODULE, uintptr(unsafe.Pointer(&attr)), 1, uintptr(unsafe.Pointer(&attr))),
		call("iopl", unix.SYS_IOPL, 3),
		call("io_uring_setup", unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&attr))),
		call("fsopen", unix.SYS_FSOPEN, uintptr(unsafe.Pointer(unsafe.StringData("tmpfs\x00"))), 0),
		call("swapoff", unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(unsafe.StringData("/nowhere\x00")))),
	)
}

// clockAndName are the machine's own.
func clockAndName([]string) (string, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
		return "", err
	}
	set := func() (string, error) {
		if err := unix.Settimeofday(&unix.Timeval{Sec: now.Sec + 10*365*86400}); err != nil {
			return "", fmt.Errorf("settimeofday: %w", err)
		}
		return "set the clock", nil
	}
	name := func() (string, error) {
		if err := unix.Sethostname([]byte("evil")); err != nil {
			return "", fmt.Errorf("sethostname: %w", err)
		}
		return "set the host name", nil
	}
	restart := func() (string, error) {
		if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
			return "", fmt.Errorf("reboot(2): %w", err)
		}
		return "took ctrl-alt-del away", nil
	}
	return first(set, name, restart)
}

// rawPackets reads what others send over the machine's network, which the container shares.
func rawPackets([]string) (string, error) {
	return first(
		call("socket(AF_PACKET)", unix.SYS_SOCKET, unix.AF_PACKET, unix.SOCK_RAW, 0x0300),
		call("socket(SOCK_RAW)", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP),
	)
}
