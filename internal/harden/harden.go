// Package harden owns what a container is kept from by default: it fills in what
// its OCI configuration leaves unsaid.
//
// It promises
//   - to change no configuration it is given: it returns another one;
//   - to leave alone what the configuration says itself: its own lists of masked
//     and read-only paths, its seccomp profile, a limit, an option of a mount;
//   - to name all that it added, in words for people;
//   - never to take away what the configuration grants, above all by CAP_SYS_ADMIN:
//     such a container can undo most of this, and nested runtimes need what it
//     would lose.
//
// It is a function of its arguments: it asks the machine nothing.
package harden

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Level is how much is added: a value of keelson.harden.
type Level string

// The levels.
const (
	// LinuxKit adds nothing: the container is what LinuxKit would make of it.
	LinuxKit Level = "linuxkit"
	// Auto adds what a program that was not written for it does not notice.
	Auto Level = "auto"
	// Strict adds more, also where CAP_SYS_ADMIN would be in the way of Auto, and
	// makes demands, see Check.
	Strict Level = "strict"
)

// Options are what else there is to know.
type Options struct {
	// LogOnly has the seccomp profile log what it would refuse.
	LogOnly bool
	// Masked are more paths that are masked with those of the list, such as those of
	// the machine's processors.
	Masked []string
	// Absent reports whether a path is not on the machine, so that no container needs it
	// masked; nil is for a machine that is not known.
	Absent func(path string) bool
	// NoSeccomp and NoPids say that the kernel has no seccomp filters, or no limit of
	// processes, so that a container that asks for them could not start.
	NoSeccomp, NoPids bool
	// ByName puts the name of the seccomp profile in place of the profile: the runtime
	// is one that knows Named. With any other the container would not run.
	ByName bool
}

// Added is one thing that was added, in words: "/sys read-only".
type Added string

// PidsLimit is the most processes and threads of a container that says nothing of it.
const PidsLimit = 4096

// Volumes is the directory of the image's volumes.
const Volumes = "/containers/volumes"

const (
	sysAdmin = "CAP_SYS_ADMIN"
	netAdmin = "CAP_NET_ADMIN"
)

// Apply returns the configuration of a container with what its level adds, and
// what that is. The configuration must have its process and its linux section.
func Apply(s *specs.Spec, level Level, o Options) (*specs.Spec, []Added) {
	if level != Auto && level != Strict {
		return s, nil
	}
	caps := capabilities(s)
	h := &hardening{
		spec: *s, process: *s.Process, linux: *s.Linux, options: o, caps: caps, strict: level == Strict,
		exempt: level == Auto && slices.Contains(caps, sysAdmin), ownReadonly: len(s.Linux.ReadonlyPaths) > 0,
	}
	h.spec.Mounts = slices.Clone(s.Mounts)
	h.spec.Process, h.spec.Linux = &h.process, &h.linux
	h.paths()
	h.sys()
	h.seccomp()
	h.privileges()
	h.limits()
	h.mounts()
	return &h.spec, h.added
}

// hardening is a configuration while things are added to it.
type hardening struct {
	spec        specs.Spec
	process     specs.Process
	linux       specs.Linux
	options     Options
	caps        []string
	strict      bool
	exempt      bool // it has CAP_SYS_ADMIN, which counts
	ownReadonly bool // it has a list of read-only paths of its own
	added       []Added
}

func (h *hardening) add(format string, a ...any) {
	h.added = append(h.added, Added(fmt.Sprintf(format, a...)))
}

// paths hides and protects what of /proc and /sys tells of the machine or steers
// it: the kernel guards most of that by the user's number and not by capability.
func (h *hardening) paths() {
	if h.exempt {
		return
	}
	if list := h.present(h.ungranted(slices.Concat(masked, h.options.Masked))); len(h.linux.MaskedPaths) == 0 && len(list) > 0 {
		h.linux.MaskedPaths = list
		h.add("masked paths")
	}
	if h.ownReadonly {
		return
	}
	list, what := readonly, "read-only paths"
	if slices.Contains(h.caps, netAdmin) {
		list, what = readonlyButNet, "read-only paths except /proc/sys/net"
	}
	if list = h.ungranted(list); len(list) > 0 {
		h.linux.ReadonlyPaths = list
		h.add("%s", what)
	}
}

// ungranted returns the paths that are not on a bind. What of the machine's own
// /proc or /sys the YAML binds into a container it grants, as it binds it.
func (h *hardening) ungranted(list []string) []string {
	var rest []string
	for _, p := range list {
		if m := covering(h.spec.Mounts, p); m == nil || !isBind(*m) {
			rest = append(rest, p)
		}
	}
	return rest
}

// present returns the paths that are on the machine: those that are not would cost each
// start a look.
func (h *hardening) present(list []string) []string {
	if h.options.Absent == nil {
		return list
	}
	return slices.DeleteFunc(list, h.options.Absent)
}

// sys makes a sysfs read-only that says neither rw nor ro.
func (h *hardening) sys() {
	if h.exempt || h.ownReadonly {
		return
	}
	for i, m := range h.spec.Mounts {
		if m.Type == "sysfs" && !says(m, "ro", "rw") && covering(h.spec.Mounts, m.Destination) == &h.spec.Mounts[i] {
			h.option(i, "ro")
			h.add("%s read-only", m.Destination)
		}
	}
}

