package audit

import (
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	fixCaps    = "leave it out of capabilities:"
	fixHarden  = "annotation keelson.harden: auto, and no CAP_SYS_ADMIN"
	fixFilter  = "annotation keelson.harden: auto or strict, and no capability that it is for"
	fixNone    = "no field of the YAML; accept it"
	fixStrict  = "annotation keelson.harden: strict"
	machineDir = "bind less of the machine, or :ro"
)

// checks is the table. Names, weights and ranges are systemd's; what each means for a
// container is ours.
var checks = []Check{
	{"User", 2000, 10, "does not run as the machine's root", "uid: 1000, or userns: new with mappings", func(f *Facts) (int, string) {
		switch {
		case f.machineRoot():
			return 10, "uid 0 of the machine"
		case f.UID == 65534:
			return 9, "the user nobody, which others may be too"
		}
		return 0, ""
	}},
	{"SupplementaryGroups", 200, 1, "has no supplementary groups", "leave out additionalGids:", func(f *Facts) (int, string) {
		if f.machineRoot() {
			return notApplicable, "root needs no groups"
		}
		return when(f.Groups)
	}},
	{"PrivateDevices", 1000, 1, "has no device nodes but every container's", "leave out devices: and binds of /dev", func(f *Facts) (int, string) {
		if len(f.Nodes) > 0 {
			return 1, strings.Join(f.Nodes, ", ")
		}
		return bind(f, 1, func(m Mount) bool { return touches(m, "/dev") && !slices.Contains(DefaultNodes, m.Source) })
	}},
	{"PrivateMounts", 1000, 1, "cannot mount anything on the machine", "leave out CAP_SYS_ADMIN, or give binds other options than rshared", func(f *Facts) (int, string) {
		if !f.Own[specs.MountNamespace] {
			return 1, "the machine's mounts"
		}
		if !f.admin() {
			return 0, ""
		}
		return bind(f, 1, func(m Mount) bool { return m.Shared })
	}},
	{"PrivateNetwork", 2500, 1, "has a network of its own", "net: new, with runtime: interfaces: for what it needs", func(f *Facts) (int, string) { return shared(f, specs.NetworkNamespace) }},
	{"PrivateTmp", 1000, 1, "does not see the machine's /tmp", "leave out binds of /tmp and /var/tmp", func(f *Facts) (int, string) {
		return bind(f, 1, func(m Mount) bool { return touches(m, "/tmp", "/var/tmp") })
	}},
	{"PrivateUsers", 1000, 1, "has users of its own", "userns: new with uidMappings and gidMappings", func(f *Facts) (int, string) { return shared(f, specs.UserNamespace) }},
	{"ProtectControlGroups", 1000, 1, "cannot write to the cgroup file system", "mount it ro, leave out CAP_SYS_ADMIN", func(f *Facts) (int, string) {
		if f.admin() {
			return 1, "CAP_SYS_ADMIN can mount it"
		}
		return f.cgroups()
	}},
	{"ProtectKernelModules", 1000, 1, "cannot load kernel modules", "leave out CAP_SYS_MODULE and binds of /lib/modules", func(f *Facts) (int, string) {
		if f.Caps.Has(caps("SYS_MODULE")) && !f.Own[specs.UserNamespace] {
			return 1, "CAP_SYS_MODULE"
		}
		return bind(f, 1, func(m Mount) bool { return !m.ReadOnly && touches(m, "/lib/modules", "/usr/lib/modules") })
	}},
	{"ProtectKernelTunables", 1000, 1, "cannot change the kernel's settings in /proc and /sys", fixHarden, tunables},
	{"ProtectKernelLogs", 1000, 1, "cannot read the kernel's log", "leave out CAP_SYSLOG, CAP_SYS_ADMIN and /dev/kmsg", func(f *Facts) (int, string) {
		if f.Caps.Has(caps("SYSLOG SYS_ADMIN")) && !f.Own[specs.UserNamespace] {
			return 1, "CAP_SYSLOG or CAP_SYS_ADMIN"
		}
		return f.node("kmsg")
	}},
	{"ProtectClock", 1000, 1, "cannot set a clock", "leave out CAP_SYS_TIME, CAP_WAKE_ALARM and /dev/rtc0", func(f *Facts) (int, string) {
		if f.Caps.Has(caps("SYS_TIME WAKE_ALARM")) && !f.Own[specs.UserNamespace] {
			return 1, "CAP_SYS_TIME or CAP_WAKE_ALARM"
		}
		return f.node("rtc")
	}},
	{"ProtectHome", 1000, 10, "does not see the machine's home directories", "leave out binds of /root and /home", func(f *Facts) (int, string) {
		if b, note := bind(f, 10, func(m Mount) bool { return !m.ReadOnly && touches(m, "/root", "/home") }); b > 0 {
			return b, note
		}
		return bind(f, 5, func(m Mount) bool { return touches(m, "/root", "/home") })
	}},
	{"ProtectHostname", 50, 1, "cannot change the machine's host name", "uts: new, or leave out CAP_SYS_ADMIN", func(f *Facts) (int, string) {
		return when(!f.Own[specs.UTSNamespace] && f.admin())
	}},
	{"ProtectSystem", 1000, 10, "cannot change programs and settings", "readonly: true; " + machineDir, func(f *Facts) (int, string) {
		if b, note := bind(f, 10, func(m Mount) bool { return !m.ReadOnly && touches(m, systemDirs...) }); b > 0 {
			return b, note
		}
		if !f.ReadonlyRoot {
			return 3, "its own copy of the image is writable"
		}
		return 0, ""
	}},
	{"RootDirectory", 200, 1, "has a root file system of its own", "leave out binds of /", func(f *Facts) (int, string) {
		if !f.Own[specs.MountNamespace] {
			return 1, "the machine's mounts"
		}
		return bind(f, 1, func(m Mount) bool { return m.Source == "/" })
	}},
	{"LockPersonality", 100, 1, "cannot change the execution domain", fixFilter, func(f *Facts) (int, string) {
		const addrNoRandomize = 0x0040000
		return when(lets(f.Seccomp, "personality", addrNoRandomize))
	}},
	{"MemoryDenyWriteExecute", 100, 1, "cannot make memory executable that it has written", fixNone, func(f *Facts) (int, string) {
		return when(lets(f.Seccomp, "mprotect", 0, 0, unix.PROT_READ|unix.PROT_EXEC))
	}},
	{"NoNewPrivileges", 1000, 1, "cannot gain rights by executing a file", "noNewPrivileges: true", func(f *Facts) (int, string) { return when(!f.NoNewPrivileges) }},

	capability("CAP_SYS_ADMIN", 1500, "SYS_ADMIN", "has no administrator's rights"),
	capability("CAP_SET(UID|GID|PCAP)", 1500, "SETUID SETGID SETPCAP", "cannot change its users and capabilities"),
	capability("CAP_SYS_PTRACE", 1500, "SYS_PTRACE", "cannot debug processes of others"),
	capability("CAP_SYS_TIME", 1000, "SYS_TIME", "cannot set the system's clock"),
	capability("CAP_NET_ADMIN", 1000, "NET_ADMIN", "cannot configure a network"),
	capability("CAP_SYS_RAWIO", 1000, "SYS_RAWIO", "has no raw input and output"),
	capability("CAP_SYS_MODULE", 1000, "SYS_MODULE", "cannot load kernel modules itself"),
	capability("CAP_AUDIT_*", 500, "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE", "has nothing to do with the kernel's audit"),
	capability("CAP_SYSLOG", 500, "SYSLOG", "cannot read kernel addresses and log"),
	capability("CAP_SYS_(NICE|RESOURCE)", 500, "SYS_NICE SYS_RESOURCE", "cannot raise its priority and limits"),
	capability("CAP_MKNOD", 500, "MKNOD", "cannot make device nodes"),
	capability("CAP_(CHOWN|FSETID|SETFCAP)", 1000, "CHOWN FSETID SETFCAP", "cannot give files away, nor capabilities to files"),
	capability("CAP_(DAC_*|FOWNER|IPC_OWNER)", 1000, "DAC_OVERRIDE DAC_READ_SEARCH FOWNER IPC_OWNER", "cannot pass over the permissions of files"),
	capability("CAP_KILL", 500, "KILL", "cannot signal processes of other users"),
	capability("CAP_NET_(BIND_SERVICE|BROADCAST|RAW)", 500, "NET_BIND_SERVICE NET_BROADCAST NET_RAW", "has no special rights in its network"),
	capability("CAP_SYS_BOOT", 100, "SYS_BOOT", "cannot call reboot"),
	capability("CAP_MAC_*", 100, "MAC_ADMIN MAC_OVERRIDE", "cannot change mandatory access control"),
	capability("CAP_LINUX_IMMUTABLE", 75, "LINUX_IMMUTABLE", "cannot make files immutable"),
	capability("CAP_IPC_LOCK", 50, "IPC_LOCK", "cannot lock memory without limit"),
	capability("CAP_SYS_CHROOT", 50, "SYS_CHROOT", "cannot call chroot"),
	capability("CAP_BLOCK_SUSPEND", 25, "BLOCK_SUSPEND", "cannot keep the machine from sleeping"),
	capability("CAP_WAKE_ALARM", 25, "WAKE_ALARM", "cannot wake the machine"),
	capability("CAP_LEASE", 25, "LEASE", "cannot take leases on files of others"),
	capability("CAP_SYS_TTY_CONFIG", 25, "SYS_TTY_CONFIG", "cannot hang up terminals"),
	capability("CAP_SYS_PACCT", 25, "SYS_PACCT", "cannot turn process accounting on"),
	capability("CAP_BPF", 25, "BPF", "cannot load BPF programs"),

	{"UMask", 100, 10, "makes files that only its user can read", fixNone, func(f *Facts) (int, string) {
		for _, u := range []struct {
			bit     uint32
			badness int
			who     string
		}{{0o002, 10, "all can write"}, {0o004, 5, "all can read"}, {0o020, 2, "its group can write"}, {0o040, 1, "its group can read"}} {
			if f.Umask&u.bit == 0 {
				return u.badness, u.who
			}
		}
		return 0, ""
	}},
	{"KeyringMode", 1000, 1, "has no kernel keys in common with others", "annotation keelson.harden: auto, or userns: new", func(f *Facts) (int, string) {
		return when(!f.Own[specs.UserNamespace] && lets(f.Seccomp, "keyctl"))
	}},
	{"ProtectProc", 1000, 3, "does not see the machine's processes", "leave out pid: host and binds of / and /proc", func(f *Facts) (int, string) {
		if !f.Own[specs.PIDNamespace] {
			return 3, "pid: host"
		}
		return bind(f, 3, func(m Mount) bool { return m.Source == "/" || m.Source == "/proc" })
	}},
	{"ProcSubset", 10, 1, "sees nothing in /proc but processes", "mounts: with /proc and the option subset=pid", func(f *Facts) (int, string) {
		m := f.at("/proc/meminfo")
		return when(m == nil || !m.Masked && !m.PIDsOnly)
	}},
	{"NotifyAccess", 1000, 1, "its child processes cannot speak for it", "another keelson.ready and keelson.health than notify", func(f *Facts) (int, string) {
		return when(f.Notify)
	}},
	{"RemoveIPC", 100, 1, "leaves no System V IPC behind", "ipc: new", func(f *Facts) (int, string) {
		if f.machineRoot() {
			return notApplicable, "root's is kept in any case"
		}
		return shared(f, specs.IPCNamespace)
	}},
	{"Delegate", 100, 1, "has no cgroups of its own to manage", "leave the mount of /sys/fs/cgroup as it is, ro", func(f *Facts) (int, string) { return f.cgroups() }},
	{"RestrictRealtime", 500, 1, "cannot take a real-time priority", "leave out CAP_SYS_NICE and rlimits: rtprio", func(f *Facts) (int, string) {
		const fifo = 1
		return when((f.Realtime || f.Caps.Has(caps("SYS_NICE"))) && lets(f.Seccomp, "sched_setscheduler", 0, fifo))
	}},
	{"RestrictSUIDSGID", 1000, 1, "cannot leave set-uid files that work", "noNewPrivileges: true, and nosuid on writable binds", setUID},

	namespace("user", 1500, unix.CLONE_NEWUSER), namespace("mnt", 500, unix.CLONE_NEWNS), namespace("ipc", 500, unix.CLONE_NEWIPC),
	namespace("pid", 500, unix.CLONE_NEWPID), namespace("cgroup", 500, unix.CLONE_NEWCGROUP), namespace("net", 500, unix.CLONE_NEWNET),
	namespace("uts", 100, unix.CLONE_NEWUTS),

	{"RestrictAddressFamilies~inet", 1500, 1, "cannot make Internet sockets", fixNone, func(f *Facts) (int, string) { return when(f.family(unix.AF_INET, unix.AF_INET6)) }},
	{"RestrictAddressFamilies~unix", 25, 1, "cannot make local sockets", fixNone, func(f *Facts) (int, string) { return when(f.family(unix.AF_UNIX)) }},
	{"RestrictAddressFamilies~netlink", 200, 1, "cannot make netlink sockets", fixNone, func(f *Facts) (int, string) { return when(f.family(unix.AF_NETLINK)) }},
	{"RestrictAddressFamilies~packet", 1000, 1, "cannot make packet sockets", "leave out CAP_NET_RAW, or keelson.harden: strict", func(f *Facts) (int, string) {
		return when(f.family(unix.AF_PACKET) && f.Caps.Has(caps("NET_RAW")))
	}},
	{"RestrictAddressFamilies~other", 1250, 1, "cannot make sockets of rare families", fixStrict, func(f *Facts) (int, string) { return when(f.family(exotic()...)) }},
	{"SystemCallArchitectures", 1000, 10, "makes system calls of the native architecture only", "annotation keelson.harden: auto", func(f *Facts) (int, string) {
		switch {
		case f.Seccomp == nil || len(f.Seccomp.Architectures) == 0 && harmless(f.Seccomp.DefaultAction):
			return 10, "of any"
		case len(f.Seccomp.Architectures) > 1:
			return 8, "of several"
		}
		return 0, ""
	}},
	{"SystemCallFilter~@swap", 1000, 10, "cannot turn swap on or off", fixFilter, filter(swapCalls)},
	{"SystemCallFilter~@obsolete", 250, 10, "cannot make obsolete system calls", fixFilter, filter(oldCalls)},
	{"SystemCallFilter~@clock", 1000, 10, "cannot make system calls that set clocks", fixFilter, filter(clockCalls)},
	{"SystemCallFilter~@cpu-emulation", 250, 10, "cannot make system calls for CPU emulation", fixNone, filter(cpuCalls)},
	{"SystemCallFilter~@debug", 1000, 10, "cannot make system calls for debugging", fixNone, filter(debugCalls)},
	{"SystemCallFilter~@mount", 1000, 10, "cannot make system calls that mount", fixFilter, filter(mountCalls)},
	{"SystemCallFilter~@module", 1000, 10, "cannot make system calls that load modules", fixFilter, filter(loadCalls)},
	{"SystemCallFilter~@raw-io", 1000, 10, "cannot make system calls for raw input and output", fixFilter, filter(rawCalls)},
	{"SystemCallFilter~@reboot", 1000, 10, "cannot make system calls that reboot", fixFilter, filter(bootCalls)},
	{"SystemCallFilter~@privileged", 700, 10, "cannot make system calls for the superuser", fixFilter, filter(rootCalls)},
	{"SystemCallFilter~@resources", 700, 10, "cannot change scheduling and limits of its own", fixNone, filter(resourceCalls)},
	{"DeviceAllow", 1000, 10, "may open no devices but every container's", "leave out devices: and resources: devices:", func(f *Facts) (int, string) {
		switch f.Devices {
		case AllDevices:
			return 10, "all of a kind, or all"
		case SomeDevices:
			return 5, "some"
		}
		return 0, ""
	}},
	{"AmbientCapabilities", 500, 1, "its programs inherit no capabilities", "leave out ambient:", func(f *Facts) (int, string) { return when(f.Ambient != 0) }},
}

