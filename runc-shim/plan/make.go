package plan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"keelson/runc-shim/oci"
)

// ErrUncovered is wrapped by what Make returns for a container that is libcontainer's.
var ErrUncovered = errors.New("no plan covers")

// Make makes the plan of a container's first process. filter is the program of its
// seccomp profile (package seccomp), nil if it has none.
func Make(o oci.Options, c *configs.Config, p *libcontainer.Process, filter []byte, cgroup2 bool) (*Plan, error) {
	why := Uncovered(o, c, p, cgroup2)
	if why == "" && (c.Seccomp != nil) != (filter != nil) {
		why = "a seccomp profile of its own"
	}
	env, home, ok := environment(p.Env)
	if why == "" && !ok {
		why = "a wrong environment"
	}
	if why != "" {
		return nil, fmt.Errorf("%w %s", ErrUncovered, why)
	}
	m := &maker{config: c, process: p, filter: filter}
	m.begin(o)
	m.mounts()
	setupDev := m.devices()
	m.enter(setupDev)
	m.restrict()
	m.become(home)
	m.command(env)
	if slices.ContainsFunc(m.steps, func(s Step) bool {
		return s.Op != Seccomp && s.Op != User && s.Op != Mount && strings.ContainsRune(strings.Join(s.Texts, ""), 0)
	}) {
		return nil, fmt.Errorf("%w a zero byte", ErrUncovered)
	}
	return &Plan{Steps: m.steps}, nil
}

type maker struct {
	config  *configs.Config
	process *libcontainer.Process
	filter  []byte
	steps   []Step
}

func (m *maker) add(op Op, numbers []uint64, texts ...string) {
	s := Step{Op: op, Texts: texts}
	copy(s.Numbers[:], numbers)
	m.steps = append(m.steps, s)
}

func n(numbers ...uint64) []uint64 { return numbers }

func (m *maker) begin(o oci.Options) {
	if !m.config.NoNewKeyring {
		const searchableByUser = 0x80000
		m.add(Keyring, n(searchableByUser), "_ses."+o.ID)
	}
	for range m.config.Networks {
		m.add(Loopback, nil)
	}
	all, parent := unix.MS_SLAVE|unix.MS_REC, unix.MS_PRIVATE
	if p := m.config.RootPropagation; p != 0 {
		all = p
		if p&unix.MS_SLAVE != 0 {
			parent = unix.MS_SLAVE
		}
	}
	m.add(Root, n(uint64(all), uint64(parent)), m.config.Rootfs)
}

func (m *maker) mounts() {
	for _, c := range m.config.Mounts {
		kind, device, data := Other, c.Device, c.Data
		flags, remount, propagation := c.Flags, 0, c.PropagationFlags
		switch c.Device {
		case "proc":
			kind = Proc
		case "sysfs":
			kind = Sysfs
		case "tmpfs":
			kind = Tmpfs
		case "cgroup":
			device, propagation = "cgroup2", nil
		case "bind":
			kind = Bind
			if c.Flags&^(unix.MS_BIND|unix.MS_REC|unix.MS_REMOUNT) != 0 || c.ClearedFlags != 0 {
				remount = c.Flags | unix.MS_BIND | unix.MS_REMOUNT
			}
		}
		// These are written to first, and made read-only at the end.
		if device != "cgroup2" && late(c) {
			flags &^= unix.MS_RDONLY
		}
		var p []byte
		for _, f := range propagation {
			p = binary.NativeEndian.AppendUint64(p, uint64(f))
		}
		to := inRoot(m.config.Rootfs, c.Destination)
		m.add(Mount, n(uint64(kind), uint64(flags), uint64(remount)), c.Source, to, device, data, string(p))
	}
}

// late reports whether a mount that is read-only becomes so only in the end.
func late(c *configs.Mount) bool {
	return c.Device == "tmpfs" || cleaned(c.Destination) == "/dev"
}

var deviceTypes = map[devices.Type]uint32{
	devices.BlockDevice: unix.S_IFBLK,
	devices.CharDevice:  unix.S_IFCHR,
	devices.FifoDevice:  unix.S_IFIFO,
}

// devices plans what is in /dev, unless that is somebody else's, and reports that.
func (m *maker) devices() bool {
	for _, c := range m.config.Mounts {
		if c.Device == "bind" && cleaned(c.Destination) == "/dev" {
			return false
		}
	}
	for _, d := range m.config.Devices {
		if d.Path == "" || cleaned(d.Path) == "/dev/ptmx" {
			continue
		}
		var number uint64
		if d.Type != devices.FifoDevice {
			number = unix.Mkdev(uint32(d.Major), uint32(d.Minor))
		}
		mode := uint64(uint32(d.FileMode) | deviceTypes[d.Type])
		m.add(Device, n(mode, number, uint64(d.Uid), uint64(d.Gid)), inRoot(m.config.Rootfs, d.Path))
	}
	m.add(Link, n(1), "/dev/ptmx", "pts/ptmx", "")
	for _, l := range [][3]string{
		{"/dev/fd", "/proc/self/fd"},
		{"/dev/stdin", "/proc/self/fd/0"},
		{"/dev/stdout", "/proc/self/fd/1"},
		{"/dev/stderr", "/proc/self/fd/2"},
		{"/dev/core", "/proc/kcore", "/proc/kcore"}, // where the kernel has that
	} {
		m.add(Link, nil, l[:]...)
	}
	return true
}

