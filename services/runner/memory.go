package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"keelson/internal/api"
	"keelson/internal/pidfd"
	"keelson/services/lifecycle"
	"keelson/services/store"
)

// memory is what the next supervisor has to know of a service.
type memory struct {
	State     lifecycle.State    `json:"state"`
	Cause     string             `json:"cause,omitempty"` // of the move to it
	Since     time.Duration      `json:"since,omitempty"`
	Restarts  lifecycle.Restarts `json:"restarts"`
	Process   pidfd.Identity     `json:"process"`
	StartedAt time.Duration      `json:"started_at"`
	ReadyAt   time.Duration      `json:"ready_at,omitempty"`
	WellSince time.Duration      `json:"well_since,omitempty"`
	ReadyBy   time.Duration      `json:"ready_by,omitempty"`
	Mark      [2]int64           `json:"mark"`
	RetryAt   time.Duration      `json:"retry_at,omitempty"`
	With      map[string]uint64  `json:"with,omitempty"`
	Down      bool               `json:"down,omitempty"`
	Sick      bool               `json:"sick,omitempty"`
	Status    string             `json:"status,omitempty"`
	Health    api.Health         `json:"health"`
	LastExit  *api.Exit          `json:"last_exit,omitempty"`
	// Of a service that is stopped or killed: what follows, and why.
	Follow    follow `json:"follow,omitempty"`
	StopCause string `json:"stop_cause,omitempty"`
	KilledFor string `json:"killed_for,omitempty"`
	// Heard says that its task was sent the stop signal and gets it. It is not sent again: a
	// handler may have taken itself away, and a second signal would cut its work short.
	Heard     bool          `json:"heard,omitempty"`
	StopBegan time.Duration `json:"stop_began,omitempty"`
	KillAt    time.Duration `json:"kill_at,omitempty"` // when its time to stop is over
}

func (s *Service) memoryPath() string {
	return filepath.Join(s.cfg.MemoryDir, s.name+".json")
}

// recall reads what the earlier supervisor remembered, if there was one.
func (s *Service) recall() (known bool) {
	known, err := store.Load(s.memoryPath(), &s.remembered)
	if err != nil {
		s.cfg.Console.Warn(s.name, "%v", err)
	}
	m := s.remembered
	s.set(func(p *public) {
		p.restarts, p.startedAt, p.retryAt = m.Restarts, m.StartedAt, m.RetryAt
		p.down, p.sick, p.lastExit = m.Down, m.Sick, m.LastExit
	})
	return known
}

// resumeTask takes over what was remembered of a task that still runs.
func (s *Service) resumeTask() {
	m := s.remembered
	s.set(func(p *public) {
		p.with, p.status, p.health = m.With, m.Status, m.Health
		p.readyBy, p.mark = m.ReadyBy, m.Mark
	})
	if s.output != nil {
		s.output.MarkAt(m.Mark)
	}
}

// move is a move to make.
type move struct {
	event lifecycle.Event
	cause string
}

// apply makes a move and remembers it.
func (s *Service) apply(e lifecycle.Event, cause string) { s.applyAll(move{e, cause}) }

// applyAll makes moves at the same moment and remembers where they led. A move
// the table does not have is a defect: it is said, and the service goes on from
// where it was.
func (s *Service) applyAll(moves ...move) { s.applyAt(s.cfg.Now(), moves...) }

// found makes the move back to the state that an earlier supervisor remembered, with
// the cause and the time that it had; otherwise is the cause where there is none.
func (s *Service) found(e lifecycle.Event, otherwise string) {
	if m := s.remembered; m.Cause != "" {
		s.applyAt(m.Since, move{e, m.Cause})
		return
	}
	s.apply(e, otherwise)
}

func (s *Service) applyAt(at time.Duration, moves ...move) {
	var events []api.Event
	var refused []error
	s.mu.Lock()
	for _, m := range moves {
		from := s.machine.State()
		if err := s.machine.Apply(m.event, m.cause, at); err != nil {
			refused = append(refused, fmt.Errorf("%w (%s)", err, m.cause))
			continue
		}
		to := s.machine.State()
		switch to {
		case lifecycle.Ready, lifecycle.Unhealthy, lifecycle.Backoff, lifecycle.Stopped, lifecycle.Failed:
			s.pub.settled = true
		}
		events = append(events, api.Event{Kind: "state", Service: s.name, From: string(from), To: string(to), Cause: m.cause})
	}
	s.mu.Unlock()
	for _, err := range refused {
		s.cfg.Console.Error(s.name, "%v", err)
	}
	for _, e := range events {
		s.cfg.publish(e)
	}
	if len(moves) != 1 || moves[0].event != lifecycle.Enqueued || s.remembered.State != "" || s.asked {
		s.save() // a thousand that wait for their first turn are as they were for the next supervisor
	}
	s.announce()
	s.cfg.order().Changed(s.name)
}

// set changes what others may look at.
func (s *Service) set(change func(*public)) {
	s.mu.Lock()
	change(&s.pub)
	s.mu.Unlock()
	s.announce()
}

// announce wakes those that wait for a change.
func (s *Service) announce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// save remembers the service as it is.
func (s *Service) save() {
	s.mu.Lock()
	p := s.pub
	m := memory{
		State: s.machine.State(), Restarts: p.restarts, Process: p.process,
		StartedAt: p.startedAt, ReadyAt: p.readyAt, WellSince: p.wellSince, ReadyBy: p.readyBy, Mark: p.mark, RetryAt: p.retryAt,
		With: p.with, Down: p.down, Sick: p.sick, Status: p.status, Health: p.health, LastExit: p.lastExit,
		Follow: s.follow, StopCause: s.stopCause, KilledFor: s.killedFor,
	}
	if s.stopHeard {
		m.Heard, m.StopBegan, m.KillAt = true, s.stopBegan, s.killAt
	}
	if moves := s.machine.Moves(); len(moves) > 0 {
		m.Cause, m.Since = moves[len(moves)-1].Cause, moves[len(moves)-1].At
	}
	s.mu.Unlock()
	if m.State == lifecycle.Unknown { // what was remembered still holds
		was := s.remembered
		was.Down = m.Down
		m = was
	}
	if err := store.Save(s.memoryPath(), m); err != nil {
		// What is not true any more is worse than nothing.
		_ = os.Remove(s.memoryPath())
		if err.Error() != s.memoryError {
			s.memoryError = err.Error()
			s.cfg.Console.Warn(s.name, "a restarted supervisor will not remember this service: %v", err)
		}
	}
}
