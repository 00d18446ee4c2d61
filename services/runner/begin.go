package runner

import (
	"context"
	"time"

	"keelson/services/lifecycle"
	"keelson/services/task"
)

// begin opens the log pipes and starts the service, or looks for what an earlier
// supervisor left of it.
func (s *Service) begin(ctx context.Context) {
	known := s.recall()
	if s.loadErr != nil {
		if !known && !s.cfg.Leaving {
			s.cfg.Console.Error(s.b.Name, "cannot be started: %v", s.loadErr)
		}
		s.apply(lifecycle.GaveUp, s.loadErr.Error())
		s.failed()
		return
	}
	output, err := s.cfg.OpenOutput(s.b)
	if err != nil {
		// A service without a log is better than none.
		s.cfg.Console.Warn(s.b.Name, "its output goes nowhere: %v", err)
	} else {
		s.output = output
	}
	if known || s.cfg.Resumed {
		s.adopt(ctx)
		return
	}
	if s.cfg.Leaving {
		s.settle()
		return
	}
	s.apply(lifecycle.StartAsked, "boot")
	s.start(ctx)
}

// adopt looks for the task that an earlier supervisor may have left, whatever it
// remembered: the file system that it remembers on may have been full.
func (s *Service) adopt(ctx context.Context) {
	adopts := make(chan adoption, 1)
	s.adopts = adopts
	s.armStuck(startBound)
	go func() {
		actx, cancel := context.WithTimeout(ctx, startBound)
		defer cancel()
		t, exit, err := s.cfg.Tasks.Adopt(actx, s.b, s.remembered.Process)
		adopts <- adoption{t, exit, err}
	}()
}

// adopted settles what became of the service while there was no supervisor.
func (s *Service) adopted(ctx context.Context, a adoption) {
	m := s.remembered
	switch {
	case ctx.Err() != nil: // the supervisor ends; nothing was decided
	case a.err != nil && s.stopAsked:
		s.cfg.Console.Error(s.b.Name, "cannot be stopped in order: %v", a.err)
		s.settle()
	case a.err != nil:
		if a.err.Error() != s.adoptError {
			s.adoptError = a.err.Error()
			s.cfg.Console.Warn(s.b.Name, "it is not known whether it runs: %v; asking again", a.err)
		}
		s.adoptDelay = min(max(2*s.adoptDelay, adoptMin), adoptMax)
		s.adoptAgain = time.After(s.adoptDelay)
		s.settle()
	case a.task != nil:
		s.cfg.Console.Line(s.b.Name, "still running (pid %d)", a.task.PID())
		s.holdTask(ctx, a.task)
		s.apply(lifecycle.Adopted, "found running by a restarted supervisor")
		if s.stopAsked {
			s.stopping()
		}
	case s.stopAsked || s.cfg.Leaving:
		s.settle()
	case m.State == lifecycle.Failed:
		s.apply(lifecycle.GaveUp, "found failed by a restarted supervisor")
		s.failed() // should the last one have died before it could ask
		s.clear(ctx, a)
	case m.State == lifecycle.Stopped:
		s.settle()
		s.clear(ctx, a)
	case m.State == lifecycle.Backoff:
		s.backoff(max(m.RetryAt-s.cfg.Now(), 0), "found in backoff by a restarted supervisor")
		s.remove(ctx, func() {}) // should the last one have died before it could
	case a.exit == nil && m.State != lifecycle.Running && m.State != lifecycle.Stopping:
		s.apply(lifecycle.StartAsked, "its start was cut short")
		s.start(ctx)
	default:
		exit := a.exit
		if exit == nil {
			exit = &task.Exit{}
		}
		s.ended(ctx, *exit, s.ranUntil(*exit))
	}
}

// clear removes what the earlier supervisor had no time to.
func (s *Service) clear(ctx context.Context, a adoption) {
	if a.exit != nil {
		s.remove(ctx, func() {})
	}
}

// ranUntil returns how long the task ran that has ended.
func (s *Service) ranUntil(e task.Exit) time.Duration {
	s.mu.Lock()
	ran := s.cfg.Now() - s.startedAt
	s.mu.Unlock()
	if e.At.IsZero() {
		return max(ran, 0)
	}
	// The shim's time is the wall clock's, which may have been set since.
	return min(max(ran-time.Since(e.At), 0), max(ran, 0))
}
