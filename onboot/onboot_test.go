package onboot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keelson/internal/beneath"
	"keelson/internal/bundle"
	"keelson/internal/pidfd"
	"keelson/internal/policy"
	"keelson/services/task"
	"keelson/services/task/tasktest"
)

// one is a start of a one-shot, and the task that comes of it.
type one func() *tasktest.Task

// ends is one that ends by itself.
func ends(after time.Duration, status int) one {
	return func() *tasktest.Task {
		f := tasktest.New(50)
		time.AfterFunc(after, func() { f.Ends(status) })
		return f
	}
}

// stays is one that goes on until it is ended, if it lets itself be.
func stays(changes ...func(*tasktest.Task)) one {
	return func() *tasktest.Task {
		f := tasktest.New(50)
		for _, change := range changes {
			change(f)
		}
		return f
	}
}

// What a task makes of signals.
func ignores(f *tasktest.Task) { f.OnStop = func(*tasktest.Task) bool { return true } }
func deaf(f *tasktest.Task)    { f.OnStop = func(*tasktest.Task) bool { return false } }
func stuck(f *tasktest.Task)   { f.OnKill = nil } // in the kernel

// boot is a run of one-shots in a world of fakes: their container runtime, their
// console, what is remembered of them.
type boot struct {
	Runner
	*tasktest.Console
	begin time.Time
	dir   string // of the image

	tasks    map[string][]one         // by the bundle's name, one for each start
	found    map[string]one           // what an earlier supervisor left running
	foundEnd map[string]*task.Exit    // or what had ended
	away     time.Duration            // until containerd answers
	slow     map[string]time.Duration // how long starts take; less than 0: whatever becomes of the caller
	stuck    time.Duration            // how long a removal takes

	mu   sync.Mutex
	did  []string         // starts and removals
	done map[string]error // nil if it has not failed
}

func newBoot(t *testing.T) *boot {
	b := &boot{
		begin: time.Now(), dir: t.TempDir(),
		tasks: map[string][]one{}, found: map[string]one{}, foundEnd: map[string]*task.Exit{},
		done: map[string]error{}, slow: map[string]time.Duration{},
	}
	b.Console = &tasktest.Console{Now: b.now}
	b.Runner = Runner{
		Tasks: b, Console: b, Progress: b, Now: b.now,
		OpenOutput: func(*bundle.Bundle, func(string)) (Output, error) { return output{}, nil },
	}
	return b
}

// add puts a one-shot into the image, with what each of its starts comes to.
func (b *boot) add(t *testing.T, name, annotations string, starts ...one) {
	t.Helper()
	dir := filepath.Join(b.dir, "onboot", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`{"process":{"args":["x"]},"root":{"path":"rootfs"},"linux":{},"annotations":{%s}}`, annotations)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	b.tasks[name] = starts
}

func (b *boot) run(t *testing.T, ctx context.Context) (policy.Action, error) {
	t.Helper()
	dirs, err := bundle.List(b.dir, bundle.Onboot)
	if err != nil {
		t.Fatal(err)
	}
	return b.Run(ctx, bundle.Onboot, dirs)
}

func (b *boot) now() time.Duration { return time.Since(b.begin) }

func (b *boot) act(what, name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.did = append(b.did, what+" "+name)
}

// acts are the starts and removals so far.
func (b *boot) acts() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.did)
}

