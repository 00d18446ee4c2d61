package lifecycle

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

const timeout = 60 * time.Second

// exited and killed are wait statuses as wait4(2) packs them.
func exited(code int) syscall.WaitStatus           { return syscall.WaitStatus(code << 8) }
func killed(sig syscall.Signal) syscall.WaitStatus { return syscall.WaitStatus(sig) }

// play drives a machine through events at times of its own.
type play struct {
	t   *testing.T
	m   *Machine
	now time.Time
}

func start(t *testing.T) *play {
	return &play{t, New(timeout), time.Unix(1000, 0)}
}

func (p *play) do(e Event, want Order, state State, say string) {
	p.t.Helper()
	s, err := p.m.Next(e, p.now)
	if err != nil {
		p.t.Fatalf("%T: %v", e, err)
	}
	if s.Order != want || p.m.State() != state || !strings.Contains(s.Say, say) {
		p.t.Fatalf("%T: order %d, state %s, %q; want order %d, state %s, %q", e, s.Order, p.m.State(), s.Say, want, state, say)
	}
}

// running takes it to Running.
func (p *play) running() {
	p.t.Helper()
	p.do(Boot{}, Launch, Launching, "")
	p.do(Started{Pid: 100}, Nothing, Running, "")
}

// wake moves the time to when the machine wants it.
func (p *play) wake() time.Duration {
	p.t.Helper()
	at, ok := p.m.Wake()
	if !ok {
		p.t.Fatal("nothing to wake for")
	}
	d := at.Sub(p.now)
	p.now = at
	return d
}

func TestRestartsForEverWithBackoff(t *testing.T) {
	p := start(t)
	p.running()
	want := 100 * time.Millisecond
	for i := 1; i <= 100; i++ {
		p.do(Ended{killed(syscall.SIGKILL)}, Nothing, Waiting, fmt.Sprintf("supervisor killed by SIGKILL after 0s; restart %d in %s", i, want))
		if d := p.wake(); d != want {
			t.Fatalf("restart %d after %s, want %s", i, d, want)
		}
		p.do(Tick{}, Launch, Launching, "")
		p.do(Started{Pid: 100 + i}, Nothing, Running, fmt.Sprintf("supervisor started again, pid %d", 100+i))
		want = min(2*want, 5*time.Second)
	}
	// One that lived for a while starts the series anew.
	p.now = p.now.Add(soundAfter)
	p.do(Ended{exited(0)}, Nothing, Waiting, "supervisor exited with 0 after 10s; restart 101 in 100ms")
}

// One that cannot end altogether is replaced, and its end, should it come, is nobody's.
func TestLost(t *testing.T) {
	p := start(t)
	p.running()
	p.now = p.now.Add(time.Minute)
	p.do(Lost{}, Nothing, Waiting, "supervisor was killed and does not end, as one of its threads waits in the kernel, after 1m0s; restart 1 in 100ms")
	if pid := p.m.Pid(); pid != 0 {
		t.Errorf("the supervisor is still %d", pid)
	}
	p.wake()
	p.do(Tick{}, Launch, Launching, "")
	p.do(Started{Pid: 101}, Nothing, Running, "supervisor started again, pid 101")
}

// The looks of a life, by a letter each.
var looks = map[rune]Look{
	'b': {Beat: true, Since: 10 * time.Second},
	'-': {Since: 10 * time.Second},
	'w': {Worked: true, Since: 10 * time.Second}, // slow
}

