package supervise

import (
	"context"
	"errors"
	"strings"

	"keelson/internal/console"
	"keelson/internal/modules"
)

// firstModules are loaded before the devices are looked at: without a source
// of randomness a getrandom(2) waits a second on a machine that lacks RDRAND.
var firstModules = []string{"virtio-rng"}

// hardware makes the devices usable that are there at boot.
func (s *Supervisor) hardware(ctx context.Context) {
	if err := resolvTarget(); err != nil {
		s.con.Warn("keelson", "%v", err)
	}
	s.loadModules(ctx)
}

// loadModules loads what the devices ask for, and lets the kernel ask us for
// what it needs itself, such as a file system for a mount.
func (s *Supervisor) loadModules(ctx context.Context) {
	began := console.Now()
	index, err := modules.Open(modules.Running())
	switch {
	case errors.Is(err, modules.ErrNoModules):
		s.con.Line("modules", "%v", err)
	case err != nil:
		s.con.Warn("modules", "%v", err)
	}
	s.modules = index
	if err := modules.SetHelper("/usr/bin/service"); err != nil {
		s.con.Warn("modules", "%v", err)
	}
	loaded, errs := index.Coldplug(ctx, firstModules)
	for _, err := range errs {
		s.con.Warn("modules", "%v", err)
	}
	if err := index.StaticNodes("/dev"); err != nil {
		s.con.Warn("modules", "%v", err)
	}
	if len(loaded) > 0 {
		s.con.Line("modules", "%s in %.3fs", strings.Join(loaded, " "), (console.Now() - began).Seconds())
	}
}

func (s *Supervisor) watchHardware(ctx context.Context) {}
func (s *Supervisor) mountVolumes(ctx context.Context)  {}