func (h *hardening) seccomp() {
	if h.linux.Seccomp != nil || h.exempt || h.options.NoSeccomp {
		return
	}
	if h.options.ByName {
		h.linux.Seccomp = Placeholder()
		h.spec.Annotations = maps.Clone(h.spec.Annotations)
		if h.spec.Annotations == nil {
			h.spec.Annotations = map[string]string{}
		}
		h.spec.Annotations[SeccompAnnotation] = Name(h.caps, !h.strict, h.options.LogOnly)
	} else {
		h.linux.Seccomp = Profile(h.caps, !h.strict, h.options.LogOnly)
	}
	switch {
	case h.options.LogOnly:
		h.add("seccomp: default profile, logging only")
	case h.strict:
		h.add("seccomp: default profile without rare socket families")
	default:
		h.add("seccomp: default profile")
	}
}

func (h *hardening) privileges() {
	if !h.process.NoNewPrivileges && (len(h.caps) == 0 || h.strict) {
		h.process.NoNewPrivileges = true
		h.add("no new privileges")
	}
}

func (h *hardening) limits() {
	const core = "RLIMIT_CORE"
	if !slices.ContainsFunc(h.process.Rlimits, func(r specs.POSIXRlimit) bool { return r.Type == core }) {
		h.process.Rlimits = append(slices.Clone(h.process.Rlimits), specs.POSIXRlimit{Type: core})
		h.add("no core dumps")
	}
	if h.options.NoPids || h.exempt {
		return
	}
	var r specs.LinuxResources
	if h.linux.Resources != nil {
		r = *h.linux.Resources
	}
	if _, set := r.Unified["pids.max"]; set || r.Pids != nil {
		return
	}
	limit := int64(PidsLimit)
	r.Pids = &specs.LinuxPids{Limit: &limit}
	h.linux.Resources = &r
	h.add("pids limit %d", PidsLimit)
}

// mounts takes set-uid files and devices away from what the container itself, or
// another one, can fill: its binds of volumes and its tmpfs. Containers with
// CAP_SYS_ADMIN keep them, as nested runtimes put whole root file systems there.
func (h *hardening) mounts() {
	if h.exempt {
		return
	}
	var where []string
	for i, m := range h.spec.Mounts {
		volume := isBind(m) && strings.HasPrefix(path.Clean(m.Source)+"/", Volumes+"/")
		if !volume && m.Type != "tmpfs" || path.Clean(m.Destination) == "/dev" {
			continue
		}
		before := len(m.Options)
		if !says(m, "suid", "nosuid") {
			h.option(i, "nosuid")
		}
		if !says(m, "dev", "nodev") && !h.devices(m.Destination) {
			h.option(i, "nodev")
		}
		if len(h.spec.Mounts[i].Options) > before {
			where = append(where, m.Destination)
		}
	}
	if len(where) > 0 {
		h.add("nosuid,nodev on %s", strings.Join(where, ", "))
	}
}

// devices reports whether the configuration makes devices below a directory.
func (h *hardening) devices(dir string) bool {
	return slices.ContainsFunc(h.linux.Devices, func(d specs.LinuxDevice) bool { return below(d.Path, dir) })
}

// option adds an option to a mount.
func (h *hardening) option(i int, name string) {
	m := &h.spec.Mounts[i]
	m.Options = append(slices.Clone(m.Options), name)
}

// Demand is what a level wants of a configuration and the configuration lacks.
type Demand struct {
	Field string // of the image YAML, where it would be written
	Text  string // what is wrong and what to write
}

// Check returns what the level demands and a configuration lacks. What a program
// runs as, and whether it has a network of its own, nobody can choose for it.
func Check(s *specs.Spec, level Level) []Demand {
	if level != Strict {
		return nil
	}
	var list []Demand
	if s.Process.User.UID == 0 && !has(s, specs.UserNamespace) {
		list = append(list, Demand{"uid", "keelson.harden: strict wants a user other than 0, or a user namespace: write uid: 1000, or userns: new with uidMappings and gidMappings"})
	}
	if !has(s, specs.NetworkNamespace) {
		list = append(list, Demand{"net", "keelson.harden: strict wants a network namespace of its own: write net: new"})
	}
	return list
}

func has(s *specs.Spec, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

// capabilities are all that a container has in any set.
func capabilities(s *specs.Spec) []string {
	c := s.Process.Capabilities
	if c == nil {
		return nil
	}
	all := slices.Concat(c.Bounding, c.Effective, c.Permitted, c.Inheritable, c.Ambient)
	for i, name := range all {
		all[i] = strings.ToUpper(name)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// covering is the mount that a path lies on; nil is the root.
func covering(mounts []specs.Mount, p string) *specs.Mount {
	var on *specs.Mount
	for i, m := range mounts { // in the order in which they are mounted, one over the other
		if below(p, m.Destination) {
			on = &mounts[i]
		}
	}
	return on
}

// below reports whether a path is a directory or lies below it.
func below(p, dir string) bool {
	p, dir = path.Clean("/"+p), path.Clean("/"+dir)
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}

func isBind(m specs.Mount) bool { return m.Type == "bind" || says(m, "bind", "rbind") }

func says(m specs.Mount, options ...string) bool {
	return slices.ContainsFunc(m.Options, func(o string) bool { return slices.Contains(options, o) })
}

// masked are the paths of container engines that tell of the machine, or of other
// containers.
var masked = []string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
	"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
}

// readonly are the paths that steer the machine.
var readonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

// readonlyButNet are the same without /proc/sys/net: one by one, as a runtime makes
// a directory read-only as a whole and lets nothing be mounted below /proc. These
// are all directories that the kernel and its modules make in /proc/sys.
var readonlyButNet = []string{
	"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger", "/proc/sys/abi", "/proc/sys/crypto", "/proc/sys/debug", "/proc/sys/dev",
	"/proc/sys/fs", "/proc/sys/fscache", "/proc/sys/kernel", "/proc/sys/sunrpc", "/proc/sys/user", "/proc/sys/vm", "/proc/sys/xen",
}