func (b *boot) Start(ctx context.Context, c *bundle.Bundle, _ task.Streams) (task.Task, error) {
	b.act("start", c.Name)
	if slow := b.slow[c.Name]; slow != 0 {
		cancelled := ctx.Done()
		if slow < 0 { // in the kernel, where nothing can call it off
			slow, cancelled = -slow, nil
		}
		select {
		case <-time.After(slow):
		case <-cancelled:
			return nil, ctx.Err()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	starts := b.tasks[c.Name]
	if len(starts) == 0 {
		return nil, errors.New(c.Name + ": no such command")
	}
	b.tasks[c.Name] = starts[1:]
	return starts[0](), nil
}

func (b *boot) Adopt(_ context.Context, c *bundle.Bundle, _ pidfd.Identity) (task.Task, *task.Exit, error) {
	if b.now() < b.away {
		return nil, nil, errors.New("containerd is not running")
	}
	if f := b.found[c.Name]; f != nil {
		delete(b.found, c.Name)
		return f(), nil, nil
	}
	e := b.foundEnd[c.Name]
	delete(b.foundEnd, c.Name)
	return nil, e, nil
}

func (b *boot) Remove(_ context.Context, c *bundle.Bundle) {
	time.Sleep(b.stuck)
	b.act("remove", c.Name)
}
func (b *boot) Done(id string) bool             { _, done := b.done[id]; return done }
func (b *boot) SetDone(id string, failed error) { b.done[id] = failed }

func (b *boot) Output(name, line string) { b.Line(name, "| %s", line) }

type output struct{}

func (output) Paths() (string, string) { return "out", "err" }
func (output) Mark()                   {}
func (output) Drain()                  {}
func (output) Tail(int) []string       { return []string{"last words"} }
func (output) Close(bool)              {}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n\t%s\nnot\n\t%s", what, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestOneAfterTheOtherInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoot(t)
		b.add(t, "010-last", "", ends(time.Second, 0))
		b.add(t, "000-first", "", ends(2*time.Second, 0))
		b.add(t, "001-fails", `"keelson.console":"false"`, ends(time.Second, 3))
		b.add(t, "002-missing", "")
		action, err := b.run(t, context.Background())
		if err != nil || action != policy.ActionContinue {
			t.Errorf("%v, %v", action, err)
		}
		equal(t, "done", b.acts(), []string{
			"start 000-first", "remove 000-first", "start 001-fails", "remove 001-fails", "start 002-missing", "start 010-last", "remove 010-last"})
		equal(t, "the console", b.Shown(), []string{
			"2s first: onboot 1 of 4: done in 2.000s",
			"3s fails: ERROR: onboot 2 of 4: exited with code 3 after 1.000s; going on",
			"3s fails: | last words",
			"3s missing: ERROR: onboot 3 of 4: could not be started: no such command; going on",
			"4s last: onboot 4 of 4: done in 1.000s",
		})
		for id, want := range map[string]string{
			"onboot.000-first": "<nil>", "onboot.001-fails": "exited with code 3 after 1.000s", "onboot.002-missing": "could not be started: no such command", "onboot.010-last": "<nil>",
		} {
			if got, known := b.done[id]; !known || fmt.Sprint(got) != want {
				t.Errorf("remembered of %s: %v, %v, want %s", id, known, got, want)
			}
		}
		if again, err := b.run(t, context.Background()); err != nil || again != policy.ActionContinue || len(b.did) != 7 {
			t.Errorf("a second run repeated something: %v, %v, %q", again, err, b.did)
		}
	})
}

func TestTimeout(t *testing.T) {
	for name, tc := range map[string]struct {
		task one
		want string
	}{
		"ends at SIGTERM":   {stays(), "1s web: ERROR: onboot 1 of 1: not done after 1s (keelson.timeout), killed by SIGTERM; going on"},
		"ignores SIGTERM":   {stays(ignores), "3s web: ERROR: onboot 1 of 1: not done after 1s (keelson.timeout), killed by SIGKILL; going on"},
		"cannot hear it":    {stays(deaf), "1s web: ERROR: onboot 1 of 1: not done after 1s (keelson.timeout), killed by SIGKILL; going on"},
		"cannot be killed":  {stays(ignores, stuck), "5s web: ERROR: onboot 1 of 1: it cannot be killed: its processes are stuck in the kernel; going on"},
		"done just in time": {ends(900*time.Millisecond, 0), "900ms web: onboot 1 of 1: done in 0.900s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBoot(t)
				b.add(t, "000-web", `"keelson.timeout":"1s"`, tc.task)
				if action, err := b.run(t, context.Background()); err != nil || action != policy.ActionContinue {
					t.Errorf("%v, %v", action, err)
				}
				equal(t, "the console", b.Shown(), []string{tc.want})
			})
		})
	}
}

