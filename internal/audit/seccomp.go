package audit

import (
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// lets reports whether a filter lets a system call with these first arguments
// through. An argument beyond those that are given may be anything.
func lets(s *specs.LinuxSeccomp, name string, args ...uint64) bool {
	if s == nil {
		return true
	}
	through := harmless(s.DefaultAction)
	refused := false
	for _, rule := range s.Syscalls {
		if !slices.Contains(rule.Names, name) || !fits(rule.Args, args) {
			continue
		}
		if harmless(rule.Action) {
			through = true
		} else {
			refused = refused || certain(rule.Args, args)
		}
	}
	return through && !(refused && harmless(s.DefaultAction))
}

// harmless reports whether an action lets a call through.
func harmless(a specs.LinuxSeccompAction) bool {
	return a == specs.ActAllow || a == specs.ActLog || a == specs.ActTrace
}

// fits reports whether a call can be one that the conditions are about. Conditions
// on one argument are alternatives, as runc makes a rule of each; others must all hold.
func fits(conditions []specs.LinuxSeccompArg, args []uint64) bool {
	alternatives := false
	for i, c := range conditions {
		for _, d := range conditions[:i] {
			alternatives = alternatives || c.Index == d.Index
		}
	}
	one := len(conditions) == 0
	for _, c := range conditions {
		ok := int(c.Index) >= len(args) || holds(c, args[c.Index])
		if !ok && !alternatives {
			return false
		}
		one = one || ok
	}
	return one
}

// certain reports whether conditions depend on nothing but the arguments that are given.
func certain(conditions []specs.LinuxSeccompArg, args []uint64) bool {
	return !slices.ContainsFunc(conditions, func(c specs.LinuxSeccompArg) bool { return int(c.Index) >= len(args) })
}

func holds(c specs.LinuxSeccompArg, v uint64) bool {
	switch c.Op {
	case specs.OpEqualTo:
		return v == c.Value
	case specs.OpNotEqual:
		return v != c.Value
	case specs.OpLessThan:
		return v < c.Value
	case specs.OpLessEqual:
		return v <= c.Value
	case specs.OpGreaterThan:
		return v > c.Value
	case specs.OpGreaterEqual:
		return v >= c.Value
	case specs.OpMaskedEqual:
		return v&c.Value == c.ValueTwo
	}
	return true
}

// family reports whether a socket of one of the families can be made.
func (f *Facts) family(families ...uint64) bool {
	return slices.ContainsFunc(families, func(n uint64) bool { return lets(f.Seccomp, "socket", n) })
}

// exotic are all address families but those that have a check of their own.
func exotic() []uint64 {
	var list []uint64
	for n := uint64(1); n < unix.AF_MAX; n++ {
		switch n {
		case unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_PACKET:
		default:
			list = append(list, n)
		}
	}
	return list
}

// unshares reports whether a new namespace of a kind can be made.
func (f *Facts) unshares(flag uint64) bool {
	call := lets(f.Seccomp, "unshare", flag) || lets(f.Seccomp, "clone3") || lets(f.Seccomp, "clone", flag)
	if flag == unix.CLONE_NEWUSER {
		return call
	}
	// All but a user namespace are for CAP_SYS_ADMIN, which a user namespace gives.
	return call && (f.Caps.Has(caps("SYS_ADMIN")) || f.unshares(unix.CLONE_NEWUSER))
}

// callGroup is one of systemd's groups of system calls: each capability, "" for none,
// with the calls that do nothing of what the group is about without it.
type callGroup map[string]string

// reaches returns a call of the group that the filter lets through and, where the filter
// lists what is allowed, that the kernel does for the container: such lists allow some
// calls, such as adjtimex, for what they do without a capability. A filter that lists
// what is refused, or that only logs, has to refuse it by name.
func (g callGroup) reaches(f *Facts) string {
	var through []string
	refuses := !harmless(f.Seccomp.DefaultAction)
	for capability, calls := range g {
		if refuses && capability != "" && !f.Caps.Has(caps(capability)) {
			continue
		}
		for _, call := range strings.Fields(calls) {
			if lets(f.Seccomp, call) {
				through = append(through, call)
			}
		}
	}
	if len(through) == 0 {
		return ""
	}
	return slices.Min(through)
}

var (
	clockCalls = callGroup{"SYS_TIME": "adjtimex clock_adjtime clock_settime settimeofday stime"}
	rawCalls   = callGroup{"SYS_RAWIO": "ioperm iopl pciconfig_iobase pciconfig_read pciconfig_write"}
	swapCalls  = callGroup{"SYS_ADMIN": "swapoff swapon"}
	bootCalls  = callGroup{"SYS_BOOT": "kexec_file_load kexec_load reboot"}
	loadCalls  = callGroup{"SYS_MODULE": "delete_module finit_module init_module"}
	mountCalls = callGroup{
		"SYS_ADMIN":  "fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree pivot_root umount umount2",
		"SYS_CHROOT": "chroot",
	}
	debugCalls = callGroup{"": "perf_event_open pidfd_getfd ptrace", "SYS_ADMIN": "lookup_dcookie"}
	cpuCalls   = callGroup{"": "modify_ldt vm86 vm86old"}
	oldCalls   = callGroup{"": "_sysctl afs_syscall bdflush create_module get_kernel_syms getpmsg nfsservctl putpmsg query_module security sgetmask ssetmask sysfs tuxcall uselib ustat vserver"}
	// Of those that need the superuser; what a capability is for is refused without it.
	rootCalls = callGroup{
		"CHOWN": "chown chown32 fchown fchown32 fchownat lchown lchown32", "SETUID": "setfsuid setresuid setreuid setuid",
		"SETGID": "setgroups", "SETPCAP": "capset", "SYS_CHROOT": "chroot", "SYS_PACCT": "acct", "BPF": "bpf", "SYS_TTY_CONFIG": "vhangup",
		"DAC_READ_SEARCH": "open_by_handle_at", "SYS_TIME": clockCalls["SYS_TIME"], "SYS_RAWIO": rawCalls["SYS_RAWIO"],
		"SYS_BOOT": bootCalls["SYS_BOOT"], "SYS_MODULE": loadCalls["SYS_MODULE"],
		"SYS_ADMIN": "bpf fanotify_init pivot_root quotactl setdomainname sethostname swapoff swapon",
	}
	resourceCalls = callGroup{"": `ioprio_set mbind migrate_pages move_pages sched_setaffinity sched_setattr sched_setparam
		sched_setscheduler set_mempolicy setpriority setrlimit`}
)

// filter assesses a group: 10 without a filter at all, as its weight is for what an
// attacker can try against the kernel; 9 where a filter leaves a way, as systemd has
// it for a list of what is allowed.
func filter(g callGroup) func(f *Facts) (int, string) {
	return func(f *Facts) (int, string) {
		if f.Seccomp == nil {
			return 10, "no seccomp filter"
		}
		call := g.reaches(f)
		switch {
		case call == "":
			return 0, ""
		case harmless(f.Seccomp.DefaultAction):
			return 10, call + " is allowed"
		}
		return 9, call + " is allowed"
	}
}
