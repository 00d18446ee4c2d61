package runner

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keelson/internal/pidfd"
	"keelson/internal/policy"
	"keelson/services/lifecycle"
	"keelson/services/task"
	"keelson/services/task/tasktest"
)

// What a restarted supervisor finds, for every state that an earlier one may
// have remembered.
func TestWhatIsFoundOfAnEarlierSupervisor(t *testing.T) {
	exit := func(status int) *task.Exit { return &task.Exit{Status: status, Known: true} }
	for _, tc := range []struct {
		name     string
		state    lifecycle.State // remembered; "" is nothing
		runs     bool            // the task runs
		exit     *task.Exit      // or has ended so
		want     lifecycle.State
		starts   int // by the new supervisor, within a minute
		removals int
		line     string // that is said, or ""
	}{
		{"running, runs", lifecycle.Running, true, nil, lifecycle.Ready, 0, 0, "still running (pid 50)"},
		{"running, ended", lifecycle.Running, false, exit(3), lifecycle.Ready, 1, 1, "exited with code 3 after 0.0s; restart 5 in "},
		{"running, ended well", lifecycle.Running, false, exit(0), lifecycle.Ready, 1, 1, "exited with code 0"},
		{"running, gone", lifecycle.Running, false, nil, lifecycle.Ready, 1, 1, "its exit code was lost"},
		{"starting, runs", lifecycle.Starting, true, nil, lifecycle.Ready, 0, 0, "still running"},
		{"starting, not made", lifecycle.Starting, false, nil, lifecycle.Ready, 1, 0, "running (pid 101)"},
		{"starting, ended", lifecycle.Starting, false, exit(1), lifecycle.Ready, 1, 1, "exited with code 1"},
		{"backoff", lifecycle.Backoff, false, nil, lifecycle.Ready, 1, 1, "running (pid 101)"},
		{"backoff, not removed", lifecycle.Backoff, false, exit(1), lifecycle.Ready, 1, 1, "running (pid 101)"},
		{"backoff, but runs", lifecycle.Backoff, true, nil, lifecycle.Ready, 0, 0, "still running"},
		{"stopped", lifecycle.Stopped, false, nil, lifecycle.Stopped, 0, 0, ""},
		{"stopped, not removed", lifecycle.Stopped, false, exit(0), lifecycle.Stopped, 0, 1, ""},
		{"failed", lifecycle.Failed, false, nil, lifecycle.Failed, 0, 0, ""},
		{"stopping, runs", lifecycle.Stopping, true, nil, lifecycle.Ready, 0, 0, "still running"},
		{"stopping, ended", lifecycle.Stopping, false, exit(0), lifecycle.Ready, 1, 1, "exited with code 0"},
		{"nothing known, runs", "", true, nil, lifecycle.Ready, 0, 0, "still running"},
		{"nothing known, ended", "", false, exit(2), lifecycle.Ready, 1, 1, "exited with code 2"},
		{"nothing known, nothing there", "", false, nil, lifecycle.Ready, 1, 0, "running (pid 101)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLife(t, map[string]string{"keelson.on-failure": "reboot"})
				l.cfg.Resumed = true
				if tc.state != "" {
					l.remember(memory{State: tc.state, Restarts: lifecycle.Restarts{Count: 4}, Process: pidfd.Identity{PID: 50, Start: 7}, RetryAt: 20 * time.Second})
				}
				l.onAdopt = func(_ context.Context, _ int, was pidfd.Identity) (task.Task, *task.Exit, error) {
					if want := 50; tc.state != "" && was.PID != want {
						t.Errorf("asked for process %d, not %d", was.PID, want)
					}
					if tc.runs {
						return tasktest.New(50), nil, nil
					}
					return nil, tc.exit, nil
				}
				l.run()
				if !l.settled() {
					t.Error("the boot waits for it")
				}
				if tc.state == lifecycle.Backoff && !tc.runs {
					l.is(lifecycle.Backoff, 0) // the rest of its delay
					l.until(20 * time.Second)
				}
				l.until(time.Minute)
				l.is(tc.want, tc.starts)
				if l.removals != tc.removals {
					t.Errorf("%d removals, not %d", l.removals, tc.removals)
				}
				if shown := strings.Join(l.Shown(), "\n"); !strings.Contains(shown, tc.line) || tc.line == "" && shown != "" || strings.Contains(shown, "no move") {
					t.Errorf("the console shows %q", l.Shown())
				}
				if acted := len(l.acted) > 0; acted != (tc.state == lifecycle.Failed) {
					t.Errorf("the machine was asked for %v", l.acted)
				}
				l.svc.Leave()
				l.ends(time.Minute)
			})
		})
	}
}

