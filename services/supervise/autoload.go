package supervise

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"keelson/internal/bundle"
	"keelson/internal/modules"
	"keelson/internal/sysctl"
	"keelson/services/autoload"
)

// watchAutoload takes what the kernel's module helper reports until the context ends.
func (s *Supervisor) watchAutoload(ctx context.Context) {
	owners := sync.OnceValue(s.cgroupOwners)
	s.autoload = autoload.Open(autoload.Config{
		Path:  filepath.Join(s.cfg.RunDir, "autoload.json"),
		Who:   func(cgroup string) string { return ownerOf(owners(), cgroup) },
		Line:  func(format string, a ...any) { s.con.Line("modules", format, a...) },
		Warn:  func(format string, a ...any) { s.con.Warn("modules", format, a...) },
		After: func(d time.Duration, f func()) { time.AfterFunc(d, f) },
	})
	go func() {
		if err := s.autoload.Run(ctx, modules.RequestSocket); ctx.Err() == nil {
			s.con.Warn("modules", "who asks the kernel for modules is in the kernel's log only: %v", err)
		}
	}()
}

// cgroupOwners are the containers of the image by their cgroups.
func (s *Supervisor) cgroupOwners() map[string]string {
	owners := map[string]string{}
	for _, section := range []bundle.Section{bundle.Onboot, bundle.Services, bundle.Onshutdown} {
		dirs, _ := bundle.List(s.cfg.Containers, section) // whoever runs them reports what is wrong
		for _, dir := range dirs {
			b, _ := s.bundles.Load(section, dir)
			owners[b.CgroupsPath()] = b.Label()
		}
	}
	return owners
}

// ownerOf is the container that a cgroup belongs to, its own or one below it. A cgroup
// that is nobody's has its path for a name, and the machine's own have none.
func ownerOf(owners map[string]string, cgroup string) string {
	for dir := cgroup; dir != "/" && dir != "." && dir != ""; dir = filepath.Dir(dir) {
		if name, ok := owners[dir]; ok {
			return name
		}
	}
	if cgroup == "/" || cgroup == "" || cgroup == "/keelson" || strings.HasPrefix(cgroup, "/keelson/") {
		return ""
	}
	return cgroup
}

// lockModules has the kernel load no more modules, where the command line asks for it.
// It comes last in the boot, as nothing can undo it.
func (s *Supervisor) lockModules() {
	if !s.words.modulesBoot || s.cfg.Container || modules.Locked() {
		return
	}
	if err := (sysctl.Settings{Root: "/proc/sys", Cmdline: s.cfg.Cmdline}).LockModules(); err != nil {
		s.con.Error("modules", "loading is not locked: %v", err)
		return
	}
	if !modules.Locked() {
		s.con.Error("modules", "loading is not locked: the kernel has no kernel.modules_disabled, or its command line sets it")
		return
	}
	s.con.Line("modules", "locked: no module can be loaded until the machine boots again (keelson.modules=boot)")
}

// modulesState is what of modules the machine's status shows.
func (s *Supervisor) modulesState() string {
	var parts []string
	if modules.Locked() {
		parts = append(parts, "locked")
	}
	if asked := s.autoload.String(); asked != "" {
		parts = append(parts, asked)
	}
	return strings.Join(parts, "; ")
}
