package mounts

import (
	"path"
	"strings"
	"syscall"
	"testing"

	"keelson/init/kernel/kerneltest"
)

func TestAllMountsTheTable(t *testing.T) {
	k := kerneltest.New()
	n, failed := All(k)
	if len(failed) != 0 || n != len(Table)+len(Below) {
		t.Fatalf("%d mounted, failed %v", n, failed)
	}
	for _, call := range []string{
		"mount tmpfs /run tmpfs 0x20000e size=10%,mode=755",
		"mount tmpfs /tmp tmpfs 0x20000e size=10%,mode=1777",
		"mount tmpfs /var tmpfs 0x20000e size=50%,mode=755",
		"mount devpts /dev/pts devpts 0xa gid=5,mode=0620",
		"mkdir /var/tmp 1777", "mkdir /var/empty 555", "mkdir /dev/shm 1777",
		"symlink /run /var/run", "symlink /proc/self/fd /dev/fd", "symlink /proc/self/fd/2 /dev/stderr",
		"mknod /dev/console 600 5:1", "mknod /dev/null 666 1:3", "mknod /dev/kmsg 660 1:11",
	} {
		if !k.Did(call) {
			t.Errorf("missing: %s", call)
		}
	}
}

// What the table mounts on must be there by then, in the root or in a file
// system mounted before.
func TestTableIsInOrder(t *testing.T) {
	there := map[string]bool{"/proc": true}
	for _, m := range append(append([]Mount{}, Table...), Below...) {
		if dir := path.Dir(m.Target); dir != "/" && !there["/"+strings.Split(m.Target, "/")[1]] {
			t.Errorf("%s comes before what it lies in", m.Target)
		}
		if there[m.Target] {
			t.Errorf("%s twice", m.Target)
		}
		there[m.Target] = true
	}
	for _, f := range Folders {
		if !there[path.Dir(f.Path)] {
			t.Errorf("%s lies in nothing of the table: it would be made in the root", f.Path)
		}
	}
}

func TestEachMountFailsInTurn(t *testing.T) {
	for _, m := range append(append([]Mount{}, Table...), Below...) {
		k := kerneltest.New()
		k.Fail = func(_ int, call string) error {
			if strings.HasPrefix(call, "mount "+m.Source+" "+m.Target+" ") {
				return syscall.EINVAL
			}
			return nil
		}
		n, failed := All(k)
		if n != len(Table)+len(Below)-1 {
			t.Errorf("%s failed: %d others mounted", m.Target, n)
		}
		switch {
		case !m.Essential && len(failed) != 0:
			t.Errorf("%s is optional, yet: %v", m.Target, failed)
		case m.Essential && len(failed) != 1:
			t.Errorf("%s is essential, yet: %v", m.Target, failed)
		case m.Essential && (!strings.Contains(failed[0].Error(), m.Target) || !strings.Contains(failed[0].Error(), "(errno 22)")):
			t.Errorf("%s: error names no target or errno: %v", m.Target, failed[0])
		}
	}
}

func TestMissingMountPointIsMade(t *testing.T) {
	k := kerneltest.New()
	first := true
	k.Fail = func(_ int, call string) error {
		if strings.HasPrefix(call, "mount proc /proc ") && first {
			first = false
			return syscall.ENOENT
		}
		return nil
	}
	if err := Do(k, Proc); err != nil {
		t.Fatal(err)
	}
	if !k.Did("mkdir /proc 755") {
		t.Errorf("calls: %q", k.Calls())
	}
	k = kerneltest.New()
	k.Fail = func(_ int, call string) error {
		if strings.HasPrefix(call, "mkdir") {
			return syscall.EROFS
		}
		return syscall.ENOENT
	}
	err := Do(k, Proc)
	if err == nil || !strings.Contains(err.Error(), "the root has no /proc") || !strings.Contains(err.Error(), "errno 30") {
		t.Errorf("a read-only root without /proc: %v", err)
	}
}

func TestKernelWithoutDevtmpfs(t *testing.T) {
	k := kerneltest.New()
	k.Fail = func(_ int, call string) error {
		if strings.Contains(call, " devtmpfs ") {
			return syscall.ENODEV
		}
		return nil
	}
	if _, failed := All(k); len(failed) != 0 {
		t.Error(failed)
	}
	if !k.Did("mount dev /dev tmpfs 0x20000a size=10m,mode=755") {
		t.Errorf("calls: %q", k.Calls())
	}
}

func TestMountedAlready(t *testing.T) {
	k := kerneltest.New()
	k.Fail = func(_ int, call string) error {
		if strings.HasPrefix(call, "mount dev /dev") {
			return syscall.EBUSY
		}
		if strings.HasPrefix(call, "mk") || strings.HasPrefix(call, "symlink") {
			return syscall.EEXIST
		}
		return nil
	}
	if _, failed := All(k); len(failed) != 0 {
		t.Error(failed)
	}
}
