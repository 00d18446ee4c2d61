package runner

import (
	"context"
	"time"

	"keelson/internal/policy"
	"keelson/services/lifecycle"
	"keelson/services/task"
)

// begin starts the service, or looks for what an earlier supervisor left of it. Only then
// are the log pipes opened: else the start opens them, as the first service would wait
// for those of all the others.
func (s *Service) begin(ctx context.Context) {
	known := s.recall()
	if s.loadErr != nil {
		if !known && !s.cfg.Leaving {
			s.cfg.Console.Error(s.name, "cannot be started: %v", s.loadErr)
		}
		s.apply(lifecycle.GaveUp, s.loadErr.Error())
		s.failed()
		return
	}
	if known || s.cfg.Resumed {
		s.openOutput()
		s.listen(ctx)
		s.adopt(ctx)
		return
	}
	if s.cfg.Leaving {
		s.apply(lifecycle.StopBegun, "the machine goes down")
		return
	}
	s.up(ctx, "boot")
}

// openOutput opens the log pipes, if they are not open.
func (s *Service) openOutput() {
	if s.output != nil && s.output.Intact() {
		return
	}
	if s.output != nil { // somebody has removed the pipes, as ctr task rm does
		s.output.Close(false)
		s.output = nil
	}
	output, err := s.cfg.OpenOutput(s.b)
	if err == nil {
		s.output = output
		return
	}
	// A service without a log is better than none.
	if err.Error() != s.outputError {
		s.outputError = err.Error()
		s.cfg.Console.Warn(s.name, "its output goes nowhere: %v", err)
	}
}

// listen opens the socket on which the service says how it is.
func (s *Service) listen(ctx context.Context) {
	p := s.b.Service
	if s.notify != nil || s.cfg.Notify == nil || p.Ready.Kind != policy.ProbeNotify && p.Health.Check.Kind != policy.ProbeNotify {
		return
	}
	notify, err := s.cfg.Notify(ctx, s.b)
	if err != nil {
		s.cfg.Console.Warn(s.name, "what it says of itself cannot be heard: %v", err)
		return
	}
	s.notify = notify
}

// adopt looks for the task that an earlier supervisor may have left, whatever it
// remembered: the file system that it remembers on may have been full.
func (s *Service) adopt(ctx context.Context) {
	adopts := make(chan adoption, 1)
	s.adopts = adopts
	s.armStuck(startBound)
	b, was := s.b, s.remembered.Process
	go func() {
		actx, cancel := context.WithTimeout(ctx, startBound)
		defer cancel()
		t, exit, err := s.cfg.Tasks.Adopt(actx, b, was)
		adopts <- adoption{t, exit, err}
	}()
}

// adopted settles what became of the service while there was no supervisor.
func (s *Service) adopted(ctx context.Context, a adoption) {
	m := s.remembered
	switch {
	case ctx.Err() != nil: // the supervisor ends; nothing was decided
	case a.err != nil && s.leaving:
		s.cfg.Console.Error(s.name, "cannot be stopped in order: %v", a.err)
		s.apply(lifecycle.StopBegun, a.err.Error())
	case a.err != nil:
		if a.err.Error() != s.adoptError {
			s.adoptError = a.err.Error()
			s.cfg.Console.Warn(s.name, "it is not known whether it runs: %v; asking again", a.err)
		}
		s.adoptDelay = min(max(2*s.adoptDelay, adoptMin), adoptMax)
		s.adoptAgain = s.cfg.After(s.adoptDelay)
		s.set(func(p *public) { p.settled = true })
		s.cfg.order().Changed(s.name)
	case a.task != nil:
		s.adoptedTask(ctx, a.task)
	case s.leaving || s.cfg.Leaving:
		s.apply(lifecycle.StopBegun, "the machine goes down")
	case s.down():
		s.apply(lifecycle.StopBegun, "asked to stop")
		s.clear(ctx, a)
	case m.State == lifecycle.Failed:
		s.found(lifecycle.GaveUp, "found failed by a restarted supervisor")
		s.failed() // should the last one have died before it could ask
		s.clear(ctx, a)
	case s.startAsked && (m.State == lifecycle.Stopped || m.State == lifecycle.Failed):
		s.applyWaiting("asked to start")
		s.clear(ctx, a)
	case m.State == lifecycle.Stopped:
		s.found(lifecycle.Ended, "found stopped by a restarted supervisor")
		s.clear(ctx, a)
	case m.State == lifecycle.Waiting || m.State == lifecycle.Queued:
		s.applyWaiting("found waiting by a restarted supervisor")
		s.clear(ctx, a)
	case m.State == lifecycle.Backoff:
		s.retryAt(m.RetryAt)
		s.found(lifecycle.RetrySet, "found in backoff by a restarted supervisor")
		s.remove(ctx, func() {}) // should the last one have died before it could
	case m.State == lifecycle.Stopping && m.Follow == followStart:
		s.applyWaiting("its restart was cut short")
		s.clear(ctx, a)
	case a.exit == nil && (m.State == lifecycle.Starting || m.State == ""):
		s.up(ctx, "its start was cut short")
	default:
		s.foundEnded(ctx, a.exit)
	}
}

