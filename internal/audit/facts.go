package audit

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Facts are what the checks look at.
type Facts struct {
	// UID is its user's number as the machine sees it.
	UID    uint32
	Groups bool // it has supplementary groups
	// Own are the namespaces that it does not share with the machine.
	Own             map[specs.LinuxNamespaceType]bool
	Caps            Caps // what it has or could get
	Effective       Caps
	Ambient         Caps
	NoNewPrivileges bool
	Seccomp         *specs.LinuxSeccomp // nil without a filter
	Umask           uint32
	Realtime        bool // its limit lets it take real-time priorities
	ReadonlyRoot    bool
	Mounts          []Mount // in the order in which they lie one over the other
	Devices         Devices
	Nodes           []string // device nodes that it has besides every container's
	Notify          bool     // its processes steer its state
	// Control says that it may do all on the control socket, Runtime that it may have
	// containerd's sockets.
	Control, Runtime bool
	PidsMax          int64 // 0 for no limit
}

// Devices is what the rules on devices let through.
type Devices int

// What they let through.
const (
	DefaultDevices Devices = iota // those that every container has: null, zero, tty ...
	SomeDevices
	AllDevices
)

// Mount is one mount of a container.
type Mount struct {
	At     string // where it is
	Type   string
	Source string // of a bind, the machine's path
	// Masked hides what lies there.
	Masked, ReadOnly, NoSUID, Shared bool
	PIDsOnly                         bool // a /proc that shows processes alone
}

// Caps is a set of capabilities.
type Caps uint64

// capabilityNames are in the order of the kernel's numbers.
var capabilityNames = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
	NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
	SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG
	WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)

// allCaps is every capability.
var allCaps = Caps(1)<<len(capabilityNames) - 1

// caps is the set of the capabilities that are named without CAP_.
func caps(names string) Caps {
	var set Caps
	for _, name := range strings.Fields(names) {
		set |= 1 << slices.Index(capabilityNames, name)
	}
	return set
}

// CapsOf is the set of the capabilities that a configuration names; a name that
// nobody knows is none.
func CapsOf(names ...string) Caps {
	var set Caps
	for _, name := range names {
		if i := slices.Index(capabilityNames, strings.TrimPrefix(strings.ToUpper(name), "CAP_")); i >= 0 {
			set |= 1 << i
		}
	}
	return set
}

// Has reports whether one of others is in the set.
func (c Caps) Has(others Caps) bool { return c&others != 0 }

// String names them.
func (c Caps) String() string {
	switch c & allCaps {
	case 0:
		return "none"
	case allCaps:
		return "all"
	}
	var list []string
	for i, name := range capabilityNames {
		if c&(1<<i) != 0 {
			list = append(list, "CAP_"+name)
		}
	}
	return strings.Join(list, ",")
}

// Extra is what is known of a container beside its configuration.
type Extra struct {
	Notify           bool
	Control, Runtime bool
}

// FromSpec are the facts of a container that runs with a configuration, which has
// its process and its linux section.
func FromSpec(s *specs.Spec, x Extra) *Facts {
	f := &Facts{
		UID: hostUID(s), Groups: len(s.Process.User.AdditionalGids) > 0, Own: map[specs.LinuxNamespaceType]bool{},
		NoNewPrivileges: s.Process.NoNewPrivileges, Seccomp: s.Linux.Seccomp, Umask: 0o022,
		ReadonlyRoot: s.Root != nil && s.Root.Readonly, Notify: x.Notify, Control: x.Control, Runtime: x.Runtime,
	}
	for _, n := range s.Linux.Namespaces {
		f.Own[n.Type] = !strings.HasPrefix(n.Path, "/proc/1/ns/")
	}
	if c := s.Process.Capabilities; c != nil {
		f.Caps = CapsOf(slices.Concat(c.Bounding, c.Effective, c.Permitted, c.Inheritable, c.Ambient)...)
		f.Ambient = CapsOf(c.Ambient...)
		if f.Effective = CapsOf(c.Effective...); s.Process.User.UID != 0 {
			f.Effective = f.Ambient // all that execve leaves to others than root
		}
	}
	if u := s.Process.User.Umask; u != nil {
		f.Umask = *u
	}
	for _, r := range s.Process.Rlimits {
		f.Realtime = f.Realtime || r.Type == "RLIMIT_RTPRIO" && r.Hard > 0
	}
	if r := s.Linux.Resources; r != nil {
		f.devices(r.Devices)
		if r.Pids != nil && r.Pids.Limit != nil {
			f.PidsMax = max(*r.Pids.Limit, 0)
		}
	}
	for _, d := range s.Linux.Devices {
		if !slices.Contains(DefaultNodes, path.Clean(d.Path)) {
			f.Nodes = append(f.Nodes, d.Path)
		}
	}
	f.mounts(s)
	return f
}

