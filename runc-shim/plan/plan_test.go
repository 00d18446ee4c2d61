package plan

import (
	"bytes"
	"errors"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/runc-shim/oci"
)

// The executor has the same steps with as many texts.
func TestStepsAreThoseOfTheExecutor(t *testing.T) {
	header, err := os.ReadFile("../executor/plan.h")
	if err != nil {
		t.Fatal(err)
	}
	steps := regexp.MustCompile(`X\((\w+), (\d)\)`).FindAllStringSubmatch(string(header), -1)
	if len(steps) != len(ops) {
		t.Fatalf("the executor has %d steps, not %d", len(steps), len(ops))
	}
	for i, s := range steps {
		texts := strconv.Itoa(ops[i].texts)
		if ops[i].texts == anyTexts {
			texts = "0"
		}
		if s[1] != ops[i].name || s[2] != texts {
			t.Errorf("step %d is %s with %s texts there, %s with %s here", i, s[1], s[2], ops[i].name, texts)
		}
	}
	if !strings.Contains(string(header), `"`+magic+`"`) {
		t.Error("another magic")
	}
}

// ordinary is a container with a bit of everything.
func ordinary() (oci.Options, *configs.Config, *libcontainer.Process) {
	yes := true
	caps := &configs.Capabilities{Bounding: []string{"CAP_KILL", "CAP_NOT_THERE"}, Effective: []string{"CAP_CHOWN"}}
	return oci.Options{ID: "x"}, &configs.Config{
			Rootfs: "/bundle/rootfs", Readonlyfs: true, Hostname: "name", RootPropagation: unix.MS_SHARED,
			Namespaces: configs.Namespaces{{Type: configs.NEWNS}, {Type: configs.NEWNET}},
			Networks:   []*configs.Network{{Type: "loopback"}},
			Mounts: []*configs.Mount{
				{Source: "proc", Destination: "/proc", Device: "proc"},
				{Source: "tmpfs", Destination: "/dev", Device: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_RDONLY, Data: "mode=755"},
				{Source: "/etc/hosts", Destination: "/bundle/rootfs/etc/../etc/hosts", Device: "bind", Flags: unix.MS_BIND | unix.MS_RDONLY, PropagationFlags: []int{unix.MS_PRIVATE}},
				{Source: "cgroup", Destination: "sys/fs/cgroup", Device: "cgroup", Flags: unix.MS_RDONLY},
			},
			Devices: []*devices.Device{
				{Rule: devices.Rule{Type: devices.CharDevice, Major: 1, Minor: 3}, Path: "/dev/null", FileMode: 0o666},
				{Rule: devices.Rule{Type: devices.CharDevice, Major: 5, Minor: 2}, Path: "/dev/ptmx"}, {},
			},
			MaskPaths: []string{"/proc/kcore", "/proc/kcore/"}, ReadonlyPaths: []string{"/proc/sys"},
			Sysctl: map[string]string{"net.ipv4.ip_forward": "1", "kernel.msgmax": "2"},
		}, &libcontainer.Process{
			Args: []string{"run", "it"}, Cwd: "/", Env: []string{"A=1", "HOME=", "PATH=/bin/:", "A=2"},
			UID: 7, GID: 8, AdditionalGroups: []int{9}, NoNewPrivileges: &yes, Capabilities: caps,
		}
}