// The time of a one-shot counts from the beginning of its start, which may hang.
func TestTimeoutOfTheStart(t *testing.T) {
	const hangs = "not done after 1s (keelson.timeout), it was still being started: its start hangs: a mount, a device or the runtime does not answer; going on"
	for name, tc := range map[string]struct {
		annotations string
		slow        time.Duration
		task        one
		want        []string
		did         []string
	}{
		"it notices": {`"keelson.timeout":"1s"`, time.Hour, stays(),
			[]string{"1s web: ERROR: onboot 1 of 1: not done after 1s (keelson.timeout), it was still being started; going on"}, []string{"start 000-web"}},
		"it hangs": {`"keelson.timeout":"1s","keelson.on-failure":"retry:3"`, -time.Minute, stays(), // and no other try joins it
			[]string{"3s web: ERROR: onboot 1 of 1: " + hangs}, []string{"start 000-web", "remove 000-web"}},
		"it comes late": {`"keelson.timeout":"1s"`, -2 * time.Second, stays(),
			[]string{"2s web: ERROR: onboot 1 of 1: not done after 1s (keelson.timeout), it was still being started; going on"}, []string{"start 000-web", "remove 000-web"}},
		"what is left is for its run": {`"keelson.timeout":"5s"`, 4 * time.Second, ends(2*time.Second, 0),
			[]string{"5s web: ERROR: onboot 1 of 1: not done after 5s (keelson.timeout), killed by SIGTERM; going on"}, []string{"start 000-web", "remove 000-web"}},
		"without a timeout": {"", -time.Hour, stays(), []string{
			"10s web: onboot 1 of 1: still being started after 10s", "30s web: onboot 1 of 1: still being started after 30s",
			"1m10s web: onboot 1 of 1: still being started after 1m10s", "2m30s web: onboot 1 of 1: still being started after 2m30s",
			"3m2s web: ERROR: onboot 1 of 1: not started after 3m0s: its start hangs: a mount, a device or the runtime does not answer; going on"},
			[]string{"start 000-web", "remove 000-web"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBoot(t)
				b.add(t, "000-web", tc.annotations, tc.task)
				b.slow["000-web"] = tc.slow
				if action, err := b.run(t, context.Background()); err != nil || action != policy.ActionContinue {
					t.Errorf("%v, %v", action, err)
				}
				equal(t, "the console", b.Shown(), tc.want)
				time.Sleep(2 * time.Hour) // what comes late is undone
				equal(t, "done", b.acts(), tc.did)
			})
		})
	}
}

// A removal that hangs is reported, and the boot goes on.
func TestRemovalThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoot(t)
		b.add(t, "000-web", "", ends(time.Second, 0))
		b.stuck = time.Hour
		if action, err := b.run(t, context.Background()); err != nil || action != policy.ActionContinue {
			t.Errorf("%v, %v", action, err)
		}
		equal(t, "the console", b.Shown(), []string{
			"31s web: ERROR: its removal hangs: a mount, a device or the runtime does not answer; going on", "31s web: onboot 1 of 1: done in 1.000s"})
		time.Sleep(2 * time.Hour)
	})
}

// One that hangs holds up the boot, and people are told so.
func TestStillRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoot(t)
		b.add(t, "000-web", "", ends(40*time.Second, 0))
		if action, err := b.run(t, context.Background()); err != nil || action != policy.ActionContinue {
			t.Errorf("%v, %v", action, err)
		}
		equal(t, "the console", b.Shown(), []string{
			"10s web: onboot 1 of 1: still running after 10s",
			"30s web: onboot 1 of 1: still running after 30s",
			"40s web: onboot 1 of 1: done in 40.000s",
		})
	})
}

func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fails := ends(time.Second, 1)
		b := newBoot(t)
		b.add(t, "000-web", `"keelson.on-failure":"retry:3"`, fails, fails, ends(time.Second, 0))
		b.add(t, "001-never", `"keelson.on-failure":"retry:1"`, fails, fails)
		if action, err := b.run(t, context.Background()); err != nil || action != policy.ActionContinue {
			t.Errorf("%v, %v", action, err)
		}
		equal(t, "the console", b.Shown(), []string{
			"1s web: ERROR: onboot 1 of 2: exited with code 1 after 1.000s; try 2 of 4 in 100ms",
			"2.1s web: ERROR: onboot 1 of 2: exited with code 1 after 1.000s; try 3 of 4 in 200ms",
			"3.3s web: onboot 1 of 2: done in 1.000s",
			"4.3s never: ERROR: onboot 2 of 2: exited with code 1 after 1.000s; try 2 of 2 in 100ms",
			"5.4s never: ERROR: onboot 2 of 2: exited with code 1 after 1.000s; going on",
		})
	})
}

func TestAFailureMayEndTheMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoot(t)
		b.add(t, "000-web", `"keelson.on-failure":"poweroff"`, ends(time.Second, 1), ends(time.Second, 1))
		b.add(t, "001-behind", "", ends(time.Second, 0))
		for range 2 { // a supervisor that dies before it could ask tries again
			if action, err := b.run(t, context.Background()); err != nil || action != policy.ActionPoweroff {
				t.Errorf("%v, %v", action, err)
			}
		}
		equal(t, "done", b.acts(), []string{"start 000-web", "remove 000-web", "start 000-web", "remove 000-web"})
	})
}

func TestABundleThatCannotBeUsedIsNotTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoot(t)
		b.add(t, "000-web", `"keelson.on-failure":"retry:3"`)
		if err := os.WriteFile(filepath.Join(b.dir, "onboot", "000-web", "runtime.json"), []byte(`{"mounts":1}`), 0o644); err != nil {
			t.Fatal(err)
		}
		if action, err := b.run(t, context.Background()); err != nil || action != policy.ActionContinue || len(b.did) > 0 {
			t.Errorf("%v, %v, %q", action, err, b.did)
		}
		if len(b.Shown()) != 1 || !strings.Contains(b.Shown()[0], "runtime.json:1: mounts is a number, want a list; going on") {
			t.Errorf("the console shows %q", b.Shown())
		}
	})
}

func TestARestartedSupervisorGoesOnWhereTheLastOneWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoot(t)
		b.Resumed = true
		b.away = 3 * time.Second // containerd died too
		b.SetDone("onboot.000-over", nil)
		b.add(t, "000-over", "")
		b.add(t, "001-runs", "")
		b.found["001-runs"] = ends(time.Second, 0)
		b.add(t, "002-ended", `"keelson.on-failure":"retry:1"`, ends(time.Second, 0))
		b.foundEnd["002-ended"] = &task.Exit{Status: 4, Known: true}
		b.add(t, "003-next", "", ends(time.Second, 0))
		if action, err := b.run(t, context.Background()); err != nil || action != policy.ActionContinue {
			t.Errorf("%v, %v", action, err)
		}
		equal(t, "done", b.acts(), []string{"remove 001-runs", "remove 002-ended", "start 002-ended", "remove 002-ended", "start 003-next", "remove 003-next"})
		equal(t, "the console", b.Shown(), []string{
			"0s runs: warning: it is not known whether it runs: containerd is not running; asking again",
			"4s runs: onboot 2 of 4: done in 4.000s",
			"4s ended: ERROR: onboot 3 of 4: exited with code 4 after 0.000s; try 2 of 2 in 100ms",
			"5.1s ended: onboot 3 of 4: done in 1.000s",
			"6.1s next: onboot 4 of 4: done in 1.000s",
		})
	})
}

func TestStopDuringARun(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, b *boot)
		did     []string
		after   time.Duration
	}{
		"while it runs": {
			func(t *testing.T, b *boot) { b.add(t, "000-web", "", stays()) },
			[]string{"start 000-web", "remove 000-web"}, 0,
		},
		"of one that ignores it": {
			func(t *testing.T, b *boot) { b.add(t, "000-web", "", stays(ignores)) },
			[]string{"start 000-web", "remove 000-web"}, stopGrace,
		},
		"before a retry": {
			func(t *testing.T, b *boot) {
				b.add(t, "000-web", `"keelson.on-failure":"retry:1"`, ends(time.Minute-50*time.Millisecond, 1), stays())
			},
			[]string{"start 000-web", "remove 000-web"}, 0,
		},
		"while it is being started": {
			func(t *testing.T, b *boot) {
				b.slow["000-web"] = time.Hour
				b.add(t, "000-web", "", stays())
			},
			[]string{"start 000-web"}, 0,
		},
		"while its start hangs": {
			func(t *testing.T, b *boot) {
				b.slow["000-web"] = -time.Hour
				b.add(t, "000-web", "", stays())
			},
			[]string{"start 000-web"}, stopGrace,
		},
		"while it is not known whether it runs": {
			func(t *testing.T, b *boot) {
				b.Resumed, b.away = true, time.Hour
				b.add(t, "000-web", "", stays())
			},
			nil, 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBoot(t)
				tc.prepare(t, b)
				b.add(t, "001-behind", "", stays())
				ctx, cancel := context.WithCancel(context.Background())
				time.AfterFunc(time.Minute, cancel)
				if _, err := b.run(t, ctx); !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
				if at := b.now(); at != time.Minute+tc.after {
					t.Errorf("it ended after %v", at)
				}
				equal(t, "done", b.acts(), tc.did)
				if len(b.done) > 0 {
					t.Errorf("remembered as done: %v", b.done)
				}
				time.Sleep(2 * time.Hour) // what hangs comes to an end
			})
		})
	}
}

func TestLinkLogs(t *testing.T) {
	dir := t.TempDir()
	logs, varLog := filepath.Join(dir, "run/log"), filepath.Join(dir, "var/log")
	if err := os.MkdirAll(varLog, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a restarted supervisor does it again
		if err := LinkLogs(beneath.Machine, logs, varLog, bundle.Onboot); err != nil {
			t.Error(err)
		}
	}
	if to, err := filepath.EvalSymlinks(filepath.Join(varLog, "onboot")); err != nil || to != filepath.Join(logs, "onboot") {
		t.Errorf("%s, %v", to, err)
	}
}
