package inspect

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/audit"
	"keelson/internal/bundle"
	"keelson/internal/policy"
)

// machineMounts are those of PID 1.
const machineMounts = `1 1 0:2 / / rw,relatime shared:1 - rootfs rootfs rw
20 1 0:20 / /proc rw,nosuid - proc proc rw
21 1 0:21 / /sys rw,nosuid - sysfs sysfs rw
22 1 0:6 / /dev rw,nosuid - devtmpfs dev rw
26 1 0:23 /sub /mnt/a\040b rw - tmpfs tmpfs rw
23 1 0:23 / /run rw,nosuid - tmpfs tmpfs rw
24 1 0:24 / /containers/services/web/tmp rw - tmpfs tmpfs rw
25 1 0:25 / /containers/services/web/rootfs rw - overlay overlay rw
`

// ownMounts are those of a default container under auto.
const ownMounts = `100 99 0:25 / / rw,relatime - overlay overlay rw
101 100 0:40 / /dev rw,nosuid - tmpfs tmpfs rw,mode=755
102 101 0:41 / /dev/pts rw,nosuid,noexec - devpts devpts rw
103 100 0:42 / /proc rw,nosuid - proc proc rw
104 103 0:42 /sys /proc/sys ro,nosuid - proc proc rw
105 103 0:42 /sysrq-trigger /proc/sysrq-trigger ro,nosuid - proc proc rw
106 103 0:42 /irq /proc/irq ro,nosuid - proc proc rw
107 103 0:40 /null /proc/kcore rw,nosuid - tmpfs tmpfs rw
108 100 0:21 / /sys ro,nosuid - sysfs sysfs rw
109 108 0:50 / /sys/firmware ro - tmpfs tmpfs ro
110 108 0:26 /services/web /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw
`

const ownStatus = `Name:	sleep
Umask:	0022
Uid:	0	0	0	0
Gid:	0	0	0	0
Groups:	0 
CapInh:	0000000000000000
CapPrm:	0000000000000000
CapEff:	0000000000000000
CapBnd:	0000000000000000
CapAmb:	0000000000000000
NoNewPrivs:	1
Seccomp:	2
Seccomp_filters:	1
`

// proc makes a /proc with PID 1 and process 7.
func proc(t *testing.T, change map[string]string) Process {
	t.Helper()
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(text, "->"); ok {
			err = os.Symlink(target, name)
		} else {
			err = os.WriteFile(name, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]string{
		"1/mountinfo": machineMounts, "7/mountinfo": ownMounts, "7/status": ownStatus, "7/cgroup": "0::/services/web\n",
		"7/limits":        "Max realtime priority     0                    0                    \n",
		"cgroup/pids.max": "4096\n",
	}
	for _, ns := range namespaceFiles {
		files["1/ns/"+ns], files["7/ns/"+ns] = "->"+ns+":[1]", "->"+ns+":[1]"
	}
	files["7/ns/pid"], files["7/ns/mnt"] = "->pid:[2]", "->mnt:[2]"
	for name, text := range change {
		files[name] = text
	}
	for name, text := range files {
		put(name, text)
	}
	return Process{PID: 7, Proc: dir, Cgroup: filepath.Join(dir, "cgroup"), Group: "/services/web"}
}

// declared is what the process above was made with.
func declared() *audit.Facts {
	limit := int64(4096)
	return audit.FromSpec(&specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}, NoNewPrivileges: true},
		Root:    &specs.Root{Path: "rootfs"},
		Mounts: []specs.Mount{
			{Destination: "/dev", Type: "tmpfs"}, {Destination: "/dev/pts", Type: "devpts"}, {Destination: "/proc", Type: "proc"},
			{Destination: "/sys", Type: "sysfs", Options: []string{"ro"}}, {Destination: "/sys/fs/cgroup", Type: "cgroup", Options: []string{"ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}},
			Seccomp:    &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64}},
			Resources:  &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}, MaskedPaths: []string{"/proc/kcore", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/sys", "/proc/sysrq-trigger", "/proc/irq"},
		},
	}, audit.Extra{})
}

func drift(t *testing.T, p Process) (facts, checks []string) {
	t.Helper()
	d := declared()
	live, err := Live(p, d)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range audit.Differences(d, live) {
		if f.Drifted() {
			facts = append(facts, f.Name+"="+f.Live)
		}
	}
	for _, f := range audit.Compare(audit.Assess(live, nil), audit.Assess(d, nil)).Findings {
		if f.Declared != "" {
			checks = append(checks, f.ID)
		}
	}
	slices.Sort(checks)
	return facts, checks
}

func TestLiveAsDeclared(t *testing.T) {
	if facts, checks := drift(t, proc(t, nil)); len(facts) > 0 || len(checks) > 0 {
		t.Errorf("%q %q", facts, checks)
	}
}

