package harden

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// linuxKit is the configuration that LinuxKit's builder makes of an image without
// settings, after some changes.
func linuxKit(change ...func(*specs.Spec)) *specs.Spec {
	s := &specs.Spec{
		Process: &specs.Process{Args: []string{"web"}, Cwd: "/", Capabilities: &specs.LinuxCapabilities{}},
		Root:    &specs.Root{Path: "rootfs"},
		Mounts: []specs.Mount{
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "nodev", "noexec", "relatime"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}}},
	}
	for _, c := range change {
		c(s)
	}
	return s
}

func caps(names ...string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names, Inheritable: names}
	}
}

func mount(m specs.Mount) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Mounts = append(s.Mounts, m) }
}

func bind(source, destination string, options ...string) func(*specs.Spec) {
	return mount(specs.Mount{Destination: destination, Type: "bind", Source: source, Options: append([]string{"rw", "rbind", "rshared"}, options...)})
}

const (
	all     = "masked paths; read-only paths; /sys read-only; seccomp: default profile; no new privileges; no core dumps; pids limit 4096"
	noLists = "seccomp: default profile; no new privileges; no core dumps; pids limit 4096"
)

func TestWhatIsAdded(t *testing.T) {
	for name, tc := range map[string]struct {
		spec  *specs.Spec
		level Level
		o     Options
		want  string
	}{
		"LinuxKit's default":          {linuxKit(), Auto, Options{}, all},
		"no section of capabilities":  {linuxKit(func(s *specs.Spec) { s.Process.Capabilities = nil }), Auto, Options{}, all},
		"linuxkit":                    {linuxKit(), LinuxKit, Options{}, ""},
		"pid: host":                   {linuxKit(func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }), Auto, Options{}, all},
		"CAP_SYS_ADMIN":               {linuxKit(caps("CAP_SYS_ADMIN"), bind(Volumes+"/docker/merged", "/var/lib/docker")), Auto, Options{}, "no core dumps"},
		"CAP_SYS_ADMIN, strict":       {linuxKit(caps("CAP_SYS_ADMIN")), Strict, Options{}, strings.Replace(all, "default profile", "default profile without rare socket families", 1)},
		"CAP_NET_ADMIN":               {linuxKit(caps("CAP_NET_ADMIN")), Auto, Options{}, "masked paths; read-only paths except /proc/sys/net; /sys read-only; seccomp: default profile; no core dumps; pids limit 4096"},
		"a capability, strict":        {linuxKit(caps("CAP_CHOWN")), Strict, Options{}, strings.Replace(all, "default profile", "default profile without rare socket families", 1)},
		"logging only":                {linuxKit(), Auto, Options{LogOnly: true}, strings.Replace(all, "default profile", "default profile, logging only", 1)},
		"a kernel that lacks it":      {linuxKit(), Auto, Options{NoSeccomp: true, NoPids: true}, "masked paths; read-only paths; /sys read-only; no new privileges; no core dumps"},
		"/proc and /sys are bound":    {linuxKit(bind("/proc", "/proc"), bind("/sys", "/sys")), Auto, Options{}, noLists},
		"/proc and /sys bound beside": {linuxKit(bind("/proc", "/host/proc"), bind("/sys", "/host/sys")), Auto, Options{}, all},
		"sysfs that is rw": {linuxKit(func(s *specs.Spec) { s.Mounts[2].Options = []string{"rw"} }), Auto, Options{},
			strings.Replace(all, "/sys read-only; ", "", 1)},
		"sysfs that is ro": {linuxKit(func(s *specs.Spec) { s.Mounts[2].Options = []string{"ro"} }), Auto, Options{},
			strings.Replace(all, "/sys read-only; ", "", 1)},
		"own lists": {linuxKit(func(s *specs.Spec) { s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = []string{"/a"}, []string{"/b"} }), Auto, Options{}, noLists},
		"one own list": {linuxKit(func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"/a"} }), Auto, Options{},
			strings.Replace(all, "masked paths; ", "", 1)},
		"own settings": {linuxKit(func(s *specs.Spec) {
			limit := int64(7)
			s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
			s.Process.NoNewPrivileges = true
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 1, Hard: 1}}
		}), Auto, Options{}, "masked paths; read-only paths; /sys read-only"},
		"pids.max by its file": {linuxKit(func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Unified: map[string]string{"pids.max": "9"}}
		}), Auto, Options{}, strings.TrimSuffix(all, "; pids limit 4096")},
		"volumes and tmpfs": {linuxKit(
			bind(Volumes+"/data/merged", "/data"), bind(Volumes+"/free/merged", "/free", "suid", "dev"), bind("/containers/volumesque", "/other"),
			mount(specs.Mount{Destination: "/tmp", Type: "tmpfs", Options: []string{"nosuid"}}), mount(specs.Mount{Destination: "/run", Type: "tmpfs", Options: []string{"nosuid", "nodev"}}),
		), Auto, Options{}, all + "; nosuid,nodev on /data, /tmp"},
	} {
		before := encode(t, tc.spec)
		got, added := Apply(tc.spec, tc.level, tc.o)
		words := make([]string, len(added))
		for i, a := range added {
			words[i] = string(a)
		}
		if have := strings.Join(words, "; "); have != tc.want {
			t.Errorf("%s: added %q, want %q", name, have, tc.want)
		}
		if encode(t, tc.spec) != before {
			t.Errorf("%s: the configuration that was given was changed", name)
		}
		if again, more := Apply(got, tc.level, tc.o); encode(t, again) != encode(t, got) {
			t.Errorf("%s: applied twice it adds %q", name, more)
		}
	}
}

