package runner

import (
	"context"
	"fmt"
	"strings"
	"time"

	"keelson/internal/api"
	"keelson/internal/pidfd"
	"keelson/internal/policy"
	"keelson/services/lifecycle"
	"keelson/services/queue"
	"keelson/services/task"
)

// up starts the service, or lets it wait for what comes before it, or for its turn.
func (s *Service) up(ctx context.Context, cause string) {
	waitsFor, with := s.cfg.order().Gate(s.name)
	state := s.State()
	if len(waitsFor) > 0 {
		if state == lifecycle.Queued {
			s.cfg.order().EndStart(s.name, false)
			cause = "what it waited for has gone again"
		}
		if state != lifecycle.Waiting {
			s.applyWaiting(cause)
		}
		s.sayWaiting(waitsFor)
		return
	}
	if state == lifecycle.Waiting {
		cause = "nothing to wait for any more"
	}
	if !s.cfg.order().StartTurn(s.name, s.class()) {
		if state != lifecycle.Queued {
			s.apply(lifecycle.Enqueued, cause)
		}
		return
	}
	if state == lifecycle.Queued {
		cause = "its turn has come"
	}
	s.asked = false
	s.set(func(p *public) { p.with = with })
	s.saidWaiting = ""
	s.start(ctx, cause)
}

// class is why it is to be started, which decides when its turn comes.
func (s *Service) class() queue.Class {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.asked:
		return queue.Asked
	case s.pub.settled:
		return queue.Restart
	}
	return queue.First
}

func (s *Service) applyWaiting(cause string) { s.apply(lifecycle.HeldUp, cause) }

// sayWaiting says once what a service waits for that will not come by itself.
func (s *Service) sayWaiting(waitsFor []string) {
	words := strings.Join(waitsFor, ", ")
	if words != s.saidWaiting && s.cfg.order().Hopeless(s.name) {
		s.saidWaiting = words
		s.cfg.Console.Warn(s.name, "waits for %s", words)
	}
}

// start begins a start beside the loop.
func (s *Service) start(ctx context.Context, cause string) {
	if s.next != nil {
		s.b, s.next = s.next, nil
		b := s.b
		s.set(func(p *public) { p.bundle = b })
	}
	s.openOutput()
	s.listen(ctx)
	var streams task.Streams
	if s.output != nil {
		s.output.Mark()
		mark := s.output.Marked()
		s.set(func(p *public) { p.mark = mark })
		streams.Stdout, streams.Stderr = s.output.Paths()
	}
	s.apply(lifecycle.StartBegun, cause)
	sctx, cancel := context.WithTimeout(ctx, startBound)
	s.cancelStart = cancel
	s.startBegan, s.early = s.cfg.Now(), Message{}
	results := make(chan startResult, 1)
	s.starts = results
	s.armStuck(startBound + stuckBound)
	b := s.b
	go func() {
		t, err := s.cfg.Tasks.Start(sctx, b, streams)
		s.cfg.order().EndStart(s.name, sctx.Err() == nil)
		results <- startResult{t, err}
	}()
}

// armStuck limits what was begun, more tightly where the service is to stop.
func (s *Service) armStuck(d time.Duration) {
	if s.removalTurn != nil {
		return // its time begins when its turn does
	}
	if s.leaving || s.State() == lifecycle.Stopping {
		d = min(d, stuckBound)
	}
	if s.hurried {
		d = min(d, killBound)
	}
	s.stuck = s.cfg.After(d)
}

// started settles a start.
func (s *Service) started(ctx context.Context, r startResult) {
	s.cancelStart()
	s.unstuck()
	stopping := s.State() == lifecycle.Stopping
	switch {
	case r.err != nil && stopping:
		s.stoppedThen(ctx, r.err.Error())
	case r.err != nil && ctx.Err() != nil: // the supervisor ends; nothing was decided
	case r.err != nil:
		s.startFailed(strings.TrimPrefix(r.err.Error(), s.b.ID+": "))
	default:
		s.set(func(p *public) {
			p.startedAt, p.readyAt, p.wellSince = s.cfg.Now(), 0, 0
			p.readyBy = p.startedAt + s.b.Service.ReadyTimeout
			p.status, p.health = "", api.Health{}
		})
		s.holdTask(ctx, r.task)
		cause := fmt.Sprintf("pid %d", r.task.PID())
		if stopping { // too late to be cancelled
			s.save()
			return
		}
		s.cfg.Console.Line(s.name, "running (pid %d), started in %.3fs", r.task.PID(), (s.cfg.Now() - s.startBegan).Seconds())
		if !s.canTell(s.b.Service.Ready) {
			s.isReady()
			s.lastFailure = ""
			s.applyAll(move{lifecycle.Started, cause}, move{lifecycle.BecameReady, "it has started"})
			s.beginHealth()
			return
		}
		s.apply(lifecycle.Started, cause)
		s.beginReady()
		s.heard(s.early)
	}
}

// startFailed decides what follows a start that has failed.
func (s *Service) startFailed(cause string) {
	if s.decideStart(cause) {
		s.showTail()
	}
}

