package runner

import (
	"context"
	"errors"
	"runtime"
	"slices"
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

func TestAFailedStartBacksOffUntilItStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		l.onStart = func(_ context.Context, n int) (task.Task, error) {
			if n <= 3 {
				return nil, errors.New([]string{"no shim", "no shim", "no space"}[n-1])
			}
			return tasktest.New(104), nil
		}
		l.run()
		if !l.settled() {
			t.Error("the boot waits for a service that failed to start")
		}
		l.is(lifecycle.Backoff, 1)
		l.until(time.Second)
		l.is(lifecycle.Ready, 4)
		l.said(
			"0s web: ERROR: failed to start: no shim; restart 1 in 100ms",
			"0s web: | last words",
			"100ms web: ERROR: failed to start for the same reason; restart 2 in 200ms",
			"300ms web: ERROR: failed to start: no space; restart 3 in 400ms",
			"300ms web: | last words",
			"700ms web: running (pid 104), started in 0.000s",
		)
		l.svc.Leave()
		l.ends(time.Second)
	})
}

func TestAnEndIsFollowedByARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		l.onStart = func(_ context.Context, n int) (task.Task, error) {
			f := tasktest.New(100 + n)
			lives := []time.Duration{time.Second, 20 * time.Second}
			if n <= len(lives) {
				time.AfterFunc(lives[n-1], func() { f.Ends(4 - 4*(n-1)) })
			}
			return f, nil
		}
		l.run()
		l.until(30 * time.Second)
		l.is(lifecycle.Ready, 3)
		l.svc.Leave()
		l.ends(30 * time.Second)
		l.is(lifecycle.Stopped, 3)
		l.said(
			"0s web: running (pid 101), started in 0.000s",
			"1s web: ERROR: exited with code 4 after 1.0s; restart 1 in 100ms",
			"1s web: | last words",
			"1.1s web: running (pid 102), started in 0.000s",
			"21.1s web: exited with code 0 after 20.0s; restart 2 in 0s",
			"21.1s web: running (pid 103), started in 0.000s",
			"30s web: stopped in 0.000s (killed by SIGTERM)",
		)
	})
}

func TestARestartWaitsForTheRemoval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		l.onStart = func(_ context.Context, n int) (task.Task, error) {
			f := tasktest.New(100 + n)
			if n == 1 {
				f.Ends(1)
			}
			return f, nil
		}
		l.onRemove = func(n int) {
			if n == 1 {
				time.Sleep(3 * time.Second)
			}
		}
		l.run()
		l.until(2 * time.Second)
		l.is(lifecycle.Backoff, 1)
		l.until(3 * time.Second)
		l.is(lifecycle.Ready, 2)
		l.svc.Leave()
		l.ends(3 * time.Second)
	})
}

// Pipes that somebody has removed would let no start succeed any more.
func TestPipesThatAreGoneAreMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		var first *tasktest.Task
		l.onStart = func(_ context.Context, n int) (task.Task, error) {
			if l.broken.Load() {
				return nil, errors.New("no such file or directory")
			}
			f := tasktest.New(100 + n)
			if n == 1 {
				first = f
			}
			return f, nil
		}
		l.run()
		l.broken.Store(true)
		first.Ends(1)
		l.until(time.Second)
		l.is(lifecycle.Ready, 2)
		if l.opened != 2 {
			t.Errorf("its output was opened %d times", l.opened)
		}
		l.svc.Leave()
		l.ends(time.Second)
	})
}

func TestStopWhileStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		l.onStart = func(ctx context.Context, _ int) (task.Task, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		l.run()
		l.until(time.Second)
		l.is(lifecycle.Starting, 1)
		l.svc.Leave()
		l.ends(time.Second)
		l.is(lifecycle.Stopped, 1)
		l.said()
	})
}

func TestStopWhileAStartSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		l.onStart = func(context.Context, int) (task.Task, error) { // too late to be cancelled
			time.Sleep(2 * time.Second)
			return tasktest.New(101), nil
		}
		l.run()
		l.until(time.Second)
		l.svc.Leave()
		l.ends(2 * time.Second)
		l.is(lifecycle.Stopped, 1)
		l.said("2s web: stopped in 0.000s (killed by SIGTERM)")
	})
}

func TestStopInBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		l.onStart = func(context.Context, int) (task.Task, error) { return nil, errors.New("no shim") }
		l.run()
		l.until(5 * time.Second)
		l.is(lifecycle.Backoff, 6)
		l.svc.Leave()
		l.ends(5 * time.Second)
		l.is(lifecycle.Stopped, 6)
	})
}

func TestOneThatIgnoresTheSignalIsKilledAtItsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		l.onStart = func(context.Context, int) (task.Task, error) {
			f := tasktest.New(101)
			f.OnStop = func(*tasktest.Task) bool { return true }
			return f, nil
		}
		l.run()
		l.until(time.Minute)
		l.svc.Leave()
		l.ends(70 * time.Second)
		l.is(lifecycle.Stopped, 1)
		l.said(
			"0s web: running (pid 101), started in 0.000s",
			"1m10s web: warning: has not stopped 10s after SIGTERM: killed",
			"1m10s web: stopped in 10.000s (killed by SIGKILL)",
		)
	})
}

func TestOneThatCannotBeKilledIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, map[string]string{"keelson.stop.timeout": "2s", "keelson.stop.signal": "INT"})
		l.onStart = func(context.Context, int) (task.Task, error) {
			f := tasktest.New(101)
			f.OnStop = func(*tasktest.Task) bool { return true }
			f.OnKill = nil
			return f, nil
		}
		l.run()
		l.svc.Leave()
		l.ends(7 * time.Second)
		l.is(lifecycle.Stopping, 1)
		l.said(
			"0s web: running (pid 101), started in 0.000s",
			"2s web: warning: has not stopped 2s after SIGINT: killed",
			"7s web: ERROR: cannot be killed: its processes are stuck in the kernel",
		)
	})
}

func TestOneThatCannotHearTheSignalIsKilledAtOnce(t *testing.T) {
	deaf := func(context.Context, int) (task.Task, error) {
		f := tasktest.New(101)
		f.OnStop = func(*tasktest.Task) bool { return false }
		return f, nil
	}
	for _, tc := range []struct {
		age, over time.Duration
		timeout   string
	}{
		{5 * time.Second, 5 * time.Second, "10s"},
		{0, time.Second, "10s"}, // so young that it may install a handler yet
		{0, 0, "0s"},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newLife(t, map[string]string{"keelson.stop.timeout": tc.timeout})
			l.onStart = deaf
			l.run()
			l.until(tc.age)
			l.svc.Leave()
			l.ends(tc.over)
			l.is(lifecycle.Stopped, 1)
		})
	}
}

// What is left of a container whose first process has no handler for the signal, when the others have ended of it, is
// not waited for until its time is over.
func TestOneThatGoesOnWithoutTheOthersIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		looks := 0
		l.onStart = func(context.Context, int) (task.Task, error) {
			f := tasktest.New(101)
			f.OnStop = func(*tasktest.Task) bool { return true } // the others do
			f.OnAlone = func() bool { looks++; return looks != 1 && looks != 3 }
			return f, nil
		}
		l.run()
		l.until(5 * time.Second)
		l.svc.Leave()
		l.ends(10 * time.Second) // alone at the second look, not at the third, and then twice
		l.is(lifecycle.Stopped, 1)
		l.said(
			"0s web: running (pid 101), started in 0.000s",
			"10s web: stopped in 5.000s (killed by SIGKILL, as it has no handler for SIGTERM)",
		)
	})
}

func TestTheLimitEndsInTheAction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, map[string]string{"keelson.restart.limit": "2/1m", "keelson.on-failure": "reboot"})
		l.onStart = func(context.Context, int) (task.Task, error) {
			f := tasktest.New(101)
			f.Ends(1)
			return f, nil
		}
		l.run()
		l.until(time.Minute)
		l.is(lifecycle.Failed, 3)
		if !slices.Equal(l.acted, []policy.Action{policy.ActionReboot}) {
			t.Errorf("the machine was asked for %v", l.acted)
		}
		l.svc.Leave()
		l.ends(time.Minute)
	})
}

func TestABundleThatCannotBeUsedFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, map[string]string{"keelson.on-failure": "halt"})
		ctx, cancel := context.WithCancel(context.Background())
		l.cancel = cancel
		l.svc = New(&l.cfg, l.b, errors.New("config.json:3: not JSON"))
		go l.svc.Run(ctx)
		synctest.Wait()
		l.is(lifecycle.Failed, 0)
		l.said("0s web: ERROR: cannot be started: config.json:3: not JSON")
		if !l.settled() || !slices.Equal(l.acted, []policy.Action{policy.ActionHalt}) {
			t.Errorf("settled %v, asked for %v", l.settled(), l.acted)
		}
		l.svc.Leave()
		l.ends(0)
	})
}

func TestAHungStartHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		back := make(chan struct{})
		l.onStart = func(context.Context, int) (task.Task, error) { // a mount(2) that does not return
			<-back
			return nil, errors.New("too late")
		}
		l.run()
		l.until(startBound + stuckBound)
		if !l.settled() {
			t.Error("the boot waits for ever")
		}
		l.is(lifecycle.Starting, 1)
		l.until(5 * time.Minute)
		l.svc.Leave()
		l.ends(5*time.Minute + stuckBound)
		l.said(
			"3m30s web: ERROR: its start hangs: a mount, a device or the runtime does not answer",
			"5m30s web: ERROR: its start hangs: a mount, a device or the runtime does not answer",
		)
		close(back)
	})
}

func TestAHungRemovalHoldsUpNoStop(t *testing.T) {
	for _, asked := range []time.Duration{0, 10 * time.Second} { // before and after its end
		synctest.Test(t, func(t *testing.T) {
			l := newLife(t, nil)
			back := make(chan struct{})
			l.onRemove = func(int) { <-back }
			l.onStart = func(context.Context, int) (task.Task, error) {
				f := tasktest.New(101)
				time.AfterFunc(5*time.Second, func() { f.Ends(0) })
				return f, nil
			}
			l.run()
			l.until(asked)
			l.svc.Leave()
			l.ends(asked + stuckBound)
			close(back)
		})
	}
}

func TestAHungRemovalIsSaidAndWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		l.onRemove = func(n int) {
			if n == 1 {
				time.Sleep(time.Minute)
			}
		}
		l.onStart = func(_ context.Context, n int) (task.Task, error) {
			f := tasktest.New(100 + n)
			if n == 1 {
				f.Ends(0)
			}
			return f, nil
		}
		l.run()
		l.until(time.Minute)
		l.is(lifecycle.Ready, 2)
		l.said(
			"0s web: running (pid 101), started in 0.000s",
			"0s web: exited with code 0 after 0.0s; restart 1 in 100ms",
			"30s web: ERROR: its removal hangs: a mount, a device or the runtime does not answer",
			"1m0s web: running (pid 102), started in 0.000s",
		)
		l.svc.Leave()
		l.ends(time.Minute)
	})
}

func TestRestartsLeaveNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, map[string]string{"keelson.restart.backoff": "1ms..1ms"})
		l.onStart = func(context.Context, int) (task.Task, error) {
			f := tasktest.New(101)
			f.Ends(1)
			return f, nil
		}
		l.run()
		before := runtime.NumGoroutine()
		l.until(2 * time.Second)
		if after := runtime.NumGoroutine(); after > before {
			t.Errorf("%d goroutines have become %d", before, after)
		}
		l.mu.Lock()
		if l.starts < 1000 || l.removals < l.starts-1 {
			t.Errorf("%d starts, %d removals", l.starts, l.removals)
		}
		l.mu.Unlock()
		l.svc.Leave()
		<-l.svc.Over()
		l.cancel()
	})
}

// exiting is a task that has exited once it is killed, and whose exit is reported late.
type exiting struct {
	*tasktest.Task
	exited atomic.Bool
}

func (e *exiting) Identity() pidfd.Identity {
	if e.exited.Load() {
		return pidfd.Identity{}
	}
	return e.Task.Identity()
}

// What has exited is not stuck in the kernel, however late it becomes known how.
func TestALateExitIsNotStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, nil)
		e := &exiting{Task: tasktest.New(101)}
		e.OnStop = func(*tasktest.Task) bool { return false }
		e.OnKill = func(*tasktest.Task) {
			e.exited.Store(true)
			go func() { time.Sleep(12 * time.Second); e.Ends(137) }()
		}
		l.onStart = func(context.Context, int) (task.Task, error) { return e, nil }
		l.run()
		l.until(2 * time.Second)
		l.svc.Leave()
		l.ends(14 * time.Second)
		l.said("0s web: running (pid 101), started in 0.000s", "14s web: stopped in 12.000s (killed by SIGKILL, as it has no handler for SIGTERM)")
	})
}
