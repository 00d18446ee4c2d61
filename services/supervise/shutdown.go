package supervise

import (
	"context"
	"time"

	"keelson/internal/bundle"
	"keelson/internal/console"
	"keelson/services/lifecycle"
)

// shutdown takes everything down in order: services, each within its own
// bound and as parallel as their order allows; then the onshutdown containers, one after the other;
// then the image's shutdown scripts. File systems and power are PID 1's, which
// also has the bound on all of this.
func (s *Supervisor) shutdown(ctx context.Context) {
	began := console.Now()
	running := 0
	if s.roster != nil {
		if s.cfg.StopKind != "" {
			s.findRunning(ctx)
		}
		for _, i := range s.roster.All() {
			if state := lifecycle.State(i.State); state.Active() && state != lifecycle.Unknown {
				running++
			}
		}
		if running > 0 {
			s.con.Line("keelson", "stopping %s", plural(running, "service"))
		}
		s.roster.Leave()
		if !s.left(ctx) {
			return
		}
	}
	if running > 0 {
		s.con.Line("keelson", "services stopped in %.3fs", (console.Now() - began).Seconds())
	}
	dirs, err := bundle.List(s.cfg.Containers, bundle.Onshutdown)
	if err != nil {
		s.con.Error("keelson", "%v", err)
	}
	if s.tasks != nil && len(dirs) > 0 {
		// The actions of a failed one come to nothing: the machine ends anyway.
		if _, err := s.oneShots(bundle.Onshutdown).Run(ctx, bundle.Onshutdown, dirs); err != nil {
			s.con.Error("keelson", "onshutdown: %v", err)
		}
	}
	s.scripts(ctx, "/etc/shutdown.d", 10*time.Second)
}

// left waits until every service has stopped, each within its bounds.
func (s *Supervisor) left(ctx context.Context) bool {
	for {
		moved := s.roster.Moved()
		if len(s.roster.Left()) == 0 {
			return true
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return false
		}
	}
}

// findBound is how long a supervisor that was started on the way down looks for
// what runs before it says what it stops.
const findBound = 5 * time.Second

func (s *Supervisor) findRunning(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, findBound)
	defer cancel()
	s.settled(ctx)
}