func TestDrift(t *testing.T) {
	status := func(from, to string) map[string]string {
		if !strings.Contains(ownStatus, from) {
			t.Fatalf("no %q", from)
		}
		return map[string]string{"7/status": strings.ReplaceAll(ownStatus, from, to)}
	}
	mounts := func(from, to string) map[string]string {
		if !strings.Contains(ownMounts, from) {
			t.Fatalf("no %q", from)
		}
		return map[string]string{"7/mountinfo": strings.Replace(ownMounts, from, to, 1)}
	}
	for name, tc := range map[string]struct {
		change map[string]string
		fact   string
		check  string
	}{
		"a user of its own":       {status("Uid:\t0\t0\t0\t0", "Uid:\t5\t5\t5\t5"), "user=5", "User"},
		"it can be root again":    {status("Uid:\t0\t0\t0\t0", "Uid:\t5\t5\t0\t5"), "", ""},
		"a capability":            {status("CapBnd:\t0000000000000000", "CapBnd:\t0000000000200000"), "capabilities=CAP_SYS_ADMIN", "CAP_SYS_ADMIN"},
		"new privileges":          {status("NoNewPrivs:\t1", "NoNewPrivs:\t0"), "no new privileges=no", "NoNewPrivileges"},
		"no filter":               {status("Seccomp:\t2", "Seccomp:\t0"), "seccomp=none", "SystemCallFilter~@mount"},
		"a mask of modes":         {status("Umask:\t0022", "Umask:\t0000"), "umask=0000", "UMask"},
		"a network":               {map[string]string{"7/ns/net": "->net:[2]"}, "own namespaces=mount network pid", "PrivateNetwork"},
		"the machine's processes": {map[string]string{"7/ns/pid": "->pid:[1]"}, "own namespaces=mount", "ProtectProc"},
		"a real-time priority":    {map[string]string{"7/limits": "Max realtime priority     0                    9  \n"}, "real-time priority=yes", ""},
		"no limit of processes":   {map[string]string{"cgroup/pids.max": "max\n"}, "processes at most=none", ""},
		"a path that is writable": {mounts("/proc/sys ro", "/proc/sys rw"), "read-only below /proc and /sys=/proc/irq /proc/sysrq-trigger /sys /sys/fs/cgroup", "ProtectKernelTunables"},
		"sysfs":                   {mounts("/ /sys ro,", "/ /sys rw,"), "read-only below /proc and /sys=/proc/irq /proc/sys /proc/sysrq-trigger /sys/fs/cgroup", "ProtectKernelTunables"},
		"cgroups":                 {mounts("/sys/fs/cgroup ro", "/sys/fs/cgroup rw"), "read-only below /proc and /sys=/proc/irq /proc/sys /proc/sysrq-trigger /sys", "Delegate"},
		"a path that shows":       {mounts("107 103 0:40 /null /proc/kcore rw,nosuid - tmpfs tmpfs rw\n", ""), "masked below /proc and /sys=/sys/firmware", ""},
		"a root that is not":      {mounts("/ / rw,relatime", "/ / ro,relatime"), "root=read-only", "ProtectSystem"},
		"the machine's root":      {mounts("110 ", "111 100 0:2 / /host rw - rootfs rootfs rw\n110 "), "", "WritableRoot"},
		"the machine's sysfs":     {mounts("110 ", "111 100 0:21 / /host/sys rw - sysfs sysfs rw\n110 "), "", "WritableSys"},
		"the machine's devices":   {mounts("101 100 0:40 / /dev rw,nosuid - tmpfs tmpfs rw,mode=755", "101 100 0:6 / /dev rw - devtmpfs dev rw"), "", "WritableDev"},
		"containerd":              {mounts("110 ", "111 100 0:23 /containerd /x rw - tmpfs tmpfs rw\n110 "), "", "ContainerdSocket"},
	} {
		t.Run(name, func(t *testing.T) {
			facts, checks := drift(t, proc(t, tc.change))
			if tc.fact == "" && len(facts) > 0 || tc.fact != "" && !slices.Contains(facts, tc.fact) {
				t.Errorf("facts %q, want %q", facts, tc.fact)
			}
			if tc.check == "" && len(checks) > 0 || tc.check != "" && !slices.Contains(checks, tc.check) {
				t.Errorf("checks %q, want %q", checks, tc.check)
			}
		})
	}
}

// A filter that a program gave itself counts for nothing, as nobody knows what it
// refuses, but is shown.
func TestFilterOfItsOwn(t *testing.T) {
	d := declared()
	d.Seccomp = nil
	live, err := Live(proc(t, nil), d)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := audit.Assess(live, nil), audit.Assess(d, nil); a.Exposure != b.Exposure {
		t.Errorf("%s, without it %s", a.Score(), b.Score())
	}
	if !slices.ContainsFunc(audit.Differences(d, live), func(f audit.Fact) bool { return f.Name == "seccomp" && f.Drifted() }) {
		t.Error("it is not shown")
	}
}

