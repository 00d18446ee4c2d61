package audit

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/harden"
)

// linuxKit is what LinuxKit's builder makes of an image without settings, after changes.
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

func withCaps(names ...string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names}
	}
}

func own(kinds ...specs.LinuxNamespaceType) func(*specs.Spec) {
	return func(s *specs.Spec) {
		for _, k := range kinds {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: k})
		}
	}
}

func hostPIDs(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }

func bindOf(source string, options ...string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/host", Type: "bind", Source: source, Options: append([]string{"rbind"}, options...)})
	}
}

func everyCap() []string {
	var list []string
	for _, n := range capabilityNames {
		list = append(list, "CAP_"+n)
	}
	return list
}

// docker is what Docker makes of an image without settings.
func docker() *specs.Spec {
	s := linuxKit(own(specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace),
		withCaps("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
			"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"))
	s.Mounts[2].Options = append(s.Mounts[2].Options, "ro")
	s.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	s.Linux.MaskedPaths = []string{"/proc/kcore", "/proc/keys", "/sys/firmware"}
	s.Linux.Seccomp = seccomp.DefaultProfile(s)
	return s
}

func hardened(level harden.Level, s *specs.Spec) *specs.Spec {
	s, _ = harden.Apply(s, level, harden.Options{})
	return s
}

func failed(r Report, gates bool) []string {
	var list []string
	for _, f := range r.Bad() {
		if f.Gate == gates {
			list = append(list, f.ID)
		}
	}
	return list
}

func TestScores(t *testing.T) {
	strict := func() *specs.Spec {
		return linuxKit(own(specs.NetworkNamespace), func(s *specs.Spec) { s.Process.User.UID = 1000; s.Root.Readonly = true })
	}
	for _, tc := range []struct {
		name         string
		spec         *specs.Spec
		score, level string
	}{
		{"linuxkit", linuxKit(), "5.0", "MEDIUM"},
		{"docker", docker(), "3.5", "OK"},
		{"auto", hardened(harden.Auto, linuxKit()), "2.0", "OK"},
		{"auto that only logs", func() *specs.Spec {
			s, _ := harden.Apply(linuxKit(), harden.Auto, harden.Options{LogOnly: true})
			return s
		}(), "4.2", "OK"},
		{"auto with its own network and user", hardened(harden.Auto, linuxKit(own(specs.NetworkNamespace), func(s *specs.Spec) { s.Process.User.UID = 1000 })), "1.2", "OK"},
		{"strict", hardened(harden.Strict, strict()), "0.9", "SAFE"},
		{"privileged", linuxKit(hostPIDs, withCaps(everyCap()...), bindOf("/", "rw", "rshared")), "9.6", "UNSAFE"},
		{"all that passes", perfect(), "0.0", "PERFECT"},
		{"all that fails", worst(0), "10.0", "DANGEROUS"},
	} {
		r := Assess(FromSpec(tc.spec, Extra{Notify: tc.name == "all that fails"}), nil)
		if r.Score() != tc.score || r.Level() != tc.level {
			t.Errorf("%s: %s %s, want %s %s: %v", tc.name, r.Score(), r.Level(), tc.score, tc.level, failed(r, false))
		}
	}
}

// perfect is a configuration that passes every check.
func perfect() *specs.Spec {
	umask := uint32(0o077)
	s := linuxKit(own(specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace, specs.UserNamespace), func(s *specs.Spec) {
		s.Process.User, s.Process.NoNewPrivileges, s.Root.Readonly = specs.User{Umask: &umask}, true, true
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64}}
	})
	s.Mounts[1].Options = append(s.Mounts[1].Options, "subset=pid")
	return s
}

// worst is one that fails every check that applies.
func worst(uid uint32) *specs.Spec {
	umask := uint32(0)
	return linuxKit(withCaps(everyCap()...), bindOf("/", "rw", "rshared"), func(s *specs.Spec) {
		s.Process.User = specs.User{UID: uid, AdditionalGids: []uint32{7}, Umask: &umask}
		s.Process.Capabilities.Ambient = []string{"CAP_KILL"}
		s.Linux.Namespaces = nil
		s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}}
	})
}

