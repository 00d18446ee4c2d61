package safepath

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/bundle"
	"keelson/internal/mounts"
)

// Writers are the directories of the machine that services can write. A nil one has none.
type Writers struct {
	by      map[string]string // who can write a directory, for people to read
	binds   []string          // those of by that have other names where they are bound
	devices map[string]string // who mounts a file system of a device, by the device's path
	found   found
}

// WritersOf lists what the services among the containers of an image can write:
//
//   - the sources of their writable binds, and the devices whose file systems they mount;
//   - their own writable roots, as they lie on the machine;
//   - the same directories under the other names that a runtime.json gives them. (Those of
//     binds that somebody else made are known by what they show: see part.)
//
// A service that owns the machine in any case is left out (ownsMachine), and so are
// one-shots: setting up the machine, its links included, is what they are for.
func WritersOf(containers []*bundle.Bundle) *Writers {
	w := &Writers{by: map[string]string{}, devices: map[string]string{}}
	roots := map[string]string{}
	for _, b := range containers {
		if b.Spec == nil || b.Section != bundle.Services || ownsMachine(b.Spec) {
			continue
		}
		who := fmt.Sprintf("service %q", b.Name)
		for _, m := range b.Spec.Mounts {
			w.addMount(entryOf(m), who)
		}
		for _, m := range b.Runtime.Mounts {
			if e := entryOf(m); !filepath.IsAbs(e.Target) || strings.HasPrefix(filepath.Clean(e.Target), b.Rootfs()+"/") {
				w.addMount(e, who)
			}
		}
		if b.Spec.Root == nil || !b.Spec.Root.Readonly {
			roots[b.Rootfs()], roots[filepath.Join(b.Dir, "tmp")] = who, who
		}
	}
	w.addAliases(containers)
	maps.Copy(w.by, roots)
	return w
}

// addMount adds what a writable mount in a container's root lets the container write.
func (w *Writers) addMount(e mounts.Entry, who string) {
	if mounts.Parse(e.Options).ReadOnly() || slices.Contains(mounts.Words(e.Options...), "rro") {
		return
	}
	switch {
	case e.IsBind():
		w.add(e.Source, who)
	case e.Type == "overlay":
		for _, dir := range mounts.OverlayFolders(e.Options) {
			w.add(dir, who)
		}
	case strings.HasPrefix(e.Source, "/"):
		w.devices[filepath.Clean(e.Source)] = who
	}
}

// add adds a directory, and reports whether it is new.
func (w *Writers) add(dir, who string) bool {
	if !filepath.IsAbs(dir) {
		return false
	}
	dir = filepath.Clean(dir)
	if _, there := w.by[dir]; there {
		return false
	}
	w.by[dir] = who
	w.binds = append(w.binds, dir)
	return true
}

// addAliases adds what is the same directory through a mount of a runtime.json, on the
// machine: a bind shows one directory at two places, and what is written to an overlay
// is written to its upper directory. It ends because the names are added to one depth of
// each mount only once.
func (w *Writers) addAliases(containers []*bundle.Bundle) {
	const rounds = 4 // of binds of binds
	for range rounds {
		more := false
		for _, b := range containers {
			for _, m := range b.Runtime.Mounts {
				e := entryOf(m)
				if !filepath.IsAbs(e.Target) {
					continue
				}
				switch {
				case e.IsBind():
					more = w.alias(e.Source, e.Target) || more
					more = w.alias(e.Target, e.Source) || more
				case e.Type == "overlay":
					for _, dir := range mounts.OverlayFolders(e.Options) {
						more = w.alias(e.Target, dir) || more
					}
				}
			}
		}
		if !more {
			return
		}
	}
}

// alias adds what can be written at to because it can at from.
func (w *Writers) alias(from, to string) (more bool) {
	if !filepath.IsAbs(from) || !filepath.IsAbs(to) {
		return false
	}
	from, to = filepath.Clean(from), filepath.Clean(to)
	for dir, who := range w.by {
		switch rest, below := strings.CutPrefix(dir, from+"/"); {
		case dir == from, dir == "/", strings.HasPrefix(from, dir+"/"):
			if dir != to && !strings.HasPrefix(to, dir+"/") {
				more = w.add(to, who) || more
			}
		case below && !strings.HasPrefix(dir, to+"/"):
			more = w.add(filepath.Join(to, rest), who) || more
		}
	}
	return more
}

func entryOf(m specs.Mount) mounts.Entry {
	return mounts.Entry{Source: m.Source, Target: m.Destination, Type: m.Type, Options: m.Options}
}

// ownsMachine reports whether a container can do to the machine what it likes whatever
// is done here: with CAP_SYS_ADMIN, with kernel modules, as a debugger of the machine's
// processes, or as somebody who writes the machine's root. What only such a container can
// change is as good as the machine's own.
func ownsMachine(s *specs.Spec) bool {
	kinds := map[specs.LinuxNamespaceType]bool{}
	if s.Linux != nil {
		for _, n := range s.Linux.Namespaces {
			kinds[n.Type] = true
		}
	}
	if kinds[specs.UserNamespace] {
		return false
	}
	for _, m := range s.Mounts {
		e := entryOf(m)
		if e.IsBind() && filepath.Clean(e.Source) == "/" && !mounts.Parse(e.Options).ReadOnly() {
			return true
		}
	}
	if s.Process == nil || s.Process.Capabilities == nil {
		return false
	}
	has := func(c string) bool {
		p := s.Process.Capabilities
		return slices.Contains(p.Bounding, c) && (slices.Contains(p.Effective, c) || slices.Contains(p.Permitted, c))
	}
	return has("CAP_SYS_ADMIN") || has("CAP_SYS_MODULE") || has("CAP_SYS_PTRACE") && !kinds[specs.PIDNamespace]
}
