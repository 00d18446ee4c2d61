package reap

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWaitLeavesTheChildToItsOwner(t *testing.T) {
	for _, c := range []struct {
		script string
		want   int
	}{{"exit 0", 0}, {"exit 42", 42}, {"kill -KILL $$", 137}, {"kill -TERM $$", 143}} {
		cmd := exec.Command("/bin/sh", "-c", c.script)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		h, err := Open(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Wait(); err != nil {
			t.Fatal(err)
		}
		h.Close()
		_ = cmd.Wait()
		if got := Status(cmd.ProcessState); got != c.want {
			t.Errorf("%s: status %d, want %d", c.script, got, c.want)
		}
	}
}

func TestCloseEndsAWait(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	h, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- h.Wait() }()
	h.Close()
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("wait ended with %v", err)
	}
}

func TestOpenOfNobody(t *testing.T) {
	if _, err := Open(1 << 30); !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EINVAL) {
		t.Errorf("error %v", err)
	}
	if Status(nil) != 255 {
		t.Error("an unknown end has a good status")
	}
}
