package children

import (
	"syscall"
	"testing"

	"keelson/init/kernel/kerneltest"
)

func TestReap(t *testing.T) {
	k := kerneltest.New()
	if got := Reap(k, nil); got != None {
		t.Errorf("no children: %v", got)
	}
	if n := len(k.Calls()); n != 1 {
		t.Errorf("asked %d times where there is no child", n)
	}
	k = kerneltest.New().Children(3)
	if got := Reap(k, nil); got != Some || len(k.Calls()) != 1 {
		t.Errorf("live children: %v after %q", got, k.Calls())
	}
	_ = k.Kill(-1, syscall.SIGKILL)
	ended := 0
	if got := Reap(k, func(pid int, st syscall.WaitStatus) {
		ended++
		if !st.Signaled() || st.Signal() != syscall.SIGKILL {
			t.Errorf("status %v of %d", st, pid)
		}
	}); got != None || ended != 3 {
		t.Errorf("%v, %d ended", got, ended)
	}
}

func TestReapIsBounded(t *testing.T) {
	k := kerneltest.New().Children(10 * atOnce)
	_ = k.Kill(-1, syscall.SIGKILL)
	ended := 0
	if got := Reap(k, func(int, syscall.WaitStatus) { ended++ }); got != Many || ended != atOnce {
		t.Errorf("%v, %d ended", got, ended)
	}
}

func TestReapOutlivesAnyError(t *testing.T) {
	k := kerneltest.New()
	k.Fail = func(int, string) error { return syscall.EINVAL }
	if got := Reap(k, nil); got != Some || len(k.Calls()) != 1 {
		t.Errorf("%v after %q", got, k.Calls())
	}
}
