package watchdog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"keelson/services/lifecycle"
)

func TestParseSetting(t *testing.T) {
	for _, c := range []struct {
		cmdline string
		want    Setting
		wrong   string
	}{
		{"console=ttyS0", Setting{Timeout: DefaultTimeout}, ""},
		{"keelson.watchdog=10s", Setting{Timeout: 10 * time.Second, Asked: true}, ""},
		{"keelson.watchdog=off", Setting{Timeout: DefaultTimeout, Off: true}, ""},
		{"keelson.watchdog=off keelson.watchdog=1m", Setting{Timeout: time.Minute, Asked: true}, ""},
		{"keelson.watchdog=10", Setting{Timeout: DefaultTimeout}, "keelson.watchdog=10 is neither"},
		{"keelson.watchdog=", Setting{Timeout: DefaultTimeout}, "keelson.watchdog= is neither"},
		{"keelson.watchdog=1s", Setting{Timeout: DefaultTimeout}, "from 2s to 1h0m0s"},
		{"keelson.watchdog=2h", Setting{Timeout: DefaultTimeout}, "30s is in force"},
		{"keelson.watchdogs=10s", Setting{Timeout: DefaultTimeout}, ""},
	} {
		got, err := ParseSetting(c.cmdline)
		if got != c.want || (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: %+v, %v", c.cmdline, got, err)
		}
	}
}

// yard is a dog's world: its device, its console, its loop.
type yard struct {
	*Dog
	mu      sync.Mutex // guards what the dog's goroutine touches: fed, lines, ok, who
	fed     int
	timeout time.Duration
	feedErr error
	openErr error
	opened  int
	set     []time.Duration
	lines   []string
	ok      bool
	who     string
}

func (y *yard) Identity() string       { return "test dog" }
func (y *yard) Timeout() time.Duration { return y.timeout }

func (y *yard) Feed() error {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.fed++
	return y.feedErr
}

// meals is how often it was fed.
func (y *yard) meals() int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.fed
}

// critical says how the critical services are.
func (y *yard) critical(ok bool, who string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.ok, y.who = ok, who
}

func (y *yard) say(mark, name, format string, a ...any) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.lines = append(y.lines, mark+name+": "+fmt.Sprintf(format, a...))
}
func (y *yard) Line(name, format string, a ...any)  { y.say("", name, format, a...) }
func (y *yard) Warn(name, format string, a ...any)  { y.say("warning: ", name, format, a...) }
func (y *yard) Error(name, format string, a ...any) { y.say("ERROR: ", name, format, a...) }

func newYard(t *testing.T, cfg Config) *yard {
	y := &yard{timeout: 30 * time.Second, ok: true}
	cfg.Console = y
	cfg.Critical = func() (bool, string) {
		y.mu.Lock()
		defer y.mu.Unlock()
		return y.ok, y.who
	}
	if cfg.Setting.Timeout == 0 {
		cfg.Setting.Timeout = DefaultTimeout
	}
	y.Dog = New(cfg)
	y.Dog.open = func() (*os.File, error) {
		if y.openErr != nil {
			return nil, y.openErr
		}
		y.opened++
		return os.OpenFile(filepath.Join(t.TempDir(), "watchdog"), os.O_CREATE|os.O_WRONLY, 0o600)
	}
	y.Dog.setUp = func(_ *os.File, d time.Duration) (device, error) { y.set = append(y.set, d); return y, nil }
	return y
}

func (y *yard) said(t *testing.T, lines ...string) {
	t.Helper()
	y.mu.Lock()
	defer y.mu.Unlock()
	if got, want := strings.Join(y.lines, "\n"), strings.Join(lines, "\n"); got != want {
		t.Errorf("said:\n%s\nwant:\n%s", got, want)
	}
	y.lines = nil
}

// loop is a supervisor's loop, until it is stopped.
func (y *yard) loop() (stop func()) {
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-y.Beats():
			case <-done:
				return
			}
		}
	}()
	return func() { close(done) }
}

const noHands = "warning: watchdog: the end of the machine is not watched over: PID 1 does not take it"

