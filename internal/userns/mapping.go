// Package userns makes a container work in a user namespace of its own, where
// its root is an ordinary user of the machine.
//
// It owns what such a container's mapping of users must be like, the copies of
// images whose files belong to the mapped users, and what else of a container's
// configuration the kernel refuses in such a namespace. It promises that the
// image itself stays as it is, since other containers may use it too, that a copy
// is made once in a boot for all who have the same image and mapping, and that
// one which was cut short is made anew. A copy holds names, owners and modes: the
// contents of files stay in the image.
package userns

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// nobody is the owner, outside, of what belongs to nobody inside: the last user
// there can be, and so in no sensible mapping. Inside it shows as 65534.
const nobody = 1<<32 - 2

// maxEntries is how many entries the kernel takes (Linux 4.15).
const maxEntries = 340

// Mapping says who the users and groups of a container are outside of it.
type Mapping struct {
	UIDs, GIDs []specs.LinuxIDMapping
}

// Of returns the mapping of a container that gets a user namespace of its own,
// and nil for one that stays in the machine's or joins another one.
func Of(s *specs.Spec) *Mapping {
	if s == nil || s.Linux == nil || !own(s, specs.UserNamespace) {
		return nil
	}
	return &Mapping{UIDs: s.Linux.UIDMappings, GIDs: s.Linux.GIDMappings}
}

// own reports whether a container gets a new namespace of a kind.
func own(s *specs.Spec, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind && n.Path == "" })
}

// Owner returns who a user and a group of the container are outside.
func (m *Mapping) Owner(uid, gid uint32) (hostUID, hostGID int) {
	return outside(m.UIDs, uid), outside(m.GIDs, gid)
}

func outside(entries []specs.LinuxIDMapping, id uint32) int {
	for _, e := range entries {
		if id >= e.ContainerID && id-e.ContainerID < e.Size {
			return int(e.HostID) + int(id-e.ContainerID)
		}
	}
	return nobody
}

// Problem is something that is wrong with a container's users. Key is the one of
// the image YAML that says it.
type Problem struct{ Key, Text string }

// Check returns what is wrong with the users of a container: mappings that the
// kernel would refuse, or without which it could not run.
func Check(s *specs.Spec) []Problem {
	if s.Linux == nil {
		return nil
	}
	lists := []struct {
		key, root, what string
		entries         []specs.LinuxIDMapping
	}{
		{"uidMappings", "uid", "user", s.Linux.UIDMappings},
		{"gidMappings", "gid", "group", s.Linux.GIDMappings},
	}
	m := Of(s)
	var problems []Problem
	add := func(key, format string, a ...any) {
		problems = append(problems, Problem{key, fmt.Sprintf(format, a...)})
	}
	if m == nil {
		for _, l := range lists {
			if len(l.entries) > 0 {
				add(l.key, "is for a user namespace that the container makes: give userns: new, or leave it out")
			}
		}
		return problems
	}
	for _, l := range lists {
		if len(l.entries) == 0 {
			add("userns", "a new user namespace needs %s: who its %ss are outside, as in [{containerID: 0, hostID: 100000, size: 65536}]", l.key, l.what)
			continue
		}
		before := len(problems)
		for _, p := range CheckEntries(l.entries) {
			add(l.key+p.Key, "%s", p.Text)
		}
		if len(problems) == before && outside(l.entries, 0) == nobody {
			add(l.key, "has nobody for the container's %s 0, which sets it up: let an entry begin with containerID: 0", l.what)
		}
	}
	if s.Process == nil || len(problems) > 0 {
		return problems
	}
	u := s.Process.User
	if outside(m.UIDs, u.UID) == nobody {
		add("uid", "%d is not among the container's users: %s", u.UID, inside(m.UIDs))
	}
	if outside(m.GIDs, u.GID) == nobody {
		add("gid", "%d is not among the container's groups: %s", u.GID, inside(m.GIDs))
	}
	for i, gid := range u.AdditionalGids {
		if outside(m.GIDs, gid) == nobody {
			add(fmt.Sprintf("additionalGids[%d]", i), "%d is not among the container's groups: %s", gid, inside(m.GIDs))
		}
	}
	return problems
}

// CheckEntries returns what is wrong with the entries of one mapping by
// themselves. Key is the entry's place, such as [1], or empty.
func CheckEntries(entries []specs.LinuxIDMapping) []Problem {
	if len(entries) > maxEntries {
		return []Problem{{"", fmt.Sprintf("has %d entries, the kernel takes %d at most: join those that follow one another", len(entries), maxEntries)}}
	}
	var problems []Problem
	for i, e := range entries {
		at := fmt.Sprintf("[%d]", i)
		switch {
		case e.Size == 0:
			problems = append(problems, Problem{at, "maps nobody: give a size: of 1 or more"})
			continue
		case uint64(e.ContainerID)+uint64(e.Size) > nobody+1, uint64(e.HostID)+uint64(e.Size) > nobody+1:
			problems = append(problems, Problem{at, fmt.Sprintf("goes beyond %d, the last number there is", uint32(nobody))})
			continue
		}
		for j, f := range entries[:i] {
			if overlap(e.ContainerID, f.ContainerID, e.Size, f.Size) {
				problems = append(problems, Problem{at, fmt.Sprintf("its containerIDs %s are partly those of entry %d, %s: let each number be in one entry", span(e.ContainerID, e.Size), j, span(f.ContainerID, f.Size))})
			}
			if overlap(e.HostID, f.HostID, e.Size, f.Size) {
				problems = append(problems, Problem{at, fmt.Sprintf("its hostIDs %s are partly those of entry %d, %s: let each number be in one entry", span(e.HostID, e.Size), j, span(f.HostID, f.Size))})
			}
		}
	}
	return problems
}

func overlap(a, b, sizeA, sizeB uint32) bool {
	return uint64(a) < uint64(b)+uint64(sizeB) && uint64(b) < uint64(a)+uint64(sizeA)
}

func span(first, size uint32) string {
	if size == 1 {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d to %d", first, uint64(first)+uint64(size)-1)
}

// inside lists the numbers that a mapping has in the container.
func inside(entries []specs.LinuxIDMapping) string {
	text := "there are "
	for i, e := range entries {
		if i > 0 {
			text += ", "
		}
		if i == 4 {
			return text + "..."
		}
		text += span(e.ContainerID, e.Size)
	}
	return text
}
