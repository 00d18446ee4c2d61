package boot

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keelson/init/handover"
	"keelson/init/kernel"
	"keelson/init/kernel/kerneltest"
)

func machine() *kerneltest.Kernel {
	return kerneltest.New().
		Dir("/run").
		File("/proc/cmdline", "console=ttyS0 keelson.shutdown.timeout=7s\n").
		File("/etc/hostname", "# a comment\n\n box \nother\n").
		File("/sys/fs/cgroup/cgroup.controllers", "cpu memory pids").
		Link("/proc/self/ns/pid", InitialPIDNamespace)
}

// clock is a time that goes on by a millisecond a look.
func clock() func() time.Duration {
	var now time.Duration
	return func() time.Duration { now += time.Millisecond; return now }
}

func TestMachine(t *testing.T) {
	k := machine()
	r := Run(k, clock())
	if len(r.Failed)+len(r.Warnings) != 0 {
		t.Fatal(r.Failed, r.Warnings)
	}
	if !r.Machine || r.Container || !r.HandedOver || r.Root.Type != "ramfs" || r.Cgroup != "/sys/fs/cgroup/keelson/supervisor" {
		t.Errorf("%+v", r)
	}
	if r.Options.ShutdownTimeout != 7*time.Second || r.Cmdline != "console=ttyS0 keelson.shutdown.timeout=7s" {
		t.Errorf("command line: %+v", r)
	}
	if r.Mounts != len(k.Targets()) {
		t.Errorf("says %d mounts, made %d", r.Mounts, len(k.Targets()))
	}
	if r.Handover <= 0 || r.Mounting <= 0 {
		t.Errorf("hand-over %s, mounts %s", r.Handover, r.Mounting)
	}
	calls := k.Calls()
	for _, want := range []string{"sethostname box", "setrlimit 7 1048576 1048576", "setrlimit 6 18446744073709551615 18446744073709551615", "reboot 0x0"} {
		if !slices.Contains(calls, want) {
			t.Errorf("missing %q", want)
		}
	}
	order := []string{"chroot .", "mount proc /proc", "mount tmpfs /run", "mount cgroup2", "mount  /  0x1021"}
	at := -1
	for _, prefix := range order {
		i := slices.IndexFunc(calls, func(c string) bool { return strings.HasPrefix(c, prefix) })
		if i <= at {
			t.Errorf("%q is number %d, after %d", prefix, i, at)
		}
		at = i
	}
}

func TestDiskIsNotHandedOver(t *testing.T) {
	k := machine().Root(kernel.FileSystem{Magic: unix.EXT4_SUPER_MAGIC})
	r := Run(k, clock())
	if r.HandedOver || len(r.Failed) != 0 || slices.ContainsFunc(k.Calls(), func(c string) bool { return strings.HasPrefix(c, "chroot") }) {
		t.Errorf("%+v, %q", r, k.Calls())
	}
}

// An initramfs of another kind may have left /proc mounted before it switched
// to this root.
func TestMachineAfterAnotherInitramfs(t *testing.T) {
	r := Run(machine().Link("/proc/self", "1").Root(kernel.FileSystem{Magic: unix.EXT4_SUPER_MAGIC}), clock())
	if !r.Machine || r.Container || len(r.Failed) != 0 {
		t.Errorf("%+v", r)
	}
}

// docker run --init --pid=host: /proc is the machine's, and PID 1 is not this.
func TestContainerInTheMachinesPIDNamespace(t *testing.T) {
	if r := Run(machine().Link("/proc/self", "50").Pid(50), clock()); !r.Container || r.Machine {
		t.Errorf("%+v", r)
	}
}

func container() *kerneltest.Kernel {
	return machine().Link("/proc/self", "1").Link("/proc/self/ns/pid", "pid:[4026532181]")
}

func TestContainer(t *testing.T) {
	k := container()
	r := Run(k, clock())
	if !r.Container || r.Machine || len(r.Failed)+len(r.Warnings) != 0 {
		t.Errorf("%+v", r)
	}
	for _, c := range k.Calls() {
		for _, bad := range []string{"mount", "mkdir", "mknod", "symlink", "chroot", "reboot", "write"} {
			if strings.HasPrefix(c, bad) {
				t.Errorf("in a container: %s", c)
			}
		}
	}
	for _, want := range []string{"subreaper", "setrlimit 7 1048576 1048576", "sethostname box"} {
		if !k.Did(want) {
			t.Errorf("missing %q", want)
		}
	}
}

func TestContainersOwnLimitsAreExpected(t *testing.T) {
	k := container()
	k.Fail = func(_ int, call string) error {
		if strings.HasPrefix(call, "set") {
			return syscall.EPERM
		}
		return nil
	}
	if r := Run(k, clock()); len(r.Warnings) != 0 {
		t.Errorf("%v", r.Warnings)
	}
}

// In a PID namespace with a root of its own, the rest of the machine is not
// PID 1's: its cgroups above all, which the end would kill.
func TestForeignMachine(t *testing.T) {
	k := machine().Link("/proc/self/ns/pid", "pid:[4026532181]")
	r := Run(k, clock())
	if r.Machine || r.Cgroup != "" || len(r.Failed) != 0 {
		t.Errorf("%+v", r)
	}
	for _, c := range k.Calls() {
		if strings.Contains(c, "/sys/fs/cgroup") || strings.HasPrefix(c, "reboot") {
			t.Errorf("touched the machine: %s", c)
		}
	}
}