// pass lets time go by, and what is due come to an end.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestFed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		y := newYard(t, Config{})
		go y.Run(ctx)
		stop := y.loop()
		pass(time.Minute) // there is no device yet
		if y.Arm(); y.String() != "test dog armed, timeout 30s, fed 0s ago" {
			t.Errorf("it is %q", y)
		}
		y.Arm() // once is enough
		y.said(t, noHands, "watchdog: test dog armed: it resets the machine after 30s without a sign of life")
		pass(time.Minute + time.Second)
		if y.meals() != 6 || y.opened != 1 {
			t.Errorf("fed %d times in a minute, opened %d times", y.meals(), y.opened)
		}
		// The loop hangs.
		stop()
		pass(time.Hour)
		if y.meals() != 6 {
			t.Errorf("fed %d times with a loop that hangs", y.meals())
		}
		y.said(t)
		cancel()
		synctest.Wait()
	})
}

func TestNotFed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		y := newYard(t, Config{})
		defer y.loop()()
		go y.Run(ctx)
		y.Arm()
		y.said(t, noHands, "watchdog: test dog armed: it resets the machine after 30s without a sign of life")
		pass(11 * time.Second) // fed at 10s
		y.critical(false, "critical service db is failed")
		pass(10 * time.Second)
		y.said(t, "ERROR: watchdog: not fed: critical service db is failed; the machine is reset in 20s unless that changes")
		if got := y.String(); got != "test dog: NOT FED, resets the machine in 19s: critical service db is failed" {
			t.Errorf("it is %q", got)
		}
		pass(17 * time.Second)
		y.said(t, "ERROR: watchdog: the machine is reset in 3s: critical service db is failed")
		if y.meals() != 1 {
			t.Errorf("fed %d times", y.meals())
		}
		y.critical(true, "")
		pass(time.Second)
		y.said(t, "watchdog: fed again: every critical service is well")
		if y.meals() != 2 {
			t.Errorf("fed %d times", y.meals())
		}
		cancel()
		synctest.Wait()
	})
}

// TestHeld: a supervisor that has the watchdog of an earlier one neither opens nor
// sets it, which would feed it, and feeds it only when its loop has gone round.
func TestHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, err := os.Create(filepath.Join(t.TempDir(), "held"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		y := newYard(t, Config{Hands: Hands{held: f}})
		defer y.loop()()
		go y.Run(ctx)
		y.Arm()
		pass(9 * time.Second)
		if y.opened != 0 || y.meals() != 0 || len(y.set) != 1 || y.set[0] != 0 {
			t.Errorf("opened %d, fed %d, set %v", y.opened, y.meals(), y.set)
		}
		pass(2 * time.Second)
		if y.meals() != 1 {
			t.Errorf("fed %d times", y.meals())
		}
		y.said(t)
		cancel()
		synctest.Wait()
	})
}

func TestNone(t *testing.T) {
	for _, c := range []struct {
		name  string
		cfg   Config
		err   error
		state string
		said  []string
	}{
		{"nobody minds", Config{}, errNone, "this machine has no watchdog device", nil},
		{"asked for", Config{Setting: Setting{Asked: true, Timeout: 10e9}}, errNone, "this machine has no watchdog device",
			[]string{"warning: watchdog: keelson.watchdog=10s is asked for, but this machine has no watchdog device (or no driver for it): nothing will reset it should it hang"}},
		{"needed", Config{Needed: "db"}, errNone, "this machine has no watchdog device",
			[]string{"warning: watchdog: service db is critical, but this machine has no watchdog device (or no driver for it): nothing will reset it"}},
		{"busy", Config{}, &os.PathError{Op: "open", Path: "/dev/watchdog", Err: unix.EBUSY}, "in use by another program",
			[]string{"warning: watchdog: another program has the watchdog open: keelson cannot feed it, nor reset the machine by it"}},
		{"broken", Config{}, errors.New("boom"), "boom", []string{"warning: watchdog: cannot be opened: boom"}},
		{"off", Config{Setting: Setting{Off: true}, Needed: "db"}, nil, "off (keelson.watchdog=off)", nil},
		{"a container's", Config{Owner: "wd"}, nil, "left to the container wd",
			[]string{"watchdog: left to the container wd, which has it itself; keelson.watchdog=30s on the kernel command line takes it"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			y := newYard(t, c.cfg)
			y.openErr = c.err
			if errors.Is(c.err, errNone) {
				y.ArmEarly() // its driver may still come
				y.said(t)
			}
			y.Arm()
			y.Arm() // as when another device comes
			if y.String() != c.state || y.opened != 0 {
				t.Errorf("it is %q, opened %d times", y, y.opened)
			}
			y.said(t, c.said...)
		})
	}
}

