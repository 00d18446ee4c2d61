package steer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/bundle"
	"keelson/internal/policy"
)

// container makes a bundle: binds as SOURCE:DESTINATION, and what else it is given.
func container(binds []string, change ...func(*bundle.Bundle)) *bundle.Bundle {
	b := &bundle.Bundle{Dir: "/containers/services/x", Section: bundle.Services, Name: "x", ID: "x", Spec: &specs.Spec{
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}},
		Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}}},
	}}
	for _, x := range binds {
		from, to, _ := strings.Cut(x, ":")
		b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Source: from, Destination: to, Type: "bind", Options: []string{"rw", "rbind", "rshared"}})
	}
	for _, f := range change {
		f(b)
	}
	return b
}

func hostPID(b *bundle.Bundle) {
	b.Spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
}
func admin(b *bundle.Bundle) {
	b.Spec.Process.Capabilities.Bounding = []string{"CAP_SYS_ADMIN"}
}
func mapped(b *bundle.Bundle) {
	b.Spec.Linux.Namespaces = append(b.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
}
func says(c policy.Control) func(*bundle.Bundle) {
	return func(b *bundle.Bundle) { b.Service.Control = c }
}

func TestGrants(t *testing.T) {
	type change = func(*bundle.Bundle)
	for _, tc := range []struct {
		name    string
		binds   []string
		changes []change
		control policy.Control
		runtime bool
		hidden  string
	}{
		{"nothing", nil, nil, "none", false, ""},
		{"a file of /run", []string{"/run/resolvconf:/etc"}, nil, "none", false, ""},
		{"what only begins like it", []string{"/run/keelson2:/k", "/run/containerd.d:/c"}, nil, "none", false, ""},
		{"/run", []string{"/run:/run"}, nil, "read", false, "[/run/containerd /run/runc /run/userns /run/keelson (but for the control socket)]"},
		{"/run elsewhere", []string{"/run/:/host/run/"}, nil, "read", false, "[/host/run/containerd /host/run/runc /host/run/userns /host/run/keelson (but for the control socket)]"},
		{"/var/run", []string{"/var/run:/var/run"}, nil, "read", false, "[/var/run/containerd /var/run/runc /var/run/userns /var/run/keelson (but for the control socket)]"},
		{"/", []string{"/:/rootfs"}, nil, "read", false, "[/rootfs/run/containerd /rootfs/run/runc /rootfs/run/userns /rootfs/run/keelson (but for the control socket)]"},
		{"twice", []string{"/run:/a", "/run:/b"}, nil, "read", false, "[/a/containerd /a/runc /a/userns /a/keelson (but for the control socket) /b/containerd /b/runc /b/userns /b/keelson (but for the control socket)]"},
		{"the supervisor's directory", []string{"/run/keelson:/run/keelson"}, nil, "all", false, ""},
		{"the socket", []string{"/run/keelson/control.sock:/s"}, nil, "all", false, ""},
		{"the socket's directory", []string{"/run/keelson/control:/s"}, nil, "all", false, ""},
		{"logs of the supervisor", []string{"/run/keelson/log:/l"}, nil, "none", false, ""},
		{"the binary", []string{"/usr/bin/service:/usr/bin/service", "/run:/run"}, nil, "all", false, "[/run/containerd /run/runc /run/userns]"},
		{"ctr", []string{"/usr/bin/ctr:/usr/bin/ctr", "/run:/run"}, nil, "read", true, "[/run/keelson (but for the control socket)]"},
		{"runc", []string{"/usr/bin/runc:/usr/bin/runc", "/run:/run"}, nil, "read", true, "[/run/keelson (but for the control socket)]"},
		{"containerd's socket", []string{"/run/containerd/containerd.sock:/c"}, nil, "none", true, ""},
		{"pid: host", []string{"/run:/run"}, []change{hostPID}, "all", true, ""},
		{"pid: host, refused", []string{"/run:/run"}, []change{hostPID, says("none")}, "none", true, "[/run/keelson]"},
		{"CAP_SYS_ADMIN", []string{"/run:/run"}, []change{admin}, "all", true, ""},
		{"CAP_SYS_ADMIN alone", nil, []change{admin}, "none", true, ""},
		{"CAP_SYS_ADMIN of its own users", []string{"/run:/run"}, []change{admin, mapped}, "read", false, "[/run/containerd /run/runc /run/userns /run/keelson (but for the control socket)]"},
		{"none", []string{"/run:/run"}, []change{says("none")}, "none", false, "[/run/containerd /run/runc /run/userns /run/keelson]"},
		{"none by name", []string{"/run/keelson:/k"}, []change{says("none")}, "none", false, "[/k]"},
		{"read by name", []string{"/run/keelson:/k"}, []change{says("read")}, "read", false, "[/k (but for the control socket)]"},
		{"all", []string{"/run:/run"}, []change{says("all")}, "all", false, "[/run/containerd /run/runc /run/userns]"},
		{"below its root before it is made", nil, []change{func(b *bundle.Bundle) {
			b.Runtime.Mounts = []specs.Mount{{Source: "/run", Destination: "host", Type: "bind"}, {Source: "/run", Destination: "/elsewhere", Type: "bind"}}
		}}, "read", false, "[/host/containerd /host/runc /host/userns /host/keelson (but for the control socket)]"},
		{"not usable", nil, []change{func(b *bundle.Bundle) { b.Spec = nil }}, "none", false, ""},
	} {
		b := container(tc.binds)
		for _, f := range tc.changes {
			f(b)
		}
		g, hidden := Of(b), fmt.Sprint(Hides(b))
		if tc.hidden == "" {
			tc.hidden = "[]"
		}
		if g.Control != tc.control || g.Runtime != tc.runtime || hidden != tc.hidden || g.Why == "" {
			t.Errorf("%s: %+v, hidden %s; want %s, runtime %v, hidden %s", tc.name, g, hidden, tc.control, tc.runtime, tc.hidden)
		}
	}
}

// A name that is a link stands for what it leads to, and for itself.
func TestLinks(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/run", link); err != nil {
		t.Fatal(err)
	}
	b := container([]string{link + ":/r"})
	if g, w := Of(b), Written(b); g.Control != policy.ControlRead || w.Control != policy.ControlNone {
		t.Errorf("on this machine %+v, as written %+v", g, w)
	}
	if got := fmt.Sprint(Hides(b)); got != "[/r/containerd /r/runc /r/userns /r/keelson (but for the control socket)]" {
		t.Errorf("hidden: %s", got)
	}
	// /usr/bin/runc is a link to a stand-in.
	elsewhere := grant(container([]string{"/usr/bin/runc:/usr/bin/runc"}), func(string) string { return "/usr/bin/service" })
	if !elsewhere.Runtime {
		t.Errorf("a bind of a link to runc: %+v", elsewhere)
	}
}

