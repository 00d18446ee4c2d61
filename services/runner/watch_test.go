package runner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keelson/internal/bundle"
	"keelson/internal/pidfd"
	"keelson/internal/policy"
	"keelson/services/lifecycle"
	"keelson/services/store"
	"keelson/services/task"
	"keelson/services/task/tasktest"
)

// talks makes a life whose service can say how it is.
func talks(t *testing.T, annotations map[string]string) (*life, chan Message) {
	l := newLife(t, annotations)
	said := make(chan Message)
	l.cfg.Notify = func(context.Context, *bundle.Bundle) (<-chan Message, error) { return said, nil }
	return l, said
}

func (l *life) remembers() memory {
	l.t.Helper()
	var m memory
	if _, err := store.Load(l.svc.memoryPath(), &m); err != nil {
		l.t.Fatal(err)
	}
	return m
}

func TestReadyWhenItSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, said := talks(t, map[string]string{"keelson.ready": "notify", "keelson.ready.timeout": "10s"})
		l.run()
		l.until(time.Second)
		l.is(lifecycle.Running, 1)
		said <- Message{Status: "loading 40 %"}
		said <- Message{ExtendTimeout: 30 * time.Second}
		l.until(20 * time.Second) // later than its timeout was
		l.is(lifecycle.Running, 1)
		if i := l.svc.Info(); i.Status != "loading 40 %" || l.remembers().Status != i.Status {
			t.Errorf("its status is %q, remembered %q", i.Status, l.remembers().Status)
		}
		said <- Message{Ready: true}
		synctest.Wait()
		l.is(lifecycle.Ready, 1)
		if l.said("0s web: running (pid 101), started in 0.000s", "20s web: ready in 20.000s"); l.remembers().ReadyAt != 20*time.Second {
			t.Errorf("remembered is %+v", l.remembers())
		}
		l.svc.Leave()
		l.ends(20 * time.Second)
	})
}

// One that is quick may say so before its start has come back.
func TestReadyBeforeItsStartIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, said := talks(t, map[string]string{"keelson.ready": "notify"})
		l.onStart = func(context.Context, int) (task.Task, error) {
			said <- Message{Ready: true, Status: "serving"}
			time.Sleep(time.Second)
			return tasktest.New(101), nil
		}
		l.run()
		l.until(time.Second)
		l.is(lifecycle.Ready, 1)
		if i := l.svc.Info(); i.Status != "serving" {
			t.Errorf("its status is %q", i.Status)
		}
		l.svc.Leave()
		l.ends(time.Second)
	})
}

func TestReadyAtALineOfItsOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, map[string]string{"keelson.ready": "log:listening on [0-9]+", "keelson.ready.timeout": "3s", "keelson.restart.backoff": "1s..1s"})
		l.run()
		l.writes("listening on nothing")
		l.until(3500 * time.Millisecond)
		l.is(lifecycle.Backoff, 1)
		if shown := l.Shown(); strings.Count(strings.Join(shown, "\n"), "| last words") != 1 {
			t.Errorf("its last words are not shown once but as %q", shown)
		}
		l.until(5 * time.Second)
		l.writes("listening on 80")
		l.writes("listening on 443") // nobody needs it any more
		synctest.Wait()
		l.is(lifecycle.Ready, 2)
		if shown := strings.Join(l.Shown(), "\n"); !strings.Contains(shown, "3s web: ERROR: not ready within 3s: no line of its output matches listening on [0-9]+") {
			t.Errorf("the console shows %s", shown)
		}
		l.svc.Leave()
		l.ends(5 * time.Second)
		if l.writes("more") {
			t.Error("its output is still watched")
		}
	})
}

