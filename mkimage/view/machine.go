package view

import (
	"path"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	initmounts "keelson/init/mounts"
	"keelson/internal/bundle"
	"keelson/internal/mounts"
	"keelson/mkimage/tree"
)

// Machine is the root of the machine once it runs.
type Machine struct {
	root *tree.Root
	// made is what is there beside the files of the image; all of it without links on its way.
	made map[string]node
	// opaque are directories whose contents only the running machine knows.
	opaque     []string
	containers []*bundle.Bundle
	scripts    bool // the image has scripts of its own that run at boot
	// Needed are the paths that runtime sections make in the read-only root, where nothing
	// can be made any more once the machine runs.
	Needed []Made
}

// areas can be written, and are empty at each boot but for what the machine makes.
var areas = []string{"/run", "/tmp", "/var"}

// closed are the machine's own directories in them, and the kernel's file systems.
var closed = []string{"/proc", "/sys", "/dev", "/run/keelson", "/run/containerd", "/run/userns", "/run/log", "/var/log"}

// supervised is what the supervisor makes for containers to bind.
var supervised = []struct {
	path string
	dir  bool
}{
	{"/run/resolvconf/resolv.conf", false}, {"/var/lib/containerd", true}, {"/var/lib/docker", true},
	{"/run/linuxkit-external-logging.sock", false}, {"/run/memlogdq.sock", false}, {"/run/log", true}, {"/run/userns", true},
}

// linuxkitSteps are the scripts of /etc/init.d that stand for steps of LinuxKit's boot.
var linuxkitSteps = []string{"000-issue", "001-getty", "002-logging", "005-volumes", "010-onboot", "020-containerd"}

// NewMachine returns the root that a tree and its containers become.
func NewMachine(t *tree.Tree, containers []*bundle.Bundle) (*Machine, error) {
	root, err := t.Root("/")
	if err != nil {
		return nil, err
	}
	m := &Machine{root: root, made: map[string]node{}, opaque: slices.Clone(closed), containers: containers}
	for _, name := range root.Names("/etc/init.d") {
		m.scripts = m.scripts || !slices.Contains(linuxkitSteps, name)
	}
	for _, mount := range append([]initmounts.Mount{initmounts.Proc}, initmounts.Table...) {
		m.make(mount.Target, true)
	}
	for _, f := range initmounts.Folders {
		m.make(f.Path, true)
	}
	for _, d := range initmounts.Devices {
		m.make(d.Path, false)
	}
	for _, l := range initmounts.Links {
		m.made[l.Path] = node{Found: Found{State: There}, link: l.Target}
	}
	for _, mount := range initmounts.Below {
		m.make(mount.Target, true)
	}
	for _, s := range supervised {
		m.make(s.path, s.dir)
	}
	for _, b := range containers {
		m.addRuntime(b)
	}
	return m, nil
}

// make notes what is made at a path, and the directories above it.
func (m *Machine) make(name string, dir bool) {
	name = m.Find(name).Path
	m.made[name] = node{Found: Found{State: There, Dir: dir}}
	for up := path.Dir(name); up != "/" && m.look(up).State != There; up = path.Dir(up) {
		m.made[up] = node{Found: Found{State: There, Dir: true}}
	}
}

// addRuntime notes what a container's runtime section makes on the machine.
func (m *Machine) addRuntime(b *bundle.Bundle) {
	add := func(name string, dir bool) {
		if !path.IsAbs(name) {
			return
		}
		if f := m.Find(name); f.State == Missing && f.Place == Root {
			m.Needed = append(m.Needed, Made{Bundle: b, Target: f, Dir: dir})
		}
		m.make(name, dir)
	}
	for _, r := range b.Runtime.Mounts {
		e := entry(r)
		if !path.IsAbs(e.Target) || e.OnlyChanges() {
			continue
		}
		add(e.Target, !e.IsBind() || IsDir(m.Find(e.Source)))
		if at := m.Find(e.Target).Path; !below(at, "/containers") { // volatile knows those
			m.opaque = append(m.opaque, at)
		}
	}
	for _, dir := range b.Runtime.Mkdir {
		add(dir, true)
	}
	n := b.Runtime.BindNS
	for _, file := range []string{n.Cgroup, n.IPC, n.Mnt, n.Net, n.PID, n.User, n.UTS} {
		add(file, false)
	}
}

// IsDir reports whether what a bind's source leads to is a directory, or most likely one
// where that is not known: a name such as x.sock is a file's, one such as conf.d is not.
func IsDir(source Found) bool {
	if source.State == There {
		return source.Dir
	}
	ext := path.Ext(source.Path)
	return ext == "" || ext == ".d"
}

func entry(m specs.Mount) mounts.Entry {
	return mounts.Entry{Source: m.Source, Target: m.Destination, Type: m.Type, Options: m.Options}
}

