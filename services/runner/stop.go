package runner

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"keelson/services/lifecycle"
)

// stop begins to stop the service, in whatever state it is. The signal is sent
// by consider, as soon as those have stopped that need this one.
func (s *Service) stop(cause string, then follow) {
	switch state := s.State(); state {
	case lifecycle.Unknown: // what is found will be dealt with as was asked
		if s.leaving {
			s.armStuck(stuckBound)
		}
		s.save()
		return
	case lifecycle.Waiting, lifecycle.Queued, lifecycle.Backoff, lifecycle.Stopped, lifecycle.Failed:
		if then == followNothing {
			s.retry, s.due, s.asked = nil, false, false
			if state == lifecycle.Queued {
				s.cfg.order().EndStart(s.name, false)
			}
			s.apply(lifecycle.StopBegun, cause)
		}
		if s.leaving && s.removed != nil {
			s.armStuck(stuckBound)
		}
		return
	case lifecycle.Stopping:
		s.setFollow(then)
		s.apply(lifecycle.StopBegun, cause)
		if s.leaving && (s.starts != nil || s.removed != nil) {
			s.armStuck(stuckBound)
		}
		return
	}
	s.endWatch()
	s.setFollow(then)
	s.stopCause, s.killedFor = cause, ""
	if !s.stopHeard {
		s.stopBegan = s.cfg.Now() // until the signal is sent
	}
	s.apply(lifecycle.StopBegun, cause)
	if s.starts != nil {
		s.cancelStart()
		s.armStuck(stuckBound)
	}
}

// setFollow says what comes after the stop.
func (s *Service) setFollow(f follow) {
	s.follow = f
	s.set(func(p *public) { p.comes = f != followNothing })
}

// signalStop sends the stop signal and arms the bound after which it is killed.
// A service that cannot hear the signal is killed at once, unless it is so
// young that it may not have come to installing its handler. One that an earlier
// supervisor has sent it to, and that heard it, has what is left of its time.
func (s *Service) signalStop() {
	if s.stopHeard && !s.signalled {
		s.signalled = true
		s.kill = s.cfg.After(max(s.killAt-s.cfg.Now(), 0))
		return
	}
	if !s.signalled {
		s.signalled, s.stopBegan = true, s.cfg.Now()
	}
	if s.kill == nil {
		s.killBy(s.b.Service.StopTimeout)
	}
	heard, err := s.task.Stop(s.b.Service.StopSignal)
	if err != nil {
		s.cfg.Console.Warn(s.name, "%v", err)
	}
	s.mu.Lock()
	age := s.cfg.Now() - s.pub.startedAt
	s.mu.Unlock()
	switch {
	case heard:
		s.stopHeard = true
		s.save()
		s.look = s.cfg.After(aloneBound)
	case err != nil:
	case age < handlerBound:
		s.again = s.cfg.After(handlerBound - age)
	default:
		s.deaf, s.kill = true, nil
		s.killAll()
	}
}

// killBy arms the bound after which a service that stops is killed.
func (s *Service) killBy(d time.Duration) {
	s.killAt = s.cfg.Now() + d
	s.kill = s.cfg.After(d)
}

// lookAlone kills what cannot end by itself: a first process that has no handler for
// the stop signal, once the others, which got it, have ended and it went on all the
// same, alone or with the same commands once more. It is looked for twice, as it may be about to end.
func (s *Service) lookAlone() {
	s.look = s.cfg.After(aloneBound)
	switch was := s.alone; {
	case s.task == nil:
		s.look = nil
	case !s.task.Alone(s.b.Service.StopSignal):
		s.alone = false
	case !was:
		s.alone = true
	default:
		s.deaf, s.kill, s.look = true, nil, nil
		s.killAll()
	}
}

// killNow ends what is left without waiting for anything that is waited for.
func (s *Service) killNow() {
	if s.task == nil {
		s.stuck = s.cfg.After(killBound)
		return
	}
	s.signalled = true
	s.kill, s.again, s.look = nil, nil, nil
	s.killAll()
}

func (s *Service) killAll() {
	if err := s.task.Kill(); err != nil {
		s.cfg.Console.Warn(s.name, "%v", err)
	}
	s.died = s.cfg.After(killBound)
}

// stopped says that the service has stopped as it was to.
func (s *Service) stopped(ctx context.Context, e fmt.Stringer) {
	if s.output != nil {
		s.output.Drain()
	}
	how := e.String()
	if s.deaf {
		how += ", as it has no handler for " + signalName(s.b.Service.StopSignal)
		s.deaf = false
	}
	why := ""
	if s.follow == followStart {
		why = ": " + s.stopCause
	}
	s.cfg.Console.Line(s.name, "stopped in %.3fs (%s)%s", (s.cfg.Now() - s.stopBegan).Seconds(), how, why)
	s.stoppedThen(ctx, e.String())
}

// stoppedThen does what follows a stop.
func (s *Service) stoppedThen(ctx context.Context, how string) {
	then := s.follow
	s.setFollow(followNothing)
	switch {
	case s.leaving || then == followNothing:
		s.apply(lifecycle.StopDone, how)
	case then == followStart:
		s.up(ctx, s.stopCause)
	default:
		s.startFailed(s.stopCause)
	}
}

// unstuck takes back that something hangs.
func (s *Service) unstuck() {
	s.mu.Lock()
	was := s.pub.stuck
	s.mu.Unlock()
	if was != "" {
		s.set(func(p *public) { p.stuck = "" })
	}
}

func (s *Service) down() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pub.down
}

// with returns the runs of the required services that it was started with.
func (s *Service) with() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pub.with
}

func signalName(sig unix.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", int(sig))
}