// What hides is mounted last and never comes out on the machine.
func TestHide(t *testing.T) {
	for was, want := range map[string]string{
		"": "", "rslave": "rslave", "rprivate": "rprivate",
		"shared": "rslave", "rshared": "rslave", "private": "rslave", "slave": "rslave",
	} {
		b := container([]string{"/run:/run"})
		b.Spec.Linux.RootfsPropagation = was
		s := *b.Spec
		Hide(&s, Hides(b))
		if s.Linux.RootfsPropagation != want || b.Spec.Linux.RootfsPropagation != was {
			t.Errorf("%q: %q, and the bundle's is %q", was, s.Linux.RootfsPropagation, b.Spec.Linux.RootfsPropagation)
		}
		if len(s.Mounts) != 5 || len(b.Spec.Mounts) != 1 || s.Mounts[0].Source != "/run" {
			t.Fatalf("mounts: %+v", s.Mounts)
		}
		for _, m := range s.Mounts[1:] {
			if !slices.Contains(m.Options, "ro") || !slices.Contains(m.Options, "rprivate") {
				t.Errorf("%+v", m)
			}
		}
	}
	// What is mounted later may cover what was hidden.
	b := container([]string{"/:/host", "/data:/host/run", "/dev:/dev"})
	b.Runtime.Mounts = []specs.Mount{{Source: "/run", Destination: "r", Type: "bind"}}
	s := *b.Spec
	Hide(&s, Hides(b))
	var at []string
	for _, m := range s.Mounts {
		at = append(at, m.Destination)
	}
	if want := "[/r/containerd /r/runc /r/userns /r/keelson /host /host/run/containerd /host/run/runc /host/run/userns /host/run/keelson /host/run /dev]"; fmt.Sprint(at) != want {
		t.Errorf("mounts at %v, want %s", at, want)
	}
	b = container([]string{"/data:/data"})
	b.Spec.Linux.RootfsPropagation = "shared"
	s = *b.Spec
	if Hide(&s, Hides(b)); s.Linux.RootfsPropagation != "shared" || len(s.Mounts) != 1 {
		t.Errorf("a container from which nothing is hidden: %+v", s)
	}
}

