package supervise

import (
	"fmt"
	"os"
	"slices"
	"sync"

	"keelson/internal/api"
	"keelson/internal/bundle"
	"keelson/internal/steer"
	"keelson/services/memlog"
)

// clients knows whose the processes are that ask on the control socket or send to
// memlogd's.
type clients struct {
	containers string
	bundles    *bundle.Reader
	services   func() []*bundle.Bundle // those in force; nil until the boot has come to them

	mu       sync.Mutex
	oneShots []*bundle.Bundle // guarded by mu; read once
	known    []*bundle.Bundle // guarded by mu; whom table is made of
	table    *steer.Table     // guarded by mu
}

// of returns whose a process is.
func (c *clients) of(pid int) (steer.Client, error) {
	cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return steer.Client{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.update(); err != nil {
		return steer.Client{}, err
	}
	return c.table.Find(string(cgroup)), nil
}

// sender returns whose a process is that has sent something to memlogd's socket.
func (c *clients) sender(pid int) memlog.Sender {
	cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return memlog.Sender{ID: memlog.Unknown}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.update(); err != nil {
		return memlog.Sender{ID: memlog.Unknown}
	}
	id, at := c.table.Containers(string(cgroup))
	if id == "" && at != "" { // a pod's, say
		id = memlog.Unknown
	}
	return memlog.Sender{ID: id, Cgroup: at}
}

// owners returns the IDs of the containers whose streams have a name, or that are asked
// for by it.
func (c *clients) owners(name string) (ids []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.update() // else those known before
	for _, b := range slices.Concat(c.known, c.oneShots) {
		if b.ID == name || b.Label() == name || b.FullName() == name {
			ids = append(ids, b.ID)
		}
	}
	return ids
}

// update brings the table up to date. The caller holds mu.
func (c *clients) update() error {
	if c.table == nil {
		c.oneShots = append(c.load(bundle.Onboot), c.load(bundle.Onshutdown)...)
	}
	services := c.services()
	if services == nil {
		if c.table != nil {
			return nil
		}
		services = c.load(bundle.Services)
	}
	if c.table == nil || !slices.Equal(services, c.known) { // a service was read again
		own, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			return err
		}
		c.known, c.table = services, steer.NewTable(slices.Concat(services, c.oneShots), string(own))
	}
	return nil
}

// load reads the containers of a section. What is wrong with one is reported when its
// turn comes; here it may do nothing.
func (c *clients) load(section bundle.Section) []*bundle.Bundle {
	dirs, _ := bundle.List(c.containers, section)
	var all []*bundle.Bundle
	for _, dir := range dirs {
		b, _ := c.bundles.Load(section, dir)
		all = append(all, b)
	}
	return all
}

// grant adds to a service's status how far it may steer.
func (s *Supervisor) grant(svc *api.Service) {
	r := s.known.roster.Load()
	if r == nil {
		return
	}
	b, ok := r.Bundle(svc.Name)
	if !ok {
		return
	}
	g := steer.Of(b)
	svc.Control = &api.Control{Right: string(g.Control), Why: g.Why}
	for _, h := range steer.Hides(b) {
		svc.Control.Hidden = append(svc.Control.Hidden, h.String())
	}
}
