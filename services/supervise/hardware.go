package supervise

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"keelson/internal/bundle"
	"keelson/internal/clock"
	"keelson/internal/console"
	"keelson/internal/hotplug"
	"keelson/internal/modules"
	"keelson/internal/mounts"
	"keelson/internal/network"
	"keelson/internal/policy"
	"keelson/internal/power"
	"keelson/internal/prepare"
	"keelson/internal/sysctl"
	"keelson/internal/uevent"
)

// firstModules are loaded before the devices are looked at: without a source
// of randomness a getrandom(2) waits a second on a machine that lacks RDRAND.
var firstModules = []string{"virtio-rng"}

// hardware makes the devices usable that are there at boot.
func (s *Supervisor) hardware(ctx context.Context) {
	if err := resolvTarget(); err != nil {
		s.con.Warn("keelson", "%v", err)
	}
	if err := boundDirectories(); err != nil {
		s.con.Warn("keelson", "%v", err)
	}
	// Now, while there is room: containers may fill /run.
	if err := prepare.Reserve(); err != nil {
		s.con.Warn("keelson", "%v", err)
	}
	if s.cfg.Container {
		return
	}
	s.harden()
	if err := network.Loopback(); err != nil {
		s.con.Warn("network", "%v", err)
	}
	// Listened to before the devices are looked at, so that none is missed in between.
	var err error
	if s.events, err = uevent.Listen(); err != nil {
		s.con.Warn("hardware", "new devices will not be noticed: %v", err)
	}
	s.loadModules(ctx)
	// The clock and the name need devices whose modules have just been loaded.
	switch r, err := bounded(clockBound, clock.FromHardware); {
	case err != nil:
		s.con.Warn("clock", "%v", err)
	case r.Set:
		s.con.Line("clock", "set from the hardware clock to %s", r.Now.UTC().Format(time.DateTime))
	}
	switch name, set, err := network.Hostname(); {
	case err != nil:
		s.con.Warn("network", "%v", err)
	case set:
		s.con.Line("network", "host name %s", name)
	}
}

// clockBound is how long the hardware clock may take to answer.
const clockBound = 10 * time.Second

// bounded calls a function that asks hardware, which may never answer.
func bounded[T any](bound time.Duration, ask func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		value, err := ask()
		answers <- answer{value, err}
	}()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-time.After(bound):
		var none T
		return none, fmt.Errorf("no answer within %v", bound)
	}
}

// harden sets the kernel's settings, before any container of the image runs: its own
// sysctl container has the last word. A boot does it once.
func (s *Supervisor) harden() {
	began := console.Now()
	settings := sysctl.Settings{Root: "/proc/sys", Cmdline: s.cfg.Cmdline}
	if !s.words.sysctlOff {
		if err := settings.Harden(); err != nil {
			s.con.Warn("keelson", "%v", err)
		}
	}
	if s.words.kexecOff {
		if err := settings.LockKexec(); err != nil {
			s.con.Warn("keelson", "kexec is not locked: %v", err)
		}
	}
	s.con.Debug("keelson", "kernel settings took %v", console.Now()-began)
}

// loadModules loads what the devices ask for, and lets the kernel ask us for
// what it needs itself, such as a file system for a mount.
func (s *Supervisor) loadModules(ctx context.Context) {
	began := console.Now()
	defer func() { s.times.step("modules", began, nil) }()
	index, err := modules.Open(modules.Running())
	switch {
	case errors.Is(err, modules.ErrNoModules):
		s.con.Line("modules", "%v: there are the drivers that the kernel has built in", err)
	case err != nil:
		s.con.Warn("modules", "%v", err)
	}
	s.modules = index
	if err == nil {
		if err := modules.SetHelper("/usr/bin/service"); err != nil {
			s.con.Warn("modules", "%v", err)
		}
	}
	first := firstModules
	if s.needsOverlay() {
		// The kernel would ask for it at the first mount, at the price of a process.
		first = append(slices.Clone(first), "overlay")
	}
	loaded, errs := index.Early(ctx, first, s.named, s.dog.ArmEarly)
	if err := index.StaticNodes("/dev"); err != nil {
		errs = append(errs, err)
	}
	s.reportModules(began, loaded, errs...)
	if s.words.modulesEarly {
		s.coldplug(ctx)
	}
}