func TestTheResult(t *testing.T) {
	s, _ := Apply(linuxKit(caps("CAP_NET_ADMIN"), bind(Volumes+"/d/merged", "/d"),
		func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/run/dev/tun"}}
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 5, Hard: 5}}
			s.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{}}
		},
		mount(specs.Mount{Destination: "/run", Type: "tmpfs"})), Auto, Options{Masked: []string{"/sys/devices/system/cpu/cpu0/thermal_throttle"}})
	options := map[string][]string{}
	for _, m := range s.Mounts {
		options[m.Destination] = m.Options
	}
	for destination, want := range map[string]string{
		"/dev": "nosuid,strictatime,mode=755,size=65536k", "/sys": "nosuid,noexec,nodev,ro", "/d": "rw,rbind,rshared,nosuid,nodev", "/run": "nosuid",
	} {
		if got := strings.Join(options[destination], ","); got != want {
			t.Errorf("%s: %s, want %s", destination, got, want)
		}
	}
	if slices.Contains(s.Linux.ReadonlyPaths, "/proc/sys") || !slices.Contains(s.Linux.ReadonlyPaths, "/proc/sys/kernel") || slices.Contains(s.Linux.ReadonlyPaths, "/proc/sys/net") {
		t.Errorf("read-only with CAP_NET_ADMIN: %v", s.Linux.ReadonlyPaths)
	}
	if !slices.Contains(s.Linux.MaskedPaths, "/proc/kcore") || !slices.Contains(s.Linux.MaskedPaths, "/sys/devices/system/cpu/cpu0/thermal_throttle") {
		t.Errorf("masked: %v", s.Linux.MaskedPaths)
	}
	if len(s.Process.Rlimits) != 2 || s.Process.Rlimits[1] != (specs.POSIXRlimit{Type: "RLIMIT_CORE"}) || *s.Linux.Resources.Pids.Limit != 4096 || s.Linux.Resources.CPU == nil {
		t.Errorf("limits: %+v, %+v", s.Process.Rlimits, s.Linux.Resources)
	}
}

func TestStrictDemands(t *testing.T) {
	namespace := func(kind specs.LinuxNamespaceType) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.Namespaces = append(slices.Clone(s.Linux.Namespaces), specs.LinuxNamespace{Type: kind})
		}
	}
	user := func(s *specs.Spec) { s.Process.User.UID = 1000 }
	for _, tc := range []struct {
		spec *specs.Spec
		want string
	}{
		{linuxKit(), "uid net"},
		{linuxKit(user), "net"},
		{linuxKit(namespace(specs.NetworkNamespace)), "uid"},
		{linuxKit(namespace(specs.UserNamespace), namespace(specs.NetworkNamespace)), ""},
		{linuxKit(user, namespace(specs.NetworkNamespace)), ""},
	} {
		var fields []string
		for _, d := range Check(tc.spec, Strict) {
			fields = append(fields, d.Field)
		}
		if got := strings.Join(fields, " "); got != tc.want {
			t.Errorf("%+v, uid %d: demands %q, want %q", tc.spec.Linux.Namespaces, tc.spec.Process.User.UID, got, tc.want)
		}
		if d := Check(tc.spec, Auto); d != nil {
			t.Errorf("auto demands %v", d)
		}
	}
}

func encode(t *testing.T, s *specs.Spec) string {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// What the machine does not have takes no mask; the rest does.
func TestAbsentPaths(t *testing.T) {
	s := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}
	got, _ := Apply(s, Auto, Options{Masked: []string{"/sys/x", "/sys/y"}, Absent: func(p string) bool { return p != "/proc/kcore" && p != "/sys/y" }})
	if want := []string{"/proc/kcore", "/sys/y"}; !slices.Equal(got.Linux.MaskedPaths, want) {
		t.Errorf("masked %v, want %v", got.Linux.MaskedPaths, want)
	}
	all, _ := Apply(s, Auto, Options{})
	if len(all.Linux.MaskedPaths) != len(masked) {
		t.Errorf("of a machine that is not known %v are masked", all.Linux.MaskedPaths)
	}
}