// systemDirs hold what the machine runs and how.
var systemDirs = []string{"/bin", "/sbin", "/lib", "/lib64", "/usr", "/etc", "/boot", "/init", "/containers/onboot", "/containers/onshutdown", "/containers/services"}

// when is the badness of what is either so or not.
func when(bad bool) (int, string) {
	if bad {
		return 1, ""
	}
	return 0, ""
}

func shared(f *Facts, kind specs.LinuxNamespaceType) (int, string) {
	if f.Own[kind] {
		return 0, ""
	}
	return 1, "the machine's"
}

// bind is bad where a bind is.
func bind(f *Facts, badness int, match func(Mount) bool) (int, string) {
	if m, ok := f.bound(match); ok {
		return badness, "bind of " + m.Source
	}
	return 0, ""
}

func capability(id string, weight int, names, what string) Check {
	set := caps(names)
	return Check{id, weight, 1, what, fixCaps, func(f *Facts) (int, string) {
		if f.Caps.Has(set) {
			return 1, (f.Caps & set).String()
		}
		return 0, ""
	}}
}

func namespace(name string, weight int, flag uint64) Check {
	return Check{"RestrictNamespaces~" + name, weight, 1, "cannot make " + name + " namespaces", fixHarden, func(f *Facts) (int, string) {
		return when(f.unshares(flag))
	}}
}

