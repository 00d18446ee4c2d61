package supervise

import (
	"context"
	"path/filepath"
	"time"

	"keelson/init/cmdline"
	"keelson/internal/bundle"
	"keelson/internal/console"
	"keelson/services/lifecycle"
)

// Parts of a shutdown that are not the user's to set.
const (
	scriptsBound = 10 * time.Second // the image's shutdown scripts
	// lastMoment, or a tenth of the time if that is less, is left before PID 1 goes
	// on without us.
	lastMoment = time.Second
	// flushBound is how long log files may take to get what was written.
	flushBound = 10 * time.Second
	// killedBound is how long services that were killed for lack of time may take
	// to end; each gives itself up before.
	killedBound = 10 * time.Second
)

// shutdown takes everything down in order: services, each within its own bound and
// as parallel as their order allows; then the onshutdown containers, one after the
// other; then the image's shutdown scripts. File systems and power are PID 1's. All
// of it has to end within keelson.shutdown.timeout, and so the services leave
// some of that to what comes after them.
func (s *Supervisor) shutdown(ctx context.Context) {
	options, _ := cmdline.Parse(s.cfg.Cmdline) // PID 1 has said what is wrong with it
	timeout := options.ShutdownTimeout
	// An earlier supervisor of this shutdown has used some of the time.
	end := s.progress.stopBy(console.Now()+timeout) - min(lastMoment, timeout/10)
	dirs, err := bundle.List(s.cfg.Containers, bundle.Onshutdown)
	if err != nil {
		s.con.Error("keelson", "%v", err)
	}
	if s.roster != nil && !s.stopServices(ctx, end-s.reserve(dirs, timeout/4)) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, end-console.Now())
	defer cancel()
	s.capture.Flush(min(end-console.Now(), flushBound)) // one of them may unmount the files' disk
	s.scripts(ctx, shutdownScripts, "", stepOnshutdown, scriptsBound)
	if s.tasks != nil && len(dirs) > 0 {
		// The actions of a failed one come to nothing: the machine ends anyway.
		if _, err := s.oneShots(bundle.Onshutdown).Run(ctx, bundle.Onshutdown, dirs); err != nil {
			s.con.Error("keelson", "onshutdown: no time is left for the rest (keelson.shutdown.timeout): %v", err)
		}
	}
	s.scripts(ctx, shutdownScripts, stepOnshutdown, "", scriptsBound)
}

// reserve returns how much of a shutdown's time is kept for the onshutdown
// containers and the scripts: what they may take, but so much at most.
func (s *Supervisor) reserve(onshutdown []string, most time.Duration) time.Duration {
	var sum time.Duration
	if found, _ := filepath.Glob(shutdownScripts + "/*"); len(found) > 0 {
		sum = scriptsBound
	}
	for _, dir := range onshutdown {
		b, _ := bundle.Load(bundle.Onshutdown, dir) // what is wrong with one is said when its turn comes
		if b.OneShot.Timeout == 0 {
			return most
		}
		sum += b.OneShot.Timeout
	}
	return min(sum, most)
}

// stopServices stops every service; those that are left at the end of the time are
// killed. It reports whether there is anything more to do.
func (s *Supervisor) stopServices(ctx context.Context, end time.Duration) bool {
	began := console.Now()
	if s.cfg.StopKind != "" {
		s.findRunning(ctx)
	}
	running := 0
	for _, i := range s.roster.All() {
		if state := lifecycle.State(i.State); state.Active() && state != lifecycle.Unknown {
			running++
		}
	}
	if running > 0 {
		s.con.Line("keelson", "stopping %s", plural(running, "service"))
	}
	s.roster.Leave()
	if !s.left(ctx, end-console.Now()) {
		if ctx.Err() != nil {
			return false
		}
		s.con.Warn("keelson", "no time is left to stop %s (keelson.shutdown.timeout): killed", few(s.roster.Left()))
		s.roster.Hurry()
		if !s.left(ctx, killedBound) {
			s.con.Error("keelson", "going on without %s", few(s.roster.Left()))
		}
	}
	if running > 0 {
		s.con.Line("keelson", "services stopped in %.3fs", (console.Now() - began).Seconds())
	}
	return ctx.Err() == nil
}

// left waits until every service has stopped, for so long at most.
func (s *Supervisor) left(ctx context.Context, bound time.Duration) bool {
	end := time.After(max(bound, 0))
	for {
		moved := s.roster.Moved()
		if s.roster.Gone() {
			return true
		}
		select {
		case <-moved:
		case <-end:
			return false
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
