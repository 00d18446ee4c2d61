package steer

import (
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/bundle"
	"keelson/internal/policy"
)

// Hidden is a place in a container before which something is mounted.
type Hidden struct {
	At     string // in the container
	Source string // what is mounted there: EmptyDir or ControlDir

	over string // the destination of the bind that would show it, "" for one of runtime.json
}

// String is the place as people read it.
func (h Hidden) String() string {
	if h.Source == ControlDir {
		return h.At + " (but for the control socket)"
	}
	return h.At
}

// Hides returns what a container does not get to see of the machine's directories
// that its binds would show, in the order of its binds.
func Hides(b *bundle.Bundle) []Hidden {
	if b.Spec == nil || b.Spec.Linux == nil || mayAdmin(b.Spec) {
		return nil // it could take away what is mounted there
	}
	g := Of(b)
	var hidden []Hidden
	hide := func(x bind, dir, by string) {
		if x.shows(dir) {
			h := Hidden{path.Join(x.at, strings.TrimPrefix(dir, strings.TrimSuffix(x.source, "/"))), by, x.mount}
			if !slices.Contains(hidden, h) {
				hidden = append(hidden, h)
			}
		}
	}
	for _, x := range bindsOf(b, resolve) {
		if !g.Runtime {
			hide(x, containerdDir, EmptyDir)
			hide(x, RuncDir, EmptyDir)
			hide(x, UsersDir, EmptyDir)
		}
		switch g.Control {
		case policy.ControlNone:
			hide(x, supervisorDir, EmptyDir)
		case policy.ControlRead:
			hide(x, supervisorDir, ControlDir)
		}
	}
	return hidden
}

// Hide adds to a container's configuration the mounts that hide what Hides says of it,
// whose sources need not be what they were. They are mounted in the container's own
// mount namespace, over its binds.
//
// No mount made there may come out on the machine, which would hide the machine's
// own directories from itself. So all of the container's mounts are slaves of the
// machine's, whatever its rootfsPropagation: shared and private leave those below
// the root as peers. A container without CAP_SYS_ADMIN cannot mount anything that
// would propagate, so it loses nothing.
func Hide(s *specs.Spec, hidden []Hidden) {
	if len(hidden) == 0 {
		return
	}
	var mounts []specs.Mount
	// Right behind the bind: what is mounted later may cover the place, and lack it.
	add := func(over string) {
		for _, h := range hidden {
			if h.over == over {
				mounts = append(mounts, specs.Mount{
					Destination: h.At, Source: h.Source, Type: "bind",
					Options: []string{"bind", "ro", "nosuid", "nodev", "noexec", "rprivate"}, // a socket is written to all the same
				})
			}
		}
	}
	add("")
	for _, m := range s.Mounts {
		mounts = append(mounts, m)
		if isBind(m) {
			add(m.Destination)
		}
	}
	s.Mounts = mounts
	switch s.Linux.RootfsPropagation {
	case "", "rslave", "rprivate":
	default:
		linux := *s.Linux
		linux.RootfsPropagation = "rslave"
		s.Linux = &linux
	}
}
