package runner

import (
	"os"
	"path/filepath"
	"time"

	"keelson/internal/pidfd"
	"keelson/services/lifecycle"
	"keelson/services/store"
)

// memory is what the next supervisor has to know of a service.
type memory struct {
	State     lifecycle.State    `json:"state"`
	Restarts  lifecycle.Restarts `json:"restarts"`
	Process   pidfd.Identity     `json:"process"`
	StartedAt time.Duration      `json:"started_at"`
	RetryAt   time.Duration      `json:"retry_at,omitempty"`
}

func (s *Service) memoryPath() string {
	return filepath.Join(s.cfg.MemoryDir, s.b.Name+".json")
}

// recall reads what the earlier supervisor remembered, if there was one.
func (s *Service) recall() (known bool) {
	known, err := store.Load(s.memoryPath(), &s.remembered)
	if err != nil {
		s.cfg.Console.Warn(s.b.Name, "%v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.remembered
	s.restarts, s.startedAt, s.retryAt = m.Restarts, m.StartedAt, m.RetryAt
	return known
}

// apply makes a move and remembers it. A move the table does not have is a
// defect: it is said, and the service goes on from where it was.
func (s *Service) apply(e lifecycle.Event, cause string) {
	s.mu.Lock()
	err := s.machine.Apply(e, cause, s.cfg.Now())
	m := memory{s.machine.State(), s.restarts, s.process, s.startedAt, s.retryAt}
	s.mu.Unlock()
	if err != nil {
		s.cfg.Console.Error(s.b.Name, "%v (%s)", err, cause)
		return
	}
	if err := store.Save(s.memoryPath(), m); err != nil {
		// What is not true any more is worse than nothing.
		_ = os.Remove(s.memoryPath())
		if err.Error() != s.memoryError {
			s.memoryError = err.Error()
			s.cfg.Console.Warn(s.b.Name, "a restarted supervisor will not remember this service: %v", err)
		}
	}
	if m.State != lifecycle.Starting && m.State != lifecycle.Stopping {
		s.settle()
	}
}
