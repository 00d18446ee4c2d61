package inspect

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/audit"
)

// Process is a live process and its place on the machine.
type Process struct {
	PID    int
	Cgroup string // the directory of its cgroup
	Group  string // the name of that, which the process has to be in or below
	// Proc is where the machine's /proc is; "" is there.
	Proc string
}

// Live are the facts of a container by its first process. What the kernel does not
// show is taken from what is declared: the rules of a seccomp filter and of a device
// program, whose presence alone can be seen, and who may steer the machine.
func Live(p Process, declared *audit.Facts) (*audit.Facts, error) {
	if p.Proc == "" {
		p.Proc = "/proc"
	}
	f := &audit.Facts{
		Own: map[specs.LinuxNamespaceType]bool{}, Nodes: declared.Nodes, Devices: declared.Devices,
		Notify: declared.Notify, Control: declared.Control, Runtime: declared.Runtime, PidsMax: declared.PidsMax,
	}
	status, err := p.read("status")
	if err != nil {
		return nil, err
	}
	if err := fromStatus(f, status, declared); err != nil {
		return nil, fmt.Errorf("%s: %w", p.file("status"), err)
	}
	for kind, file := range namespaceFiles {
		own, err := os.Readlink(p.file("ns/" + file))
		if errors.Is(err, os.ErrNotExist) { // the kernel has no such namespaces
			continue
		}
		if err != nil {
			return nil, err
		}
		machine, err := os.Readlink(filepath.Join(p.Proc, "1/ns", file))
		if err != nil {
			return nil, err
		}
		f.Own[kind] = own != machine
	}
	if group, err := p.read("cgroup"); err != nil || !strings.Contains(group, p.Group) {
		return nil, fmt.Errorf("process %d: %w", p.PID, os.ErrProcessDone) // its number is another's by now
	}
	mounts, err := p.read("mountinfo")
	if err != nil {
		return nil, err
	}
	machine, err := os.ReadFile(filepath.Join(p.Proc, "1/mountinfo"))
	if err != nil {
		return nil, err
	}
	fromMounts(f, mounts, string(machine), declared)
	if limits, err := p.read("limits"); err == nil {
		f.Realtime = realtime(limits)
	}
	p.fromCgroup(f)
	return f, nil
}

// Present are the facts without the masked and read-only paths that this machine does
// not have: a runtime passes over those.
func Present(f *audit.Facts) *audit.Facts {
	g := *f
	g.Mounts = slices.DeleteFunc(slices.Clone(f.Mounts), func(m audit.Mount) bool {
		if m.Source != "" || !m.ReadOnly || !within(m.At, "/proc") && !within(m.At, "/sys") {
			return false
		}
		_, err := os.Lstat(m.At)
		return errors.Is(err, os.ErrNotExist)
	})
	return &g
}

func (p Process) file(name string) string { return filepath.Join(p.Proc, strconv.Itoa(p.PID), name) }

func (p Process) read(name string) (string, error) {
	b, err := os.ReadFile(p.file(name))
	return string(b), err
}

var namespaceFiles = map[specs.LinuxNamespaceType]string{
	specs.CgroupNamespace: "cgroup", specs.IPCNamespace: "ipc", specs.MountNamespace: "mnt", specs.NetworkNamespace: "net",
	specs.PIDNamespace: "pid", specs.UserNamespace: "user", specs.UTSNamespace: "uts",
}

// fromStatus reads /proc/PID/status, whose numbers of users are those of the reader.
func fromStatus(f *audit.Facts, status string, declared *audit.Facts) error {
	value := map[string]string{}
	for _, line := range strings.Split(status, "\n") {
		name, v, _ := strings.Cut(line, ":")
		value[name] = strings.TrimSpace(v)
	}
	var problems []error
	number := func(name, text string, base int) uint64 {
		n, err := strconv.ParseUint(text, base, 64)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", name, err))
		}
		return n
	}
	set := func(name string) audit.Caps { return audit.Caps(number(name, value[name], 16)) }
	users := strings.Fields(value["Uid"]) // real, effective, saved, of files
	if len(users) != 4 {
		return fmt.Errorf("the line Uid: %q is not four numbers", value["Uid"])
	}
	f.UID = uint32(number("Uid", users[0], 10))
	for _, u := range users[1:] {
		f.UID = min(f.UID, uint32(number("Uid", u, 10))) // it can go back to any of them
	}
	f.Groups = value["Groups"] != "" && value["Groups"] != "0"
	f.Effective, f.Ambient = set("CapEff"), set("CapAmb")
	f.Caps = set("CapBnd") | set("CapPrm") | f.Effective
	f.NoNewPrivileges = value["NoNewPrivs"] == "1"
	if f.Umask = declared.Umask; value["Umask"] != "" {
		f.Umask = uint32(number("Umask", value["Umask"], 8))
	}
	switch value["Seccomp"] {
	case "2":
		if f.Seccomp = declared.Seccomp; f.Seccomp == nil {
			f.Seccomp = unknownFilter
		}
	case "1":
		f.Seccomp = strictMode
	}
	return errors.Join(problems...)
}

