package runner

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"keelson/services/lifecycle"
	"keelson/services/task"
)

// stopping handles the request to stop, in whatever state it comes.
func (s *Service) stopping() {
	s.stopBegan = s.cfg.Now()
	was := s.State()
	s.apply(lifecycle.StopAsked, "asked to stop")
	if s.adopts != nil || s.starts != nil || s.removed != nil {
		s.armStuck(stuckBound)
	}
	switch was {
	case lifecycle.Starting:
		s.cancelStart()
	case lifecycle.Running:
		s.signalStop()
	case lifecycle.Backoff:
		s.retry, s.due = nil, false
	}
}

// signalStop sends the stop signal and arms the bound after which it is killed.
// A service that cannot hear the signal is killed at once, unless it is so
// young that it may not have come to installing its handler.
func (s *Service) signalStop() {
	if s.kill == nil {
		s.kill = time.After(s.b.Service.StopTimeout)
	}
	heard, err := s.task.Stop(s.b.Service.StopSignal)
	if err != nil {
		s.cfg.Console.Warn(s.b.Name, "%v", err)
	}
	s.mu.Lock()
	age := s.cfg.Now() - s.startedAt
	s.mu.Unlock()
	switch {
	case heard || err != nil:
	case age < handlerBound:
		s.again = time.After(handlerBound - age)
	default:
		s.deaf, s.kill = true, nil
		s.killAll()
	}
}

func (s *Service) killAll() {
	if err := s.task.Kill(); err != nil {
		s.cfg.Console.Warn(s.b.Name, "%v", err)
	}
	s.died = time.After(killBound)
}

// stopped says that the service has stopped as it was asked to.
func (s *Service) stopped(e task.Exit) {
	if s.output != nil {
		s.output.Drain()
	}
	s.apply(lifecycle.Exited, e.String())
	how := e.String()
	if s.deaf {
		how += ", as it has no handler for " + signalName(s.b.Service.StopSignal)
		s.deaf = false
	}
	s.cfg.Console.Line(s.b.Name, "stopped in %.3fs (%s)", (s.cfg.Now() - s.stopBegan).Seconds(), how)
}

func signalName(sig unix.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", int(sig))
}
