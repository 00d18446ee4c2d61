package runner

import (
	"context"
	"fmt"
	"strings"
	"time"

	"keelson/internal/pidfd"
	"keelson/internal/policy"
	"keelson/services/lifecycle"
	"keelson/services/task"
)

// restart starts the service after its backoff.
func (s *Service) restart(ctx context.Context) {
	if s.State() != lifecycle.Backoff {
		return // it was asked to stop meanwhile
	}
	s.apply(lifecycle.TimerFired, "the backoff is over")
	s.start(ctx)
}

// start begins a start beside the loop.
func (s *Service) start(ctx context.Context) {
	sctx, cancel := context.WithTimeout(ctx, startBound)
	s.cancelStart = cancel
	s.startBegan = s.cfg.Now()
	results := make(chan startResult, 1)
	s.starts = results
	s.armStuck(startBound + stuckBound)
	var streams task.Streams
	if s.output != nil {
		s.output.Mark()
		streams.Stdout, streams.Stderr = s.output.Paths()
	}
	go func() {
		t, err := s.cfg.Tasks.Start(sctx, s.b, streams)
		results <- startResult{t, err}
	}()
}

// armStuck limits what was begun, more tightly where the service is to stop.
func (s *Service) armStuck(d time.Duration) {
	if s.stopAsked {
		d = min(d, stuckBound)
	}
	s.stuck = time.After(d)
}

// started settles a start.
func (s *Service) started(ctx context.Context, r startResult) {
	s.cancelStart()
	stopping := s.State() == lifecycle.Stopping
	switch {
	case r.err != nil && stopping:
		s.apply(lifecycle.StartFailed, r.err.Error())
	case r.err != nil && ctx.Err() != nil: // the supervisor ends; nothing was decided
	case r.err != nil:
		cause := strings.TrimPrefix(r.err.Error(), s.b.ID+": ")
		if cause == s.lastFailure {
			s.decide("failed to start for the same reason", false, 0)
			return
		}
		s.lastFailure = cause
		s.decide("failed to start: "+cause, false, 0)
		s.showTail()
	default:
		s.lastFailure = ""
		s.mu.Lock()
		s.startedAt = s.cfg.Now()
		s.mu.Unlock()
		s.holdTask(ctx, r.task)
		s.apply(lifecycle.Started, fmt.Sprintf("pid %d", r.task.PID()))
		if stopping {
			s.signalStop()
			return
		}
		s.cfg.Console.Line(s.b.Name, "running (pid %d), started in %.3fs", r.task.PID(), (s.cfg.Now() - s.startBegan).Seconds())
	}
}

// holdTask begins to wait for a running task.
func (s *Service) holdTask(ctx context.Context, t task.Task) {
	s.task = t
	exits := make(chan task.Exit, 1)
	s.exits = exits
	id := t.Identity()
	s.mu.Lock()
	s.process = id
	s.mu.Unlock()
	go func() {
		if e, err := t.Wait(ctx); err == nil {
			exits <- e
		}
	}()
}

// exited settles the end of a task.
func (s *Service) exited(ctx context.Context, e task.Exit) {
	s.exits, s.kill, s.died, s.again = nil, nil, nil, nil
	s.task = nil
	s.mu.Lock()
	s.process = pidfd.Identity{}
	ran := s.cfg.Now() - s.startedAt
	s.mu.Unlock()
	if s.State() == lifecycle.Stopping {
		s.remove(ctx, func() { s.stopped(e) })
		return
	}
	s.ended(ctx, e, ran)
}

// ended decides what follows the end of a task that nobody asked for.
func (s *Service) ended(ctx context.Context, e task.Exit, ran time.Duration) {
	s.decide(fmt.Sprintf("%s after %.1fs", e, ran.Seconds()), e.Success(), ran)
	// The shim has copied the last output when the task is removed; a restart
	// waits for its delay meanwhile.
	s.remove(ctx, func() {
		if s.output == nil {
			return
		}
		s.output.Drain()
		if !e.Success() {
			s.showTail()
		}
	})
}

// decide applies the policy to an end or a failed start and says so.
func (s *Service) decide(cause string, success bool, ran time.Duration) {
	s.mu.Lock()
	d := s.restarts.Decide(s.b.Service, ran, success, s.cfg.Now(), s.cfg.Jitter())
	count := s.restarts.Count
	s.mu.Unlock()
	say := s.cfg.Console.Error
	if success {
		say = s.cfg.Console.Line
	}
	if d.Event == lifecycle.RetryAt {
		say(s.b.Name, "%s; restart %d in %s", cause, count, roundDelay(d.Delay))
		s.backoff(d.Delay, cause)
		return
	}
	say(s.b.Name, "%s; %s", cause, d.Reason)
	s.apply(d.Event, cause+"; "+d.Reason)
	if d.Event == lifecycle.GaveUp {
		s.failed()
	}
}

// backoff arms the timer of the next start.
func (s *Service) backoff(delay time.Duration, cause string) {
	s.mu.Lock()
	s.retryAt = s.cfg.Now() + delay
	s.mu.Unlock()
	s.retry = time.After(delay)
	s.apply(lifecycle.RetryAt, cause)
}

// failed does what the user asked for should the service fail for good.
func (s *Service) failed() {
	if a := s.b.Service.OnFailure; a != policy.ActionNone && !s.cfg.Leaving {
		s.cfg.Act(a, fmt.Sprintf("service %s has failed (keelson.on-failure: %s)", s.b.Name, a))
	}
}

// showTail puts the last output of a failed service under its failure, unless
// it has been shown as it came.
func (s *Service) showTail() {
	if s.output == nil || s.b.Service.Console {
		return
	}
	for _, line := range s.output.Tail(tailLines) {
		s.cfg.Console.Line(s.b.Name, "| %s", line)
	}
}

func roundDelay(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}
