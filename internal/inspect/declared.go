// Package inspect finds out the facts that an audit judges: of a container's
// configuration, and of a live process in it.
//
// It only reads. What the facts are worth is audit's.
package inspect

import (
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/audit"
	"keelson/internal/bundle"
	"keelson/internal/policy"
)

// Declared are the facts of a container by the configuration that it runs with, which
// is its bundle's with what is added to it.
func Declared(b *bundle.Bundle, s *specs.Spec) *audit.Facts {
	return audit.FromSpec(s, extra(b))
}

func extra(b *bundle.Bundle) audit.Extra {
	var x audit.Extra
	if b.Section == bundle.Services {
		x.Notify = b.Service.Ready.Kind == policy.ProbeNotify || b.Service.Health.Check.Kind == policy.ProbeNotify
	}
	x.Control, x.Runtime = steers(b.Spec)
	return x
}

// steers reports whether a container may do all on the control socket, and whether it
// may have containerd's.
func steers(s *specs.Spec) (control, runtime bool) {
	named := func(dirs ...string) bool {
		return slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool {
			source := path.Clean(m.Source)
			return slices.ContainsFunc(dirs, func(d string) bool { return source == d || strings.HasPrefix(source, d+"/") })
		})
	}
	hostPIDs := !slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	admin := s.Process.Capabilities != nil && slices.Contains(s.Process.Capabilities.Bounding, "CAP_SYS_ADMIN")
	control = hostPIDs || admin || named("/usr/bin/service", "/run/keelson")
	return control, hostPIDs || admin || named("/run/containerd", "/usr/bin/ctr", "/usr/bin/runc")
}

// Accepted is what a container's author accepts. A value that cannot be used accepts
// nothing; policy reports it.
func Accepted(s *specs.Spec) map[string]string {
	accepted, _ := audit.ParseAccept(s.Annotations[audit.AcceptKey])
	return accepted
}