// DefaultNodes are the devices that every container has.
var DefaultNodes = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/console", "/dev/ptmx"}

// hostUID is the process's user as the machine sees it.
func hostUID(s *specs.Spec) uint32 {
	uid := s.Process.User.UID
	for _, m := range s.Linux.UIDMappings {
		if uid >= m.ContainerID && uid-m.ContainerID < m.Size {
			return uid - m.ContainerID + m.HostID
		}
	}
	return uid
}

// devices reads the rules on devices, of which the last that fits counts. Engines
// write a rule that refuses all before theirs; a runtime does so where there is none.
func (f *Facts) devices(rules []specs.LinuxDeviceCgroup) {
	for _, r := range rules {
		wide := r.Major == nil || *r.Major < 0
		switch {
		case !r.Allow && wide && (r.Type == "" || r.Type == "a"):
			f.Devices = DefaultDevices
		case !r.Allow:
		case wide && strings.ContainsAny(r.Access, "rw"):
			f.Devices = AllDevices
		case !isDefaultDevice(r):
			f.Devices = max(f.Devices, SomeDevices)
		}
	}
}

// isDefaultDevice reports whether a rule is about a device that every container has,
// or only about making nodes.
func isDefaultDevice(r specs.LinuxDeviceCgroup) bool {
	if !strings.ContainsAny(r.Access, "rw") {
		return true
	}
	minor := int64(-1)
	if r.Minor != nil {
		minor = *r.Minor
	}
	switch *r.Major {
	case 1:
		return r.Type == "c" && slices.Contains([]int64{3, 5, 7, 8, 9}, minor)
	case 5:
		return r.Type == "c" && minor >= 0 && minor <= 2
	case 136:
		return r.Type == "c"
	}
	return false
}

func (f *Facts) mounts(s *specs.Spec) {
	for _, m := range s.Mounts {
		x := Mount{At: path.Clean("/" + m.Destination), Type: m.Type}
		for _, o := range m.Options {
			switch o {
			case "bind", "rbind":
				x.Type = "bind"
			case "ro", "rro":
				x.ReadOnly = true
			case "rw":
				x.ReadOnly = false
			case "subset=pid":
				x.PIDsOnly = true
			case "nosuid":
				x.NoSUID = true
			case "shared", "rshared":
				x.Shared = true
			}
		}
		if x.Type == "bind" {
			x.Source = path.Clean(m.Source)
		}
		f.Mounts = append(f.Mounts, x)
	}
	for _, p := range s.Linux.ReadonlyPaths {
		x := Mount{At: path.Clean(p), ReadOnly: true}
		if on := f.at(p); on != nil {
			x.Type = on.Type
		}
		f.Mounts = append(f.Mounts, x)
	}
	for _, p := range s.Linux.MaskedPaths {
		f.Mounts = append(f.Mounts, Mount{At: path.Clean(p), Masked: true, ReadOnly: true})
	}
}

// at is the mount that a path lies on, nil for the root.
func (f *Facts) at(p string) *Mount {
	var on *Mount
	for i, m := range f.Mounts {
		if below(p, m.At) {
			on = &f.Mounts[i]
		}
	}
	return on
}