// enter plans the way into the root and what makes that as it stays.
func (m *maker) enter(setupDev bool) {
	c := m.config
	m.add(Hooks, nil)
	m.add(Pivot, nil)
	if p := c.RootPropagation; p != 0 && p&(unix.MS_PRIVATE|unix.MS_SLAVE) == 0 {
		m.add(Propagation, n(uint64(p)))
	}
	if setupDev {
		m.add(Null, nil)
	}
	m.add(Mkdir, nil, m.process.Cwd)
	for _, mount := range c.Mounts {
		if mount.Flags&unix.MS_RDONLY != 0 && late(mount) {
			m.add(Remount, n(uint64(mount.Flags|unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY)), mount.Destination)
		}
	}
	if c.Readonlyfs {
		m.add(ReadonlyRoot, nil)
	}
	umask := uint64(0o022)
	if c.Umask != nil {
		umask = uint64(*c.Umask)
	}
	m.add(Umask, n(umask))
	if c.Hostname != "" {
		m.add(Hostname, nil, c.Hostname)
	}
	if c.Domainname != "" {
		m.add(Domainname, nil, c.Domainname)
	}
	for _, key := range slices.Sorted(maps.Keys(c.Sysctl)) {
		m.add(Sysctl, nil, key, "sys/"+strings.ReplaceAll(key, ".", "/"), c.Sysctl[key])
	}
	for _, path := range c.ReadonlyPaths {
		m.add(ReadonlyPath, nil, path)
	}
	masked := map[string]bool{}
	for _, path := range c.MaskPaths {
		if !masked[cleaned(path)] {
			m.add(Mask, nil, path)
		}
		masked[cleaned(path)] = true
	}
}

// restrict plans up to where the parent has seen the container.
func (m *maker) restrict() {
	if m.noNewPrivileges() {
		m.add(NoNewPrivileges, nil)
	}
	m.add(Ready, nil)
	m.add(Close, nil)
	// Without no_new_privileges a filter needs a capability; otherwise it is loaded last.
	if m.filter != nil && !m.noNewPrivileges() {
		m.add(Seccomp, nil, string(m.filter))
	}
}

func (m *maker) noNewPrivileges() bool {
	if p := m.process.NoNewPrivileges; p != nil {
		return *p
	}
	return m.config.NoNewPrivileges
}

// become plans who the process is.
func (m *maker) become(home bool) {
	p := m.process
	m.add(Chdir, nil, p.Cwd)
	if !home {
		m.add(Home, n(uint64(uint32(p.UID))))
	}
	caps := p.Capabilities
	if caps == nil {
		caps = m.config.Capabilities
	}
	if caps != nil {
		m.add(Bounding, n(mask(caps.Bounding)))
	}
	var groups []byte
	for _, g := range p.AdditionalGroups {
		groups = binary.NativeEndian.AppendUint32(groups, uint32(g))
	}
	m.add(User, n(uint64(uint32(p.UID)), uint64(uint32(p.GID))), string(groups))
	m.add(Enter, nil, p.Cwd)
	if caps != nil {
		m.add(Capabilities, n(mask(caps.Effective), mask(caps.Permitted), mask(caps.Inheritable), mask(caps.Ambient)))
	}
}

// mask is a set of capabilities. Those that nobody knows are left out, as libcontainer
// does; those that the kernel does not have the executor leaves out.
func mask(names []string) uint64 {
	var m uint64
	for _, c := range capability.ListKnown() {
		if slices.Contains(names, "CAP_"+strings.ToUpper(c.String())) {
			m |= 1 << uint(c)
		}
	}
	return m
}

func (m *maker) command(env []string) {
	var dirs []string
	for _, kv := range env {
		if path, ok := strings.CutPrefix(kv, "PATH="); ok && !strings.Contains(m.process.Args[0], "/") {
			for _, dir := range filepath.SplitList(path) {
				dirs = append(dirs, filepath.Clean(dir))
			}
		}
	}
	m.add(Command, n(uint64(len(m.process.Args)), uint64(len(env)), uint64(len(dirs))), slices.Concat(m.process.Args, env, dirs)...)
	if m.filter != nil && m.noNewPrivileges() {
		m.add(Seccomp, nil, string(m.filter))
	}
	m.add(Run, nil)
}

// environment is the environment of the command: of variables that are there twice the
// last, no HOME that is empty. home reports whether there is a HOME.
func environment(env []string) (list []string, home, ok bool) {
	seen := map[string]bool{}
	for _, kv := range slices.Backward(env) {
		key, value, found := strings.Cut(kv, "=")
		if !found || key == "" || strings.ContainsRune(kv, 0) {
			return nil, false, false
		}
		if seen[key] {
			continue
		}
		seen[key] = true
		if key == "HOME" {
			if value == "" {
				continue
			}
			home = true
		}
		list = append(list, kv)
	}
	slices.Reverse(list)
	return list, home, true
}

// cleaned is a path of a container, which may have been given without a slash.
func cleaned(path string) string {
	if path == "" {
		return ""
	}
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Clean("/" + path)[1:]
}

// inRoot is a path of a container as seen from its root, also one that was given with
// the root before it.
func inRoot(root, path string) string {
	path = filepath.Clean("/" + path)
	if path == root {
		return "/"
	}
	if rest, ok := strings.CutPrefix(path, root+"/"); ok {
		return "/" + rest
	}
	return path
}