func TestAnEndWhileNobodyLookedFollowsThePolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, map[string]string{"keelson.restart": "on-failure"})
		l.cfg.Resumed = true
		l.remember(memory{State: lifecycle.Running, Mark: [2]int64{3, 4}})
		l.onAdopt = func(context.Context, int, pidfd.Identity) (task.Task, *task.Exit, error) {
			return nil, &task.Exit{Known: true}, nil
		}
		l.run()
		l.is(lifecycle.Stopped, 0)
		if !l.settled() {
			t.Error("the boot waits for it")
		}
		if l.marked != [2]int64{3, 4} {
			t.Errorf("its output is taken to begin at %v", l.marked)
		}
		l.said("0s web: exited with code 0 after 0.0s; not restarted (keelson.restart: on-failure)")
		l.svc.Leave()
		l.ends(0)
	})
}

func TestACorruptMemoryIsNoReasonToStartASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		l.cfg.Resumed = true
		l.rememberText(`{"state":`)
		l.onAdopt = func(context.Context, int, pidfd.Identity) (task.Task, *task.Exit, error) {
			return tasktest.New(50), nil, nil
		}
		l.run()
		l.is(lifecycle.Ready, 0)
		if !strings.Contains(l.Shown()[0], "set aside") {
			t.Errorf("the console shows %q", l.Shown())
		}
		l.svc.Leave()
		l.ends(0)
	})
}

// Of a task that runs nothing may be remembered. It is not killed for that.
func TestAForgottenTaskIsLeftAlone(t *testing.T) {
	for name, tc := range map[string]struct {
		ready string
		state lifecycle.State // once it was found
		cause string
	}{
		"said so once":     {"notify", lifecycle.Ready, "whether it has said so was forgotten, and it will not say it again"},
		"wrote so once":    {"log:^up$", lifecycle.Ready, "whether it has said so was forgotten, and it will not say it again"},
		"can be asked":     {"tcp:80", lifecycle.Running, "found running by a restarted supervisor"},
		"need not be told": {"started", lifecycle.Ready, "it has started"},
	} {
		synctest.Test(t, func(t *testing.T) {
			l, _ := talks(t, map[string]string{"keelson.ready": tc.ready, "keelson.ready.timeout": "10s"})
			l.cfg.Resumed = true
			var up atomic.Bool
			l.cfg.Probe = func(context.Context, policy.Probe, task.Task) error {
				if !up.Load() {
					return errors.New("refused")
				}
				return nil
			}
			l.onAdopt = func(context.Context, int, pidfd.Identity) (task.Task, *task.Exit, error) {
				return tasktest.New(50), nil, nil
			}
			l.rememberText("{")
			time.Sleep(time.Hour) // it has run for longer than any start may take
			l.run()
			l.is(tc.state, 0)
			if i := l.svc.Info(); i.Moves[len(i.Moves)-1].Cause != tc.cause {
				t.Errorf("%s: the cause is %q", name, i.Moves[len(i.Moves)-1].Cause)
			}
			l.until(time.Hour + 9*time.Second)
			l.is(tc.state, 0)
			up.Store(true)
			l.until(time.Hour + 10*time.Second)
			l.is(lifecycle.Ready, 0)
			l.svc.Leave()
			l.ends(time.Hour + 10*time.Second)
		})
	}
}

