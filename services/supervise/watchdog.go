package supervise

import (
	"path/filepath"
	"strings"
	"time"

	"keelson/internal/bundle"
	"keelson/services/watchdog"
)

// newDog makes the watchdog's keeper, which has not looked for a watchdog yet.
func (s *Supervisor) newDog(hands watchdog.Hands) *watchdog.Dog {
	setting, err := watchdog.ParseSetting(s.cfg.Cmdline)
	if err != nil && !s.resumed {
		s.con.Warn("watchdog", "%v", err)
	}
	owner, needed := s.watchdogUsers()
	var judge watchdog.Judge
	return watchdog.New(watchdog.Config{
		Setting: setting, Hands: hands, Console: s.con, Owner: owner, Needed: needed,
		Critical: func() (bool, string) {
			r := s.known.roster.Load()
			if r == nil {
				return true, "" // the boot has not come to the services
			}
			return judge.Look(r.Critical(), time.Now())
		},
	})
}

// watchdogUsers returns a container that has the watchdog itself, and a service
// that is critical; "" where there is none.
func (s *Supervisor) watchdogUsers() (owner, critical string) {
	for _, section := range []bundle.Section{bundle.Onboot, bundle.Services} {
		dirs, _ := bundle.List(s.cfg.Containers, section) // what is wrong with it is said by who runs them
		for _, dir := range dirs {
			b, err := s.bundles.Load(section, dir)
			if err != nil {
				continue
			}
			if hasWatchdog(b) {
				owner = b.Label()
			}
			if b.Service.Critical {
				critical = b.Name
			}
		}
	}
	return owner, critical
}

// hasWatchdog reports whether a container was given the watchdog's device by name.
// One that has all of /dev most likely has no interest in it.
func hasWatchdog(b *bundle.Bundle) bool {
	is := func(path string) bool { return strings.HasPrefix(filepath.Clean(path), "/dev/watchdog") }
	for _, m := range b.Spec.Mounts {
		if is(m.Source) {
			return true
		}
	}
	if b.Spec.Linux != nil {
		for _, d := range b.Spec.Linux.Devices {
			if is(d.Path) {
				return true
			}
		}
	}
	return false
}