func TestTaken(t *testing.T) {
	y := newYard(t, Config{Owner: "wd", Setting: Setting{Asked: true, Timeout: 10e9}})
	y.Arm()
	if y.opened != 1 || !strings.Contains(strings.Join(y.lines, "\n"), "container wd has it too and will find it busy") {
		t.Errorf("opened %d times; said %q", y.opened, y.lines)
	}
}

func TestHandedOver(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	t.Setenv(variable, fmt.Sprint(fds[1]))
	h := FromEnv()
	defer unix.Close(fds[1])
	if h.socket != fds[1] || h.held != nil || os.Getenv(variable) != "" {
		t.Errorf("%+v", h)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "watchdog"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := h.Keep(f); err != nil {
		t.Fatal(err)
	}
	rights := make([]byte, unix.CmsgSpace(4))
	if _, n, _, _, err := unix.Recvmsg(fds[0], make([]byte, 1), rights, unix.MSG_DONTWAIT); err != nil || n == 0 {
		t.Errorf("nothing came: %d, %v", n, err)
	}
	for _, wrong := range []string{"", "x", "1", "-1"} {
		t.Setenv(variable, wrong)
		if h := FromEnv(); h != (Hands{}) {
			t.Errorf("%q: %+v", wrong, h)
		}
	}
}

func TestJudge(t *testing.T) {
	const grace = 20 * time.Second
	start := time.Unix(1000, 0)
	type look struct {
		at    time.Duration
		state lifecycle.State
		sick  bool
		more  func(*Service)
		ok    bool
	}
	down := func(s *Service) { s.Down = true }
	hopeless := func(s *Service) { s.Hopeless = true }
	for name, looks := range map[string][]look{
		"a boot that takes its time": {{0, "waiting", false, nil, true}, {300e9, "waiting", false, nil, true},
			{301e9, "starting", false, nil, true}, {320e9, "running", false, nil, true}, {340e9, "running", false, nil, false}},
		"a start that takes its time":  {{0, "starting", false, nil, true}, {100e9, "starting", false, nil, true}, {101e9, "running", false, nil, true}, {121e9, "running", false, nil, false}},
		"a start within its bound":     {{0, "starting", false, nil, true}, {19e9, "running", false, nil, true}, {19.5e9, "ready", false, nil, true}, {90e9, "ready", false, nil, true}},
		"a start that never ends":      {{0, "running", false, nil, true}, {20e9, "running", false, nil, false}},
		"a crash that it survives":     {{0, "ready", false, nil, true}, {1e9, "backoff", true, nil, false}, {2e9, "running", true, nil, true}, {10e9, "ready", false, nil, true}},
		"a crash again and again":      {{0, "backoff", true, nil, false}, {1e9, "starting", true, nil, true}, {12e9, "backoff", true, nil, false}, {21e9, "running", true, nil, false}},
		"unhealthy":                    {{0, "unhealthy", true, nil, false}, {1e9, "ready", true, nil, true}, {20e9, "ready", true, nil, false}, {21e9, "ready", false, nil, true}},
		"failed":                       {{0, "failed", true, nil, false}},
		"done":                         {{0, "stopped", false, nil, true}},
		"ended for good":               {{0, "stopped", true, nil, false}},
		"stopped by a person":          {{0, "stopped", true, down, true}},
		"waiting for what never comes": {{0, "waiting", false, hopeless, true}, {20e9, "waiting", false, hopeless, false}},
		"waiting for ever":             {{0, "waiting", false, nil, true}, {600e9, "waiting", false, nil, false}},
		"a new supervisor":             {{0, "unknown", true, nil, true}, {1e9, "ready", false, nil, true}},
	} {
		var j Judge
		for i, l := range looks {
			s := Service{Name: "db", State: l.state, Sick: l.sick, Cause: "because", Grace: grace}
			if l.more != nil {
				l.more(&s)
			}
			ok, who := j.Look([]Service{{Name: "web", State: lifecycle.Ready}, s}, start.Add(l.at))
			if ok != l.ok || !ok && !strings.HasPrefix(who, "critical service db is "+string(l.state)) {
				t.Errorf("%s: look %d: %v, %q", name, i, ok, who)
			}
		}
	}
}