func TestLiveOfAnother(t *testing.T) {
	for name, change := range map[string]map[string]string{
		"another service's": {"7/cgroup": "0::/services/db\n"}, "no numbers": {"7/status": "Uid:\tx\n"}, "odd sets": {"7/status": strings.Replace(ownStatus, "CapBnd:\t0", "CapBnd:\tx", 1)},
	} {
		if _, err := Live(proc(t, change), declared()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	p := proc(t, nil)
	p.PID = 8
	if _, err := Live(p, declared()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("one that has ended: %v", err)
	}
}

func TestSource(t *testing.T) {
	theirs := parseMounts(machineMounts)
	for line, want := range map[string]string{
		"1 1 0:23 / /x rw - tmpfs tmpfs rw":              "/run",
		"1 1 0:23 /a /x rw - tmpfs tmpfs rw":             "/run/a",
		"1 1 0:23 /sub/c /x rw - tmpfs tmpfs rw":         "/mnt/a b/c",
		"1 1 0:23 /subs /x rw - tmpfs tmpfs rw":          "/run/subs",
		"1 1 0:24 /upper/v /x rw - tmpfs tmpfs rw":       "/containers/services/web/tmp/upper/v",
		"1 1 0:99 / /x rw - tmpfs tmpfs rw":              "",
		"1 1 0:2 /etc/hosts /etc/hosts rw - rootfs r rw": "/etc/hosts",
	} {
		if got := source(parseMounts(line)[0], theirs); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

// What is known of a container beside its configuration.
func TestDeclared(t *testing.T) {
	base := func() *specs.Spec {
		return &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}}}}
	}
	notify := policy.DefaultService()
	notify.Ready.Kind = policy.ProbeNotify
	if f := Declared(&bundle.Bundle{Section: bundle.Services, Spec: base(), Service: notify}, base()); !f.Notify || f.Control || f.Runtime {
		t.Errorf("notify: %+v", f)
	}
	for source, want := range map[string][2]bool{
		"/run": {}, "/usr/bin/service": {true, false}, "/run/containerd": {false, true}, "/usr/bin/ctr": {false, true},
	} {
		s := base()
		s.Mounts = []specs.Mount{{Destination: source, Source: source, Type: "bind"}}
		if f := Declared(&bundle.Bundle{Section: bundle.Services, Spec: s, Service: policy.DefaultService()}, s); f.Control != want[0] || f.Runtime != want[1] {
			t.Errorf("%s: %t %t, want %v", source, f.Control, f.Runtime, want)
		}
	}
	// What runtime.json mounts below the root is the container's.
	b := &bundle.Bundle{Section: bundle.Services, Dir: "/containers/services/web", Spec: base(), Runtime: bundle.Runtime{Mounts: []specs.Mount{
		{Source: "/", Destination: "host", Options: []string{"rbind"}}, {Source: "/dev", Destination: "/containers/services/web/rootfs/dev", Type: "bind"},
		{Source: "/proc", Destination: "/mnt", Options: []string{"bind"}}, {Source: "/sys", Destination: "/containers/services/web/rootfs", Options: []string{"bind"}},
	}}}
	var open []string
	for _, f := range audit.Assess(Declared(b, b.Spec), nil).Bad() {
		if f.Gate {
			open = append(open, f.ID)
		}
	}
	if !slices.Equal(open, []string{"WritableRoot", "WritableDev"}) {
		t.Errorf("mounts of runtime.json: %q", open)
	}
	host := base()
	host.Linux.Namespaces = nil
	if f := Declared(&bundle.Bundle{Section: bundle.Onboot, Spec: host}, host); !f.Control || !f.Runtime {
		t.Error("pid: host may steer")
	}
}

func TestPresent(t *testing.T) {
	f := &audit.Facts{Mounts: []audit.Mount{
		{At: "/proc/version", Masked: true, ReadOnly: true}, {At: "/proc/no-such", Masked: true, ReadOnly: true}, {At: "/sys/no-such", ReadOnly: true},
		{At: "/no-such", ReadOnly: true}, {At: "/proc/no-such", Source: "/x", ReadOnly: true},
	}}
	var left []string
	for _, m := range Present(f).Mounts {
		left = append(left, m.At+m.Source)
	}
	if want := []string{"/proc/version", "/no-such", "/proc/no-such/x"}; !slices.Equal(left, want) || len(f.Mounts) != 5 {
		t.Errorf("%q, want %q", left, want)
	}
}
