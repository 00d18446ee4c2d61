package supervise

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"keelson/internal/api"
	"keelson/internal/bundle"
	"keelson/services/ceiling"
	"keelson/services/resources"
)

// limitContainers sets what all containers together may take, before the first one
// may start. In a container the cgroups are somebody else's.
func (s *Supervisor) limitContainers() {
	if s.cfg.Container {
		return
	}
	services, _ := bundle.List(s.cfg.Containers, bundle.Services) // reported when they are loaded
	var err error
	s.ceiling, err = ceiling.Set("/proc", resources.Root, ceiling.Own{Services: len(services), Logs: uint64(s.logBytes)})
	if err != nil {
		s.con.Warn("keelson", "containers can take all memory and processes of the machine: %v", err)
	}
	if s.ceiling.Little() {
		// Else the kernel keeps up to 2 MiB more of each zone free once its memory is in
		// pieces, and kills where there is plenty. Kernels before 5.0 do not.
		_ = os.WriteFile("/proc/sys/vm/watermark_boost_factor", []byte("0"), 0)
	}
	if s.ceiling.Short && !s.resumed {
		s.con.Warn("keelson", "this machine has little memory: containers may have %s and leave the rest of it too little", s.ceiling)
	}
}

// guardMemory sees to it that the container which takes most is the one that is ended
// when the memory that all may have together is used up.
func (s *Supervisor) guardMemory(ctx context.Context) {
	if s.cfg.CgroupRoot == "" || s.cfg.Container || s.ceiling.Memory == 0 {
		return
	}
	g := &ceiling.Guard{
		Root: s.cfg.CgroupRoot, Proc: "/proc", Limit: s.ceiling.Memory,
		Making: s.tasks.Making,
		Chosen: func(dir string, processes uint64) {
			f, _ := resources.Read(dir)
			s.tasks.Limits.Chosen(dir, resources.Hit{
				Kind: resources.OOM, Count: processes, Above: ceiling.Group, AboveLimit: s.ceiling.Memory, Peak: f.MemoryPeak, Chosen: true,
			})
		},
		Warn: func(format string, a ...any) {
			text := fmt.Sprintf(format, a...)
			s.con.Warn("keelson", "%s", text)
			s.hub.Publish(api.Event{Kind: "resources", Cause: text})
		},
	}
	go func() {
		if err := g.Run(ctx); err != nil {
			s.con.Warn("keelson", "the kernel alone chooses whom to kill when containers use up their memory: %v", err)
		}
	}()
}

// containersMayTake is the ceiling for the machine's status.
func (s *Supervisor) containersMayTake() *api.Ceiling {
	if s.ceiling.Memory == 0 && s.ceiling.Pids == 0 {
		return nil
	}
	c := &api.Ceiling{Memory: s.ceiling.Memory, Pids: s.ceiling.Pids}
	if f, err := resources.Read(filepath.Join(resources.Root, strings.TrimPrefix(ceiling.Group, "/"))); err == nil {
		c.MemoryUsed, c.PidsUsed = f.Memory, f.Pids
	}
	return c
}
