// Package mountinfo reads /proc/self/mountinfo (proc(5)) and says what an end
// of the machine has to unmount, in which order.
//
// It promises to take any line the kernel can write, and to leave alone what it
// cannot read. It makes no system call.
package mountinfo

import (
	"strconv"
	"strings"
)

// Mount is one line of mountinfo.
type Mount struct {
	Root   string // the part of the file system that is mounted
	Target string // where, as seen from the root of the process
	Type   string // file system type, with its subtype if it has one
	Source string
	// ReadOnly tells that either the mount or its file system is read-only.
	ReadOnly bool
}

// Parse reads the text of mountinfo. A line it does not understand is left out.
func Parse(text string) []Mount {
	var mounts []Mount
	for line := range strings.Lines(text) {
		left, right, ok := strings.Cut(line, " - ")
		if !ok {
			continue
		}
		// ID, parent, device, root, target, options, optional fields - type, source, options
		l, r := strings.Fields(left), strings.Fields(right)
		if len(l) < 6 || len(r) < 2 {
			continue
		}
		m := Mount{Root: Unescape(l[3]), Target: Unescape(l[4]), Type: r[0], Source: Unescape(r[1])}
		m.ReadOnly = hasOption(l[5], "ro") || len(r) > 2 && hasOption(r[2], "ro")
		mounts = append(mounts, m)
	}
	return mounts
}

func hasOption(options, want string) bool {
	for o := range strings.SplitSeq(options, ",") {
		if o == want {
			return true
		}
	}
	return false
}

// Unescape undoes the kernel's \040 for white space and backslash, here and in
// other files of /proc.
func Unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// ToUnmount returns what has to go before the machine may end, newest first:
// all but the root itself and the kernel's own file systems that PID 1 works
// with to the last, /proc, /sys and /dev. A mount shows up once for each time
// its target is mounted on.
func ToUnmount(mounts []Mount) []Mount {
	var list []Mount
	for i := len(mounts) - 1; i >= 0; i-- {
		if !keep(mounts[i]) {
			list = append(list, mounts[i])
		}
	}
	return list
}

// keep tells the mounts that stay. What lies below /proc, /sys or /dev stays
// only if there is nothing behind it but the kernel.
func keep(m Mount) bool {
	for _, top := range []string{"/proc", "/sys", "/dev"} {
		if m.Target == top || strings.HasPrefix(m.Target, top+"/") {
			return !HasStore(m)
		}
	}
	return m.Target == "/"
}

// HasStore tells whether data written to the mount may outlive the machine or
// lie with somebody else: a disk, the network, a user's file system, or an
// overlay, whose upper layer may be any of these.
func HasStore(m Mount) bool {
	switch m.Type {
	case "proc", "sysfs", "devtmpfs", "devpts", "tmpfs", "ramfs", "rootfs", "mqueue", "hugetlbfs",
		"cgroup", "cgroup2", "securityfs", "debugfs", "tracefs", "configfs", "fusectl", "selinuxfs",
		"pstore", "bpf", "efivarfs", "binfmt_misc", "nsfs", "autofs", "nullfs":
		return false
	}
	return true
}

// OnNetwork tells whether unmounting may wait for another machine.
func OnNetwork(m Mount) bool {
	switch m.Type {
	case "nfs", "nfs4", "cifs", "smb3", "ceph", "afs", "9p", "glusterfs", "lustre":
		return true
	}
	return strings.HasPrefix(m.Type, "fuse.")
}