// A bind of / alone does not show the tmpfs that /run is, so nothing can be mounted in it.
func TestABindThatIsNotRecursive(t *testing.T) {
	b := container([]string{"/:/rootfs"})
	b.Spec.Mounts[0].Options = []string{"ro"}
	apart := device("/") != device("/run")
	if g, hidden := Of(b), Hides(b); (g.Control == policy.ControlNone) != apart || (len(hidden) == 0) != apart {
		t.Errorf("/run is apart: %v; %+v, hidden %v", apart, g, hidden)
	}
	b.Spec.Mounts[0].Source = "/run"
	if g, hidden := Of(b), Hides(b); g.Control != policy.ControlRead || len(hidden) != 4 {
		t.Errorf("%+v, hidden %v", g, hidden)
	}
}

func TestTable(t *testing.T) {
	named := func(name, at string, binds ...string) *bundle.Bundle {
		b := container(binds)
		b.Name, b.Spec.Linux.CgroupsPath = name, at
		return b
	}
	shot := container([]string{"/run:/run"})
	shot.Section, shot.Name = bundle.Onboot, "000-dhcp"
	shot.OneShot.Control = policy.ControlAll
	table := NewTable([]*bundle.Bundle{
		named("web", ""), named("we", "", "/run:/run"),
		named("pods", "/pods", "/run:/run"), named("inner", "/pods/inner", "/run/keelson:/run/keelson"),
		named("one", "/both"), named("two", "/both", "/run/keelson:/run/keelson"),
		shot,
	}, "0::/machine/keelson\n")
	for cgroup, want := range map[string]Client{
		"0::/services/web\n":                           {"web", "none"},
		"0::/services/web/sub/deep\n":                  {"web", "none"},
		"0::/services/we\n":                            {"we", "read"},
		"0::/services/we (deleted)\n":                  {"we", "read"},
		"0::/services/webby\n":                         {"a process in cgroup /services/webby", "none"},
		"0::/pods\n":                                   {"pods", "read"},
		"0::/pods/other\n":                             {"pods", "read"},
		"0::/pods/inner/x\n":                           {"inner", "all"},
		"0::/both\n":                                   {"one, two", "none"},
		"0::/services/.onboot/000-dhcp\n":              {"dhcp", "all"},
		"0::/\n":                                       {"", "all"},
		"0::/keelson/supervisor\n":                     {"", "all"},
		"0::/machine/keelson\n":                        {"", "all"},
		"0::/keelsonish\n":                             {"a process in cgroup /keelsonish", "none"},
		"0::/../elsewhere\n":                           {"a process in cgroup /../elsewhere", "none"},
		"0::/kubepods/x\n":                             {"a process in cgroup /kubepods/x", "none"},
		"4:memory:/services/we\n1:name=a:/\n0::/\n":    {"we", "read"},
		"4:memory:/\n1:name=a:/services/we/x\n0::/\n":  {"we", "read"},
		"4:memory:/docker/1\n1:name=a:/\n0::/\n":       {"a process in cgroup /docker/1", "none"},
		"4:memory:/pods\n1:name=a:/pods/inner\n0::/\n": {"inner", "all"},
		"4:memory:/\n1:name=a:/\n0::/\n":               {"", "all"},
	} {
		if got := table.Find(cgroup); got != want {
			t.Errorf("%q: %+v, want %+v", cgroup, got, want)
		}
	}
}