var (
	// unknownFilter stands for a filter that a program has given itself: nobody can tell
	// what it refuses.
	unknownFilter = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	// strictMode is the kernel's mode 1.
	strictMode = &specs.LinuxSeccomp{DefaultAction: specs.ActKill, Architectures: []specs.Arch{specs.ArchX86_64}, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"read", "write", "exit", "rt_sigreturn"}, Action: specs.ActAllow},
	}}
)

// mounted is a line of mountinfo.
type mounted struct {
	device, root, at, kind string
	options                []string // of the mount, and of its file system
}

// parseMounts reads mountinfo, in the order in which mounts lie over each other.
func parseMounts(text string) []mounted {
	var list []mounted
	for _, line := range strings.Split(text, "\n") {
		before, after, ok := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 6 || len(right) < 3 {
			continue
		}
		options := strings.Split(left[5], ",")
		for _, word := range left[6:] {
			if strings.HasPrefix(word, "shared:") {
				options = append(options, "shared")
			}
		}
		list = append(list, mounted{
			device: left[2], root: unescape(left[3]), at: unescape(left[4]), kind: right[0],
			options: append(options, strings.Split(right[2], ",")...),
		})
	}
	return list
}

// unescape gives back the blanks of a path in mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func (m mounted) has(option string) bool { return slices.Contains(m.options, option) }

// virtual are file systems of which a container's own mount cannot be told from a bind
// of the machine's, and where each has them.
var virtual = map[string]string{"sysfs": "/sys", "proc": "/proc"}

func fromMounts(f *audit.Facts, own, machine string, declared *audit.Facts) {
	theirs := parseMounts(machine)
	for _, m := range parseMounts(own) {
		if m.at == "/" {
			f.ReadonlyRoot = m.has("ro")
			continue
		}
		x := audit.Mount{At: m.at, Type: m.kind, ReadOnly: m.has("ro"), NoSUID: m.has("nosuid"), Shared: m.has("shared"), PIDsOnly: m.has("subset=pid")}
		inKernel := within(m.at, "/proc") && m.at != "/proc" || within(m.at, "/sys") && m.at != "/sys"
		isKernel := m.kind == "proc" || m.kind == "sysfs" || strings.HasPrefix(m.kind, "cgroup")
		switch {
		case inKernel && !isKernel:
			x.Masked, x.ReadOnly = true, true // something else lies over a file of the kernel's
		case strings.HasPrefix(m.kind, "cgroup"):
		case virtual[m.kind] == m.at:
			for _, d := range declared.Mounts {
				if d.At == m.at {
					x.Source = d.Source
				}
			}
		case inKernel:
		default:
			x.Source = source(m, theirs)
		}
		if x.Source != "" {
			x.Type = "bind"
		}
		f.Mounts = append(f.Mounts, x)
	}
}

// source is the machine's path of what a mount of a container shows, "" for what the
// machine does not have.
func source(m mounted, machine []mounted) string {
	best, length := "", -1
	for _, t := range machine {
		if t.device == m.device && within(m.root, t.root) && len(t.root) > length {
			best, length = path.Join(t.at, strings.TrimPrefix(m.root, strings.TrimSuffix(t.root, "/"))), len(t.root)
		}
	}
	return best
}

func within(p, dir string) bool { return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/") }

// realtime reports whether /proc/PID/limits lets a process take real-time priorities.
func realtime(limits string) bool {
	for _, line := range strings.Split(limits, "\n") {
		if rest, ok := strings.CutPrefix(line, "Max realtime priority"); ok {
			words := strings.Fields(rest)
			return len(words) > 1 && words[1] != "0"
		}
	}
	return false
}

// fromCgroup looks at the limits of the process's cgroup.
func (p Process) fromCgroup(f *audit.Facts) {
	if b, err := os.ReadFile(filepath.Join(p.Cgroup, "pids.max")); err == nil {
		live, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64) // "max" is none
		// A lower one than declared is the machine's own, which leaves others able to fork.
		if live == 0 || f.PidsMax > 0 && live > f.PidsMax {
			f.PidsMax = live
		}
	}
	if n, err := devicePrograms(p.Cgroup); err == nil && n == 0 {
		f.Devices = audit.AllDevices
	}
}

// devicePrograms counts the BPF programs that decide which devices the processes of a
// cgroup may open, those of the cgroups above among them.
func devicePrograms(cgroup string) (int, error) {
	fd, err := unix.Open(cgroup, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	query := struct { // of union bpf_attr
		target, kind, flags, attached uint32
		ids                           uint64
		count, _                      uint32
	}{target: uint32(fd), kind: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_QUERY_EFFECTIVE}
	if _, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&query)), unsafe.Sizeof(query)); errno != 0 {
		return 0, errno
	}
	return int(query.count), nil
}