func TestHangs(t *testing.T) {
	for _, tc := range []struct{ life, want string }{
		{"bbbb", "...."},
		{"---", "..A"},
		{"-----", "..AKK"},
		{"--b--b---", "........A"},
		{strings.Repeat("w", 29) + "b---", strings.Repeat(".", 29) + "...A"},
		{strings.Repeat("w", 30), strings.Repeat(".", 29) + "A"}, // it works and never comes round
		{"--w--w--w--", "..........."},
	} {
		p := start(t)
		p.running()
		var got strings.Builder
		said := 0
		for _, letter := range tc.life {
			s, err := p.m.Next(looks[letter], p.now)
			if err != nil {
				t.Fatal(err)
			}
			if s.Say != "" {
				said++
			}
			got.WriteString(map[Order]string{Nothing: ".", Abort: "A", Kill: "K"}[s.Order])
		}
		if got.String() != tc.want || said > 2 {
			t.Errorf("%s: %s, want %s; %d lines", tc.life, got.String(), tc.want, said)
		}
	}
}

func TestOneThatHangsIsStartedAgain(t *testing.T) {
	p := start(t)
	p.running()
	p.now = p.now.Add(time.Minute)
	for range 2 {
		p.do(looks['-'], Nothing, Running, "")
	}
	p.do(looks['-'], Abort, Aborting, "supervisor (pid 100) hangs: no sign of life for 30s")
	p.do(looks['b'], Kill, Aborting, "supervisor has not ended 10s after SIGABRT: SIGKILL") // too late
	p.do(Ended{killed(syscall.SIGKILL)}, Nothing, Waiting, "supervisor killed by SIGKILL after 1m0s; restart 1 in 100ms")
	p.wake()
	p.do(Tick{}, Launch, Launching, "")
	p.do(Started{Pid: 101}, Nothing, Running, "supervisor started again, pid 101")
	p.do(looks['-'], Nothing, Running, "") // it has all of its time again
}

// A supervisor that hangs while the machine stops is replaced by one that goes on with it.
func TestHangsWhileStopping(t *testing.T) {
	p := start(t)
	p.running()
	p.do(looks['-'], Nothing, Running, "")
	p.do(looks['-'], Nothing, Running, "")
	p.do(Stop{syscall.SIGUSR2}, Terminate, Running, "poweroff asked for")
	p.do(looks['-'], Abort, Aborting, "hangs")
	p.do(Ended{killed(syscall.SIGABRT)}, Nothing, Waiting, "killed by SIGABRT")
	p.wake()
	p.do(Tick{}, Launch, Launching, "")
	p.do(Started{Pid: 101}, Nothing, Running, "")
	p.do(Ended{exited(0)}, Finish, Done, "")
	// And a stop that comes while it is being ended is left to its successor.
	p = start(t)
	p.running()
	for range 2 {
		p.do(looks['-'], Nothing, Running, "")
	}
	p.do(looks['-'], Abort, Aborting, "")
	p.do(Stop{syscall.SIGTERM}, Nothing, Aborting, "reboot asked for")
	p.do(Lost{}, Nothing, Waiting, "does not end")
}

func TestForkFailuresNeverEndIt(t *testing.T) {
	p := start(t)
	p.do(Boot{}, Launch, Launching, "")
	begin, said := p.now, 0
	for range 200 {
		s, err := p.m.Next(StartFailed{fmt.Errorf("fork: %w", syscall.EAGAIN)}, p.now)
		if err != nil || s.Order != Nothing || p.m.State() != Waiting {
			t.Fatalf("%+v, %v, %s", s, err, p.m.State())
		}
		if s.Say != "" {
			said++
		}
		if d := p.wake(); d > lastDelay {
			t.Fatalf("waits %s", d)
		}
		p.do(Tick{}, Launch, Launching, "")
	}
	if minutes := int(p.now.Sub(begin).Minutes()); said < minutes || said > minutes+10 {
		t.Errorf("%d lines in %d minutes", said, minutes)
	}
	p.do(StartFailed{syscall.ENOENT}, Nothing, Waiting, "is the root complete?")
}

func TestAnEarlyTickDoesNothing(t *testing.T) {
	p := start(t)
	p.running()
	p.do(Tick{}, Nothing, Running, "")
	p.do(Ended{exited(1)}, Nothing, Waiting, "exited with 1")
	p.now = p.now.Add(99 * time.Millisecond)
	p.do(Tick{}, Nothing, Waiting, "")
}