// adoptedTask goes on with a task that runs.
func (s *Service) adoptedTask(ctx context.Context, t task.Task) {
	m := s.remembered
	s.cfg.Console.Line(s.name, "still running (pid %d)", t.PID())
	s.resumeTask()
	s.holdTask(ctx, t)
	moves := []move{{lifecycle.Adopted, "found running by a restarted supervisor"}}
	unknown := m.State == "" // whether it was ready, too
	same := m.Process == t.Identity()
	if !same {
		s.beganNow()
	}
	wasReady := same && m.ReadyAt > 0
	if same && m.Heard {
		s.stopHeard, s.stopBegan, s.killAt = true, m.StopBegan, m.KillAt
	}
	s.mu.Lock()
	s.startBegan = s.pub.startedAt
	s.mu.Unlock()
	if wasReady {
		s.set(func(p *public) { p.readyAt, p.wellSince, p.ups = m.ReadyAt, m.WellSince, 1 })
		moves = append(moves, move{lifecycle.BecameReady, "it was ready before"})
	} else if cause := s.readyUnasked(unknown); cause != "" {
		wasReady = true
		s.isReady()
		moves = append(moves, move{lifecycle.BecameReady, cause})
	}
	switch {
	case s.leaving:
		s.applyAll(moves...)
		s.stop("the machine goes down", followNothing)
	case s.down():
		s.applyAll(moves...)
		s.stop("asked to stop", followNothing)
	case s.restartAsked:
		s.applyAll(moves...)
		s.stop("asked to restart", followStart)
	case m.State == lifecycle.Stopping && m.Follow != followNothing:
		s.applyAll(moves...)
		s.stop(m.StopCause, m.Follow)
	case m.State == lifecycle.Unhealthy && wasReady:
		s.applyAll(moves...)
		s.unhealthy(m.KilledFor)
	case wasReady:
		s.applyAll(moves...)
		s.beginHealth()
	default:
		s.applyAll(moves...)
		s.beginReady()
	}
}

// beganNow settles that a task of which nobody knows when it began did so now.
func (s *Service) beganNow() {
	s.set(func(p *public) {
		p.startedAt = s.cfg.Now()
		p.readyBy = p.startedAt + s.b.Service.ReadyTimeout
	})
}

// readyUnasked says why a task that was taken over counts as ready without having
// been asked; "" if it is to be asked. unknown says that nothing is remembered of it.
func (s *Service) readyUnasked(unknown bool) string {
	switch kind := s.b.Service.Ready.Kind; {
	case !s.canTell(s.b.Service.Ready):
		return "it has started"
	case unknown && (kind == policy.ProbeNotify || kind == policy.ProbeLog):
		return "whether it has said so was forgotten, and it will not say it again"
	}
	return ""
}

// foundEnded follows the end of a task while nobody looked.
func (s *Service) foundEnded(ctx context.Context, exit *task.Exit) {
	m := s.remembered
	if exit == nil {
		exit = &task.Exit{}
	}
	if s.output != nil {
		s.output.MarkAt(m.Mark) // its last lines are not those of the process before it
	}
	s.killedFor = ""
	if m.State == lifecycle.Unhealthy {
		s.killedFor = m.KilledFor
	}
	if m.State == lifecycle.Stopping && m.Follow == followFailure {
		s.killedFor = m.StopCause
	}
	well := time.Duration(0)
	if m.WellSince > 0 {
		well = max(s.endOf(*exit)-m.WellSince, 0)
	}
	s.ended(ctx, *exit, max(s.endOf(*exit)-m.StartedAt, 0), well)
}

// clear removes what the earlier supervisor had no time to.
func (s *Service) clear(ctx context.Context, a adoption) {
	if a.exit != nil {
		s.remove(ctx, func() {})
	}
}

// endOf returns when a task ended while nobody looked.
func (s *Service) endOf(e task.Exit) time.Duration {
	now := s.cfg.Now()
	if e.At.IsZero() {
		return now
	}
	// The shim's time is the wall clock's, which may have been set since.
	return min(now-time.Since(e.At), now)
}
