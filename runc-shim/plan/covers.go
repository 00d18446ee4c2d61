package plan

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"keelson/runc-shim/oci"
)

// The annotation of a container that is libcontainer's in any case.
const (
	RuntimeKey   = "keelson.runtime"
	Libcontainer = "libcontainer"
)

// Uncovered says what of a container a plan does not cover, "" if it covers everything.
// The container is then libcontainer's. What libcontainer's parent does, and its nsexec,
// is done for a plan as well: cgroups, rlimits, joining and making namespaces, the OOM
// score, hooks outside of the container, network devices. cgroup2 is whether the machine
// has cgroup v2 alone.
func Uncovered(o oci.Options, c *configs.Config, p *libcontainer.Process, cgroup2 bool) string {
	switch {
	case slices.Contains(c.Labels, RuntimeKey+"="+Libcontainer):
		return "its annotation " + RuntimeKey
	case c.Namespaces.Contains(configs.NEWUSER):
		return "a user namespace"
	case !c.Namespaces.IsPrivate(configs.NEWNS):
		return "no mount namespace of its own"
	case c.Namespaces.Contains(configs.NEWTIME):
		return "a time namespace"
	case c.RootlessEUID || c.RootlessCgroups:
		return "a runtime that is not root"
	case c.NoPivotRoot:
		return "a root without pivot_root"
	case c.Rootfs == "/" || !clean(c.Rootfs):
		return "an unusual root"
	case p.ConsoleSocket != nil:
		return "a terminal"
	case p.PidfdSocket != nil:
		return "a socket for a pidfd"
	case c.HasHook(configs.CreateContainer, configs.StartContainer):
		return "hooks in the container's namespaces"
	case c.MountLabel != "" || c.ProcessLabel != "" || p.Label != "":
		return "SELinux"
	case c.AppArmorProfile != "" || p.AppArmorProfile != "":
		return "AppArmor"
	case c.Scheduler != nil || p.Scheduler != nil || c.IOPriority != nil || p.IOPriority != nil:
		return "a scheduler or an I/O priority"
	case c.Personality != nil || c.MemoryPolicy != nil:
		return "a personality or a memory policy"
	case len(c.Routes) > 0 || c.ParentDeathSignal != 0:
		return "routes or a signal at the parent's death"
	case !filepath.IsAbs(p.Cwd):
		return "a working directory that is not absolute"
	case len(p.Args) == 0:
		return "no command"
	case len(o.ID) > 128:
		return "a long name"
	}
	if !slices.ContainsFunc(c.Mounts, func(m *configs.Mount) bool { return inRoot(c.Rootfs, m.Destination) == "/proc" }) {
		return "no /proc" // libcontainer refuses much of what a container without it asks for
	}
	for _, n := range c.Networks {
		if n.Type != "loopback" {
			return "a network"
		}
	}
	for _, d := range c.Devices {
		if _, ok := deviceTypes[d.Type]; d.Path != "" && !ok {
			return "an unknown kind of device"
		}
	}
	if meetsCgroups(c) {
		return "cgroups mounted where there may be some already" // libcontainer then binds the machine's
	}
	for _, m := range c.Mounts {
		if why := uncoveredMount(c, m, cgroup2); why != "" {
			return why
		}
	}
	return ""
}

func uncoveredMount(c *configs.Config, m *configs.Mount, cgroup2 bool) string {
	switch {
	case m.Device == "cgroup" && !cgroup2:
		return "cgroup v1"
	case m.IDMapping != nil:
		return "a mount with mapped ids"
	case m.RecAttr != nil:
		return "a mount with recursive attributes"
	case m.Extensions != 0:
		return "a tmpfs that begins with a copy"
	case m.Flags&unix.MS_REMOUNT != 0:
		return "a mount that exists"
	case strings.ContainsRune(m.Source+m.Destination+m.Device+m.Data, 0):
		return "a zero byte"
	case inRoot(c.Rootfs, m.Destination) == "/":
		return "a mount over the root"
	}
	return ""
}

// meetsCgroups reports whether a mount of cgroups may meet another of the same in its
// place, which the kernel refuses: a second one, or one that a bind has brought.
func meetsCgroups(c *configs.Config) bool {
	mounts, bound := 0, false
	for _, m := range c.Mounts {
		if m.Device == "cgroup" {
			mounts++
		}
		source := filepath.Clean(m.Source)
		bound = bound || m.IsBind() && (within(cgroupRoot, source) || within(source, cgroupRoot))
	}
	return mounts > 1 || mounts == 1 && bound
}

// cgroupRoot is where the machine has its cgroups.
const cgroupRoot = "/sys/fs/cgroup"

// within reports whether a path is dir or below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

func clean(path string) bool {
	return filepath.IsAbs(path) && filepath.Clean(path) == path
}
