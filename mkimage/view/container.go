package view

import (
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/bundle"
	"keelson/internal/mounts"
	"keelson/mkimage/tree"
)

// Container is the root file system of a container once it runs.
type Container struct {
	Bundle *bundle.Bundle
	// Mounts are those of its configuration, in order.
	Mounts []Mount
	// Made are the paths that its runtime section makes in its root.
	Made []Made
	// Devices are where its devices are made.
	Devices []Found

	machine *Machine
	root    *tree.Root // the image's files
	made    map[string]node
	mounted []mounted
}

// Mount is a mount of a container, and what it meets.
type Mount struct {
	specs.Mount
	Bind   bool
	Source Found // of a bind, on the machine
	Target Found // in the container, before it is mounted
}

// Made is a path that a container's runtime section makes.
type Made struct {
	Bundle *bundle.Bundle
	Target Found
	Dir    bool
}

// mounted is a mount where its destination leads.
type mounted struct {
	at     string
	kind   string
	source Found
}

// bind is the kind of those that show something of the machine.
const bind = "bind"

// Container returns the root of one of the machine's containers.
func (m *Machine) Container(t *tree.Tree, b *bundle.Bundle) (*Container, error) {
	files, ok := Files(b)
	if !ok {
		return nil, fmt.Errorf("%s: runtime.json has no mount of its root", b.Dir)
	}
	root, err := t.Root(files)
	if err != nil {
		return nil, err
	}
	c := &Container{Bundle: b, machine: m, root: root, made: map[string]node{}}
	c.addRuntime()
	for _, s := range b.Spec.Mounts {
		e := entry(s)
		mount := Mount{Mount: s, Bind: e.IsBind(), Target: c.Find(s.Destination)}
		at := mounted{at: mount.Target.Path, kind: s.Type}
		if mount.Bind {
			mount.Source = m.Find(s.Source)
			at.kind, at.source = bind, mount.Source
		}
		c.Mounts = append(c.Mounts, mount)
		c.mounted = append(c.mounted, at)
		c.above(mount.Target)
	}
	for _, d := range b.Spec.Linux.Devices {
		f := c.Find(d.Path)
		c.Devices = append(c.Devices, f)
		if f.State != There {
			c.made[f.Path] = node{Found: Found{State: There}}
			c.above(f)
		}
	}
	return c, nil
}

// above notes the directories that are made on the way to what is missing.
func (c *Container) above(f Found) {
	if f.State != Missing || f.Place == NotADir || f.Place == Root {
		return
	}
	for up := path.Dir(f.Path); up != "/" && c.look(up).State == Missing; up = path.Dir(up) {
		c.made[up] = node{Found: Found{State: There, Dir: true}}
	}
}

// addRuntime notes what the runtime section puts into the root before the container is made.
func (c *Container) addRuntime() {
	for _, r := range c.Bundle.Runtime.Mounts {
		e := entry(r)
		name, ok := inRootfs(c.Bundle, e.Target)
		if !ok || e.OnlyChanges() || path.Clean(e.Target) == c.Bundle.Rootfs() {
			continue
		}
		target := c.Find(name)
		c.Made = append(c.Made, Made{c.Bundle, target, !e.IsBind() || IsDir(c.machine.Find(e.Source))})
		c.mounted = append(c.mounted, mounted{at: target.Path, kind: e.Type})
		c.above(target)
	}
	for _, dir := range c.Bundle.Runtime.Mkdir {
		name, ok := inRootfs(c.Bundle, dir)
		if !ok {
			continue
		}
		target := c.Find(name)
		c.Made = append(c.Made, Made{c.Bundle, target, true})
		if target.State == Missing {
			c.made[target.Path] = node{Found: Found{State: There, Dir: true}}
			c.above(target)
		}
	}
}

// Files returns the directory of the image that a container's root is made of.
func Files(b *bundle.Bundle) (dir string, ok bool) {
	for _, m := range b.Runtime.Mounts {
		e := entry(m)
		if path.Clean(e.Target) != b.Rootfs() {
			continue
		}
		if e.IsBind() {
			return e.Source, true
		}
		for _, o := range mounts.Words(e.Options...) {
			if dir, ok := strings.CutPrefix(o, "lowerdir="); ok {
				return dir, true
			}
		}
	}
	return "", false
}

// Find tells what a path leads to in the container.
func (c *Container) Find(name string) Found { return walk(c.look, name) }

func (c *Container) look(name string) node {
	if name == "/" {
		return node{Found: Found{State: There, Dir: true}}
	}
	if n, ok := c.made[name]; ok {
		return n
	}
	for _, m := range slices.Backward(c.mounted) {
		if !below(name, m.at) {
			continue
		}
		return m.look(c.machine, strings.TrimPrefix(name, m.at))
	}
	return inTree(c.root, name, Image)
}

// look finds what a mount has at a path below its destination, which is empty for that itself.
func (m mounted) look(machine *Machine, rest string) node {
	switch {
	case m.kind == bind && m.source.State != There:
		return node{Found: Found{State: Unknown}}
	case m.kind == bind && rest == "":
		return node{Found: m.source}
	case m.kind == bind && !m.source.Dir:
		return node{Found: Found{Place: NotADir}}
	case m.kind == bind:
		return machine.look(path.Join(m.source.Path, rest))
	case rest == "":
		return node{Found: Found{State: There, Dir: true}}
	}
	return node{Found: Found{State: Unknown}}
}