// Find tells what a path of the machine leads to.
func (m *Machine) Find(name string) Found { return walk(m.look, name) }

func (m *Machine) look(name string) node {
	if n, ok := m.made[name]; ok {
		return n
	}
	for _, dir := range m.opaque {
		if below(name, dir) && name != dir {
			return node{Found: Found{State: Unknown}}
		}
	}
	if volatile(name) {
		return node{Found: Found{State: Unknown}}
	}
	for _, area := range areas {
		if below(name, area) && name != area {
			return node{Found: Found{Place: Area, Area: area}}
		}
	}
	return inTree(m.root, name, Root)
}

// AreaOf returns the file system that hides what the image has at a path, "" for none.
func AreaOf(name string) string {
	for _, area := range areas {
		if below(path.Join("/", name), area) {
			return area
		}
	}
	return ""
}

// Hidden reports whether the image has a file at a path that is hidden once the machine runs.
func (m *Machine) Hidden(name string) bool { return m.root.Exists(name) }

// volatile reports whether a path lies in the root file system of a container or in a
// volume, which are mounted when they are used.
func volatile(name string) bool {
	words := strings.Split(strings.TrimPrefix(name, "/"), "/")
	return len(words) > 4 && words[0] == "containers" && slices.Contains([]string{"rootfs", "tmp", "merged"}, words[3])
}

// Strength is how likely it is that somebody makes what is missing.
type Strength int

// The strengths: nobody can; somebody could who may do anything; somebody has the directory.
const (
	Nobody Strength = iota
	Might
	Does
)

// Maker tells whether another container than b, or a script of the image, may make what is
// missing at run time. Where the image has no /init, who has it brings the root.
func (m *Machine) Maker(f Found, b *bundle.Bundle) Strength {
	most := Nobody
	if m.root.Lookup("init") == nil {
		return Does
	}
	if m.scripts {
		if most = Might; f.Place == Area {
			return Does
		}
	}
	for _, other := range m.containers {
		if other == b || other.Section == bundle.Onshutdown {
			continue
		}
		if f.Place == Area && m.writes(other, f.Path) {
			return Does
		}
		if m.mountsAt(other, f) {
			if m.mountPoint(f) {
				return Does
			}
			most = Might
		}
	}
	return most
}

// writes reports whether a container has a bind of a directory above a path, or of it,
// that it can write.
func (m *Machine) writes(b *bundle.Bundle, name string) bool {
	return slices.ContainsFunc(b.Spec.Mounts, func(s specs.Mount) bool {
		e := entry(s)
		if !e.IsBind() || mounts.Parse(e.Options).ReadOnly() {
			return false
		}
		source := m.Find(e.Source)
		return source.State == There && source.Dir && below(name, source.Path)
	})
}

// mountsAt reports whether a container can mount something on the machine that has what is
// missing: one of onboot that may do anything, or one that shares a directory above it.
func (m *Machine) mountsAt(b *bundle.Bundle, f Found) bool {
	if !Has(b, "CAP_SYS_ADMIN") {
		return false
	}
	if b.Section == bundle.Onboot && ShareOf(b, specs.PIDNamespace) {
		return true
	}
	return slices.ContainsFunc(b.Spec.Mounts, func(s specs.Mount) bool {
		e := entry(s)
		if !e.IsBind() || !slices.ContainsFunc(mounts.Words(e.Options...), func(o string) bool { return o == "shared" || o == "rshared" }) {
			return false
		}
		source := m.Find(e.Source).Path
		return below(f.Path, source) && f.Path != source && (source != "/" || b.Section == bundle.Onboot)
	})
}

// mountPoint reports whether what is missing lies below an empty directory of the root, which
// is there to be mounted on.
func (m *Machine) mountPoint(f Found) bool {
	up := path.Dir(f.Path)
	for up != "/" && m.Find(up).State != There {
		up = path.Dir(up)
	}
	return f.Place == Root && len(m.root.Names(up)) == 0
}

// Has reports whether a container has a capability.
func Has(b *bundle.Bundle, capability string) bool {
	p := b.Spec.Process
	return p.Capabilities != nil && slices.Contains(p.Capabilities.Permitted, capability)
}

// ShareOf reports whether a container is in the machine's namespace of a kind.
func ShareOf(b *bundle.Bundle, kind specs.LinuxNamespaceType) bool {
	return !slices.ContainsFunc(b.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

// inRootfs returns the path in a container's root file system that a path of its runtime
// section means.
func inRootfs(b *bundle.Bundle, name string) (string, bool) {
	if !path.IsAbs(name) {
		return path.Join("/", name), true
	}
	rest, ok := strings.CutPrefix(path.Clean(name), filepath.Clean(b.Rootfs())+"/")
	return "/" + rest, ok
}
