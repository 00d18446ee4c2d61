package steer

import (
	"path"
	"strings"

	"keelson/internal/bundle"
	"keelson/internal/policy"
)

// Client is whose process asks.
type Client struct {
	Name    string // the container's; "" for the machine's own processes
	Control policy.Control
}

// Table knows containers by their cgroups.
type Table struct {
	groups map[string]group // by the cgroup's path
	own    map[string]bool  // groups of the machine's own processes
}

// group is what is known of one cgroup.
type group struct {
	Client
	ids string // of the containers in it, with a plus between them: no ID has one
}

// machineGroup is the cgroup below which the machine's own processes are.
const machineGroup = "/keelson"

// NewTable makes a table of these containers. own is the supervisor's own
// /proc/self/cgroup: who shares a group with it belongs to the machine.
func NewTable(bundles []*bundle.Bundle, own string) *Table {
	t := &Table{groups: map[string]group{}, own: map[string]bool{"/": true}}
	for _, b := range bundles {
		c := group{Client{b.Label(), Of(b).Control}, b.ID}
		at := b.CgroupsPath()
		// Where several share a group they cannot be told apart: the least counts.
		if other, shared := t.groups[at]; shared {
			if rank(other.Control) < rank(c.Control) {
				c.Control = other.Control
			}
			c.Name, c.ids = other.Name+", "+c.Name, other.ids+"+"+c.ids
		}
		t.groups[at] = c
	}
	for _, at := range groupsOf(own) {
		t.own[at] = true
	}
	return t
}

func rank(c policy.Control) int {
	switch c {
	case policy.ControlAll:
		return 2
	case policy.ControlRead:
		return 1
	}
	return 0
}

// Find returns who a process belongs to, by its file /proc/PID/cgroup: the container
// with the longest cgroup path that it is in or below. A process of no container and
// none of the machine's own groups is somebody's of whom nothing is known, such as a
// pod's: it may do nothing.
func (t *Table) Find(table string) Client {
	at, found := t.locate(table)
	switch {
	case found:
		return t.groups[at].Client
	case at != "":
		return Client{"a process in cgroup " + at, policy.ControlNone}
	}
	return Client{"", policy.ControlAll}
}

// Containers returns the IDs of the containers that a process may belong to, with a plus
// between them where several share a cgroup, and the path of that cgroup. A process of no
// container has no ID, and one of the machine's own no path either.
func (t *Table) Containers(table string) (ids, cgroup string) {
	at, found := t.locate(table)
	if found {
		ids = t.groups[at].ids
	}
	return ids, at
}

// locate returns the cgroup of the container that a process belongs to. One of no
// container is not found: its cgroup is returned all the same, "" where that is one of
// the machine's own.
func (t *Table) locate(table string) (cgroup string, found bool) {
	best, foreign := "", ""
	for _, at := range groupsOf(table) {
		mine := t.own[at] || below(at, machineGroup)
		for dir := at; ; dir = path.Dir(dir) {
			if _, ok := t.groups[dir]; ok {
				if mine = true; !found || len(dir) > len(best) {
					best, found = dir, true
				}
				break
			}
			if dir == "/" || dir == "." {
				break
			}
		}
		if !mine && foreign == "" {
			foreign = at
		}
	}
	if found {
		return best, true
	}
	return foreign, false
}

// groupsOf returns the paths in a file /proc/PID/cgroup: one with cgroup v2, one for
// each hierarchy with v1, of which not all have to know a container.
func groupsOf(table string) []string {
	var groups []string
	for line := range strings.Lines(table) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) < 3 {
			continue
		}
		at := strings.TrimSuffix(fields[2], " (deleted)")
		if !strings.HasPrefix(at, "/..") { // outside of our cgroup namespace
			at = path.Clean(at)
		}
		groups = append(groups, at)
	}
	return groups
}