// writable reports whether mounts let the container write at a path.
func (f *Facts) writable(p string) bool {
	if m := f.at(p); m != nil {
		return !m.ReadOnly
	}
	return !f.ReadonlyRoot
}

// bound returns the first bind of the machine's for which match holds.
func (f *Facts) bound(match func(m Mount) bool) (Mount, bool) {
	for _, m := range f.Mounts {
		if m.Source != "" && match(m) {
			return m, true
		}
	}
	return Mount{}, false
}

// touches reports whether a bind shows one of the machine's directories, all or part
// of it.
func touches(m Mount, dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return below(d, m.Source) || below(m.Source, d) })
}

// machineRoot is the machine's root in every sense: no user namespace in between.
func (f *Facts) machineRoot() bool { return f.UID == 0 }

// admin reports whether it may mount on the machine's terms, so that no read-only or
// masked path holds.
func (f *Facts) admin() bool {
	return f.Caps.Has(caps("SYS_ADMIN")) && !f.Own[specs.UserNamespace]
}

// below reports whether a path is a directory or lies below it.
func below(p, dir string) bool {
	p, dir = path.Clean("/"+p), path.Clean("/"+dir)
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}

// Fact is one thing that is known of a container, in words.
type Fact struct {
	Name     string `json:"fact"`
	Declared string `json:"declared"`
	Live     string `json:"live"`
}

// Differences puts what is declared of a container beside what a live process is.
func Differences(declared, live *Facts) []Fact {
	d, l := declared.words(), live.words()
	list := make([]Fact, len(d))
	for i := range d {
		list[i] = Fact{d[i][0], d[i][1], l[i][1]}
	}
	return list
}

// Drifted reports whether the two differ.
func (f Fact) Drifted() bool { return f.Declared != f.Live }

// words are facts with their values, always the same facts in the same order.
func (f *Facts) words() [][2]string {
	own := []string{}
	for _, kind := range Namespaces {
		if f.Own[kind] {
			own = append(own, string(kind))
		}
	}
	protected, hidden := []string{}, []string{}
	for _, m := range f.Mounts {
		switch {
		case !below(m.At, "/proc") && !below(m.At, "/sys"):
		case m.Masked:
			hidden = append(hidden, m.At)
		case m.ReadOnly:
			protected = append(protected, m.At)
		}
	}
	filter := "none"
	if f.Seccomp != nil {
		filter = "a filter"
	}
	pids := "none"
	if f.PidsMax > 0 {
		pids = strconv.FormatInt(f.PidsMax, 10)
	}
	return [][2]string{
		{"user", strconv.FormatUint(uint64(f.UID), 10)}, {"capabilities", f.Caps.String()}, {"effective capabilities", f.Effective.String()},
		{"ambient capabilities", f.Ambient.String()}, {"no new privileges", yes(f.NoNewPrivileges)}, {"seccomp", filter},
		{"own namespaces", strings.Join(own, " ")}, {"root", map[bool]string{true: "read-only", false: "writable"}[f.ReadonlyRoot]},
		{"read-only below /proc and /sys", joined(protected)}, {"masked below /proc and /sys", joined(hidden)},
		{"devices", [...]string{"default", "some", "all"}[f.Devices]}, {"processes at most", pids}, {"real-time priority", yes(f.Realtime)},
		{"umask", fmt.Sprintf("%04o", f.Umask)},
	}
}

// Namespaces are all kinds of namespaces that a container can have.
var Namespaces = []specs.LinuxNamespaceType{
	specs.CgroupNamespace, specs.IPCNamespace, specs.MountNamespace, specs.NetworkNamespace, specs.PIDNamespace, specs.UserNamespace, specs.UTSNamespace,
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func joined(list []string) string {
	slices.Sort(list)
	if list = slices.Compact(list); len(list) == 0 {
		return "none"
	}
	return strings.Join(list, " ")
}