// Every check can pass and can fail.
func TestEveryCheckTellsSomething(t *testing.T) {
	good := Assess(FromSpec(perfect(), Extra{}), nil)
	states := map[string]State{}
	for _, uid := range []uint32{0, 65534} {
		for _, f := range Assess(FromSpec(worst(uid), Extra{Notify: true, Control: true, Runtime: true}), nil).Findings {
			if f.State == Failed {
				states[f.ID] = Failed
			}
		}
	}
	for _, f := range good.Findings {
		if f.State != Passed {
			t.Errorf("%s: %s where it should pass: %s", f.ID, f.State, f.Note)
		}
	}
	for _, c := range Checks() {
		if states[c.ID] != Failed {
			t.Errorf("%s cannot fail", c.ID)
		}
		if c.What == "" || c.Fix == "" || c.Weight <= 0 || c.Range <= 0 {
			t.Errorf("%s is not whole: %+v", c.ID, c)
		}
	}
}

func TestGates(t *testing.T) {
	docker := "/run/docker.sock"
	for _, tc := range []struct {
		name   string
		change func(*specs.Spec)
		x      Extra
		want   string
	}{
		{"nothing", func(*specs.Spec) {}, Extra{Control: true, Runtime: true}, ""},
		{"/", bindOf("/", "rw"), Extra{}, "WritableRoot"},
		{"/ read-only", bindOf("/", "ro"), Extra{}, ""},
		{"/ read-only of one that may have all", bindOf("/", "ro"), Extra{Control: true, Runtime: true}, "ContainerdSocket ControlSocket"},
		{"/dev", bindOf("/dev"), Extra{}, "WritableDev"},
		{"a device", bindOf("/dev/ttyS0"), Extra{}, ""},
		{"/proc", bindOf("/proc"), Extra{}, "WritableProc"},
		{"/proc/sys", bindOf("/proc/sys"), Extra{}, "WritableProc"},
		{"/proc read-only", bindOf("/proc", "ro"), Extra{}, ""},
		{"/sys", bindOf("/sys"), Extra{}, "WritableSys"},
		{"cgroups", bindOf("/sys/fs/cgroup"), Extra{}, ""},
		{"/containers", bindOf("/containers"), Extra{}, "WritableContainers"},
		{"another container", bindOf("/containers/services/web/lower"), Extra{}, "WritableContainers"},
		{"a volume", bindOf("/containers/volumes/data/merged"), Extra{}, ""},
		{"containerd by name", bindOf("/run/containerd", "ro"), Extra{}, "ContainerdSocket"},
		{"containerd's socket by a link", bindOf("/var/run/containerd/containerd.sock"), Extra{}, "ContainerdSocket"},
		{"/run of one that may not", bindOf("/run"), Extra{}, ""},
		{"/run of one that may", bindOf("/run"), Extra{Control: true, Runtime: true}, "ContainerdSocket ControlSocket"},
		{"Docker", bindOf(docker), Extra{}, "DockerSocket"},
		{"processes", hostPIDs, Extra{}, ""},
		{"processes to trace", func(s *specs.Spec) { hostPIDs(s); withCaps("CAP_SYS_PTRACE")(s) }, Extra{}, "HostProcesses"},
		{"all capabilities", withCaps(everyCap()...), Extra{}, "AllCapabilities"},
		{"all of a user namespace", func(s *specs.Spec) { withCaps(everyCap()...)(s); own(specs.UserNamespace)(s) }, Extra{}, ""},
		{"all but one", withCaps(everyCap()[1:]...), Extra{}, ""},
	} {
		f := FromSpec(linuxKit(tc.change), tc.x)
		r := Assess(f, nil)
		if got := strings.Join(failed(r, true), " "); got != tc.want {
			t.Errorf("%s: gates %q, want %q", tc.name, got, tc.want)
			continue
		}
		if open := r.Exposure >= GateExposure; open != (tc.want != "") {
			t.Errorf("%s: exposure %s", tc.name, r.Score())
		}
		accepted := map[string]string{}
		for _, id := range failed(r, true) {
			accepted[id] = "it has to"
		}
		if r := Assess(f, accepted); r.Exposure >= GateExposure || len(failed(r, true)) > 0 {
			t.Errorf("%s: exposure %s with its gates accepted", tc.name, r.Score())
		}
	}
}

// What is accepted does not count and is shown with its reason.
func TestAccepted(t *testing.T) {
	f := FromSpec(hardened(harden.Auto, linuxKit()), Extra{})
	r := Assess(f, map[string]string{"User": "it drops root itself", "NoNewPrivileges": "it passes anyhow"})
	if before := Assess(f, nil); r.Exposure >= before.Exposure {
		t.Errorf("%s, without %s", r.Score(), before.Score())
	}
	for _, x := range r.Findings {
		switch x.ID {
		case "User":
			if x.State != Accepted || x.Reason != "it drops root itself" {
				t.Errorf("%+v", x)
			}
		case "NoNewPrivileges":
			if x.State != Passed || x.Reason != "" {
				t.Errorf("%+v", x)
			}
		}
	}
}

