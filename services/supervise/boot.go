package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"keelson/internal/api"
	"keelson/internal/beneath"
	"keelson/internal/bundle"
	"keelson/internal/console"
	"keelson/internal/policy"
	"keelson/internal/volumes"
	"keelson/onboot"
	"keelson/services/lifecycle"
)

// scriptBound is how long the boot waits for one of the image's own scripts.
const scriptBound = 60 * time.Second

// boot does what of the boot has not been done yet, then starts the services or
// takes over those that run. bootCtx ends the boot where it stands; the
// services live as long as ctx.
func (s *Supervisor) boot(bootCtx, ctx context.Context) {
	again := s.progress.Done("services")
	if !s.cfg.Container {
		s.dog.ArmEarly() // with a driver that the kernel has built in
	}
	s.step("hardware", func() { s.hardware(bootCtx) })
	s.listenToButtons()
	if !s.cfg.Container {
		s.dog.Arm()
		go s.watchHardware(ctx)
	}
	if bootCtx.Err() != nil {
		return
	}
	up := make(chan struct{})
	late := s.loadLate(ctx, up)
	s.step("banner", s.banner)
	s.scripts(bootCtx, initScripts, "", stepVolumes, scriptBound)
	s.settleMemlogd(bootCtx)
	s.step("volumes", s.mountVolumes)
	s.scripts(bootCtx, initScripts, stepVolumes, stepOnboot, scriptBound)

	began := console.Now()
	dirs, err := bundle.List(s.cfg.Containers, bundle.Onboot)
	if err != nil {
		s.con.Error("keelson", "%v", err)
	}
	if len(dirs) > 0 {
		action, err := s.oneShots(bundle.Onboot).Run(bootCtx, bundle.Onboot, dirs)
		if err != nil { // a stop was asked for
			return
		}
		if action != policy.ActionContinue {
			s.machineAction(action, "an onboot container has failed")
			return
		}
	}
	s.logDisk()
	if !s.progress.Done("onboot") {
		s.progress.setSpan("onboot", console.Now()-began)
	}
	s.scripts(bootCtx, initScripts, stepOnboot, stepServices, scriptBound)
	if bootCtx.Err() != nil {
		return
	}
	began = console.Now()
	s.loadServices(ctx)
	if again {
		s.takenOver(bootCtx, up, late)
		return
	}
	s.progress.SetDone("services")
	if s.settled(bootCtx) {
		services := console.Now() - began
		close(up)
		awaitLate(late)
		s.scripts(bootCtx, initScripts, stepServices, "", scriptBound)
		s.bootComplete(services)
		go func() {
			<-late
			s.processorModules(ctx)
			s.lockModules()
		}()
	}
}

// step does a part of the boot once in a boot, and remembers how long it took.
func (s *Supervisor) step(name string, do func()) {
	if s.progress.Done(name) {
		return
	}
	began := console.Now()
	do()
	s.progress.setSpan(name, console.Now()-began)
	s.times.step(name, began, nil)
}

// The boot says who it is waiting for after sayFirst, then after twice as long each
// time.
const sayFirst = 10 * time.Second

// settled waits until the first start of every service has come to something:
// those that are ready, have failed, or wait for one that did. The bounds of the
// services end it.
func (s *Supervisor) settled(ctx context.Context) bool {
	wait := sayFirst
	say := time.After(wait)
	for {
		moved := s.roster.Moved()
		if s.roster.Settled() {
			return ctx.Err() == nil
		}
		select {
		case <-moved:
		case <-say:
			s.con.Line("keelson", "still waiting for %s", few(s.roster.Unsettled()))
			wait *= 2
			say = time.After(wait)
		case <-ctx.Done():
			return false
		}
	}
}

// count returns how many services there are, how many of them are up, and what the
// others are, in words.
func (s *Supervisor) count() (all, up int, others []string) {
	for _, i := range s.roster.All() {
		all++
		if lifecycle.State(i.State).Up() {
			up++
			continue
		}
		words := i.Name + " (" + i.State + ")"
		if len(i.WaitingFor) > 0 {
			words = i.Name + " (waiting for " + strings.Join(i.WaitingFor, ", ") + ")"
		}
		others = append(others, words)
	}
	return all, up, others
}

