// Package kerneltest is a system for tests of PID 1: files and mounts in
// memory, every call written down, any of them made to fail.
package kerneltest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"keelson/init/kernel"
	"keelson/init/mountinfo"
)

// Kernel implements kernel.Calls.
type Kernel struct {
	// Fail decides, for each call by its number and text, whether it fails.
	Fail func(n int, call string) error
	// Hang holds the calls, by the beginning of their text, that never return.
	// Each sends to Hung once it hangs, so that a test's clock may go on then.
	Hang string
	Hung chan time.Time

	mu       sync.Mutex
	calls    []string
	files    map[string]string
	links    map[string]string
	dirs     map[string][]string
	mounts   []string // lines of mountinfo
	busy     map[string]bool
	root     kernel.FileSystem
	log      []string
	pid      int
	children int // alive
	immortal bool
	obeying  bool
	zombies  []int
	sent     []int // descriptors that wait in a socket
}

// New returns a machine as the kernel hands it to PID 1: a ramfs with nothing mounted.
func New() *Kernel {
	return &Kernel{
		files: map[string]string{}, links: map[string]string{}, dirs: map[string][]string{}, busy: map[string]bool{},
		root: kernel.FileSystem{Magic: unix.RAMFS_MAGIC}, pid: 1, Hung: make(chan time.Time),
	}
}

// Set up, each returning the kernel.

// Root sets what statfs of the root says.
func (k *Kernel) Root(fs kernel.FileSystem) *Kernel { k.root = fs; return k }

// Pid sets the process's own.
func (k *Kernel) Pid(pid int) *Kernel { k.pid = pid; return k }

// File makes a file.
func (k *Kernel) File(path, text string) *Kernel { k.files[path] = text; return k }

// Link makes a symbolic link.
func (k *Kernel) Link(path, target string) *Kernel { k.links[path] = target; return k }

// Dir makes a folder with these names in it.
func (k *Kernel) Dir(path string, names ...string) *Kernel { k.dirs[path] = names; return k }

// Log adds a line to the kernel's log.
func (k *Kernel) Log(line string) *Kernel { k.log = append(k.log, line); return k }

// Mounted adds a mount, as if made by somebody else.
func (k *Kernel) Mounted(fstype, target string) *Kernel {
	k.mounts = append(k.mounts, fmt.Sprintf("30 1 0:30 / %s rw,relatime shared:1 - %s none rw", strings.ReplaceAll(target, " ", `\040`), fstype))
	return k
}

// Busy makes a mount refuse to go until it is taken off again.
func (k *Kernel) Busy(target string) *Kernel { k.busy[target] = true; return k }

// Free takes that off.
func (k *Kernel) Free(target string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.busy, target)
}

// Children sets how many live; SIGKILL ends them.
func (k *Kernel) Children(n int) *Kernel { k.children = n; return k }

// Immortal makes the children outlive SIGKILL, as one in state D does.
func (k *Kernel) Immortal() *Kernel { k.immortal = true; return k }

// Obeying makes SIGTERM end processes.
func (k *Kernel) Obeying() *Kernel { k.obeying = true; return k }

// Calls returns what has been called, in order.
func (k *Kernel) Calls() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.calls)
}

// Did tells whether a call with this text was made.
func (k *Kernel) Did(call string) bool { return slices.Contains(k.Calls(), call) }

// Targets returns what is mounted, oldest first.
func (k *Kernel) Targets() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var list []string
	for _, m := range mountinfo.Parse(strings.Join(k.mounts, "\n")) {
		list = append(list, m.Target)
	}
	return list
}

// call notes a call and returns the error it has to fail with.
func (k *Kernel) call(format string, a ...any) error {
	text := fmt.Sprintf(format, a...)
	k.mu.Lock()
	n := len(k.calls)
	k.calls = append(k.calls, text)
	k.mu.Unlock()
	if k.Hang != "" && strings.HasPrefix(text, k.Hang) {
		k.Hung <- time.Time{}
		select {}
	}
	if k.Fail != nil {
		return k.Fail(n, text)
	}
	return nil
}

func (k *Kernel) Mount(source, target, fstype string, flags uintptr, data string) error {
	if err := k.call("mount %s %s %s %#x %s", source, target, fstype, flags, data); err != nil {
		return err
	}
	if fstype != "" {
		k.mu.Lock()
		k.Mounted(fstype, target)
		k.mu.Unlock()
	}
	return nil
}

func (k *Kernel) Unmount(target string, flags int) error {
	if err := k.call("unmount %s %#x", target, flags); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := len(k.mounts) - 1; i >= 0; i-- {
		m := mountinfo.Parse(k.mounts[i])[0]
		if m.Target != target {
			if strings.HasPrefix(m.Target, target+"/") {
				return syscall.EBUSY
			}
			continue
		}
		if k.busy[target] {
			return syscall.EBUSY
		}
		k.mounts = slices.Delete(k.mounts, i, i+1)
		return nil
	}
	return syscall.EINVAL
}

