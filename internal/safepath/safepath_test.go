package safepath

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
	"keelson/internal/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

// service is one that binds the sources, writable, with the capabilities.
func service(name string, sources []string, caps ...string) *bundle.Bundle {
	s := &specs.Spec{
		Root: &specs.Root{Path: "rootfs", Readonly: true}, Process: &specs.Process{},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}}},
	}
	if caps != nil {
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	}
	for _, source := range sources {
		s.Mounts = append(s.Mounts, specs.Mount{Source: source, Destination: source, Type: "bind", Options: []string{"rw", "rbind", "rshared"}})
	}
	return &bundle.Bundle{Dir: "/containers/services/" + name, Name: name, ID: name, Section: bundle.Services, Spec: s}
}

func resolver(bundles ...*bundle.Bundle) *Resolver {
	return NewResolver(func() *Writers { return WritersOf(bundles) }, false)
}

// lay makes directories, files ("x=") and links ("x->y") below base.
func lay(t *testing.T, base string, names ...string) {
	t.Helper()
	for _, n := range names {
		link, target, isLink := strings.Cut(n, "->")
		file, isFile := strings.CutSuffix(n, "=")
		var err error
		switch {
		case isLink:
			err = os.Symlink(target, filepath.Join(base, link))
		case isFile:
			err = os.WriteFile(filepath.Join(base, file), []byte(file), 0o644)
		default:
			err = os.MkdirAll(filepath.Join(base, n), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestWhoCanChange has a service "app" that can write BASE/var/app, and resolves a path
// of each kind: to what it leads, who can change that, or which link is refused.
func TestWhoCanChange(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	lay(t, base, "var/app/sub/deep", "var/other", "run", "disk", "var/link->app", "var/out->../other", "var/app/f=", "var/app/way->sub", "var/app/up->..",
		"var/app/root->/", "image->var/app/way", "var/app/proc->/proc/self/root", "jump->/proc/self/root", "loop->loop")
	// The same directories by another mount of them, made by nobody that is known.
	lay(t, base, "part", "free", "var/other/inner", "var/other/inner/way->..")
	for _, m := range [][2]string{{"var/app", "disk"}, {"var/app/sub", "part"}, {"var/other/inner", "free"}} {
		if err := unix.Mount(filepath.Join(base, m[0]), filepath.Join(base, m[1]), "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	r := resolver(service("app", []string{base + "/var/app", base + "/var/absent"}))
	for _, c := range []struct {
		path, leads, by string
		missing         bool
		link            string // refused at
	}{
		{path: "", leads: ""},
		{path: "/var/app", leads: "/var/app"},
		{path: "/var/link", leads: "/var/app"},
		{path: "/var/app/", leads: "/var/app"},
		{path: "/var/app/sub", leads: "/var/app/sub", by: "app"},
		{path: "/var/link/sub/./deep/", leads: "/var/app/sub/deep", by: "app"},
		{path: "/var/app/f", leads: "/var/app/f", by: "app"},
		{path: "/var/app/none/at/all", leads: "/var/app/none/at/all", by: "app", missing: true},
		{path: "/var/none/here", leads: "/var/none/here", missing: true},
		{path: "/var/absent/here", leads: "/var/absent/here", missing: true},
		{path: "/var/app/sub/../../other", leads: "/var/other"},
		{path: "/var/out", link: "", leads: "/other", missing: true},
		{path: "/var/app/way", link: "/var/app/way"},
		{path: "/var/app/way/deep", link: "/var/app/way"},
		{path: "/var/app/up/other", link: "/var/app/up"},
		{path: "/var/app/root/etc", link: "/var/app/root"},
		{path: "/var/app/proc/etc", link: "/var/app/proc"},
		{path: "/image/deep", link: "/var/app/way"},
		{path: "/disk/sub", leads: "/disk/sub", by: "app"},
		{path: "/disk/root", link: "/disk/root"},
		{path: "/part", leads: "/part"},
		{path: "/part/deep", leads: "/part/deep", by: "app"},
		{path: "/free/way", leads: ""},
		{path: "/jump" + base + "/var/app/root/etc", link: "/var/app/root"},
	} {
		p, err := r.Open(base+c.path, Options{})
		if c.link != "" {
			link, ok := errors.AsType[*LinkError](err)
			// Behind /proc/self/root the way is known by that name.
			if !ok || !strings.HasSuffix(link.Path, base+c.link) || link.By == "" {
				t.Errorf("%s: %v, want the link %s refused", c.path, err, c.link)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.path, err)
			continue
		}
		if (p.By != "") != (c.by != "") || c.by != "" && p.By != `service "app"` || p.Path != base+c.leads || p.Exists() == c.missing {
			t.Errorf("%s: leads to %s, changed by %q, there: %v; want %s, %q, %v", c.path, p.Path, p.By, p.Exists(), base+c.leads, c.by, !c.missing)
		}
		p.Close()
	}
	if _, err := r.Open(base+"/loop", Options{}); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a loop of links: %v", err)
	}
	link := &LinkError{Path: "/var/app/sub", Target: "/", By: `service "app"`}
	if got := link.Error(); !strings.HasPrefix(got, `/var/app/sub: symbolic link (to /) in a directory that service "app" can write: `) {
		t.Error(got)
	}
}

// TestAnotherDirectoryOfTheName: what a service writes under a name is another directory
// once something was mounted there. It is known from when the service is started with it.
func TestAnotherDirectoryOfTheName(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	lay(t, base, "app", "disk")
	writers := WritersOf([]*bundle.Bundle{service("app", []string{base + "/app"})})
	resolver := func(fresh bool) *Resolver { return NewResolver(func() *Writers { return writers }, fresh) }
	by := func(r *Resolver) string {
		t.Helper()
		p, err := r.Open(base+"/disk/sub", Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		return p.By
	}
	if got := by(resolver(false)); got != "" {
		t.Errorf("before: %q", got)
	}
	if err := unix.Mount("disk", base+"/app", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	lay(t, base, "app/sub")
	if err := unix.Mount(base+"/app", base+"/disk", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	r := resolver(false)
	p, err := r.Open(base+"/app", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	r.Bound(base+"/app/", p)
	if got := by(resolver(false)); got != `service "app"` {
		t.Errorf("started with it: %q", got)
	}
	if err := errors.Join(unix.Unmount(base+"/disk", 0), unix.Mount("other", base+"/disk", "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	lay(t, base, "disk/sub")
	if got := by(resolver(false)); got != "" {
		t.Errorf("something else there: %q", got)
	}
	if err := errors.Join(unix.Unmount(base+"/app", unix.MNT_DETACH), unix.Mount(base+"/disk", base+"/app", "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	if got := by(resolver(true)); got != `service "app"` {
		t.Errorf("asked anew: %q", got)
	}
}

// TestWhoCanWrite has one container for each way to be able to write a directory, or not.
func TestWhoCanWrite(t *testing.T) {
	ro := service("ro", nil)
	ro.Spec.Mounts = []specs.Mount{{Source: "/d/ro", Destination: "/x", Type: "bind", Options: []string{"rbind", "rw", "ro"}}}
	onboot := service("onboot", []string{"/d/onboot"})
	onboot.Section = bundle.Onboot
	onboot.Runtime.Mounts = []specs.Mount{
		{Source: "/disk/app", Destination: "/d/app", Type: "bind"},
		{Source: "overlay", Destination: "/d/over", Type: "overlay", Options: []string{"lowerdir=/l", "upperdir=/d/upper", "workdir=/d/work"}},
	}
	users := service("users", []string{"/d/users"}, "CAP_SYS_ADMIN")
	users.Spec.Linux.Namespaces = append(users.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	host := service("host", []string{"/d/host"}, "CAP_SYS_PTRACE")
	host.Spec.Linux.Namespaces = host.Spec.Linux.Namespaces[1:]
	root := service("root", []string{"/"})
	inner := service("inner", nil)
	inner.Runtime.Mounts = []specs.Mount{{Source: "/d/inner", Destination: "srv", Type: "bind"}}
	writable := service("writable", nil)
	writable.Spec.Root.Readonly = false
	over := service("over", []string{"/d/over/some"})
	device := service("device", nil)
	device.Spec.Mounts = []specs.Mount{{Source: "/dev/vda", Destination: "/x", Type: "ext4"}}
	w := WritersOf([]*bundle.Bundle{
		service("app", []string{"/d/app/"}), service("admin", []string{"/d/admin"}, "CAP_SYS_ADMIN"), service("net", []string{"/d/net"}, "CAP_NET_ADMIN"),
		service("trace", []string{"/d/trace"}, "CAP_SYS_PTRACE"), ro, onboot, users, host, root, inner, writable, over, device, {Name: "broken"},
	})
	for dir, want := range map[string]string{
		"/d/app": "app", "/disk/app": "app", "/d/admin": "", "/d/net": "net", "/d/trace": "trace", "/d/ro": "", "/d/onboot": "", "/d/users": "users",
		"/d/host": "", "/": "", "/d/inner": "inner", "/containers/services/writable/rootfs": "writable", "/containers/services/writable/tmp": "writable",
		"/containers/services/app/rootfs": "", "/d/over/some": "over", "/d/upper/some": "over",
	} {
		if got := w.by[dir]; want == "" && got != "" || want != "" && got != `service "`+want+`"` {
			t.Errorf("%s: %q can write it, want %q", dir, got, want)
		}
	}
	if w.devices["/dev/vda"] != `service "device"` {
		t.Errorf("devices: %v", w.devices)
	}
}

// TestMachinesOwnLinks: what PID 1 makes may be followed, and nothing else in its place.
func TestMachinesOwnLinks(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	lay(t, base, "var", "elsewhere", "var/run->/run", "var/own->/run")
	if err := unix.Mount(base+"/var", "/var", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount("/var", unix.MNT_DETACH) }()
	r := resolver(service("app", []string{"/var"}))
	p, err := r.Open("/var/run", Options{})
	if err != nil || p.Path != "/run" {
		t.Fatalf("/var/run: %v", err)
	}
	p.Close()
	if _, err := r.Open("/var/own", Options{}); err == nil {
		t.Error("a link of the service's is followed")
	}
	if err := errors.Join(os.Remove("/var/run"), os.Symlink(base+"/elsewhere", "/var/run")); err != nil {
		t.Fatal(err)
	}
	if _, err := resolver(service("app", []string{"/var"})).Open("/var/run", Options{}); err == nil {
		t.Error("/var/run is followed wherever it leads")
	}
}

// TestMake makes what is missing, through no link.
func TestMake(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	lay(t, base, "app", "outside", "app/link->"+base+"/outside", "root/etc", "root/settings->/etc", "root/up->../../../../outside")
	r := resolver(service("app", []string{base + "/app"}))
	p, err := r.Open(base+"/app/a/b", Options{Make: true})
	if err != nil || !p.IsDir() {
		t.Fatal(err)
	}
	p.Close()
	if p, err = r.Open(base+"/app/c/f", Options{Make: true, MakeFile: true}); err != nil || p.IsDir() {
		t.Fatalf("%v, a file: %v", err, err == nil && !p.IsDir())
	}
	p.Close()
	if _, err := r.Open(base+"/app/link/x", Options{Make: true}); err == nil {
		t.Error("a directory is made through a link")
	}
	for path, want := range map[string]string{"settings/made": "root/etc/made", "up/made": "root/outside/made", "../../made": "root/made"} {
		p, err := r.In(base+"/root", path, Options{Make: true})
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		p.Close()
		if _, err := os.Lstat(filepath.Join(base, want)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if left, _ := os.ReadDir(base + "/outside"); len(left) > 0 {
		t.Errorf("made outside: %v", left)
	}
}
