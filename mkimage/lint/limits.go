package lint

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/bundle"
	"keelson/internal/sysctl"
	"keelson/mkimage/config"
	"keelson/mkimage/view"
)

// namespaces checks what takes a namespace of the container's own.
func (o *one) namespaces() {
	s := o.Bundle.Spec
	shared := func(kind specs.LinuxNamespaceType) bool { return view.ShareOf(o.Bundle, kind) }
	if s.Hostname != "" && shared(specs.UTSNamespace) {
		o.error("hostname", "the container shares the machine's host name, which the runtime refuses to change: add uts: new, or put the machine's name into /etc/hostname with files:")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Linux.Sysctl)) {
		if word, kind := sysctlNamespace(name); word == "" {
			o.error("sysctl."+name, "is the whole machine's, so the runtime refuses to set it for a container: have an onboot container write it to /proc/sys, or put sysctl.%s=%s into kernel: cmdline:", sysctl.Dotted(name), s.Linux.Sysctl[name])
		} else if shared(kind) {
			o.error("sysctl."+name, "belongs to a namespace that the container shares with the machine: add %s: new, or have an onboot container write it to /proc/sys", word)
		}
	}
	words := map[specs.LinuxNamespaceType]string{"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid", "user": "userns"}
	for _, n := range s.Linux.Namespaces {
		if n.Path == "" {
			continue
		}
		if f := o.machine.Find(n.Path); f.State == view.Missing {
			o.graded(o.machine.Maker(f, o.Bundle), words[n.Type], "nothing keeps a namespace at %s: let the container that has it say runtime: {bindNS: {%s: %[1]s}}", n.Path, strings.TrimSuffix(words[n.Type], "ns"))
		}
	}
}

// ipcSettings are the sysctls of an IPC namespace that have no prefix of their own.
var ipcSettings = []string{"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"}

// sysctlNamespace returns which namespace a setting belongs to, and the key that makes one;
// "" for none.
func sysctlNamespace(name string) (key string, kind specs.LinuxNamespaceType) {
	name = sysctl.Dotted(name)
	switch {
	case slices.Contains(ipcSettings, name), strings.HasPrefix(name, "fs.mqueue."):
		return "ipc", specs.IPCNamespace
	case strings.HasPrefix(name, "net."):
		return "net", specs.NetworkNamespace
	case name == "kernel.domainname":
		return "uts", specs.UTSNamespace
	case strings.HasPrefix(name, "user."):
		return "userns", specs.UserNamespace
	}
	return "", ""
}

const (
	nrOpen = 1 << 20
	// maxNrOpen is the most that the kernel takes for it (fs/file.c).
	maxNrOpen = math.MaxInt32 &^ 63
)

// limits checks numbers that the kernel refuses.
func (o *one) limits() {
	p := o.Bundle.Spec.Process
	for i, l := range p.Rlimits {
		if l.Type == "RLIMIT_NOFILE" {
			o.openFiles(index("rlimits", i), l)
		}
	}
	const none = math.MaxUint32
	if p.User.UID == none {
		o.error("uid", "%d stands for no user to the kernel: the last one is %d", p.User.UID, uint32(none-1))
	}
	if p.User.GID == none {
		o.error("gid", "%d stands for no group to the kernel: the last one is %d", p.User.GID, uint32(none-1))
	}
	for i, gid := range p.User.AdditionalGids {
		if gid == none {
			o.error(index("additionalGids", i), "%d stands for no group to the kernel: the last one is %d", gid, uint32(none-1))
		}
	}
	o.capabilities()
}

// openFiles checks the limit that may not be above the kernel's nr_open.
func (o *one) openFiles(key string, l specs.POSIXRlimit) {
	may := uint64(nrOpen)
	for _, word := range strings.Fields(o.Cmdline) {
		if n, err := strconv.ParseUint(strings.TrimPrefix(word, "sysctl.fs.nr_open="), 10, 64); err == nil {
			may = n
		}
	}
	limit := strconv.FormatUint(l.Hard, 10)
	if l.Hard == math.MaxUint64 {
		limit = "unlimited"
	}
	switch {
	case l.Hard <= may:
	case l.Hard > maxNrOpen:
		o.error(key, "a process cannot have %s files open: the kernel takes %d at most, unless sysctl.fs.nr_open= on its command line allows more; write nofile,1024,%[2]d", limit, may)
	case o.any(func(b *bundle.Bundle) bool {
		return b != o.Bundle && (b.Section == bundle.Onboot || view.Has(b, "CAP_SYS_ADMIN"))
	}):
		o.warn(key, "%s is above the kernel's %d unless a container raises fs.nr_open before: put sysctl.fs.nr_open=%[1]s into kernel: cmdline:", limit, may)
	default:
		o.error(key, "%s is above the kernel's %d: put sysctl.fs.nr_open=%[1]s into kernel: cmdline:, or lower it", limit, may)
	}
}

// newCapabilities are those that a kernel in use may lack, and since when one has them.
var newCapabilities = map[string][2]int{
	"CAP_AUDIT_READ": {3, 16}, "CAP_PERFMON": {5, 8}, "CAP_BPF": {5, 8}, "CAP_CHECKPOINT_RESTORE": {5, 9},
}

// capabilities warns of those that the kernel does not have: the runtime leaves them out.
// Who asks for all gets those that there are.
func (o *one) capabilities() {
	v, p := o.kernel.version, o.Bundle.Spec.Process
	if v == [2]int{} || p.Capabilities == nil || len(p.Capabilities.Permitted) == len(config.Capabilities()) {
		return
	}
	for _, name := range p.Capabilities.Permitted {
		since, new := newCapabilities[name]
		if new && (v[0] < since[0] || v[0] == since[0] && v[1] < since[1]) {
			o.warn(o.keyOfCapability(name), "the kernel is %s, and %s came with %d.%d: the container runs without it; name CAP_SYS_ADMIN, or take a newer kernel", o.kernel.release, name, since[0], since[1])
		}
	}
}

// keyOfCapability returns the field that a capability comes from.
func (o *one) keyOfCapability(name string) string {
	y := o.YAML
	for _, list := range []struct {
		key   string
		items *[]string
	}{{"capabilities", y.Capabilities}, {"capabilities.add", y.CapabilitiesAdd}, {"ambient", y.Ambient}} {
		if list.items != nil && slices.Contains(*list.items, name) {
			return index(list.key, slices.Index(*list.items, name))
		}
	}
	return "capabilities"
}