// loadFor loads the modules that a container's configuration asks for and that the
// kernel would not ask for by itself. What the image does not have is left out: the
// container's own failure tells what is missing.
func (s *Supervisor) loadFor(ctx context.Context, b *bundle.Bundle) {
	names := b.Modules()
	if len(names) == 0 || s.cfg.Container {
		return
	}
	index, _ := s.index() // which can always be used
	for _, name := range names {
		if err := index.Load(ctx, name); err != nil && !errors.Is(err, modules.ErrNotFound) {
			s.con.Warn(b.Label(), "%v", err)
		}
	}
	if slices.Contains(names, "binfmt_misc") {
		// PID 1 has mounted it where the kernel had it from the start.
		m := mounts.Entry{Source: "binfmt_misc", Target: bundle.BinfmtMisc, Type: "binfmt_misc", Options: []string{"nosuid", "nodev", "noexec"}}
		if _, err := m.Ensure(); err != nil {
			s.con.Warn(b.Label(), "mount %s: %v", bundle.BinfmtMisc, err)
		}
	}
}

// needsOverlay reports whether a container or volume of the image can be written
// to, which takes an overlay over what the image holds.
func (s *Supervisor) needsOverlay() bool {
	found, _ := filepath.Glob(filepath.Join(s.cfg.Containers, "*", "*", "tmp"))
	return len(found) > 0
}

// listenToButtons opens the power buttons that are there. The boot calls it once
// the modules are loaded, and does not go on before: the kernel keeps no press for
// whoever opens a button later, and people press when they read that the boot is
// complete. The second call, just before that line, opens what has come in between
// and whose event may still wait to be read. A button that comes later is opened by
// watchHardware.
func (s *Supervisor) listenToButtons() {
	switch {
	case s.cfg.Container:
	case s.buttons == nil:
		s.buttons = power.Listen()
	default:
		s.buttons.Rescan()
	}
}

// watchHardware handles what comes and goes while the machine runs, and the
// power button, until the context ends.
func (s *Supervisor) watchHardware(ctx context.Context) {
	index := s.modules
	if index == nil { // a restarted supervisor does not repeat the coldplug
		var err error
		if index, err = modules.Open(modules.Running()); err != nil && !errors.Is(err, modules.ErrNoModules) {
			s.con.Warn("modules", "%v", err)
		}
		if s.events, err = uevent.Listen(); err != nil {
			s.con.Warn("hardware", "new devices will not be noticed: %v", err)
		}
	}
	buttons := s.buttons
	defer buttons.Close()
	go s.watchButtons(ctx, buttons)

	if s.events == nil {
		<-ctx.Done()
		return
	}
	defer s.events.Close()
	w := &hotplug.Watcher{
		Modules:  index,
		Events:   s.events,
		Loaded:   func(names []string) { s.con.Line("modules", "%s for a new device", strings.Join(names, " ")) },
		Failed:   func(err error) { s.con.Warn("hardware", "%v", err) },
		NotFound: func(err error) bool { return errors.Is(err, modules.ErrNotFound) },
		Device: func(e uevent.Event) {
			if e.Env["SUBSYSTEM"] == "watchdog" && e.Action == "add" {
				s.dog.Arm()
			}
			if e.Env["SUBSYSTEM"] == "input" || e.Action == "" {
				buttons.Rescan()
			}
		},
	}
	if err := w.PortLinks(); err != nil {
		s.con.Warn("hardware", "%v", err)
	}
	// Devices may have come between the coldplug and the first event.
	buttons.Rescan()
	if err := w.Run(ctx); ctx.Err() == nil {
		s.con.Warn("hardware", "new devices will not be noticed any more: %v", err)
		<-ctx.Done()
	}
}

// watchButtons turns the machine off when its power button is pressed.
func (s *Supervisor) watchButtons(ctx context.Context, buttons *power.Buttons) {
	for {
		select {
		case <-ctx.Done():
			return
		case device, ok := <-buttons.Pressed:
			if !ok {
				return
			}
			s.machineAction(policy.ActionPoweroff, "the power button was pressed ("+device+")")
		}
	}
}