// That a service had to be killed at once while it was unhealthy is not said of the next
// one, which hears its stop signal.
func TestWhatCouldNotHearIsSaidOfItAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, map[string]string{"keelson.health": "tcp:80", "keelson.health.interval": "10s", "keelson.health.retries": "1"})
		l.cfg.Probe = func(_ context.Context, _ policy.Probe, tk task.Task) error {
			if tk.PID() == 101 {
				return errors.New("refused")
			}
			return nil
		}
		l.onStart = func(_ context.Context, n int) (task.Task, error) {
			f := tasktest.New(100 + n)
			if n == 1 {
				f.OnStop = func(*tasktest.Task) bool { return false }
			}
			return f, nil
		}
		l.run()
		l.until(15 * time.Second)
		l.is(lifecycle.Ready, 2)
		l.svc.Leave()
		l.ends(15 * time.Second)
		lines := l.Shown()
		if last := lines[len(lines)-1]; last != "15s web: stopped in 0.000s (killed by SIGTERM)" {
			t.Errorf("its stop is told as %q", last)
		}
	})
}

// A command that did not come to run counts neither for the service nor against it.
func TestAHealthCheckThatDoesNotRunIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, map[string]string{
			"keelson.health": "exec:true", "keelson.health.interval": "10s", "keelson.health.timeout": "2s", "keelson.health.retries": "2",
		})
		notRun := fmt.Errorf("true: it did not start: %w", policy.ErrUnknown)
		var found atomic.Pointer[func(ctx context.Context) error]
		finds := func(f func(ctx context.Context) error) { found.Store(&f) }
		l.cfg.Probe = func(ctx context.Context, _ policy.Probe, _ task.Task) error { return (*found.Load())(ctx) }
		finds(func(context.Context) error { return nil })
		l.run()
		l.until(11 * time.Second)
		finds(func(ctx context.Context) error { // nobody answers in time
			<-ctx.Done()
			return notRun
		})
		l.until(31 * time.Second)
		finds(func(context.Context) error { return notRun }) // or at all
		l.until(200 * time.Second)
		l.is(lifecycle.Ready, 1)
		if i := l.svc.Info(); i.Health.State != "unknown" || i.Health.Failures != 0 || i.Health.Reason != notRun.Error() {
			t.Errorf("its health is %+v", i.Health)
		}
		finds(func(context.Context) error { return nil })
		l.until(211 * time.Second)
		if m := l.remembers(); m.WellSince != 10*time.Second || m.Health.State != "healthy" {
			t.Errorf("remembered is %+v", m)
		}
		finds(func(ctx context.Context) error { // it runs, and does not end
			<-ctx.Done()
			return ctx.Err()
		})
		l.until(230 * time.Second)
		l.said(
			"0s web: running (pid 101), started in 0.000s",
			"22s web: warning: health unknown: true: it did not start: not known",
			"3m22s web: healthy again",
			"3m34s web: warning: health check 1 of 2 failed: no answer within 2s",
			"3m46s web: ERROR: unhealthy: exec:true failed twice, the last time: no answer within 2s",
			"3m46s web: ERROR: killed by SIGTERM after 226.0s, for it was unhealthy; restart 1 in 0s",
			"3m46s web: | last words",
			"3m46s web: running (pid 102), started in 0.000s",
		)
		l.svc.Leave()
		l.ends(l.now())
	})
}

// The time in which nobody could find out whether it is ready is not the service's.
func TestAReadinessCheckThatDoesNotRunTakesNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, map[string]string{"keelson.ready": "exec:true", "keelson.ready.timeout": "10s"})
		var answers atomic.Bool
		l.cfg.Probe = func(ctx context.Context, _ policy.Probe, _ task.Task) error {
			if answers.Load() {
				return nil
			}
			<-ctx.Done()
			return policy.ErrUnknown
		}
		l.run()
		l.until(40 * time.Second)
		l.is(lifecycle.Running, 1)
		answers.Store(true)
		l.until(50 * time.Second)
		l.is(lifecycle.Ready, 1)
		l.svc.Leave()
		l.ends(l.now())
	})
}