func TestParseAccept(t *testing.T) {
	got, err := ParseAccept(" User: nginx: drops root ;\nWritableRoot: it backs the machine up\n")
	if err != nil || len(got) != 2 || got["User"] != "nginx: drops root" || got["WritableRoot"] != "it backs the machine up" {
		t.Errorf("%v, %v", got, err)
	}
	for value, want := range map[string]string{
		"":                     "want CHECK: reason",
		"Usre: x":              `there is no check "Usre"; did you mean User?`,
		"privatenetwork: x":    "did you mean PrivateNetwork?",
		"zzzzzzzzz: x":         "docs/audit.md",
		"User":                 "User has no reason",
		"User: ":               "User has no reason",
		"User: a; User: b":     "User is there twice",
		"CAP_SET(UID|GID): no": "did you mean CAP_SET(UID|GID|PCAP)?",
	} {
		if _, err := ParseAccept(value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", value, err, want)
		}
	}
}

// A live process that differs from its configuration is marked, better or worse.
func TestCompare(t *testing.T) {
	declared := FromSpec(hardened(harden.Auto, linuxKit()), Extra{})
	live := *declared
	live.NoNewPrivileges, live.UID = false, 7
	marks := map[string]State{}
	for _, f := range Compare(Assess(&live, nil), Assess(declared, nil)).Findings {
		if f.Declared != "" {
			marks[f.ID] = f.Declared
		}
	}
	if marks["NoNewPrivileges"] != Passed || marks["User"] != Failed || marks["PrivateNetwork"] != "" {
		t.Errorf("%v", marks)
	}
}

func TestLets(t *testing.T) {
	filter := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"read"}, Action: specs.ActAllow},
		{Names: []string{"socket"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpLessThan, Value: 3}}},
		{Names: []string{"socket"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: 9}, {Index: 0, Op: specs.OpEqualTo, Value: 10}}},
		{Names: []string{"clone"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpMaskedEqual, Value: 0x30}}},
	}}
	refusing := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"mount"}, Action: specs.ActErrno},
		{Names: []string{"chmod"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpMaskedEqual, Value: 0o4000, ValueTwo: 0o4000}}},
		{Names: []string{"prctl"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 3, Op: specs.OpEqualTo}}},
	}}
	for _, tc := range []struct {
		s    *specs.LinuxSeccomp
		name string
		args []uint64
		want bool
	}{
		{nil, "mount", nil, true}, {filter, "read", nil, true}, {filter, "write", nil, false},
		{filter, "socket", []uint64{2}, true}, {filter, "socket", []uint64{3}, false}, {filter, "socket", []uint64{10}, true}, {filter, "socket", nil, true},
		{filter, "clone", []uint64{0x4f}, true}, {filter, "clone", []uint64{0x10}, false},
		{refusing, "mount", nil, false}, {refusing, "umount", nil, true}, {refusing, "chmod", []uint64{0, 0o4755}, false},
		{refusing, "chmod", []uint64{0, 0o755}, true}, {refusing, "prctl", []uint64{1}, true},
	} {
		if got := lets(tc.s, tc.name, tc.args...); got != tc.want {
			t.Errorf("%s %v: %t", tc.name, tc.args, got)
		}
	}
}

// docs/audit.md has every row of the tables, with its weight, and no other.
func TestDocsHaveEveryCheck(t *testing.T) {
	text, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]*) \\| (.*) \\| (.*) \\|$").FindAllStringSubmatch(strings.ReplaceAll(string(text), `\|`, "¦"), -1) {
		rows[strings.ReplaceAll(row[1], "¦", "|")] = row[2:]
	}
	for _, c := range checks {
		row := rows[c.ID]
		if want := []string{strconv.Itoa(c.Weight), c.What, c.Fix}; !slices.Equal(row, want) {
			t.Errorf("%s: the page has %q, want %q", c.ID, row, want)
		}
		delete(rows, c.ID)
	}
	for _, g := range gates {
		if want := []string{"gate", g.What, g.Fix}; !slices.Equal(rows[g.ID], want) {
			t.Errorf("%s: the page has %q, want %q", g.ID, rows[g.ID], want)
		}
		delete(rows, g.ID)
	}
	for id := range rows {
		t.Errorf("the page has a row of %s, which is no check", id)
	}
}
