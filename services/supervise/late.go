package supervise

import (
	"context"
	"strings"
	"time"

	"keelson/internal/bundle"
	"keelson/internal/console"
	"keelson/internal/modules"
)

const (
	// lateAfter is how long the late modules wait for the services at most: in a boot that
	// hangs somebody may press the power button.
	lateAfter = 2 * time.Second
	// lateBound is how long the end of the boot waits for the late modules.
	lateBound = 2 * time.Second
)

// index is that of the kernel's modules. A supervisor that did not do the coldplug opens
// one of its own.
func (s *Supervisor) index() (*modules.Index, error) {
	if s.modules != nil {
		return s.modules, nil
	}
	return modules.Open(modules.Running())
}

// named reports whether a container of the image names a path.
func (s *Supervisor) named(path string) bool {
	for _, section := range []bundle.Section{bundle.Onboot, bundle.Services} {
		dirs, _ := bundle.List(s.cfg.Containers, section) // an error is reported where they are run
		for _, dir := range dirs {
			if b, _ := s.bundles.Load(section, dir); b.Names(path) {
				return true
			}
		}
	}
	return false
}

// loadLate loads the modules that no container can miss, once up is closed or after
// lateAfter. What it returns is closed when they are there.
func (s *Supervisor) loadLate(ctx context.Context, up <-chan struct{}) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if s.cfg.Container {
			return
		}
		select {
		case <-up:
		case <-time.After(lateAfter):
		case <-ctx.Done():
			return
		}
		s.coldplug(ctx)
	}()
	return done
}

// coldplug loads all modules that the devices ask for and that are not there.
func (s *Supervisor) coldplug(ctx context.Context) {
	if modules.Locked() {
		return // by a supervisor that had loaded them
	}
	index, err := s.index()
	if err != nil {
		return // reported by the first to open it
	}
	began := console.Now()
	loaded, errs := index.Coldplug(ctx)
	s.reportModules(began, loaded, errs...)
}

// reportModules reports on the console what was loaded since began, and what failed.
func (s *Supervisor) reportModules(began time.Duration, loaded []string, errs ...error) {
	for _, err := range errs {
		s.con.Warn("modules", "%v", err)
	}
	if len(loaded) > 0 {
		s.con.Line("modules", "%s in %.3fs", strings.Join(loaded, " "), (console.Now() - began).Seconds())
	}
}

// awaitLate waits for the late modules, so that the power button works when the boot is
// complete.
func awaitLate(late <-chan struct{}) {
	select {
	case <-late:
	case <-time.After(lateBound):
	}
}

// processorModules loads what no container waits for, once the machine is up.
func (s *Supervisor) processorModules(ctx context.Context) {
	index, err := s.index()
	if err != nil {
		return // reported by watchHardware
	}
	began := console.Now()
	loaded, err := index.Processor(ctx)
	if err != nil {
		s.reportModules(began, loaded, err)
		return
	}
	s.reportModules(began, loaded)
}
