package userns

import (
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// views are the file systems that show a namespace. The kernel lets a user
// namespace mount one only for a namespace of its own; that of another is shown
// by a bind of what the machine has mounted.
var views = map[string]struct {
	kind specs.LinuxNamespaceType
	path string
}{
	"sysfs":  {specs.NetworkNamespace, "/sys"},
	"mqueue": {specs.IPCNamespace, "/dev/mqueue"},
	"proc":   {specs.PIDNamespace, "/proc"},
}

// Mounts returns a container's mounts as its user namespace allows them. For a
// container without one they are what its configuration says.
func Mounts(s *specs.Spec) []specs.Mount {
	if Of(s) == nil {
		return s.Mounts
	}
	list := slices.Clone(s.Mounts)
	for i, m := range list {
		if m.Type == "bind" {
			// The machine's root is read-only, and what is bound from it stays so:
			// the kernel refuses to take that away, which "rw" asks for. It is in
			// the builder's defaults, and says nothing where all may be written.
			list[i].Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "rw" })
			continue
		}
		view, ok := views[m.Type]
		if !ok || own(s, view.kind) {
			continue
		}
		// With everything below it, or the kernel refuses: something could come to
		// light that is covered on the machine.
		options := []string{"rbind", "rprivate"}
		for _, o := range m.Options {
			if slices.Contains(flags, o) || strings.HasSuffix(o, "atime") {
				options = append(options, o)
			}
		}
		if m.Type == "sysfs" {
			options = append(options, "rro") // the machine's, and all that is mounted below
		}
		list[i] = specs.Mount{Destination: m.Destination, Type: "bind", Source: view.path, Options: options}
	}
	return list
}

// flags are the options of a mount that a bind can have too.
var flags = []string{"ro", "nosuid", "nodev", "noexec"}