// A probe that hangs is cut, and one that does not even then end holds up nothing.
func TestAProbeThatHangsIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, map[string]string{
			"keelson.ready": "tcp:80", "keelson.health": "http:80/", "keelson.health.interval": "10s", "keelson.health.timeout": "2s", "keelson.health.retries": "2",
			"keelson.health.grace": "15s",
		})
		var hangs atomic.Bool
		back := make(chan struct{})
		l.cfg.Probe = func(context.Context, policy.Probe, task.Task) error {
			if hangs.Load() {
				<-back
			}
			return nil
		}
		l.run()
		l.is(lifecycle.Ready, 1)
		hangs.Store(true)
		l.until(13 * time.Second) // cut after 12 s, within the grace
		if i := l.svc.Info(); i.Health.Failures != 0 || i.Health.Reason != "no answer within 2s" {
			t.Errorf("its health is %+v", i.Health)
		}
		l.until(24 * time.Second)
		l.is(lifecycle.Ready, 1)
		hangs.Store(false)
		l.until(35 * time.Second)
		if i := l.svc.Info(); i.Health.State != "healthy" || i.Health.Failures != 0 {
			t.Errorf("its health is %+v", i.Health)
		}
		hangs.Store(true)
		l.until(57 * time.Second) // fails at 46 s and at 58 s; it had been well for 12 s
		hangs.Store(false)
		l.until(59 * time.Second)
		l.is(lifecycle.Ready, 2)
		l.said(
			"0s web: running (pid 101), started in 0.000s",
			"0s web: ready in 0.000s",
			"24s web: warning: health check 1 of 2 failed: no answer within 2s",
			"34s web: healthy again",
			"46s web: warning: health check 1 of 2 failed: no answer within 2s",
			"58s web: ERROR: unhealthy: http:80/ failed twice, the last time: no answer within 2s",
			"58s web: ERROR: killed by SIGTERM after 58.0s, for it was unhealthy; restart 1 in 0s",
			"58s web: | last words",
			"58s web: running (pid 102), started in 0.000s",
			"58s web: ready in 0.000s",
		)
		close(back)
		l.svc.Leave()
		l.ends(59 * time.Second)
	})
}

func TestOneThatFallsSilentIsUnhealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, said := talks(t, map[string]string{"keelson.health": "notify", "keelson.health.interval": "2s", "keelson.health.retries": "2"})
		l.run()
		l.until(time.Second)
		said <- Message{Watchdog: true}
		l.until(2900 * time.Millisecond)
		said <- Message{Watchdog: true}
		l.until(6800 * time.Millisecond)
		l.is(lifecycle.Ready, 1)
		l.until(6950 * time.Millisecond)
		l.is(lifecycle.Backoff, 1) // it had been well for 4 s only
		l.until(8 * time.Second)
		said <- Message{WatchdogTrigger: true}
		l.until(9 * time.Second)
		l.is(lifecycle.Ready, 3)
		shown := strings.Join(l.Shown(), "\n")
		for _, want := range []string{
			"6.9s web: ERROR: unhealthy: notify failed twice, the last time: it has not said WATCHDOG=1 for 2s",
			"8s web: ERROR: unhealthy: it said so itself: WATCHDOG=trigger",
		} {
			if !strings.Contains(shown, want) {
				t.Errorf("the console does not show %q but\n%s", want, shown)
			}
		}
		l.svc.Leave()
		l.ends(9 * time.Second)
	})
}

// A service that never answers its health check was never well, however long it
// ran, and is not started again at once.
func TestNeverHealthyIsNeverWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, map[string]string{"keelson.health": "tcp:80", "keelson.health.interval": "10s", "keelson.health.retries": "1", "keelson.restart.limit": "2/1h"})
		l.cfg.Probe = func(context.Context, policy.Probe, task.Task) error { return errors.New("connection refused") }
		l.run()
		l.until(time.Minute)
		l.is(lifecycle.Failed, 3)
		shown := strings.Join(l.Shown(), "\n")
		for _, want := range []string{"restart 1 in 100ms", "restart 2 in 200ms", "restarted 2 times within 1h0m0s"} {
			if !strings.Contains(shown, want) {
				t.Errorf("the console does not show %q but\n%s", want, shown)
			}
		}
		l.svc.Leave()
		l.ends(time.Minute)
	})
}