func (k *Kernel) Mkdir(path string, mode uint32) error { return k.call("mkdir %s %o", path, mode) }
func (k *Kernel) Rmdir(path string) error              { return k.call("rmdir %s", path) }
func (k *Kernel) Mknod(path string, mode uint32, major, minor uint32) error {
	return k.call("mknod %s %o %d:%d", path, mode, major, minor)
}
func (k *Kernel) Symlink(target, path string) error { return k.call("symlink %s %s", target, path) }
func (k *Kernel) Chdir(path string) error           { return k.call("chdir %s", path) }
func (k *Kernel) Chroot(path string) error          { return k.call("chroot %s", path) }

func (k *Kernel) Statfs(path string) (kernel.FileSystem, error) {
	return k.root, k.call("statfs %s", path)
}

func (k *Kernel) IsDir(path string) bool {
	if k.call("lstat %s", path) != nil {
		return false
	}
	_, ok := k.dirs[path]
	return ok
}

func (k *Kernel) SameFile(a, b string) bool { return k.call("same %s %s", a, b) == nil && a == b }

func (k *Kernel) ReadFile(path string) ([]byte, error) {
	if err := k.call("read %s", path); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if path == "/proc/self/mountinfo" {
		return []byte(strings.Join(k.mounts, "\n") + "\n"), nil
	}
	if text, ok := k.files[path]; ok {
		return []byte(text), nil
	}
	return nil, syscall.ENOENT
}

func (k *Kernel) WriteFile(path, data string) error { return k.call("write %s %s", path, data) }

func (k *Kernel) ReadDir(path string) ([]string, error) {
	if err := k.call("readdir %s", path); err != nil {
		return nil, err
	}
	if names, ok := k.dirs[path]; ok {
		return names, nil
	}
	return nil, syscall.ENOENT
}

func (k *Kernel) Readlink(path string) (string, error) {
	if err := k.call("readlink %s", path); err != nil {
		return "", err
	}
	if target, ok := k.links[path]; ok {
		return target, nil
	}
	return "", syscall.ENOENT
}

func (k *Kernel) SetLimit(resource int, soft, hard uint64) error {
	return k.call("setrlimit %d %d %d", resource, soft, hard)
}
func (k *Kernel) SetHostname(name string) error { return k.call("sethostname %s", name) }
func (k *Kernel) Subreaper() error              { return k.call("subreaper") }
func (k *Kernel) Reboot(cmd int) error          { return k.call("reboot %#x", cmd) }
func (k *Kernel) Sync()                         { _ = k.call("sync") }

// Swapoff ends it for good.
func (k *Kernel) Swapoff(path string) error {
	if err := k.call("swapoff %s", path); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.files["/proc/swaps"] = ""
	return nil
}

func (k *Kernel) Drain(terminal string) error { return k.call("drain %s", terminal) }

// DetachLoop frees whatever was busy.
func (k *Kernel) DetachLoop(device string) error {
	if err := k.call("detach %s", device); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.busy)
	return nil
}

// RemoveMapping frees whatever was busy.
func (k *Kernel) RemoveMapping(name string) error {
	if err := k.call("remove mapping %s", name); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.busy)
	return nil
}

func (k *Kernel) KernelLog(word string) ([]string, error) {
	if err := k.call("klog %s", word); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(k.log), func(l string) bool { return !strings.Contains(l, word) }), nil
}

func (k *Kernel) Memory() (uint64, error) { return 128 << 20, k.call("sysinfo") }
func (k *Kernel) Getpid() int             { return k.pid }

func (k *Kernel) Kill(pid int, sig syscall.Signal) error {
	if err := k.call("kill %d %d", pid, int(sig)); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if sig == syscall.SIGTERM {
		k.dirs["/proc"] = slices.DeleteFunc(slices.Clone(k.dirs["/proc"]), func(n string) bool { return n == strconv.Itoa(pid) && k.obeying })
	}
	if sig == syscall.SIGKILL && !k.immortal {
		for ; k.children > 0; k.children-- {
			k.zombies = append(k.zombies, 100+k.children)
		}
	}
	return nil
}

func (k *Kernel) Wait() (int, syscall.WaitStatus, error) {
	if err := k.call("wait"); err != nil {
		return 0, 0, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.zombies) > 0 {
		pid := k.zombies[0]
		k.zombies = k.zombies[1:]
		return pid, syscall.WaitStatus(syscall.SIGKILL), nil
	}
	if k.children > 0 {
		return 0, 0, nil
	}
	return 0, 0, syscall.ECHILD
}

// Send puts a descriptor where ReceiveFile finds it.
func (k *Kernel) Send(fd int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sent = append(k.sent, fd)
}

func (k *Kernel) Socketpair() (int, int, error) { return 50, 51, k.call("socketpair") }

func (k *Kernel) ReceiveFile(socket int) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.sent) == 0 {
		return 0, syscall.EAGAIN
	}
	fd := k.sent[0]
	k.sent = k.sent[1:]
	return fd, nil
}

func (k *Kernel) Close(fd int)           { _ = k.call("close %d", fd) }
func (k *Kernel) Keepalive(fd int) error { return k.call("keepalive %d", fd) }

func (k *Kernel) WatchdogTimeout(fd int) (time.Duration, error) {
	return 30 * time.Second, k.call("gettimeout %d", fd)
}

func (k *Kernel) StopWatchdog(fd int) error { return k.call("stop watchdog %d", fd) }

func (k *Kernel) Start(p kernel.Program) (int, error) {
	return 100, k.call("start %s", strings.Join(p.Args, " "))
}
