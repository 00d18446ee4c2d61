package bundle

import (
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
	var names []string
	for _, w := range wanted {
		for _, path := range paths {
			if strings.Contains(path, w.path) {
				names = append(names, w.module)
				break
			}
		}
	}
	return names
}