// bootComplete is the line people wait for.
func (s *Supervisor) bootComplete(services time.Duration) {
	all, running, others := s.count()
	if len(others) > 0 {
		s.con.Warn("keelson", "%s of %d not running: %s", plural(len(others), "service"), all, few(others))
	}
	s.listenToButtons()
	now := console.Now()
	s.con.Line("keelson", "boot complete in %.3fs (kernel %.3fs, init %.3fs, hardware %.3fs, onboot %.3fs, services %.3fs); %s running",
		now.Seconds(), s.cfg.InitStart.Seconds(), (s.cfg.InitDone - s.cfg.InitStart).Seconds(),
		s.progress.span("hardware").Seconds(), s.progress.span("onboot").Seconds(), services.Seconds(), plural(running, "service"))
	s.complete()
}

// takenOver says what a restarted supervisor found.
func (s *Supervisor) takenOver(ctx context.Context, up chan<- struct{}, late <-chan struct{}) {
	if !s.settled(ctx) {
		return
	}
	close(up)
	awaitLate(late)
	s.scripts(ctx, initScripts, stepServices, "", scriptBound) // those that its predecessor did not come to
	all, running, _ := s.count()
	s.listenToButtons()
	s.con.Line("keelson", "supervisor is back; %d of %s running", running, plural(all, "service"))
	s.complete()
	go func() {
		<-late
		s.lockModules() // unless its predecessor has
	}()
}

// complete notes that the boot is over, and tells whoever follows it.
func (s *Supervisor) complete() {
	s.progress.SetDone("complete")
	s.times.complete()
	s.hub.Publish(api.Event{Kind: "machine", To: "running"})
	s.garbage.Release()
}

// mountVolumes mounts the image's volumes, which containers bind.
func (s *Supervisor) mountVolumes() {
	ready, err := volumes.Mount(filepath.Join(s.cfg.Containers, "volumes"))
	if err != nil {
		s.con.Error("volumes", "%v", err)
	}
	var names []string
	for _, v := range ready {
		if v.ReadOnly {
			v.Name += " (read-only)"
		}
		names = append(names, v.Name)
	}
	if len(names) > 0 {
		s.con.Line("volumes", "%s ready", strings.Join(names, ", "))
	}
}

// oneShots makes the runner of the onboot or onshutdown containers.
func (s *Supervisor) oneShots(section bundle.Section) *onboot.Runner {
	if err := onboot.LinkLogs(s.logLinks(), s.cfg.OneShotLog, s.cfg.LogDir, section); err != nil {
		s.con.Warn("keelson", "%v", err)
	}
	return &onboot.Runner{
		Tasks: s.tasks, Console: s.con, Progress: &oneShotProgress{progress: s.progress, times: s.times, section: section}, Now: console.Now, Resumed: s.resumed, ShowOutput: s.words.runcConsole,
		OpenOutput: func(b *bundle.Bundle, onLine func(string)) (onboot.Output, error) {
			return s.openOutput(b, filepath.Join(s.cfg.OneShotLog, string(section), b.FullName()), b.OneShot.LogDrop, onLine)
		},
	}
}

// boundDirectories makes the directories of /var that the labels of LinuxKit's
// packages bind (getty, sshd; cadvisor), and that a disk may be mounted over: nothing
// of ours lies in them.
func boundDirectories() error {
	for _, dir := range []string{"/var/lib/containerd", "/var/lib/docker"} {
		d, err := beneath.Make(dir, 0o711)
		if err != nil && !beneath.IsRefused(err) { // what somebody else has put there is theirs
			return fmt.Errorf("make the directory that containers bind: %w", err)
		}
		_ = d.Close()
	}
	return nil
}

// resolvTarget makes the file that /etc/resolv.conf of LinuxKit's images is a
// link to, for a DHCP client to write and containers to bind.
func resolvTarget() error {
	const path = "/run/resolvconf/resolv.conf"
	d, err := beneath.Make(filepath.Dir(path), 0o755)
	if err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	defer d.Close()
	f, err := d.OpenFile(filepath.Base(path), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	return f.Close()
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
