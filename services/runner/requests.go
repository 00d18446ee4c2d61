package runner

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
	"keelson/services/lifecycle"
)

// ErrOver says that a service is not kept any more: the machine goes down.
var ErrOver = errors.New("the machine goes down")

type requestKind int

const (
	askStart requestKind = iota
	askStop
	askRestart
	askKill
	askReload
)

type request struct {
	kind   requestKind
	cause  string
	signal unix.Signal
	bundle *bundle.Bundle
	reply  chan error // holds one
}

// Start asks that the service be up from now on, whatever it is now; it returns
// when that is taken note of. A service that was given up begins anew.
func (s *Service) Start(cause string) error { return s.ask(request{kind: askStart, cause: cause}) }

// Stop asks that the service be down from now on, also under the next supervisor.
func (s *Service) Stop(cause string) error { return s.ask(request{kind: askStop, cause: cause}) }

// Restart asks that the service be stopped, if it runs, and started.
func (s *Service) Restart(cause string) error { return s.ask(request{kind: askRestart, cause: cause}) }

// Kill sends a signal to the service's first process.
func (s *Service) Kill(sig unix.Signal) error { return s.ask(request{kind: askKill, signal: sig}) }

// Reload puts another reading of the service's folder in force: the policy at
// once, everything else from the next start.
func (s *Service) Reload(b *bundle.Bundle) error { return s.ask(request{kind: askReload, bundle: b}) }

// ask hands a request to the loop, which waits for nothing but requests and
// events and so answers at once.
func (s *Service) ask(r request) error {
	r.reply = make(chan error, 1)
	select {
	case s.requests <- r:
		return <-r.reply
	case <-s.over:
		return ErrOver
	}
}

// handle does what was asked, in whatever state the service is.
func (s *Service) handle(ctx context.Context, r request) error {
	if s.leaving && r.kind != askKill {
		return ErrOver
	}
	switch r.kind {
	case askStart:
		return s.askedToStart(ctx, r.cause)
	case askStop:
		s.set(func(p *public) { p.down, p.sick = true, false })
		s.stop(r.cause, followNothing)
	case askRestart:
		state := s.State()
		if state == lifecycle.Unknown || !state.Active() {
			s.restartAsked = state == lifecycle.Unknown
			return s.askedToStart(ctx, r.cause)
		}
		s.wanted()
		s.stop(r.cause, followStart)
	case askKill:
		if s.task == nil {
			return fmt.Errorf("it is %s: there is no process to signal", s.State())
		}
		return s.task.Signal(r.signal)
	case askReload:
		return s.reload(r.bundle)
	}
	return nil
}

// wanted takes note that a person wants the service up, and begins to count anew.
func (s *Service) wanted() {
	s.set(func(p *public) {
		p.down = false
		p.restarts.Forget()
	})
	s.lastFailure, s.asked = "", true
}

func (s *Service) askedToStart(ctx context.Context, cause string) error {
	if s.loadErr != nil {
		return s.loadErr
	}
	s.wanted()
	switch s.State() {
	case lifecycle.Queued:
		s.up(ctx, cause) // sooner
	case lifecycle.Stopped, lifecycle.Failed, lifecycle.Backoff:
		s.retry, s.due = nil, false
		if s.removed != nil {
			s.applyWaiting(cause)
			return nil
		}
		s.up(ctx, cause)
		return nil
	case lifecycle.Unknown:
		s.startAsked = true
	case lifecycle.Stopping:
		s.setFollow(followStart)
	}
	s.save() // it waits, is on its way, or runs
	return nil
}

// reload takes another reading of the folder.
func (s *Service) reload(b *bundle.Bundle) error {
	s.next = b
	s.set(func(p *public) { p.problem = "" })
	if s.loadErr != nil {
		s.loadErr = nil
		s.b = b
	} else {
		// The container that runs is the old one's; how it is kept is the new one's.
		now := *s.b
		now.Service, now.Warnings = b.Service, b.Warnings
		s.b = &now
	}
	kept := s.b
	s.set(func(p *public) { p.bundle = kept })
	s.rewatch()
	return nil
}