// node is bad where a device whose name begins so can be opened.
func (f *Facts) node(name string) (int, string) {
	for _, n := range f.Nodes {
		if strings.HasPrefix(path.Base(n), name) {
			return 1, n
		}
	}
	return bind(f, 1, func(m Mount) bool {
		return below("/dev", m.Source) || path.Dir(m.Source) == "/dev" && strings.HasPrefix(path.Base(m.Source), name)
	})
}

// cgroups is bad where a cgroup file system is writable.
func (f *Facts) cgroups() (int, string) {
	for _, m := range f.Mounts {
		inside := m.Type == "cgroup" || m.Type == "cgroup2" || m.Source != "" && touches(m, "/sys/fs/cgroup")
		if inside && !m.ReadOnly {
			return 1, m.At + " is writable"
		}
	}
	return 0, ""
}

// tunables are guarded by the user's number: mounts have to protect them from root.
func tunables(f *Facts) (int, string) {
	if f.admin() {
		return 1, "CAP_SYS_ADMIN can mount them anew"
	}
	if b, note := bind(f, 1, func(m Mount) bool {
		return !m.ReadOnly && (m.Source == "/" || below(m.Source, "/proc") || below(m.Source, "/sys") && !below(m.Source, "/sys/fs/cgroup"))
	}); b > 0 {
		return b, note
	}
	if f.Own[specs.UserNamespace] && !f.machineRoot() {
		return 0, "" // they belong to root of the machine, which it is not
	}
	for _, p := range []string{"/proc/sys/kernel", "/proc/sys/vm", "/proc/sys/fs", "/proc/sysrq-trigger", "/proc/irq", "/sys/kernel", "/sys/power"} {
		if m := f.at(p); m != nil && f.writable(p) {
			return 1, p + " is writable"
		}
	}
	return 0, ""
}

// setUID is about files that give their owner's rights: they work neither for the
// container nor for whoever else finds them on what they have in common.
func setUID(f *Facts) (int, string) {
	const setUIDBit = unix.S_ISUID
	if !lets(f.Seccomp, "chmod", 0, setUIDBit) && !lets(f.Seccomp, "fchmod", 0, setUIDBit) && !lets(f.Seccomp, "fchmodat", 0, 0, setUIDBit) {
		return 0, ""
	}
	if !f.NoNewPrivileges {
		return 1, "noNewPrivileges is off"
	}
	return bind(f, 1, func(m Mount) bool { return !m.ReadOnly && !m.NoSUID })
}
