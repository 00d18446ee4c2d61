package handover

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"keelson/init/kernel"
	"keelson/init/kernel/kerneltest"
)

func TestLook(t *testing.T) {
	for magic, want := range map[int64]Root{
		unix.RAMFS_MAGIC:      {true, "ramfs"},
		unix.TMPFS_MAGIC:      {true, "tmpfs"},
		unix.EXT4_SUPER_MAGIC: {false, "disk"},
		unix.SQUASHFS_MAGIC:   {false, "disk"},
	} {
		k := kerneltest.New().Root(kernel.FileSystem{Magic: magic})
		if got, err := Look(k); err != nil || got != want {
			t.Errorf("%#x: %+v, %v, want %+v", magic, got, err, want)
		}
	}
}

func TestDo(t *testing.T) {
	k := kerneltest.New().Dir("/proc").Dir("/tmp")
	if err := Do(k); err != nil {
		t.Fatal(err)
	}
	got := slices.DeleteFunc(k.Calls(), func(c string) bool { return strings.HasPrefix(c, "lstat") })
	want := []string{"mount / /proc  0x5000 ", "chdir /proc", "mount . /  0x2000 ", "chroot ."}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRootWithoutFoldersIsLeftAsItWas(t *testing.T) {
	k := kerneltest.New()
	if err := Do(k); err != nil {
		t.Fatal(err)
	}
	if !k.Did("mkdir /newroot 755") || k.Calls()[len(k.Calls())-1] != "rmdir /newroot" {
		t.Errorf("calls: %q", k.Calls())
	}
}

// Whatever fails, the process ends up in a root with the mount point free.
func TestEachCallFailsInTurn(t *testing.T) {
	for _, step := range []string{"mount / ", "chdir /run", "mount . ", "chroot"} {
		k := kerneltest.New().Dir("/run")
		k.Fail = func(_ int, call string) error {
			if strings.HasPrefix(call, step) {
				return syscall.EPERM
			}
			return nil
		}
		err := Do(k)
		if err == nil || !strings.Contains(err.Error(), "hand over the root: ") {
			t.Errorf("%s failed: %v", step, err)
		}
		calls := k.Calls()
		last := calls[len(calls)-1]
		switch step {
		case "mount / ":
			if !strings.HasPrefix(last, "mount / ") {
				t.Errorf("went on after the bind failed: %q", calls)
			}
		case "chroot":
			if last != "chdir /" {
				t.Errorf("%s failed: %q", step, calls)
			}
		default:
			if last != "unmount /run 0x2" {
				t.Errorf("%s failed: the bind is left: %q", step, calls)
			}
		}
	}
}

func TestSeal(t *testing.T) {
	k := kerneltest.New()
	if errs := Seal(k, Root{InMemory: true}); len(errs) != 0 {
		t.Fatal(errs)
	}
	if want := []string{"mount  /  0x1021 ", "mount  /  0x104000 "}; !slices.Equal(k.Calls(), want) {
		t.Errorf("in memory: %q, want %q", k.Calls(), want)
	}
	k = kerneltest.New()
	_ = Seal(k, Root{})
	if k.Calls()[0] != "mount  /  0x21 " {
		t.Errorf("disk: %q", k.Calls())
	}
	k = kerneltest.New()
	k.Fail = func(int, string) error { return syscall.EBUSY }
	if errs := Seal(k, Root{}); len(errs) != 2 {
		t.Errorf("both fail: %v", errs)
	}
}
