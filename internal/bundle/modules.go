package bundle

import (
	"slices"
	"strings"
)

// wanted are the modules that a path asks for: LinuxKit's kernels have them built in,
// and a kernel that has not makes the path only once they are loaded. What a program
// asks for by opening a node of modules.devname, or by mounting, the kernel loads.
var wanted = []struct{ path, module string }{
	{"/dev/loop", "loop"},
	{"/dev/mapper", "dm-mod"},
	{BinfmtMisc, "binfmt_misc"},
}

// BinfmtMisc is where the kernel's binfmt_misc file system is mounted.
const BinfmtMisc = "/proc/sys/fs/binfmt_misc"

// Modules returns the kernel modules that the container asks for by a path that it
// binds, mounts, has as a device or names in its command.
func (b *Bundle) Modules() []string {
	paths := b.paths()
	var names []string
	for _, w := range wanted {
		if slices.ContainsFunc(paths, func(path string) bool { return strings.Contains(path, w.path) }) {
			names = append(names, w.module)
		}
	}
	return names
}

// Names reports whether the container binds, mounts, has as a device or names in its
// command something at or below a path.
func (b *Bundle) Names(path string) bool {
	return slices.ContainsFunc(b.paths(), func(p string) bool { return strings.Contains(p, path) })
}

func (b *Bundle) paths() []string {
	var paths []string
	for _, m := range b.Runtime.Mounts {
		paths = append(paths, m.Source)
	}
	if b.Spec != nil {
		for _, m := range b.Spec.Mounts {
			paths = append(paths, m.Source)
		}
		if b.Spec.Process != nil {
			paths = append(paths, b.Spec.Process.Args...)
		}
		if b.Spec.Linux != nil {
			for _, d := range b.Spec.Linux.Devices {
				paths = append(paths, d.Path)
			}
		}
	}
	return paths
}
