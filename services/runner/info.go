package runner

import (
	"time"

	"keelson/internal/api"
	"keelson/internal/bundle"
	"keelson/internal/pidfd"
	"keelson/internal/policy"
	"keelson/services/lifecycle"
)

// State returns the present state.
func (s *Service) State() lifecycle.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machine.State()
}

// Status is what the order between services and those who wait for one look at.
type Status struct {
	State    lifecycle.State
	Cause    string        // of the last move
	Run      uint64        // tells the task that runs from others; 0 if none does
	ReadyAt  time.Duration // of the task that is ready
	Ups      int           // how often it became ready
	Failures int           // ends and failed starts
	Down     bool          // a person asked it to stop
	Comes    bool          // it stops and will be started again
	Retried  bool          // it is queued as it has failed before
	Sick     bool          // it has not been well since it last was not
	Stuck    string        // what the kernel does not give back
	Settled  bool          // its first start has come to something
	Over     bool          // it is not kept any more
}

// Status returns the present status and a channel that is closed at the next change.
func (s *Service) Status() (Status, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pub
	st := Status{
		State: s.machine.State(), Run: run(p.process), ReadyAt: p.readyAt, Ups: p.ups, Failures: p.failures, Down: p.down, Comes: p.comes,
		Sick: p.sick, Stuck: p.stuck, Settled: p.settled, Over: p.over,
	}
	if moves := s.machine.Moves(); len(moves) > 0 {
		last := moves[len(moves)-1]
		st.Cause, st.Retried = last.Cause, last.To == lifecycle.Queued && last.From == lifecycle.Backoff
	}
	return st, s.changed
}

// run makes one number of what names a process: numbers of processes are below 2^22.
func run(id pidfd.Identity) uint64 { return id.Start<<22 | uint64(id.PID) }

// Bundle returns what is in force of the service's folder.
func (s *Service) Bundle() *bundle.Bundle {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pub.bundle
}

// Info returns what there is to know of the service by itself: not the order.
func (s *Service) Info() api.Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, pol := s.pub, s.pub.bundle.Service
	state := s.machine.State()
	i := api.Service{
		Name: s.name, State: string(state),
		PID: p.process.PID, Restarts: p.restarts.Count,
		Ready: pol.Ready.String(), Status: p.status, Critical: pol.Critical,
		LastExit: p.lastExit, Problems: append([]string(nil), p.bundle.Warnings...), Policy: written(pol),
		Image: p.bundle.Dir, Namespace: p.bundle.Namespace(), Cgroup: p.bundle.CgroupsPath(),
	}
	if s.cfg.Hardening != nil && p.bundle.Spec != nil {
		i.Hardening = s.cfg.Hardening(p.bundle)
	}
	if s.cfg.OOMKills != nil {
		i.OOMKills = s.cfg.OOMKills(s.name)
	}
	if p.problem != "" {
		i.Problems = append(i.Problems, p.problem)
	}
	if p.stuck != "" {
		i.Problems = append(i.Problems, p.stuck)
	}
	if p.process.PID != 0 {
		i.StartedAt, i.ReadyAt = p.startedAt, p.readyAt
	}
	if state == lifecycle.Backoff {
		i.RetryAt = p.retryAt
	}
	if pol.Health.Check.Kind != policy.ProbeNone {
		h := p.health
		h.Check = pol.Health.Check.String()
		if h.State == "" {
			h.State = healthUnknown
		}
		i.Health = &h
	}
	for _, m := range s.machine.Moves() {
		i.Since, i.Cause = m.At, m.Cause
		i.Moves = append(i.Moves, api.Move{From: string(m.From), To: string(m.To), Event: string(m.Event), Cause: m.Cause, At: m.At})
	}
	if state == lifecycle.Ready {
		i.Since = p.readyAt // which a restarted supervisor remembers
	}
	return i
}

// written is a policy as it would be written.
func written(p policy.Service) api.Policy {
	w := api.Policy{
		Restart: string(p.Restart), Backoff: p.BackoffMin.String() + ".." + p.BackoffMax.String(),
		OnFailure: string(p.OnFailure), StopSignal: signalName(p.StopSignal), StopTimeout: p.StopTimeout.String(), Shim: "shared",
	}
	if p.Limit.Count > 0 {
		w.Limit = p.Limit.String()
	}
	if p.Ready.Kind != policy.ProbeStarted {
		w.ReadyTimeout = p.ReadyTimeout.String()
	}
	if p.OwnShim {
		w.Shim = "own"
	}
	return w
}