// The supervisor may die when a task has begun and this is not remembered yet: what
// is remembered then is when the one before it began, long ago.
func TestATaskOfACutStartHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, said := talks(t, map[string]string{"keelson.ready": "notify", "keelson.ready.timeout": "10s"})
		l.cfg.Resumed = true
		l.remember(memory{State: lifecycle.Starting, StartedAt: time.Second, ReadyBy: 11 * time.Second, Mark: [2]int64{3, 4}})
		l.onAdopt = func(context.Context, int, pidfd.Identity) (task.Task, *task.Exit, error) {
			return tasktest.New(50), nil, nil
		}
		time.Sleep(time.Hour)
		l.run()
		l.until(time.Hour + 9*time.Second)
		l.is(lifecycle.Running, 0)
		if l.marked != [2]int64{3, 4} {
			t.Errorf("its output is taken to begin at %v", l.marked)
		}
		said <- Message{Ready: true}
		synctest.Wait()
		l.is(lifecycle.Ready, 0)
		l.said("1h0m0s web: still running (pid 50)", "1h0m9s web: ready in 9.000s")
		l.svc.Leave()
		l.ends(time.Hour + 9*time.Second)
	})
}

// Who was asked to stop stays stopped, also where the supervisor that was asked dies first.
func TestAskedToStopIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, map[string]string{"keelson.stop.timeout": "1h"})
		stubborn := tasktest.New(101)
		stubborn.OnStop = func(*tasktest.Task) bool { return true }
		l.onStart = func(context.Context, int) (task.Task, error) { return stubborn, nil }
		l.run()
		if err := l.svc.Stop("asked to stop"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		l.is(lifecycle.Stopping, 1)
		l.cancel()
		<-l.svc.Over()
		l.cfg.Resumed = true
		l.onAdopt = func(context.Context, int, pidfd.Identity) (task.Task, *task.Exit, error) { return stubborn, nil, nil }
		l.run()
		l.is(lifecycle.Stopping, 1)
		stubborn.Ends(0)
		l.until(time.Hour)
		l.is(lifecycle.Stopped, 1)
		l.svc.Leave()
		l.ends(time.Hour)
	})
}

// A handler may take itself away as it begins: a second signal would cut short what it does, and the service count as
// one that cannot hear. What is left of its time goes on as well, with what it has asked for.
func TestAStopThatWasHeardGoesOnUnderTheNextSupervisor(t *testing.T) {
	var sick atomic.Bool
	for _, tc := range []struct {
		name  string
		begin func(*life) // at 1 s
		more  time.Duration
		ends  time.Duration // by itself; 0 is never
		over  time.Duration
		line  string
	}{
		{"asked to stop", func(l *life) { _ = l.svc.Stop("asked to stop") }, 0, 0, 11 * time.Second, "11s web: stopped in 10.000s (killed by SIGKILL)"},
		{"asked to stop, does", func(l *life) { _ = l.svc.Stop("asked to stop") }, 0, 8 * time.Second, 8 * time.Second, "8s web: stopped in 7.000s (exited with code 0)"},
		{"asked to stop, takes more time", func(l *life) { _ = l.svc.Stop("asked to stop") }, 20 * time.Second, 0, 22 * time.Second, "22s web: stopped in 21.000s (killed by SIGKILL)"},
		{"asked to restart", func(l *life) { _ = l.svc.Restart("asked to restart") }, 0, 8 * time.Second, 8 * time.Second, "8s web: stopped in 7.000s (exited with code 0): asked to restart"},
		{"unhealthy", func(*life) { sick.Store(true) }, 0, 0, 12500 * time.Millisecond, "12.5s web: ERROR: killed by SIGKILL after 12.5s, for it was unhealthy; restart 1 in "},
		{"the machine goes down", func(l *life) { l.svc.Leave() }, 0, 8 * time.Second, 8 * time.Second, "8s web: stopped in 7.000s (exited with code 0)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, said := talks(t, map[string]string{"keelson.ready": "notify", "keelson.health": "tcp:80", "keelson.health.interval": "2s", "keelson.health.retries": "1"})
				l.cfg.Probe = func(context.Context, policy.Probe, task.Task) error {
					if sick.Load() {
						return errors.New("refused")
					}
					return nil
				}
				sick.Store(false)
				signals := 0
				f := tasktest.New(101)
				f.OnStop = func(*tasktest.Task) bool { signals++; return signals == 1 }
				l.onStart = func(_ context.Context, n int) (task.Task, error) {
					if n > 1 {
						return tasktest.New(100 + n), nil
					}
					return f, nil
				}
				l.onAdopt = func(context.Context, int, pidfd.Identity) (task.Task, *task.Exit, error) { return f, nil, nil }
				l.run()
				l.until(500 * time.Millisecond)
				said <- Message{Ready: true}
				l.until(time.Second)
				tc.begin(l)
				l.until(2 * time.Second)
				if tc.more > 0 {
					said <- Message{Stopping: true, ExtendTimeout: tc.more}
				}
				leaving := tc.name == "the machine goes down"
				for _, at := range []time.Duration{4 * time.Second, 6 * time.Second} { // and twice
					l.until(at)
					l.cancel()
					<-l.svc.Over()
					l.cfg.Resumed, l.cfg.Leaving = true, leaving
					l.run()
					if leaving {
						l.svc.Leave()
						synctest.Wait()
					}
				}
				if tc.ends > 0 {
					l.until(tc.ends)
					f.Ends(0)
				}
				l.until(tc.over + 50*time.Millisecond)
				if signals != 1 {
					t.Errorf("it was signalled %d times", signals)
				}
				if l.Count(tc.line) != 1 || l.Count("no handler") > 0 {
					t.Errorf("the console shows\n\t%s", strings.Join(l.Shown(), "\n\t"))
				}
				l.svc.Leave()
				<-l.svc.Over()
				l.cancel()
			})
		})
	}
}

