// Package inspect finds out the facts that an audit judges: of a container's
// configuration, and of a live process in it.
//
// It only reads. What the facts are worth is audit's.
package inspect

import (
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/audit"
	"keelson/internal/bundle"
	"keelson/internal/policy"
	"keelson/internal/steer"
)

// Declared are the facts of a container by the configuration that it runs with, which
// is its bundle's with what is added to it.
func Declared(b *bundle.Bundle, s *specs.Spec) *audit.Facts {
	below := *s
	below.Mounts = append(runtimeMounts(b), s.Mounts...)
	return audit.FromSpec(&below, extra(b))
}

// runtimeMounts are the mounts of runtime.json that lie in the container's root: they
// are made before its own.
func runtimeMounts(b *bundle.Bundle) []specs.Mount {
	var list []specs.Mount
	for _, m := range b.Runtime.Mounts {
		if path.IsAbs(m.Destination) {
			at, inside := strings.CutPrefix(path.Clean(m.Destination), b.Rootfs()+"/")
			if !inside {
				continue // the machine's, or the root itself
			}
			m.Destination = at
		}
		m.Destination = path.Join("/", m.Destination)
		list = append(list, m)
	}
	return list
}

func extra(b *bundle.Bundle) audit.Extra {
	var x audit.Extra
	if b.Section == bundle.Services {
		x.Notify = b.Service.Ready.Kind == policy.ProbeNotify || b.Service.Health.Check.Kind == policy.ProbeNotify
	}
	g := steer.Written(b)
	x.Control, x.Runtime = g.Control == policy.ControlAll, g.Runtime
	return x
}

// Accepted is what a container's author accepts. A value that cannot be used accepts
// nothing; policy reports it.
func Accepted(s *specs.Spec) map[string]string {
	accepted, _ := audit.ParseAccept(s.Annotations[audit.AcceptKey])
	return accepted
}