func TestOrderlyStop(t *testing.T) {
	for sig, kind := range map[syscall.Signal]Kind{
		syscall.SIGUSR1: Halt, syscall.SIGUSR2: Poweroff, syscall.SIGTERM: Reboot, syscall.SIGINT: Reboot,
	} {
		p := start(t)
		p.running()
		p.do(Stop{sig}, Terminate, Running, kind.String()+" asked for")
		if p.m.Kind() != kind {
			t.Errorf("%v gives %s", sig, p.m.Kind())
		}
		p.do(Ended{exited(0)}, Finish, Done, "")
		if _, ok := p.m.Wake(); ok {
			t.Error("wants to be woken after its end")
		}
	}
}

func TestStopOutOfTime(t *testing.T) {
	p := start(t)
	p.running()
	p.do(Stop{syscall.SIGUSR2}, Terminate, Running, "")
	if d := p.wake(); d != timeout {
		t.Errorf("waits %s", d)
	}
	p.do(Tick{}, Finish, Done, "did not stop everything within 1m0s")
}

func TestSupervisorDiesWhileStopping(t *testing.T) {
	p := start(t)
	p.running()
	p.do(Stop{syscall.SIGUSR2}, Terminate, Running, "")
	p.do(Ended{killed(syscall.SIGSEGV)}, Nothing, Waiting, "killed by SIGSEGV")
	p.wake()
	p.do(Tick{}, Launch, Launching, "")
	// It was started for the stop: no SIGTERM on top.
	p.do(Started{Pid: 101}, Nothing, Running, "started again")
	p.do(Ended{exited(0)}, Finish, Done, "")
}

func TestSupervisorKeepsDyingWhileStopping(t *testing.T) {
	p := start(t)
	p.running()
	p.do(Stop{syscall.SIGUSR2}, Terminate, Running, "")
	begin := p.now
	for range stopTries - 1 {
		p.do(Ended{exited(2)}, Nothing, Waiting, "exited with 2")
		p.wake()
		p.do(Tick{}, Launch, Launching, "")
		p.do(Started{Pid: 101}, Nothing, Running, "")
	}
	p.do(Ended{exited(2)}, Finish, Done, "failed 5 times while stopping")
	if took := p.now.Sub(begin); took > timeout {
		t.Errorf("took %s", took)
	}
}

func TestStopWithoutASupervisorToStart(t *testing.T) {
	p := start(t)
	p.do(Boot{}, Launch, Launching, "")
	p.do(StartFailed{syscall.ENOENT}, Nothing, Waiting, "")
	p.do(Stop{syscall.SIGTERM}, Launch, Launching, "reboot asked for")
	p.do(StartFailed{syscall.ENOENT}, Finish, Done, "stopping without it")
}

func TestStopDuringBackoffDoesNotWaitForIt(t *testing.T) {
	p := start(t)
	p.running()
	p.do(Ended{exited(1)}, Nothing, Waiting, "")
	p.do(Stop{syscall.SIGUSR2}, Launch, Launching, "poweroff asked for")
	p.do(Started{Pid: 7}, Nothing, Running, "")
}

func TestStopBeforeTheFirstStart(t *testing.T) {
	p := start(t)
	p.do(Stop{syscall.SIGINT}, Nothing, Booting, "reboot asked for")
	p.do(Boot{}, Launch, Launching, "")
	p.do(Started{Pid: 7}, Nothing, Running, "")
}

func TestStopWhileLaunching(t *testing.T) {
	p := start(t)
	p.do(Boot{}, Launch, Launching, "")
	p.do(Stop{syscall.SIGUSR2}, Nothing, Launching, "")
	p.do(Started{Pid: 7}, Terminate, Running, "")
}

func TestFirstStopWins(t *testing.T) {
	p := start(t)
	p.running()
	p.do(Stop{syscall.SIGUSR2}, Terminate, Running, "")
	p.do(Stop{syscall.SIGTERM}, Nothing, Running, "reboot asked for, but poweroff is under way")
	if p.m.Kind() != Poweroff {
		t.Errorf("kind is %s", p.m.Kind())
	}
}