// Why a service does not run, and since when, is told the same by every next supervisor.
func TestCauseAndTimeOutliveTheSupervisor(t *testing.T) {
	for state, last := range map[lifecycle.State]time.Duration{
		lifecycle.Backoff: 2 * time.Second, lifecycle.Stopped: 2 * time.Second, lifecycle.Failed: 2 * time.Second,
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLife(t, nil)
			l.cfg.Resumed = true
			l.remember(memory{State: state, Cause: "killed by SIGKILL", Since: last, RetryAt: 2 * time.Hour})
			l.onAdopt = func(context.Context, int, pidfd.Identity) (task.Task, *task.Exit, error) { return nil, nil, nil }
			time.Sleep(time.Hour)
			for range 2 {
				l.run()
				l.is(state, 0)
				if i := l.svc.Info(); i.Cause != "killed by SIGKILL" || i.Since != last {
					t.Errorf("%s since %v: %q", state, i.Since, i.Cause)
				}
				l.cancel()
				<-l.svc.Over()
				if m := l.remembers(); m.State != state || m.Cause != "killed by SIGKILL" || m.Since != last {
					t.Errorf("remembered is %+v", m)
				}
			}
		})
	}
}

// More time that a service has asked for is its own under the next supervisor, too.
func TestExtendedTimeIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, said := talks(t, map[string]string{"keelson.ready": "notify", "keelson.ready.timeout": "10s"})
		l.run()
		said <- Message{ExtendTimeout: time.Minute}
		l.until(2 * time.Second)
		l.cancel()
		<-l.svc.Over()
		m := l.remembers()
		if m.ReadyBy != time.Minute || m.Mark != [2]int64{1, 2} {
			t.Fatalf("remembered is %+v", m)
		}
		l.cfg.Resumed = true
		found := tasktest.New(101)
		l.onAdopt = func(context.Context, int, pidfd.Identity) (task.Task, *task.Exit, error) { return found, nil, nil }
		l.run()
		l.until(59 * time.Second)
		l.is(lifecycle.Running, 1)
		said <- Message{Ready: true}
		synctest.Wait()
		l.is(lifecycle.Ready, 1)
		l.svc.Leave()
		l.ends(59 * time.Second)
	})
}

