package cgroups

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"keelson/init/kernel/kerneltest"
)

func machine() *kerneltest.Kernel {
	return kerneltest.New().File(Top+"/cgroup.controllers", "cpuset cpu io memory pids\n")
}

func TestV2(t *testing.T) {
	k := machine()
	n, failed := V2(k)
	if n != 1 || len(failed) != 0 {
		t.Fatal(n, failed)
	}
	for _, call := range []string{
		"mount cgroup2 /sys/fs/cgroup cgroup2 0xe nsdelegate,memory_recursiveprot",
		"write /sys/fs/cgroup/cgroup.subtree_control +cpuset +cpu +io +memory +pids",
		"mkdir /sys/fs/cgroup/keelson 755",
		"write /sys/fs/cgroup/keelson/cgroup.subtree_control +cpu +memory +pids",
		"mkdir /sys/fs/cgroup/keelson/supervisor 755",
		"write /sys/fs/cgroup/keelson/memory.min 64M",
		"write /sys/fs/cgroup/keelson/cpu.weight 1000",
	} {
		if !k.Did(call) {
			t.Errorf("missing %q in %q", call, k.Calls())
		}
	}
}

func TestV2OnAnOldKernel(t *testing.T) {
	for _, known := range []string{"nsdelegate", ""} {
		k := machine()
		k.Fail = func(_ int, call string) error {
			if strings.HasPrefix(call, "mount") && !strings.HasSuffix(call, " 0xe "+known) {
				return syscall.EINVAL
			}
			return nil
		}
		if n, failed := V2(k); n != 1 || len(failed) != 0 {
			t.Errorf("kernel that knows %q: %d, %v", known, n, failed)
		}
		if !k.Did("mount cgroup2 /sys/fs/cgroup cgroup2 0xe " + known) {
			t.Errorf("calls: %q", k.Calls())
		}
	}
}

func TestFavorMovesKeepsTheOtherOptions(t *testing.T) {
	k := machine()
	FavorMoves(k)
	if want := "mount cgroup2 /sys/fs/cgroup cgroup2 0x2e nsdelegate,memory_recursiveprot,favordynmods"; !k.Did(want) {
		t.Errorf("missing %q in %q", want, k.Calls())
	}
}

func TestRestore(t *testing.T) {
	const before = "sysfs /sys sysfs rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime"
	for _, c := range []struct {
		have, refused, want string // options; those that the kernel does not know; what is mounted again
	}{
		{",nsdelegate,favordynmods,memory_recursiveprot", "", ""},
		{"", "", "nsdelegate,memory_recursiveprot,favordynmods"},
		{",nsdelegate,memory_recursiveprot", "", "nsdelegate,memory_recursiveprot,favordynmods"},
		{",nsdelegate,memory_recursiveprot", "favordynmods", ""},
		{"", "favordynmods", "nsdelegate,memory_recursiveprot"},
		{",nsdelegate", "memory_recursiveprot", ""},
		{"", "memory_recursiveprot", "nsdelegate"},
	} {
		k := kerneltest.New().File("/proc/self/mounts", before+c.have+" 0 0\n")
		k.Fail = func(_ int, call string) error {
			if c.refused != "" && strings.HasPrefix(call, "mount") && strings.Contains(call, c.refused) {
				return syscall.EINVAL
			}
			return nil
		}
		restored := Restore(k)
		if restored != (c.want != "") {
			t.Errorf("%+v: restored is %v", c, restored)
		}
		if call := "mount cgroup2 /sys/fs/cgroup cgroup2 0x2e " + c.want; c.want != "" && !k.Did(call) {
			t.Errorf("%+v: calls: %q", c, k.Calls())
		}
	}
	if Restore(kerneltest.New().File("/proc/self/mounts", "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n")) {
		t.Error("there is no cgroup2, and it was mounted again")
	}
}

func TestOneControllerMissingTakesNoOtherWithIt(t *testing.T) {
	k := machine()
	k.Fail = func(_ int, call string) error {
		if strings.HasPrefix(call, "write "+Top+"/cgroup.subtree_control") && strings.Contains(call, "+cpu ") || strings.HasSuffix(call, " +cpu") {
			return syscall.EINVAL
		}
		return nil
	}
	_, failed := V2(k)
	if len(failed) == 0 || !strings.Contains(failed[0].Error(), "enable controller cpu in "+Top) {
		t.Errorf("failed: %v", failed)
	}
	if !k.Did("write /sys/fs/cgroup/cgroup.subtree_control +memory") {
		t.Errorf("calls: %q", k.Calls())
	}
}

func TestEachCallFailsInTurn(t *testing.T) {
	total := machine()
	V2(total)
	for i, call := range total.Calls() {
		k := machine()
		k.Fail = func(n int, _ string) error {
			if n == i {
				return syscall.EIO
			}
			return nil
		}
		_, failed := V2(k)
		batch := strings.Contains(call, "subtree_control") // tried again one by one
		if batch != (len(failed) == 0) {
			t.Errorf("%q failed: %v", call, failed)
		}
	}
}

func TestV1(t *testing.T) {
	k := kerneltest.New().File("/proc/cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t1\t1\nmemory\t0\t1\t0\npids\t0\t1\t1\n")
	n, failed := V1(k)
	if n != 4 || len(failed) != 0 {
		t.Fatal(n, failed, k.Calls())
	}
	want := []string{Top, Top + "/cpuset", Top + "/pids", Top + "/systemd"}
	if got := k.Targets(); !slices.Equal(got, want) {
		t.Errorf("mounted %q, want %q", got, want)
	}
}

func TestKill(t *testing.T) {
	k := kerneltest.New().Dir(Top, "keelson", "services", "cgroup.procs")
	k.Fail = func(_ int, call string) error {
		if strings.Contains(call, "cgroup.procs/") {
			return syscall.ENOTDIR
		}
		return nil
	}
	if !Kill(k) || !k.Did("write "+Top+"/keelson/cgroup.kill 1") || !k.Did("write "+Top+"/services/cgroup.kill 1") {
		t.Errorf("calls: %q", k.Calls())
	}
	if Kill(kerneltest.New()) {
		t.Error("killed without cgroups")
	}
}