func TestCgroupV1(t *testing.T) {
	k := machine().File("/proc/cmdline", "linuxkit.unified_cgroup_hierarchy=0").File("/proc/cgroups", "memory\t0\t1\t1\n")
	r := Run(k, clock())
	if r.Cgroup != "" || len(r.Failed) != 0 || !slices.Contains(k.Targets(), "/sys/fs/cgroup/memory") {
		t.Errorf("%+v, %q", r, k.Targets())
	}
}

// Any one call may fail: the boot gets to its end, makes every later step, and
// says so, unless what failed is optional or was made good.
func TestEachCallFailsInTurn(t *testing.T) {
	whole := machine()
	Run(whole, clock())
	silent := []string{ // optional file systems, a first look, a way around, a race
		"readlink /proc/self", "lstat", "readlink /proc/self/ns/pid", "write /sys/fs/cgroup/cgroup.subtree_control", "write /sys/fs/cgroup/keelson/cgroup.subtree_control",
		"mount mqueue", "mount securityfs", "mount debugfs", "mount configfs", "mount fusectl", "mount selinuxfs", "mount pstore", "mount bpffs", "mount efivarfs", "mount binfmt_misc",
	}
	for i, call := range whole.Calls() {
		k := machine()
		k.Fail = func(n int, _ string) error {
			if n == i {
				return syscall.EIO
			}
			return nil
		}
		r := Run(k, clock())
		said := fmt.Sprint(r.Failed, r.Warnings)
		quiet := slices.ContainsFunc(silent, func(s string) bool { return strings.HasPrefix(call, s) })
		if quiet != (said == "[] []") {
			t.Errorf("%q failed: %s", call, said)
		}
		if !quiet && !strings.Contains(said, "input/output error") {
			t.Errorf("%q failed: no reason in %s", call, said)
		}
		if strings.Contains(call, "/etc/hostname") || strings.HasPrefix(call, "sethostname") {
			continue
		}
		if !k.Did("sethostname box") {
			t.Errorf("%q failed: the boot did not get to its end", call)
		}
	}
}

// Everything may fail at once.
func TestEverythingFails(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOENT, syscall.ENOMEM, syscall.EPERM, syscall.EROFS} {
		k := machine()
		k.Fail = func(int, string) error { return errno }
		if r := Run(k, clock()); len(r.Failed) == 0 || r.Options.ShutdownTimeout <= 0 {
			t.Errorf("%v: %+v", errno, r)
		}
	}
}

func TestBadHostname(t *testing.T) {
	k := machine().File("/etc/hostname", strings.Repeat("x", 70))
	k.Fail = func(_ int, call string) error {
		if strings.HasPrefix(call, "sethostname") {
			return syscall.EINVAL
		}
		return nil
	}
	if r := Run(k, clock()); len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0].Error(), "/etc/hostname (at most 64 bytes)") {
		t.Errorf("%v", r.Warnings)
	}
}

func TestIncomplete(t *testing.T) {
	tmpfs, ramfs := handover.Root{InMemory: true, Type: "tmpfs"}, handover.Root{InMemory: true, Type: "ramfs"}
	for _, tc := range []struct {
		name, line string
		root       handover.Root
		want, not  string
	}{
		{"whole", "<6>[ 0.3] Unpacking initramfs...", tmpfs, "", ""},
		{"too large", "<0>[ 0.9] Initramfs unpacking failed: write error", tmpfs, "this machine has 128 MiB of RAM: give it more, or put rootfstype=ramfs", "damaged"},
		{"too large for ramfs", "<0>[ 0.9] Initramfs unpacking failed: write error", ramfs, "128 MiB", "rootfstype"},
		{"damaged", "<0>[ 0.9] Initramfs unpacking failed: junk within compressed archive", tmpfs, "damaged", "RAM"},
		{"RAM disk driver", "<6>[ 0.9] rootfs image is not initramfs (write error); looks like an initrd", tmpfs, "rootfstype=ramfs", ""},
		{"disk", "<0>[ 0.9] Initramfs unpacking failed: write error", handover.Root{Type: "disk"}, "", ""},
	} {
		got := strings.Join(Incomplete(kerneltest.New().Log("<6>[ 0.1] Linux version").Log(tc.line), tc.root), "\n")
		if (tc.want == "") != (got == "") || !strings.Contains(got, tc.want) || tc.not != "" && strings.Contains(got, tc.not) {
			t.Errorf("%s: %q, want %q, not %q", tc.name, got, tc.want, tc.not)
		}
	}
	k := kerneltest.New()
	k.Fail = func(int, string) error { return syscall.EPERM }
	if got := Incomplete(k, tmpfs); got != nil {
		t.Errorf("no log to read: %q", got)
	}
}

func TestFull(t *testing.T) {
	memory := handover.Root{InMemory: true}
	for _, tc := range []struct {
		fs   kernel.FileSystem
		root handover.Root
		want bool
	}{
		{kernel.FileSystem{}, memory, false}, // ramfs has no limits
		{kernel.FileSystem{Blocks: 1000, BlocksFree: 500, Files: 100, FilesFree: 50}, memory, false},
		{kernel.FileSystem{Blocks: 1000, BlocksFree: 3, Files: 100, FilesFree: 50}, memory, true},
		{kernel.FileSystem{Blocks: 1000, BlocksFree: 500, Files: 100}, memory, true},
		{kernel.FileSystem{Blocks: 1000}, handover.Root{}, false},
	} {
		if got := Full(kerneltest.New().Root(tc.fs), tc.root); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}
