// Package steer decides how far a container may steer the machine: what it may ask
// on the supervisor's control socket, and which of the runtime's directories it gets
// to see where it binds a directory above them.
//
//   - A process is known by its cgroup, so by the container it belongs to.
//   - What a container may do follows from its configuration alone: its annotation
//     keelson.control, or else what its author has given it by name.
//   - It only decides; it must never mount, open or change anything.
package steer

import (
	"path"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
	"keelson/internal/policy"
)

// The machine's directories that this is about. The control directory holds the
// control socket and nothing else, the empty one nothing at all.
const (
	supervisorDir = "/run/keelson"
	ControlDir    = supervisorDir + "/control"
	EmptyDir      = supervisorDir + "/empty"
	controlSocket = supervisorDir + "/control.sock"
	containerdDir = "/run/containerd"
	RuncDir       = "/run/runc"   // where runc, run by hand, keeps what it will execute
	UsersDir      = "/run/userns" // the roots of containers that have users of their own
)

// Grant is how far one container may steer.
type Grant struct {
	Control policy.Control
	Why     string // what gives it that, as it is written in the image
	// Runtime says whether it may have containerd's sockets and files, with which it
	// can start a process in any container.
	Runtime bool
}

// Of returns what a container may do on this machine.
func Of(b *bundle.Bundle) Grant { return grant(b, resolve) }

// Written returns what a container may do by its configuration alone, on whatever
// machine that is read.
func Written(b *bundle.Bundle) Grant { return grant(b, written) }

func grant(b *bundle.Bundle, resolve func(string) string) Grant {
	if b.Spec == nil || b.Spec.Linux == nil {
		return Grant{Control: policy.ControlNone, Why: "its configuration cannot be used"}
	}
	binds := bindsOf(b, resolve)
	g := Grant{Control: policy.ControlNone, Why: "no bind of /run"}
	named := func(match func(string) bool) bool {
		return slices.ContainsFunc(binds, func(x bind) bool { return match(x.name) || match(x.source) })
	}
	reaches := slices.ContainsFunc(binds, func(x bind) bool { return x.shows(supervisorDir) })
	g.Runtime = hostPIDs(b.Spec) || mayAdmin(b.Spec) ||
		named(func(s string) bool { return below(s, containerdDir) || s == "/usr/bin/ctr" || s == "/usr/bin/runc" })
	switch {
	case hostPIDs(b.Spec):
		g.Control, g.Why = policy.ControlAll, "pid: host"
	case named(func(s string) bool { return s == "/usr/bin/service" }):
		g.Control, g.Why = policy.ControlAll, "a bind of /usr/bin/service"
	case named(func(s string) bool { return s == supervisorDir || s == controlSocket || below(s, ControlDir) }):
		g.Control, g.Why = policy.ControlAll, "a bind of "+supervisorDir
	case reaches && mayAdmin(b.Spec):
		g.Control, g.Why = policy.ControlAll, "CAP_SYS_ADMIN and a bind of /run"
	case reaches:
		g.Control, g.Why = policy.ControlRead, "a bind of /run"
	}
	if set := b.Control(); set != policy.ControlDefault {
		g.Control, g.Why = set, "keelson.control"
	}
	return g
}

// hostPIDs reports whether a container has the machine's processes before it.
func hostPIDs(s *specs.Spec) bool { return !hasNamespace(s, specs.PIDNamespace) }

// mayAdmin reports whether it can take away whatever is mounted before it.
func mayAdmin(s *specs.Spec) bool {
	if hasNamespace(s, specs.UserNamespace) || s.Process == nil || s.Process.Capabilities == nil {
		return false
	}
	c := s.Process.Capabilities
	// Bounding is enough: root gets it back when it executes something.
	return slices.ContainsFunc([][]string{c.Bounding, c.Permitted, c.Effective}, func(set []string) bool {
		return slices.Contains(set, "CAP_SYS_ADMIN")
	})
}

func hasNamespace(s *specs.Spec, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

// bind is a piece of the machine's tree that a container sees.
type bind struct {
	name       string // of the source, as it is written: /usr/bin/runc may be a link
	source, at string // what the names stand for
	recursive  bool   // with what is mounted below
	mount      string // the destination as the configuration has it; "" for one that is made before
}

// bindsOf returns a container's binds: those of its configuration, and those that are
// made below its root before it is created.
func bindsOf(b *bundle.Bundle, resolve func(string) string) []bind {
	var binds []bind
	for _, m := range b.Spec.Mounts {
		if isBind(m) && filepath.IsAbs(m.Source) {
			binds = append(binds, bind{written(m.Source), resolve(m.Source), path.Clean(m.Destination), isRecursive(m), m.Destination})
		}
	}
	root := b.Rootfs()
	for _, m := range b.Runtime.Mounts {
		at := m.Destination
		if filepath.IsAbs(at) {
			rest, ok := strings.CutPrefix(path.Clean(at), root+"/")
			if !ok {
				continue // nothing of the container's
			}
			at = rest
		}
		if isBind(m) && filepath.IsAbs(m.Source) {
			binds = append(binds, bind{written(m.Source), resolve(m.Source), path.Join("/", at), isRecursive(m), ""})
		}
	}
	return binds
}

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

func isRecursive(m specs.Mount) bool { return slices.Contains(m.Options, "rbind") }

// shows reports whether a container sees a directory of the machine through a bind.
// One that is not recursive shows what the machine has on that very file system.
func (x bind) shows(dir string) bool {
	return below(dir, x.source) && (x.recursive || dir == x.source || device(x.source) == device(path.Dir(dir)))
}

// device names the file system of a directory.
func device(dir string) uint64 {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return 0
	}
	return st.Dev
}

// resolve returns what a name stands for on this machine.
func resolve(name string) string {
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real
	}
	return written(name)
}

// written returns what a name stands for on every machine.
func written(name string) string {
	name = path.Clean(name)
	if below(name, "/var/run") {
		return "/run" + strings.TrimPrefix(name, "/var/run")
	}
	return name
}

// below reports whether a path is a directory or something in it.
func below(name, dir string) bool {
	return dir == "/" || name == dir || strings.HasPrefix(name, dir+"/")
}
