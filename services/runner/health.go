package runner

import (
	"cmp"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/api"
	"keelson/internal/policy"
	"keelson/services/lifecycle"
)

// What is known of a service's health.
const (
	healthUnknown   = "unknown"
	healthHealthy   = "healthy"
	healthUnhealthy = "unhealthy"
)

// statusDelay is how long what a service says of itself may take to be remembered.
const statusDelay = time.Second

// healthy notes a check that went well.
func (s *Service) healthy() {
	now := s.cfg.Now()
	s.watch.failedSince = 0
	var was api.Health
	s.set(func(p *public) {
		was = p.health
		p.health = api.Health{State: healthHealthy, At: now}
		p.sick = false
		// What was not known for a while is no reason to doubt it.
		stillWell := was.State == healthHealthy || was.State == healthUnknown && p.wellSince > 0
		if !stillWell || was.Failures > 0 {
			p.wellSince = now
		}
	})
	if was.State == healthHealthy && was.Failures == 0 {
		return
	}
	s.save()
	s.cfg.publish(api.Event{Kind: "health", Service: s.name, From: was.State, To: healthHealthy})
	if was.Failures > 0 || was.State == healthUnknown {
		s.cfg.Console.Line(s.name, "healthy again")
	}
}

// noteUnknownHealth notes a check that found nothing out: it counts neither for the service nor
// against it.
func (s *Service) noteUnknownHealth(why string) {
	var was api.Health
	s.set(func(p *public) {
		was = p.health
		p.health.State, p.health.At, p.health.Reason = healthUnknown, s.cfg.Now(), why
	})
	if was.State == healthUnknown {
		return
	}
	s.cfg.publish(api.Event{Kind: "health", Service: s.name, From: was.State, To: healthUnknown, Cause: why})
	s.cfg.Console.Warn(s.name, "health unknown: %s", why)
	s.save()
}

// unwell notes a check that failed.
func (s *Service) unwell(reason string) {
	h, now := s.b.Service.Health, s.cfg.Now()
	failures := 0
	s.set(func(p *public) {
		p.health.At, p.health.Reason = now, reason
		if now-p.startedAt >= h.Grace {
			p.health.Failures++
		}
		failures = p.health.Failures
	})
	if failures == 0 {
		return // within its grace
	}
	if s.watch.failedSince == 0 {
		s.watch.failedSince = now
	}
	s.cfg.publish(api.Event{Kind: "health", Service: s.name, Cause: reason})
	if failures >= h.Retries {
		s.unhealthy(fmt.Sprintf("%s failed %s, the last time: %s", h.Check.String(), times(failures), reason))
		return
	}
	s.cfg.Console.Warn(s.name, "health check %d of %d failed: %s", failures, h.Retries, reason)
	s.save()
}

// unhealthy begins to kill the service for its health: with its stop signal first,
// so that it can write down what it has to.
func (s *Service) unhealthy(why string) {
	s.cfg.Console.Error(s.name, "unhealthy: %s", why)
	since := s.watch.failedSince
	s.endWatch()
	s.watch.failedSince = since
	s.killedFor = why
	s.set(func(p *public) { p.health.State, p.sick = healthUnhealthy, true })
	s.apply(lifecycle.Sickened, why)
	s.signalStop()
}

// heard deals with what the service said of itself.
func (s *Service) heard(m Message) {
	if s.task == nil {
		// One that is quick says it is ready before it is known here that it runs;
		// anything else is of a task that has ended.
		if s.State() == lifecycle.Starting {
			s.early.Ready = s.early.Ready || m.Ready
			s.early.Status = cmp.Or(m.Status, s.early.Status)
			s.early.ExtendTimeout = max(m.ExtendTimeout, s.early.ExtendTimeout)
		}
		return
	}
	state := s.State()
	status := m.Status
	switch {
	case status != "":
	case m.Errno != 0:
		status = fmt.Sprintf("error %d (%v)", m.Errno, unix.Errno(m.Errno))
	case m.Stopping:
		status = "stopping"
	case m.Reloading:
		status = "reloading"
	}
	if status != "" {
		s.set(func(p *public) { p.status = status })
		s.saveSoon()
	}
	if m.ExtendTimeout > 0 {
		s.extend(m.ExtendTimeout)
	}
	if m.Ready && s.watch.probe.Kind == policy.ProbeNotify && !s.watch.health {
		s.nowReady()
	}
	if state == lifecycle.Ready && s.watch.health && s.watch.probe.Kind == policy.ProbeNotify {
		switch {
		case m.WatchdogTrigger:
			s.unhealthy("it said so itself: WATCHDOG=trigger")
		case m.Watchdog:
			s.watch.next = s.cfg.After(s.b.Service.Health.Interval)
			s.healthy()
		}
	}
}

// Bounds of what EXTEND_TIMEOUT_USEC can give in all: a service that asks again and
// again would else start, or stop, for ever. An hour is what one message can ask
// for, and is enough to replay a large journal; a service whose timeout is long
// takes long by design, so it gets ten times that.
const (
	extendTimes = 10
	extendLeast = time.Hour
)

// extendBound is the longest that something with this timeout may take in all.
func extendBound(timeout time.Duration) time.Duration {
	return max(extendLeast, min(timeout, math.MaxInt64/extendTimes)*extendTimes)
}

// extend gives the service more time to become ready or to stop, from now on.
func (s *Service) extend(more time.Duration) {
	now, p := s.cfg.Now(), s.b.Service
	// allowed is until when, and reports once for each start and stop that it is less than was asked for.
	allowed := func(what string, began, timeout time.Duration) time.Duration {
		by := min(now+more, began+extendBound(timeout))
		if which := fmt.Sprint(what, began); by < now+more && s.boundReported != which {
			s.boundReported = which
			s.cfg.Console.Warn(s.name, "asks for more time to %s than EXTEND_TIMEOUT_USEC can give: %v in all", what, extendBound(timeout))
		}
		return by
	}
	switch {
	case s.watch.limit != nil:
		s.mu.Lock()
		began, was := s.pub.startedAt, s.pub.readyBy
		s.mu.Unlock()
		if by := allowed("become ready", began, p.ReadyTimeout); by > was {
			s.set(func(p *public) { p.readyBy = by })
			s.watch.limit = s.cfg.After(max(by-now, 0))
			s.saveSoon()
		}
	case s.kill != nil && !s.leaving:
		if by := allowed("stop", s.stopBegan, p.StopTimeout); by > s.stopBegan+p.StopTimeout {
			s.killBy(max(by-now, 0))
			s.saveSoon()
		}
	}
}

// saveSoon remembers what a service may say of itself in quick succession.
func (s *Service) saveSoon() {
	if s.saveAgain == nil {
		s.saveAgain = s.cfg.After(statusDelay)
	}
}

func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}