// decideStart is startFailed without the last output. It reports whether the reason
// is another than the last time.
func (s *Service) decideStart(cause string) (news bool) {
	s.set(func(p *public) { p.sick = true })
	if cause == s.lastFailure {
		s.decide("failed to start for the same reason", "failed to start: "+cause, false, 0)
		return false
	}
	s.lastFailure = cause
	s.decide("failed to start: "+cause, "failed to start: "+cause, false, 0)
	return true
}

// holdTask begins to wait for a running task.
func (s *Service) holdTask(ctx context.Context, t task.Task) {
	s.task = t
	s.signalled, s.stopHeard, s.alone, s.deaf = false, false, false, false
	exits := make(chan task.Exit, 1)
	s.exits = exits
	id := t.Identity()
	s.set(func(p *public) { p.process = id })
	go func() {
		if e, err := t.Wait(ctx); err == nil {
			exits <- e
		}
	}()
}

// exited settles the end of a task.
func (s *Service) exited(ctx context.Context, e task.Exit) {
	s.unstuck()
	failedSince := s.watch.failedSince
	s.endWatch()
	s.exits, s.kill, s.died, s.again, s.look = nil, nil, nil, nil, nil
	s.task, s.signalled, s.stopHeard = nil, false, false
	now := s.cfg.Now()
	var ran, well time.Duration
	s.set(func(p *public) {
		ran = now - p.startedAt
		if p.wellSince > 0 {
			well = now - p.wellSince
			if failedSince > 0 {
				well = failedSince - p.wellSince
			}
		}
		p.process = pidfd.Identity{}
		p.readyAt, p.wellSince, p.status, p.health = 0, 0, "", api.Health{}
	})
	if s.State() == lifecycle.Stopping && s.follow != followFailure {
		s.noteExit(e, ran)
		s.remove(ctx, func() { s.stopped(ctx, e) })
		return
	}
	s.ended(ctx, e, ran, well)
}

// noteExit keeps how the task ended, and returns it in words.
func (s *Service) noteExit(e task.Exit, ran time.Duration) string {
	reason := e.String()
	last := &api.Exit{Code: e.Status, Reason: reason, At: s.cfg.Now(), Ran: ran, Figures: e.Ending.Figures}
	if sig, ok := e.Signal(); ok {
		last.Signal = signalName(sig)
	}
	s.set(func(p *public) { p.lastExit = last })
	return reason
}

// ended decides what follows the end of a task that was not asked for.
func (s *Service) ended(ctx context.Context, e task.Exit, ran, well time.Duration) {
	cause, success := s.noteExit(e, ran), e.Success()
	cause = fmt.Sprintf("%s after %.1fs", cause, ran.Seconds())
	show := !success
	s.set(func(p *public) { p.sick = true })
	switch {
	case s.follow == followFailure:
		s.setFollow(followNothing)
		show = s.decideStart(s.stopCause)
	case s.killedFor != "":
		s.killedFor = ""
		s.decide(cause+", for it was unhealthy", cause+", for it was unhealthy", false, well)
		show = true
	default:
		s.decide(cause, cause, success, well)
	}
	// The shim has copied the last output when the task is removed; a restart
	// waits for its delay meanwhile.
	s.remove(ctx, func() {
		if s.output == nil {
			return
		}
		s.output.Drain()
		if show {
			s.showTail()
		}
	})
}

// decide applies the policy to an end or a failed start and says so.
func (s *Service) decide(say, cause string, success bool, well time.Duration) {
	var d lifecycle.Decision
	var count int
	now, jitter := s.cfg.Now(), s.cfg.Jitter()
	s.set(func(p *public) {
		d = p.restarts.Decide(s.b.Service, well, success, now, jitter)
		count = p.restarts.Count
		p.failures++
		if d.Event == lifecycle.Ended {
			p.sick = false // it has done what it had to
		}
	})
	tell := s.cfg.Console.Error
	if success {
		tell = s.cfg.Console.Line
	}
	if d.Event == lifecycle.RetrySet {
		tell(s.name, "%s; restart %d in %s", say, count, roundDelay(d.Delay))
		s.backoff(s.cfg.Now()+d.Delay, cause)
		return
	}
	tell(s.name, "%s; %s", say, d.Reason)
	s.apply(d.Event, cause+"; "+d.Reason)
	if d.Event == lifecycle.GaveUp {
		s.failed()
	}
}

// backoff arms the timer of the next start.
func (s *Service) backoff(at time.Duration, cause string) {
	s.retryAt(at)
	s.apply(lifecycle.RetrySet, cause)
}

// retryAt sets when the next start is due.
func (s *Service) retryAt(at time.Duration) {
	s.set(func(p *public) { p.retryAt = at })
	s.retry, s.due = s.cfg.After(max(at-s.cfg.Now(), 0)), false
}

// failed does what the user asked for should the service fail for good.
func (s *Service) failed() {
	if a := s.b.Service.OnFailure; a != policy.ActionNone && !s.cfg.Leaving {
		s.cfg.Act(a, fmt.Sprintf("service %s has failed (keelson.on-failure: %s)", s.name, a))
	}
}

// showTail puts the last output of a failed service under its failure, unless
// it has been shown as it came.
func (s *Service) showTail() {
	if s.output == nil || s.b.Service.Console {
		return
	}
	for _, line := range s.output.Tail(tailLines) {
		s.cfg.Console.Line(s.name, "| %s", line)
	}
}

func roundDelay(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}
