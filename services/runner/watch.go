package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keelson/internal/policy"
	"keelson/services/lifecycle"
)

// Limits of the look for a service's readiness that are not the user's to set.
const (
	// The next look comes after a tenth of the time it has taken so far, within these.
	readyMin = 20 * time.Millisecond
	readyMax = time.Second
	// readyCheck bounds one look.
	readyCheck = 5 * time.Second
	// cutBound is how long a check that was cut may take to tell what it found out.
	cutBound = time.Second
)

// watch is how a running service is looked at: for its readiness, then for its
// health. Its zero value looks at nothing.
type watch struct {
	ctx    context.Context
	cancel context.CancelFunc
	probe  policy.Probe
	health bool          // else for its readiness
	bound  time.Duration // of one check

	endCheck context.CancelFunc // of the check that is under way
	results  chan error         // its result; a new one for each
	cut      <-chan time.Time   // it has taken too long
	wasCut   bool               // and was told to end
	unsure   time.Duration      // since when nothing is known: the begin of a check, or the end of one that found nothing out
	next     <-chan time.Time   // the next check
	limit    <-chan time.Time   // it is not ready in time
	matched  chan struct{}      // a line of its output matched
	unwatch  func()

	lastError   string        // of the last look for readiness
	failedSince time.Duration // the first of the health failures in a row, 0 if there is none
}

// canTell reports whether it can be found out what a probe wants to know. A
// service of which it cannot is ready when it has started.
func (s *Service) canTell(p policy.Probe) bool {
	switch p.Kind {
	case policy.ProbeNone, policy.ProbeStarted:
		return false
	case policy.ProbeNotify:
		return s.notify != nil
	case policy.ProbeLog:
		_, ok := s.output.(watcher)
		return ok
	}
	return s.cfg.Probe != nil
}

func (s *Service) newWatch(p policy.Probe) *watch {
	s.endWatch()
	s.watch = watch{probe: p}
	s.watch.ctx, s.watch.cancel = context.WithCancel(s.ctx)
	return &s.watch
}

// endWatch ends all looks at the service.
func (s *Service) endWatch() {
	if s.watch.unwatch != nil {
		s.watch.unwatch()
	}
	if s.watch.cancel != nil {
		s.watch.cancel()
	}
	s.watch = watch{}
}

// rewatch begins the looks anew, as a policy that was read again has them.
func (s *Service) rewatch() {
	s.listen(s.ctx)
	switch s.State() {
	case lifecycle.Running:
		s.set(func(p *public) { p.readyBy = p.startedAt + s.b.Service.ReadyTimeout })
		s.beginReady()
	case lifecycle.Ready:
		s.endWatch()
		s.beginHealth()
	}
}

// beginReady begins to find out whether a running service is ready.
func (s *Service) beginReady() {
	p := s.b.Service
	if !s.canTell(p.Ready) {
		s.nowReady()
		return
	}
	w := s.newWatch(p.Ready)
	w.bound = readyCheck
	w.limit = s.cfg.After(max(s.readyBy()-s.cfg.Now(), 0))
	switch p.Ready.Kind {
	case policy.ProbeNotify:
		w.lastError = "it has not said READY=1"
	case policy.ProbeLog:
		w.lastError = "no line of its output matches " + p.Ready.Pattern.String()
		matched := make(chan struct{}, 1)
		w.matched = matched
		w.unwatch = s.output.(watcher).Watch(func(line []byte) {
			if p.Ready.Pattern.Match(line) {
				select {
				case matched <- struct{}{}:
				default: // one is enough
				}
			}
		})
	default:
		s.checkNow()
	}
}

// readyBy returns when a task that is not ready has failed to start.
func (s *Service) readyBy() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pub.readyBy
}

// nowReady notes that a service is ready that was looked at for it.
func (s *Service) nowReady() {
	if s.State() != lifecycle.Running {
		return
	}
	cause := "it has started"
	if k := s.watch.probe.Kind; k != policy.ProbeNone {
		cause = "found by " + s.watch.probe.String()
		s.cfg.Console.Line(s.name, "ready in %.3fs", (s.cfg.Now() - s.startBegan).Seconds())
	}
	s.endWatch()
	s.lastFailure = ""
	s.isReady()
	s.apply(lifecycle.BecameReady, cause)
	s.beginHealth()
}