func TestImpatience(t *testing.T) {
	p := start(t)
	p.running()
	p.do(Stop{syscall.SIGINT}, Terminate, Running, "")
	p.do(Stop{syscall.SIGINT}, Nothing, Running, "2 more such signals")
	p.do(Stop{syscall.SIGINT}, Nothing, Running, "1 more such signals")
	p.do(Stop{syscall.SIGINT}, Finish, Done, "not waiting for the supervisor")
	p.do(Stop{syscall.SIGINT}, Nothing, Done, "under way")
}

// A hypervisor that presses the button every few seconds is not impatient.
func TestSlowRepeatsAreNotImpatience(t *testing.T) {
	p := start(t)
	p.running()
	p.do(Stop{syscall.SIGUSR2}, Terminate, Running, "")
	for range 8 {
		p.now = p.now.Add(impatience + time.Second)
		p.do(Stop{syscall.SIGUSR2}, Nothing, Running, "poweroff is under way")
	}
}

// Every event in every state either is refused and changes nothing, or leads to
// a state from which an end can still be reached.
func TestEveryEventInEveryState(t *testing.T) {
	reach := map[State]func(*play){
		Booting:   func(*play) {},
		Launching: func(p *play) { p.do(Boot{}, Launch, Launching, "") },
		Running:   func(p *play) { p.running() },
		Aborting: func(p *play) {
			p.running()
			for range 2 {
				p.do(looks['-'], Nothing, Running, "")
			}
			p.do(looks['-'], Abort, Aborting, "")
		},
		Waiting: func(p *play) { p.running(); p.do(Ended{exited(1)}, Nothing, Waiting, "") },
		Done: func(p *play) {
			p.running()
			p.do(Stop{syscall.SIGINT}, Terminate, Running, "")
			p.do(Ended{}, Finish, Done, "")
		},
	}
	possible := map[State]string{
		Booting: "Boot Tick Stop", Launching: "Started StartFailed Tick Stop", Running: "Ended Lost Look Tick Stop",
		Aborting: "Ended Lost Look Tick Stop", Waiting: "Tick Stop", Done: "Tick Stop",
	}
	for state, get := range reach {
		for _, e := range []Event{Boot{}, Started{Pid: 5}, StartFailed{errors.New("x")}, Ended{}, Lost{}, Look{}, Tick{}, Stop{syscall.SIGUSR1}} {
			p := start(t)
			get(p)
			before := *p.m
			_, err := p.m.Next(e, p.now)
			name := strings.TrimPrefix(fmt.Sprintf("%T", e), "lifecycle.")
			ok := strings.Contains(" "+possible[state]+" ", " "+name+" ")
			if ok != (err == nil) {
				t.Errorf("%s while %s: %v", name, state, err)
			}
			if err != nil && (!errors.Is(err, ErrImpossible) || *p.m != before) {
				t.Errorf("%s while %s: refused with %v, and changed the state", name, state, err)
			}
			if err == nil && state == Done && p.m.State() != Done {
				t.Errorf("%s led out of Done", name)
			}
		}
	}
	p := start(t)
	if _, err := p.m.Next(Stop{syscall.SIGHUP}, p.now); !errors.Is(err, ErrImpossible) {
		t.Errorf("SIGHUP is a stop: %v", err)
	}
}

func TestReason(t *testing.T) {
	for st, want := range map[syscall.WaitStatus]string{
		exited(3): "exited with 3", killed(syscall.SIGKILL): "killed by SIGKILL",
		killed(syscall.SIGSEGV) | 0x80: "killed by SIGSEGV, core dumped", killed(40): "killed by signal 40",
	} {
		if got := Reason(st); got != want {
			t.Errorf("%#x: %q, want %q", int(st), got, want)
		}
	}
}
