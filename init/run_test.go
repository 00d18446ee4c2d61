package main

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"keelson/init/kernel/kerneltest"
	"keelson/init/lifecycle"
	"keelson/init/watchdog"
	"keelson/internal/console"
)

// onPaper is PID 1 on a system of the test's, without a console.
func onPaper(k *kerneltest.Kernel) *pid1 {
	return &pid1{
		kernel: k, console: console.New(), machine: lifecycle.New(time.Minute), pause: func(time.Duration) {},
		signals: signals{}, dog: &watchdog.Holder{},
	}
}

// A panic while the supervisor is being started is a failed start.
func TestPanicIsOutlived(t *testing.T) {
	k := kerneltest.New()
	k.Fail = func(_ int, call string) error {
		if strings.HasPrefix(call, "start") {
			panic("boom")
		}
		return nil
	}
	p := onPaper(k)
	if p.guarded(func() { p.handle(lifecycle.Boot{}) }) {
		t.Error("no panic was seen")
	}
	if s := p.machine.State(); s != lifecycle.Waiting {
		t.Fatalf("state is %s: nothing will start the supervisor again", s)
	}
	k.Fail = nil
	for p.machine.State() == lifecycle.Waiting {
		p.guarded(p.turn) // for the 100 ms that the machine asks for
	}
	if p.machine.State() != lifecycle.Running || !k.Did("start /usr/bin/service supervise") {
		t.Errorf("state is %s after %q", p.machine.State(), k.Calls())
	}
}

// A supervisor that was killed and is not to be reaped is replaced, once that has been seen twice.
func TestSupervisorThatCannotEnd(t *testing.T) {
	k := kerneltest.New()
	p := onPaper(k)
	p.guarded(func() { p.handle(lifecycle.Boot{}) })
	pid := p.machine.Pid()
	status := "/proc/" + strconv.Itoa(pid) + "/status"
	now := time.Now()
	look := func() lifecycle.State {
		p.lookAtSupervisor(now)
		now = now.Add(lookEvery)
		return p.machine.State()
	}
	k.File(status, "Name:\tservice\nState:\tD (disk sleep)\nSigPnd:\t0000000000000000\n")
	for range 3 {
		if s := look(); s != lifecycle.Running {
			t.Fatalf("one that waits for a disk is given up: %s", s)
		}
	}
	k.File(status, "Name:\tservice\nState:\tD (disk sleep)\nSigPnd:\t0000000000000100\n")
	if s := look(); s != lifecycle.Running {
		t.Fatalf("one that was just killed has no time to end: %s", s)
	}
	p.lookAtSupervisor(now.Add(-1)) // not yet
	k.File(status, "Name:\tservice\nState:\tZ (zombie)\nSigPnd:\t0000000000000000\n")
	if s := look(); s != lifecycle.Waiting {
		t.Fatalf("it is not given up: %s", s)
	}
	for p.machine.State() == lifecycle.Waiting {
		p.guarded(p.turn) // for the 100 ms that the machine asks for
	}
	if p.machine.State() != lifecycle.Running || p.machine.Pid() == 0 {
		t.Errorf("state is %s after %q", p.machine.State(), k.Calls())
	}
}

func TestEnvironment(t *testing.T) {
	p := onPaper(kerneltest.New())
	p.started, p.launched = 5*time.Millisecond, 7*time.Millisecond
	inherited := []string{"HOME=/", "TERM=linux", "KEELSON_STOP=stray", "KEELSON_INIT_START=1", "word=value"}
	want := []string{"HOME=/", "TERM=linux", "word=value", defaultPath, "KEELSON_INIT_START=5000000", "KEELSON_INIT_DONE=7000000"}
	if got := p.environment(inherited); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := p.environment([]string{"PATH=/bin"}); got[0] != "PATH=/bin" {
		t.Errorf("PATH of the command line is lost: %q", got)
	}
}