// One that is unhealthy and does not end is killed, and given up if that does not
// help; it is never started beside itself.
func TestUnhealthyAndUnkillable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, map[string]string{"keelson.health": "tcp:80", "keelson.health.interval": "1s", "keelson.health.retries": "1"})
		l.cfg.Probe = func(context.Context, policy.Probe, task.Task) error { return errors.New("connection refused") }
		var f *tasktest.Task
		l.onStart = func(context.Context, int) (task.Task, error) {
			f = tasktest.New(101)
			f.OnStop, f.OnKill = func(*tasktest.Task) bool { return true }, nil
			return f, nil
		}
		l.run()
		l.until(time.Minute)
		l.is(lifecycle.Unhealthy, 1)
		if i := l.svc.Info(); len(i.Problems) != 1 || !strings.Contains(i.Problems[0], "cannot be killed") {
			t.Errorf("its problems are %q", i.Problems)
		}
		f.Ends(137) // the kernel lets go of it
		l.until(61 * time.Second)
		l.is(lifecycle.Ready, 2)
		if i := l.svc.Info(); len(i.Problems) != 0 {
			t.Errorf("its problems are %q", i.Problems)
		}
		l.svc.Leave()
		l.ends(61*time.Second + 15*time.Second)
	})
}

// What an earlier supervisor was about to do is done.
func TestWhatWasBegunIsFinished(t *testing.T) {
	const pid = 50
	process := pidfd.Identity{PID: pid, Start: 7}
	for _, tc := range []struct {
		name string
		was  memory
		runs bool
		at   time.Duration // after so long
		want lifecycle.State
		// starts by the new supervisor until then
		starts int
		line   string
	}{
		{"ready, runs", memory{State: lifecycle.Ready, ReadyAt: 3, Process: process}, true, 0, lifecycle.Ready, 0, "still running"},
		{"ready, but another process runs", memory{State: lifecycle.Ready, ReadyAt: 3, Process: pidfd.Identity{PID: 51, Start: 7}}, true, 0, lifecycle.Running, 0, "still running"},
		{"not ready yet", memory{State: lifecycle.Running, StartedAt: 1, ReadyBy: 90 * time.Second, Process: process}, true, 0, lifecycle.Running, 0, "still running"},
		{"not ready in time", memory{State: lifecycle.Running, StartedAt: 1, ReadyBy: 90 * time.Second, Process: process}, true, 91 * time.Second, lifecycle.Running, 1, "not ready within 1m30s"},
		{"stopping for not being ready", memory{State: lifecycle.Stopping, Follow: followFailure, StopCause: "not ready within 1m30s: nothing", Process: process}, true, 50 * time.Millisecond, lifecycle.Backoff, 0, "failed to start: not ready within 1m30s: nothing; restart 1"},
		{"stopping for not being ready, gone", memory{State: lifecycle.Stopping, Follow: followFailure, StopCause: "not ready within 1m30s: nothing"}, false, 50 * time.Millisecond, lifecycle.Backoff, 0, ""},
		{"unhealthy", memory{State: lifecycle.Unhealthy, ReadyAt: 3, KilledFor: "tcp:80 failed twice", Process: process}, true, 50 * time.Millisecond, lifecycle.Backoff, 0, "unhealthy: tcp:80 failed twice"},
		{"unhealthy, gone", memory{State: lifecycle.Unhealthy, ReadyAt: 3, KilledFor: "tcp:80 failed twice"}, false, 50 * time.Millisecond, lifecycle.Backoff, 0, "for it was unhealthy; restart 1"},
		{"asked to stop", memory{State: lifecycle.Stopping, Down: true, ReadyAt: 3, Process: process}, true, time.Hour, lifecycle.Stopped, 0, "stopped in"},
		{"asked to stop, gone", memory{State: lifecycle.Stopping, Down: true}, false, time.Hour, lifecycle.Stopped, 0, ""},
		{"stopped by a person", memory{State: lifecycle.Stopped, Down: true}, false, time.Hour, lifecycle.Stopped, 0, ""},
		{"asked to restart", memory{State: lifecycle.Stopping, Follow: followStart, StopCause: "asked to restart", Process: process}, true, time.Second, lifecycle.Running, 1, "stopped in 0.000s (killed by SIGTERM): asked to restart"},
		{"asked to restart, gone", memory{State: lifecycle.Stopping, Follow: followStart, StopCause: "asked to restart"}, false, time.Second, lifecycle.Running, 1, "running (pid 101)"},
		{"waiting", memory{State: lifecycle.Waiting}, false, time.Second, lifecycle.Running, 1, "running (pid 101)"},
		{"done", memory{State: lifecycle.Stopped}, false, time.Hour, lifecycle.Stopped, 0, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLife(t, map[string]string{"keelson.ready": "tcp:80"})
				l.cfg.Resumed = true
				l.cfg.Probe = func(context.Context, policy.Probe, task.Task) error { return errors.New("connection refused") }
				l.remember(tc.was)
				l.onAdopt = func(context.Context, int, pidfd.Identity) (task.Task, *task.Exit, error) {
					if tc.runs {
						return tasktest.New(pid), nil, nil
					}
					return nil, nil, nil
				}
				l.run()
				if tc.at > 0 {
					l.until(tc.at)
				}
				l.is(tc.want, tc.starts)
				if shown := strings.Join(l.Shown(), "\n"); !strings.Contains(shown, tc.line) || strings.Contains(shown, "no move") {
					t.Errorf("the console shows\n%s", shown)
				}
				l.svc.Leave()
				<-l.svc.Over()
				l.cancel()
			})
		})
	}
}

func TestHurryEndsAStopAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, map[string]string{"keelson.stop.timeout": "1h"})
		l.onStart = func(context.Context, int) (task.Task, error) {
			f := tasktest.New(101)
			f.OnStop = func(*tasktest.Task) bool { return true }
			return f, nil
		}
		l.run()
		l.until(time.Minute)
		l.svc.Leave()
		l.until(2 * time.Minute)
		l.is(lifecycle.Stopping, 1)
		l.svc.Hurry()
		l.ends(2 * time.Minute)
		l.is(lifecycle.Stopped, 1)
	})
	synctest.Test(t, func(t *testing.T) { // nothing answers
		l := newLife(t, nil)
		back := make(chan struct{})
		l.onStart = func(context.Context, int) (task.Task, error) { <-back; return nil, errors.New("too late") }
		l.run()
		l.svc.Leave()
		synctest.Wait()
		l.svc.Hurry()
		l.ends(killBound)
		close(back)
	})
}

// A service that stops may ask for more time, and has so much and no more.
func TestMoreTimeToStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, said := talks(t, map[string]string{"keelson.ready": "notify", "keelson.stop.timeout": "2s"})
		l.onStart = func(context.Context, int) (task.Task, error) {
			f := tasktest.New(101)
			f.OnStop = func(*tasktest.Task) bool { return true }
			return f, nil
		}
		l.run()
		said <- Message{Ready: true}
		if err := l.svc.Stop("asked to stop"); err != nil {
			t.Fatal(err)
		}
		l.until(time.Second)
		said <- Message{Stopping: true, ExtendTimeout: 10 * time.Second}
		l.until(10 * time.Second)
		l.is(lifecycle.Stopping, 1)
		if i := l.svc.Info(); i.Status != "stopping" {
			t.Errorf("its status is %q", i.Status)
		}
		l.until(12 * time.Second)
		l.is(lifecycle.Stopped, 1)
		l.svc.Leave()
		l.ends(12 * time.Second)
	})
}

