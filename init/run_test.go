package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"keelson/init/kernel/kerneltest"
	"keelson/init/lifecycle"
	"keelson/init/watchdog"
	"keelson/internal/console"
	"keelson/internal/hold"
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

// What PID 1 makes of the beats of a real pair, and of what the kernel says of the supervisor.
func TestSupervisorThatHangs(t *testing.T) {
	k := kerneltest.New()
	p := onPaper(k)
	p.guarded(func() { p.handle(lifecycle.Boot{}) })
	if len(p.hold) != 2 {
		t.Fatalf("there is no pair: %v", p.hold)
	}
	supervisor, err := hold.New(p.hold[0], p.hold[1])
	if err != nil {
		t.Fatal(err)
	}
	pid := p.machine.Pid()
	task := "/proc/" + strconv.Itoa(pid) + "/task"
	k.Dir(task, "7")
	runs := func(state string, wanted time.Duration) {
		k.File(task+"/7/stat", "7 (service) "+state+strings.Repeat(" 0", 40))
		k.File(task+"/7/schedstat", "0 "+strconv.FormatInt(int64(wanted), 10)+" 1\n")
	}
	runs("S", time.Second)
	now := p.look
	look := func(late time.Duration) lifecycle.State {
		now = now.Add(late)
		p.lookAtSupervisor(now)
		now = now.Add(lookEvery)
		return p.machine.State()
	}
	p.lookAtSupervisor(now) // the first one has nothing to compare with
	now = now.Add(lookEvery)
	for range 10 {
		if err := supervisor.Beat(); err != nil {
			t.Fatal(err)
		}
		if s := look(0); s != lifecycle.Running {
			t.Fatalf("one that beats hangs: %s", s)
		}
	}
	for i := range 10 { // slow
		runs("S", time.Second+time.Duration(i+1)*lookEvery/5)
		if s := look(0); s != lifecycle.Running {
			t.Fatalf("one that works hangs: %s", s)
		}
	}
	for range 10 { // the machine is paused, or has no time
		if s := look(lookEvery); s != lifecycle.Running {
			t.Fatalf("one that could not beat hangs: %s", s)
		}
	}
	runs("T", time.Second+2*lookEvery)
	if err := supervisor.Beat(); err != nil {
		t.Fatal(err)
	}
	for range 4 { // one with the last beat, and one with nothing to compare with
		if s := look(0); s != lifecycle.Running {
			t.Fatalf("one that misses a beat hangs: %s", s)
		}
	}
	if s := look(0); s != lifecycle.Aborting || !k.Did(fmt.Sprintf("kill %d 6", pid)) || !k.Did(fmt.Sprintf("kill %d 18", pid)) {
		t.Fatalf("state is %s after %q", s, k.Calls())
	}
	if look(0); !k.Did(fmt.Sprintf("kill %d 9", pid)) {
		t.Errorf("it was not killed: %q", k.Calls())
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
