package pidfd

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWaitEndsWithTheProcess(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Ended() {
		t.Error("a living process has ended")
	}
	cut, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.Wait(cut); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait: %v", err)
	}
	done := make(chan error, 1)
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	go func() { done <- p.Wait(context.Background()) }() // also after a cancelled one
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the end was not noticed")
	}
	// Not reaped yet: it has ended all the same.
	if !p.Ended() {
		t.Error("a zombie has not ended")
	}
	_ = cmd.Wait()
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Errorf("a signal to what is gone: %v", err)
	}
	if _, err := Open(cmd.Process.Pid); !errors.Is(err, unix.ESRCH) {
		t.Errorf("opening what is gone: %v", err)
	}
}

func TestIdentityIsOfOneProcess(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	p, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	id, err := p.Identity()
	if err != nil || id.PID != cmd.Process.Pid || id.Start == 0 {
		t.Fatal(id, err)
	}
	if parent, err := Stat(id.PID, 4); err != nil || parent != strconv.Itoa(os.Getpid()) {
		t.Errorf("its parent is %q: %v", parent, err)
	}
	same, err := OpenSame(id)
	if err != nil {
		t.Fatal(err)
	}
	same.Close()
	for _, other := range []Identity{{}, {PID: 1, Start: id.Start}, {PID: id.PID, Start: id.Start - 1}, {PID: id.PID}} {
		if p, err := OpenSame(other); !errors.Is(err, unix.ESRCH) {
			t.Errorf("%+v: %v, %v", other, p, err)
		}
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
	// A zombie still has its number and its time of start.
	if _, err := OpenSame(id); !errors.Is(err, unix.ESRCH) {
		t.Errorf("a zombie was taken hold of: %v", err)
	}
}