func TestAMemoryThatCannotBeWrittenIsNotLeftStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		l.run()
		l.is(lifecycle.Ready, 1)
		// From here on no new file can take the old one's place.
		if err := os.Mkdir(filepath.Join(l.cfg.MemoryDir, "web.json.new"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(l.cfg.MemoryDir, "web.json.new", "x"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		l.svc.Leave()
		l.ends(0)
		if _, err := os.Stat(l.svc.memoryPath()); err == nil {
			t.Error("the memory still says that it runs")
		}
		said := 0
		for _, line := range l.Shown() {
			if strings.Contains(line, "will not remember") {
				said++
			}
		}
		if said != 1 {
			t.Errorf("said %d times: %q", said, l.Shown())
		}
	})
}

// As long as it is not known whether it runs it must not be started.
func TestNothingIsStartedBesideWhatMayRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		l.cfg.Resumed = true
		l.remember(memory{State: lifecycle.Starting})
		var there atomic.Bool
		l.onAdopt = func(context.Context, int, pidfd.Identity) (task.Task, *task.Exit, error) {
			if !there.Load() {
				return nil, nil, errors.New("containerd is not running")
			}
			return tasktest.New(50), nil, nil
		}
		l.run()
		if !l.settled() {
			t.Error("the boot waits for it")
		}
		l.until(time.Hour)
		l.mu.Lock()
		starts := l.starts
		l.mu.Unlock()
		if starts > 0 {
			t.Errorf("%d starts", starts)
		}
		if shown := l.Shown(); len(shown) != 1 || !strings.Contains(shown[0], "not known whether it runs: containerd is not running") {
			t.Errorf("the console shows %q", shown)
		}
		there.Store(true)
		l.until(time.Hour + adoptMax)
		l.is(lifecycle.Ready, 0)
		l.svc.Leave()
		l.ends(time.Hour + adoptMax)
	})
}

func TestStopWhileItIsNotKnownWhetherItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		l.cfg.Resumed = true
		l.onAdopt = func(_ context.Context, n int, _ pidfd.Identity) (task.Task, *task.Exit, error) {
			if n < 5 {
				return nil, nil, errors.New("containerd is not running")
			}
			return tasktest.New(50), nil, nil
		}
		l.run()
		l.until(time.Second) // between the fourth time and the fifth
		l.svc.Leave()
		l.ends(1500 * time.Millisecond)
		l.is(lifecycle.Stopped, 0)
		if shown := l.Shown(); !strings.Contains(shown[len(shown)-1], "stopped in") {
			t.Errorf("the console shows %q", l.Shown())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		l.cfg.Resumed = true
		l.onAdopt = func(ctx context.Context, _ int, _ pidfd.Identity) (task.Task, *task.Exit, error) {
			<-ctx.Done()
			return nil, nil, ctx.Err()
		}
		l.run()
		l.until(time.Second)
		l.svc.Leave()
		l.ends(time.Second + stuckBound)
	})
}

func TestOnTheWayDownNothingIsStarted(t *testing.T) {
	for _, state := range []lifecycle.State{"", lifecycle.Starting, lifecycle.Backoff, lifecycle.Running, lifecycle.Failed} {
		for _, runs := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				l := newLife(t, map[string]string{"keelson.on-failure": "reboot"})
				l.cfg.Resumed, l.cfg.Leaving = true, true
				if state != "" {
					l.remember(memory{State: state})
				}
				found := tasktest.New(50)
				stopped := false
				found.OnStop = func(f *tasktest.Task) bool { stopped = true; f.Ends(0); return true }
				l.onAdopt = func(context.Context, int, pidfd.Identity) (task.Task, *task.Exit, error) {
					if runs {
						return found, nil, nil
					}
					return nil, nil, nil
				}
				l.run()
				l.svc.Leave()
				l.ends(0)
				if l.starts > 0 || stopped != runs || !slices.Equal(l.acted, []policy.Action(nil)) {
					t.Errorf("%q, runs %v: %d starts, stopped %v, asked for %v", state, runs, l.starts, stopped, l.acted)
				}
			})
		}
	}
}

func TestTheSupervisorsEndLeavesEverythingAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		l.run()
		l.until(time.Second)
		l.cancel()
		l.ends(time.Second)
		l.is(lifecycle.Ready, 1)
		if l.removals > 0 {
			t.Error("the task was removed")
		}
	})
}
