package audit

import (
	"path"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// gates is the table of what opens the whole machine.
var gates = []Gate{
	{"WritableRoot", "does not write to the machine's root", machineDir, func(f *Facts) (string, bool) {
		return openBind(f, func(s string) bool { return s == "/" })
	}},
	{"WritableDev", "does not have all of the machine's devices", "devices: with those that it needs", func(f *Facts) (string, bool) {
		return openBind(f, func(s string) bool { return s == "/dev" })
	}},
	{"WritableProc", "does not write to the machine's /proc", machineDir, func(f *Facts) (string, bool) {
		return openBind(f, func(s string) bool { return below(s, "/proc") })
	}},
	{"WritableSys", "does not write to the machine's /sys", machineDir, func(f *Facts) (string, bool) {
		return openBind(f, func(s string) bool { return below(s, "/sys") && !below(s, "/sys/fs/cgroup") })
	}},
	{"WritableContainers", "does not write to other containers", "a volume, by its name", func(f *Facts) (string, bool) {
		return openBind(f, func(s string) bool {
			return s == "/containers" || s == "/containers/volumes" ||
				below(s, "/containers") && !below(s, "/containers/volumes")
		})
	}},
	{"ContainerdSocket", "does not reach containerd", "leave out binds of /run/containerd", func(f *Facts) (string, bool) {
		return openSocket(f, func(s string) bool { return below(s, "/run/containerd") || f.Runtime && below("/run/containerd", s) })
	}},
	{"ControlSocket", "does not steer the machine on keelson's control socket", "annotation keelson.control: read, or none", func(f *Facts) (string, bool) {
		return openSocket(f, func(s string) bool {
			return f.Control && (below("/run/keelson", s) || below(s, "/run/keelson/control") || s == "/run/keelson/control.sock")
		})
	}},
	{"DockerSocket", "does not reach Docker or another engine", "leave out the bind of its socket", func(f *Facts) (string, bool) {
		return openSocket(f, func(s string) bool {
			switch path.Base(s) {
			case "docker.sock", "podman.sock", "crio.sock", "buildkitd.sock":
				return true
			}
			return false
		})
	}},
	{"HostProcesses", "does not trace the machine's processes", "leave out pid: host, or CAP_SYS_PTRACE", func(f *Facts) (string, bool) {
		return "pid: host with CAP_SYS_PTRACE", !f.Own[specs.PIDNamespace] && f.Caps.Has(caps("SYS_PTRACE")) && !f.Own[specs.UserNamespace]
	}},
	{"AllCapabilities", "does not have all capabilities", "capabilities: with those that it needs", func(f *Facts) (string, bool) {
		return "capabilities: all", f.Caps&allCaps == allCaps && !f.Own[specs.UserNamespace]
	}},
}

// openBind finds a writable bind.
func openBind(f *Facts, match func(source string) bool) (string, bool) {
	m, ok := f.bound(func(m Mount) bool { return !m.ReadOnly && match(m.Source) })
	return "bind of " + m.Source, ok
}

// openSocket finds a bind, also a read-only one: that keeps nobody from connecting.
func openSocket(f *Facts, match func(source string) bool) (string, bool) {
	m, ok := f.bound(func(m Mount) bool {
		s := m.Source
		if below(s, "/var/run") { // a link to /run
			s = path.Join("/run", s[len("/var/run"):])
		}
		return match(s)
	})
	return "bind of " + m.Source, ok
}