// A service that asks for more time again and again does not start for ever.
func TestMoreTimeToBecomeReadyHasABound(t *testing.T) {
	for timeout, bound := range map[string]time.Duration{"10s": time.Hour, "10m": 100 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			l, said := talks(t, map[string]string{"keelson.ready": "notify", "keelson.ready.timeout": timeout, "keelson.restart": "never"})
			l.run()
			for at := 5 * time.Second; at < bound; at += 5 * time.Second {
				l.until(at)
				said <- Message{ExtendTimeout: 10 * time.Second}
			}
			synctest.Wait()
			l.is(lifecycle.Running, 1)
			l.until(bound + time.Minute)
			l.is(lifecycle.Failed, 1)
			if l.Count("ERROR: not ready within "+bound.String()) != 1 || l.Count("asks for more time to become ready than EXTEND_TIMEOUT_USEC can give: "+bound.String()+" in all") != 1 {
				t.Errorf("the console shows\n\t%s", strings.Join(l.Shown(), "\n\t"))
			}
			l.svc.Leave()
			<-l.svc.Over()
		})
	}
}

// Nor does it stop for ever, under however many supervisors.
func TestMoreTimeToStopHasABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, said := talks(t, map[string]string{"keelson.ready": "notify", "keelson.stop.timeout": "2s"})
		f := tasktest.New(101)
		f.OnStop = func(*tasktest.Task) bool { return true }
		l.onStart = func(context.Context, int) (task.Task, error) { return f, nil }
		l.onAdopt = func(context.Context, int, pidfd.Identity) (task.Task, *task.Exit, error) { return f, nil, nil }
		l.run()
		said <- Message{Ready: true}
		if err := l.svc.Stop("asked to stop"); err != nil {
			t.Fatal(err)
		}
		for at := time.Second; at < time.Hour; at += time.Second {
			l.until(at)
			said <- Message{ExtendTimeout: 30 * time.Second}
			if at == 30*time.Minute {
				l.until(at + 2*statusDelay)
				at += 2 * statusDelay
				l.cancel()
				<-l.svc.Over()
				l.cfg.Resumed = true
				l.run()
			}
		}
		l.is(lifecycle.Stopping, 1)
		l.until(time.Hour + time.Second)
		l.is(lifecycle.Stopped, 1)
		if l.Count("asks for more time to stop than EXTEND_TIMEOUT_USEC can give: 1h0m0s in all") != 1 {
			t.Errorf("the console shows\n\t%s", strings.Join(l.Shown(), "\n\t"))
		}
		l.svc.Leave()
		<-l.svc.Over()
	})
}

// Failures of its health before the death of a supervisor count under the next.
func TestFailuresOfHealthAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, map[string]string{"keelson.health": "tcp:80", "keelson.health.interval": "1s", "keelson.health.retries": "2"})
		l.cfg.Probe = func(context.Context, policy.Probe, task.Task) error { return errors.New("connection refused") }
		runs := tasktest.New(101)
		runs.OnStop = func(*tasktest.Task) bool { return true }
		l.onStart = func(context.Context, int) (task.Task, error) { return runs, nil }
		l.run()
		l.until(1500 * time.Millisecond)
		l.is(lifecycle.Ready, 1)
		l.cancel()
		<-l.svc.Over()
		l.cfg.Resumed = true
		l.onAdopt = func(context.Context, int, pidfd.Identity) (task.Task, *task.Exit, error) { return runs, nil, nil }
		l.run()
		l.until(2500 * time.Millisecond)
		l.is(lifecycle.Unhealthy, 1)
		runs.Ends(0)
		l.svc.Leave()
		<-l.svc.Over()
		l.cancel()
	})
}

// A start that hangs is broken off, and is a failed one.
func TestAStartThatHangsIsBrokenOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		l.onStart = func(ctx context.Context, n int) (task.Task, error) {
			if n > 1 {
				return tasktest.New(100 + n), nil
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		l.run()
		l.until(startBound - time.Second)
		l.is(lifecycle.Starting, 1)
		l.until(startBound + time.Second)
		l.is(lifecycle.Ready, 2)
		if shown := l.Shown(); !strings.Contains(shown[0], "3m0s web: ERROR: failed to start: context deadline exceeded; restart 1 in 100ms") {
			t.Errorf("the console shows %q", shown)
		}
		l.svc.Leave()
		l.ends(startBound + time.Second)
	})
}