// isReady notes when it became so.
func (s *Service) isReady() {
	now := s.cfg.Now()
	checked := s.b.Service.Health.Check.Kind != policy.ProbeNone
	s.set(func(p *public) {
		p.readyAt, p.ups = now, p.ups+1
		if !checked {
			p.wellSince, p.sick = now, false
		}
	})
}

// moreTimeToBeReady gives a service back the time in which nobody could find out whether it
// is ready.
func (s *Service) moreTimeToBeReady(lost time.Duration) {
	if s.watch.limit == nil {
		return
	}
	s.set(func(p *public) { p.readyBy += lost })
	s.watch.limit = s.cfg.After(max(s.readyBy()-s.cfg.Now(), 0))
}

// notReadyInTime ends a service as a failed start.
func (s *Service) notReadyInTime() {
	s.mu.Lock()
	within := s.pub.readyBy - s.pub.startedAt // with what it was given by EXTEND_TIMEOUT_USEC
	s.mu.Unlock()
	why := fmt.Sprintf("not ready within %v: %s", within.Round(time.Millisecond), s.watch.lastError)
	s.cfg.Console.Error(s.name, "%s", why)
	s.stop(why, followFailure)
}

// beginHealth begins to look at the health of a service that is ready.
func (s *Service) beginHealth() {
	h := s.b.Service.Health
	if !s.canTell(h.Check) {
		return
	}
	w := s.newWatch(h.Check)
	w.health, w.bound = true, h.Timeout
	w.next = s.cfg.After(h.Interval)
}

// checkNow begins a check beside the loop.
func (s *Service) checkNow() {
	w := &s.watch
	if w.probe.Kind == policy.ProbeNotify {
		s.checked(fmt.Errorf("it has not said WATCHDOG=1 for %v", s.b.Service.Health.Interval))
		return
	}
	ctx, cancel := context.WithCancel(w.ctx)
	results := make(chan error, 1)
	w.results, w.endCheck = results, cancel
	if w.unsure == 0 {
		w.unsure = s.cfg.Now()
	}
	w.cut = s.cfg.After(w.bound)
	p, t := w.probe, s.task
	go func() { results <- s.cfg.Probe(ctx, p, t) }()
}

// cutCheck ends a check that has taken too long. The result of a command tells whether
// that says anything of the service.
func (s *Service) cutCheck() {
	w := &s.watch
	first := !w.wasCut
	w.wasCut = true
	if !first || w.probe.Kind != policy.ProbeExec {
		s.checked(context.Canceled)
		return
	}
	w.endCheck()
	w.cut = s.cfg.After(cutBound)
}

// checked deals with the result of a check.
func (s *Service) checked(err error) {
	w := &s.watch
	unknown := errors.Is(err, policy.ErrUnknown)
	if w.wasCut && err != nil && !unknown {
		err = fmt.Errorf("no answer within %v", w.bound)
	}
	if w.endCheck != nil {
		w.endCheck()
	}
	w.endCheck, w.results, w.cut, w.wasCut = nil, nil, nil, false
	now := s.cfg.Now()
	if unknown && !w.health {
		s.moreTimeToBeReady(now - w.unsure)
	}
	if w.unsure = 0; unknown {
		w.unsure = now
	}
	switch {
	case w.health && unknown:
		w.next = s.cfg.After(s.b.Service.Health.Interval)
		s.noteUnknownHealth(err.Error())
	case w.health && err == nil:
		w.next = s.cfg.After(s.b.Service.Health.Interval)
		s.healthy()
	case w.health:
		w.next = s.cfg.After(s.b.Service.Health.Interval)
		s.unwell(err.Error())
	case err == nil:
		s.nowReady()
	default:
		w.lastError = err.Error()
		s.mu.Lock()
		taken := s.cfg.Now() - s.pub.startedAt
		s.mu.Unlock()
		w.next = s.cfg.After(min(max(taken/10, readyMin), readyMax))
	}
}