func TestMake(t *testing.T) {
	o, c, p := ordinary()
	c.Seccomp = &configs.Seccomp{}
	made, err := Make(o, c, p, []byte("filter"), true)
	if err != nil {
		t.Fatal(err)
	}
	const want = `Keyring 0x80000 "_ses.x"
Loopback
Root 0x100000 0x40000 "/bundle/rootfs"
Mount 0x1 "proc" "/proc" "proc" "" ""
Mount 0x3 0x2 "tmpfs" "/dev" "tmpfs" "mode=755" ""
Mount 0x4 0x1001 0x1021 "/etc/hosts" "/etc/hosts" "bind" "" "\x00\x00\x04\x00\x00\x00\x00\x00"
Mount 0x0 0x1 "cgroup" "/sys/fs/cgroup" "cgroup2" "" ""
Device 0x21b6 0x103 "/dev/null"
Link 0x1 "/dev/ptmx" "pts/ptmx" ""
Link "/dev/fd" "/proc/self/fd" ""
Link "/dev/stdin" "/proc/self/fd/0" ""
Link "/dev/stdout" "/proc/self/fd/1" ""
Link "/dev/stderr" "/proc/self/fd/2" ""
Link "/dev/core" "/proc/kcore" "/proc/kcore"
Hooks
Pivot
Propagation 0x100000
Null
Mkdir "/"
Remount 0x1023 "/dev"
ReadonlyRoot
Umask 0x12
Hostname "name"
Sysctl "kernel.msgmax" "sys/kernel/msgmax" "2"
Sysctl "net.ipv4.ip_forward" "sys/net/ipv4/ip_forward" "1"
ReadonlyPath "/proc/sys"
Mask "/proc/kcore"
NoNewPrivileges
Ready
Close
Chdir "/"
Home 0x7
Bounding 0x20
User 0x7 0x8 "\t\x00\x00\x00"
Enter "/"
Capabilities 0x1
Command 0x2 0x2 0x2 "run" "it" "PATH=/bin/:" "A=2" "/bin" "."
Seccomp (6 bytes)
Run
`
	if got := made.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Without no_new_privileges the filter is loaded while there are capabilities.
func TestFilterIsLoadedInTime(t *testing.T) {
	o, c, p := ordinary()
	c.Seccomp, p.NoNewPrivileges = &configs.Seccomp{}, nil
	made, err := Make(o, c, p, []byte("filter"), true)
	if err != nil {
		t.Fatal(err)
	}
	if text := made.String(); !strings.Contains(text, "Close\nSeccomp (6 bytes)\nChdir") || strings.Contains(text, "NoNewPrivileges") {
		t.Error(text)
	}
}

func TestSomebodyElsesDev(t *testing.T) {
	o, c, p := ordinary()
	c.Mounts = append(c.Mounts, &configs.Mount{Source: "/dev", Destination: "/dev/", Device: "bind", Flags: unix.MS_BIND | unix.MS_REC})
	made, err := Make(o, c, p, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	if text := made.String(); strings.Contains(text, "Device") || strings.Contains(text, "Link") || strings.Contains(text, "Null") {
		t.Error(text)
	}
}

func TestUncovered(t *testing.T) {
	for name, change := range map[string]func(*configs.Config, *libcontainer.Process){
		"annotation": func(c *configs.Config, _ *libcontainer.Process) {
			c.Labels = []string{"a=b", "keelson.runtime=libcontainer"}
		},
		"cgroups over bound ones": func(c *configs.Config, _ *libcontainer.Process) {
			c.Mounts = append(c.Mounts, &configs.Mount{Device: "bind", Source: "/sys", Destination: "/sys", Flags: unix.MS_BIND | unix.MS_REC},
				&configs.Mount{Device: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup"})
		},
		"cgroups in a bound root": func(c *configs.Config, _ *libcontainer.Process) {
			c.Mounts = append(c.Mounts, &configs.Mount{Device: "bind", Source: "/", Destination: "/host", Flags: unix.MS_BIND | unix.MS_REC},
				&configs.Mount{Device: "cgroup", Source: "cgroup", Destination: "/host/sys/fs/cgroup"})
		},
		"cgroups twice": func(c *configs.Config, _ *libcontainer.Process) {
			for range 2 {
				c.Mounts = append(c.Mounts, &configs.Mount{Device: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup"})
			}
		},
		"user namespace":    func(c *configs.Config, _ *libcontainer.Process) { c.Namespaces.Add(configs.NEWUSER, "") },
		"time namespace":    func(c *configs.Config, _ *libcontainer.Process) { c.Namespaces.Add(configs.NEWTIME, "") },
		"joined mounts":     func(c *configs.Config, _ *libcontainer.Process) { c.Namespaces.Add(configs.NEWNS, "/x") },
		"no mounts":         func(c *configs.Config, _ *libcontainer.Process) { c.Namespaces.Remove(configs.NEWNS) },
		"rootless":          func(c *configs.Config, _ *libcontainer.Process) { c.RootlessEUID = true },
		"rootless cgroups":  func(c *configs.Config, _ *libcontainer.Process) { c.RootlessCgroups = true },
		"no pivot_root":     func(c *configs.Config, _ *libcontainer.Process) { c.NoPivotRoot = true },
		"root":              func(c *configs.Config, _ *libcontainer.Process) { c.Rootfs = "/" },
		"unclean root":      func(c *configs.Config, _ *libcontainer.Process) { c.Rootfs = "/a/../b" },
		"terminal":          func(_ *configs.Config, p *libcontainer.Process) { p.ConsoleSocket = os.Stdin },
		"pidfd":             func(_ *configs.Config, p *libcontainer.Process) { p.PidfdSocket = os.Stdin },
		"label of mounts":   func(c *configs.Config, _ *libcontainer.Process) { c.MountLabel = "x" },
		"label":             func(_ *configs.Config, p *libcontainer.Process) { p.Label = "x" },
		"label of the root": func(c *configs.Config, _ *libcontainer.Process) { c.ProcessLabel = "x" },
		"AppArmor":          func(_ *configs.Config, p *libcontainer.Process) { p.AppArmorProfile = "x" },
		"AppArmor of it":    func(c *configs.Config, _ *libcontainer.Process) { c.AppArmorProfile = "x" },
		"scheduler":         func(_ *configs.Config, p *libcontainer.Process) { p.Scheduler = &specs.Scheduler{} },
		"I/O priority":      func(c *configs.Config, _ *libcontainer.Process) { c.IOPriority = &specs.LinuxIOPriority{} },
		"personality":       func(c *configs.Config, _ *libcontainer.Process) { c.Personality = &configs.LinuxPersonality{} },
		"memory policy":     func(c *configs.Config, _ *libcontainer.Process) { c.MemoryPolicy = &configs.LinuxMemoryPolicy{} },
		"route":             func(c *configs.Config, _ *libcontainer.Process) { c.Routes = []*configs.Route{{}} },
		"network":           func(c *configs.Config, _ *libcontainer.Process) { c.Networks = []*configs.Network{{Type: "veth"}} },
		"death signal":      func(c *configs.Config, _ *libcontainer.Process) { c.ParentDeathSignal = 9 },
		"relative cwd":      func(_ *configs.Config, p *libcontainer.Process) { p.Cwd = "x" },
		"no command":        func(_ *configs.Config, p *libcontainer.Process) { p.Args = nil },
		"environment":       func(_ *configs.Config, p *libcontainer.Process) { p.Env = []string{"X"} },
		"zero in it":        func(_ *configs.Config, p *libcontainer.Process) { p.Env = []string{"X=\x00"} },
		"zero in a command": func(_ *configs.Config, p *libcontainer.Process) { p.Args = []string{"a\x00"} },
		"zero in a path":    func(c *configs.Config, _ *libcontainer.Process) { c.MaskPaths = []string{"/a\x00"} },
		"zero in a mount":   func(c *configs.Config, _ *libcontainer.Process) { c.Mounts[1].Data = "\x00" },
		"seccomp":           func(c *configs.Config, _ *libcontainer.Process) { c.Seccomp = &configs.Seccomp{} },
		"device":            func(c *configs.Config, _ *libcontainer.Process) { c.Devices[0].Type = 'x' },
		"no /proc":          func(c *configs.Config, _ *libcontainer.Process) { c.Mounts = c.Mounts[1:] },
		"mapped ids":        func(c *configs.Config, _ *libcontainer.Process) { c.Mounts[2].IDMapping = &configs.MountIDMapping{} },
		"recursive":         func(c *configs.Config, _ *libcontainer.Process) { c.Mounts[2].RecAttr = &unix.MountAttr{} },
		"copy":              func(c *configs.Config, _ *libcontainer.Process) { c.Mounts[1].Extensions = configs.EXT_COPYUP },
		"remount":           func(c *configs.Config, _ *libcontainer.Process) { c.Mounts[2].Flags |= unix.MS_REMOUNT },
		"over the root":     func(c *configs.Config, _ *libcontainer.Process) { c.Mounts[2].Destination = "/.." },
		"hook": func(c *configs.Config, _ *libcontainer.Process) {
			c.Hooks = configs.Hooks{configs.StartContainer: configs.HookList{configs.NewCommandHook(&configs.Command{})}}
		},
	} {
		o, c, p := ordinary()
		change(c, p)
		if made, err := Make(o, c, p, nil, true); !errors.Is(err, ErrUncovered) || made != nil {
			t.Errorf("%s: %v, %v", name, made, err)
		}
	}
	o, c, p := ordinary()
	if _, err := Make(o, c, p, nil, false); !errors.Is(err, ErrUncovered) {
		t.Errorf("cgroup v1: %v", err)
	}
	if _, err := Make(o, c, p, []byte("filter"), true); !errors.Is(err, ErrUncovered) {
		t.Errorf("a filter that nobody asked for: %v", err)
	}
	o.ID = strings.Repeat("x", 200)
	if _, err := Make(o, c, p, nil, true); !errors.Is(err, ErrUncovered) {
		t.Errorf("a long name: %v", err)
	}
}

func TestEnvironment(t *testing.T) {
	for _, tc := range []struct {
		env, want []string
		home      bool
	}{
		{[]string{"A=1", "B=2", "A=3"}, []string{"B=2", "A=3"}, false},
		{[]string{"HOME=/a", "HOME="}, nil, false},
		{[]string{"HOME=", "HOME=/a"}, []string{"HOME=/a"}, true},
		{[]string{"A=b=c", "B="}, []string{"A=b=c", "B="}, false},
	} {
		if got, home, ok := environment(tc.env); !ok || home != tc.home || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%q: %q, %v, %v", tc.env, got, home, ok)
		}
	}
	for _, env := range []string{"", "A", "=b", "A=\x00"} {
		if got, _, ok := environment([]string{env}); ok {
			t.Errorf("%q: %q", env, got)
		}
	}
}

// ordinaryPlan is a plan with all kinds of steps.
func ordinaryPlan(t testing.TB) *Plan {
	o, c, p := ordinary()
	made, err := Make(o, c, p, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	made.Report = 3
	return made
}

func TestEncodeAndDecode(t *testing.T) {
	p := ordinaryPlan(t)
	data, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(data)
	if err != nil || !reflect.DeepEqual(got, p) {
		t.Fatalf("got\n%v\n%v\nwant\n%v", got, err, p)
	}
	for n := range data {
		if _, err := Decode(data[:n]); err == nil {
			t.Fatalf("the first %d bytes are a plan", n)
		}
	}
	p.Steps = append(p.Steps, Step{Op: Mask, Texts: []string{strings.Repeat("x", mostSize)}})
	if _, err := p.Encode(); err == nil {
		t.Error("a plan without a bound")
	}
}

func TestFileIsSealed(t *testing.T) {
	p := ordinaryPlan(t)
	f, err := p.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(data)+1)
	if n, _ := f.ReadAt(got, 0); !bytes.Equal(got[:n], data) {
		t.Error("the file has another plan")
	}
	if _, err := f.WriteAt([]byte{1}, 0); err == nil {
		t.Error("the plan can be changed")
	}
	if err := f.Truncate(0); err == nil {
		t.Error("the plan can be cut")
	}
}

// What is decoded is encoded to the same bytes, whatever they are.
func FuzzDecode(f *testing.F) {
	data, err := ordinaryPlan(f).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Decode(data)
		if err != nil {
			return
		}
		_ = p.String()
		again, err := p.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q became %q, %v", data, again, err)
		}
	})
}

// A path of a container stays in its root.
func FuzzInRoot(f *testing.F) {
	for _, s := range []string{"/", "", "..", "/a/../..", "/root/x", "/root", "/rootx", "//root//x/../y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got := inRoot("/root", path)
		if !clean(got) {
			t.Errorf("%q became %q", path, got)
		}
	})
}
