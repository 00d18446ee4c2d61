package prepare

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
	"keelson/internal/nstest"
	"keelson/internal/safepath"
)

// world is a directory that service "app" can write, BASE/app, with a directory sub in it
// that others use, and BASE/secret, which stands for the rest of the machine.
func world(t *testing.T) (base string, paths func() *safepath.Resolver) {
	t.Helper()
	nstest.Need(t)
	base = nstest.Tmpfs(t, "size=10m")
	for _, dir := range []string{"app/sub/deep", "secret/deep", "pins", "stage"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"app/sub/is": "app", "secret/is": "secret"} {
		if err := os.WriteFile(filepath.Join(base, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pinDir, stageDir = filepath.Join(base, "pins"), filepath.Join(base, "stage")
	t.Cleanup(func() { pinDir, stageDir = "/run/keelson/binds", "/run/keelson/stage" })
	app := binder("app", filepath.Join(base, "app"))
	return base, func() *safepath.Resolver {
		return safepath.NewResolver(func() *safepath.Writers { return safepath.WritersOf([]*bundle.Bundle{app}) }, false)
	}
}

// binder is a service that binds a source.
func binder(name, source string, options ...string) *bundle.Bundle {
	if len(options) == 0 {
		options = []string{"rbind", "rshared", "rw"}
	}
	return &bundle.Bundle{
		Dir: "/containers/services/" + name, Name: name, ID: name, Section: bundle.Services,
		Spec: &specs.Spec{
			Root: &specs.Root{Path: "rootfs", Readonly: true}, Process: &specs.Process{}, Linux: &specs.Linux{},
			Mounts: []specs.Mount{{Source: source, Destination: "/data", Type: "bind", Options: options}},
		},
	}
}

func swap(t *testing.T, base, name, target string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(filepath.Join(base, name)), os.Symlink(target, filepath.Join(base, name))); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestPin(t *testing.T) {
	base, paths := world(t)
	b := binder("web", base+"/app/sub")
	for range 2 { // the first one's supervisor died
		s, _, err := Pin(b, paths())
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Mounts[0].Source; got != base+"/pins/web/0" || content(t, got+"/is") != "app" || b.Spec.Mounts[0].Source != base+"/app/sub" {
			t.Errorf("pinned at %s; the original says %s", got, b.Spec.Mounts[0].Source)
		}
		if n := below(t, base+"/pins"); n != 2 {
			t.Errorf("%d mounts, want the private one and the pin", n)
		}
		swap(t, base, "app/deep", "/")
	}
	if err := Unpin(); err != nil || below(t, base+"/pins") != 1 {
		t.Errorf("%v, %d mounts left", err, below(t, base+"/pins"))
	}
	if left, _ := os.ReadDir(base + "/pins"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestPinsWhatOthersCanChangeOnly: the rest keeps its name, and costs nothing.
func TestPinsWhatOthersCanChangeOnly(t *testing.T) {
	base, paths := world(t)
	for _, source := range []string{base + "/app", base + "/secret", "/", base + "/none", base + "/app/../secret", "/proc/1/ns/net"} {
		s, release, err := Pin(binder("web", source), paths())
		if err != nil || s.Mounts[0].Source != source {
			t.Errorf("%s: %+v %v", source, s, err)
			continue
		}
		if err := release(); err != nil {
			t.Error(err)
		}
	}
	if n := below(t, base+"/pins"); n != 0 {
		t.Errorf("%d mounts", n)
	}
}

// TestPinKinds has every kind of file where a directory was. What is refused are links;
// the others are what the service may put there for whoever binds it: a socket or a FIFO to
// speak over, a hard link to another file of its own. A device opens for those alone whose
// devices: allow it.
func TestPinKinds(t *testing.T) {
	base, paths := world(t)
	sub := base + "/app/sub"
	for _, c := range []struct {
		kind string
		make func() error
		want string // in the error
		mode uint32
	}{
		{"link to a directory", func() error { return os.Symlink(base+"/secret", sub) }, "web: /containers/services/web/config.json: mounts[0].source: " + sub + ": symbolic link (to " + base + `/secret) in a directory that service "app" can write: `, 0},
		{"link to the root", func() error { return os.Symlink("/", sub) }, "symbolic link (to /)", 0},
		{"link within", func() error { return os.Symlink("../app", sub) }, "symbolic link (to ../app)", 0},
		{"link to a file", func() error { return os.Symlink(base+"/secret/is", sub) }, "symbolic link", 0},
		{"dangling link", func() error { return os.Symlink("none", sub) }, "symbolic link (to none)", 0},
		{"magic link", func() error { return os.Symlink("/proc/self/root", sub) }, "symbolic link (to /proc/self/root)", 0},
		{"nothing", func() error { return nil }, "mounts[0].source: " + sub + ": no such file or directory", 0},
		{"FIFO", func() error { return unix.Mkfifo(sub, 0o600) }, "", unix.S_IFIFO},
		{"device", func() error { return unix.Mknod(sub, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) }, "", unix.S_IFCHR},
		{"hard link", func() error {
			return errors.Join(os.WriteFile(base+"/app/f", []byte("f"), 0o600), os.Link(base+"/app/f", sub))
		}, "", unix.S_IFREG},
		{"directory", func() error { return os.Mkdir(sub, 0o700) }, "", unix.S_IFDIR},
	} {
		if err := errors.Join(os.RemoveAll(sub), c.make()); err != nil {
			t.Fatal(c.kind, err)
		}
		s, release, err := Pin(binder("web", sub), paths())
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want ...%s", c.kind, err, c.want)
			}
		} else if err != nil {
			t.Errorf("%s: %v", c.kind, err)
		} else {
			var st unix.Stat_t
			if err := unix.Lstat(s.Mounts[0].Source, &st); err != nil || st.Mode&unix.S_IFMT != c.mode {
				t.Errorf("%s: the pin has mode %o: %v", c.kind, st.Mode, err)
			}
			if err := release(); err != nil {
				t.Errorf("%s: %v", c.kind, err)
			}
		}
		if n := below(t, base+"/pins"); n > 1 {
			t.Errorf("%s: %d mounts left", c.kind, n)
		}
	}
	if _, err := os.Lstat(base + "/app/none"); err == nil {
		t.Error("a missing source was made")
	}
}

// TestPinPropagates: mounts come and go through a pin as through the bind itself, and the
// end of the pin takes none of them away.
func TestPinPropagates(t *testing.T) {
	base, paths := world(t)
	sub, bound := base+"/app/sub", base+"/bound"
	if err := os.Mkdir(bound, 0o755); err != nil {
		t.Fatal(err)
	}
	mounted := func(at string) error { return unix.Mount("x", at, "tmpfs", 0, "") }
	if err := mounted(sub + "/deep"); err != nil { // there before
		t.Fatal(err)
	}
	s, release, err := Pin(binder("web", sub), paths())
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(s.Mounts[0].Source, bound, "", unix.MS_BIND|unix.MS_REC, ""); err != nil { // as the runtime does
		t.Fatal(err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if below(t, sub) != 1 || below(t, bound) != 2 || below(t, base+"/pins") != 1 {
		t.Fatalf("%d mounts below the source, %d below the bind, %d pins; want 1, 2 and 1 private", below(t, sub), below(t, bound), below(t, base+"/pins"))
	}
	for _, way := range [][2]string{{sub, bound}, {bound, sub}} {
		for _, dir := range []string{"/one", "/two"} {
			_ = os.Mkdir(sub+dir, 0o755)
		}
		if err := mounted(way[0] + "/one"); err != nil {
			t.Fatal(err)
		}
		if below(t, way[1]+"/one") != 1 {
			t.Errorf("a mount on %s is not seen on %s", way[0], way[1])
		}
		if err := unix.Unmount(way[0]+"/one", 0); err != nil || below(t, way[1]+"/one") != 0 {
			t.Errorf("its end is not seen on %s: %v", way[1], err)
		}
	}
	// Without rbind, what is mounted below stays out of it.
	s, release, err = Pin(binder("web", sub, "bind", "ro"), paths())
	if err != nil || below(t, s.Mounts[0].Source) != 1 {
		t.Errorf("bind: %v", err)
	}
	if err := release(); err != nil || below(t, sub) != 1 {
		t.Error(err)
	}
}

// TestPinNamespace: the file of a namespace to join is pinned like a source.
func TestPinNamespace(t *testing.T) {
	base, paths := world(t)
	pid, _ := nstest.Process(t, unix.CLONE_NEWNET)
	file := base + "/app/net"
	if err := errors.Join(os.WriteFile(file, nil, 0o600), unix.Mount("/proc/"+itoa(pid)+"/ns/net", file, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	b := binder("web", base+"/secret")
	b.Spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace, Path: file}}
	s, release, err := Pin(b, paths())
	if err != nil {
		t.Fatal(err)
	}
	if at := s.Linux.Namespaces[1].Path; at == file || !sameNamespace("/proc/"+itoa(pid)+"/ns/net", at) {
		t.Errorf("%s is not the namespace", at)
	}
	if err := release(); err != nil || !isNamespace(file) {
		t.Error(err)
	}
	if err := errors.Join(unix.Unmount(file, 0), os.Remove(file), os.Symlink("/proc/1/ns/net", file)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Pin(b, paths()); err == nil || !strings.Contains(err.Error(), "config.json: linux.namespaces[1].path: "+file+": symbolic link (to /proc/1/ns/net)") {
		t.Error(err)
	}
}

// everything is a service whose runtime.json uses BASE/app/sub in each way there is.
func everything(base string) *bundle.Bundle {
	sub := base + "/app/sub"
	return &bundle.Bundle{
		Dir: base + "/containers/services/web", Name: "web", ID: "web", Section: bundle.Services,
		Runtime: bundle.Runtime{
			Mounts: []specs.Mount{
				{Source: "inner", Destination: sub + "/a/b", Type: "tmpfs", Options: []string{"size=1m", "nosuid"}},
				{Source: sub + "/deep", Destination: base + "/bound", Options: []string{"rbind", "ro"}},
				{Source: sub + "/is", Destination: sub + "/c/file", Type: "bind"},
				{Source: "overlay", Destination: base + "/over", Type: "overlay", Options: []string{"lowerdir=" + base + "/secret:" + sub + "/deep", "upperdir=" + sub + "/upper", "workdir=" + sub + "/work"}},
				{Destination: sub + "/a/b", Options: []string{"remount", "ro"}},
			},
			Mkdir:  []string{sub + "/made/here"},
			BindNS: bundle.BindNS{Net: sub + "/ns/net", Mnt: sub + "/ns/mnt"},
		},
	}
}

func TestRuntimeBelowWritableDirectory(t *testing.T) {
	base, paths := world(t)
	sub := base + "/app/sub"
	b := everything(base)
	pid, _ := nstest.Process(t, unix.CLONE_NEWNS|unix.CLONE_NEWNET)
	for range 2 {
		if err := Before(testContext(t), b, paths(), nil); err != nil {
			t.Fatal(err)
		}
		if err := Attach(testContext(t), b, paths(), pid); err != nil {
			t.Fatal(err)
		}
		// The tmpfs, the file, net, mnt and its private one; the bind; the overlay.
		if n := []int{below(t, sub), below(t, base+"/bound"), below(t, base+"/over"), below(t, base+"/stage")}; !slices.Equal(n, []int{5, 1, 1, 1}) {
			t.Fatalf("mounts: %v", n)
		}
	}
	if err := os.WriteFile(sub+"/a/b/x", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("the remount did nothing: %v", err)
	}
	if err := os.WriteFile(base+"/bound/x", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("ro of the bind did nothing: %v", err)
	}
	if err := os.WriteFile(base+"/over/new", nil, 0o600); err != nil {
		t.Error(err)
	}
	for _, path := range []string{"/upper/new", "/made/here", "/c/file"} {
		if _, err := os.Stat(sub + path); err != nil {
			t.Error(err)
		}
	}
	if content(t, sub+"/c/file") != "app" || content(t, base+"/over/is") != "secret" || !sameNamespace("/proc/"+itoa(pid)+"/ns/net", sub+"/ns/net") || !isNamespace(sub+"/ns/mnt") {
		t.Error("what is mounted is not what runtime.json says")
	}
	for range 2 {
		if err := Cleanup(testContext(t), b, paths(), nil); err != nil {
			t.Fatal(err)
		}
		if n := below(t, sub) + below(t, base+"/bound") + below(t, base+"/over"); n != 0 {
			t.Fatalf("%d mounts left", n)
		}
	}
	if left, _ := os.ReadDir(sub + "/ns"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestRuntimeThroughALink: each field refuses the link, names it, and does nothing behind it.
func TestRuntimeThroughALink(t *testing.T) {
	base, paths := world(t)
	all := everything(base)
	swap(t, base, "app/sub", base+"/secret")
	refused := `app/sub: symbolic link (to ` + base + `/secret) in a directory that service "app" can write`
	for i, field := range []string{"mounts[0]: destination: ", "mounts[0]: source: ", "mounts[0]: destination: ", "mounts[0]: lowerdir: ", "mounts[0]: destination: "} {
		b := *all
		b.Runtime = bundle.Runtime{Mounts: all.Runtime.Mounts[i : i+1]}
		if field == "mounts[0]: lowerdir: " { // one of its directories after the other
			for k, option := range []string{"lowerdir", "upperdir", "workdir"} {
				m := all.Runtime.Mounts[i]
				m.Options = []string{m.Options[k]}
				b.Runtime.Mounts = []specs.Mount{m}
				if err := Before(testContext(t), &b, paths(), nil); err == nil || !strings.Contains(err.Error(), option+": "+base+"/"+refused) {
					t.Errorf("%s: %v", option, err)
				}
			}
			b.Runtime.Mounts = all.Runtime.Mounts[i : i+1]
		}
		if err := Before(testContext(t), &b, paths(), nil); err == nil || !strings.Contains(err.Error(), "web: "+b.Dir+"/runtime.json: "+field+base+"/"+refused) {
			t.Errorf("%s: %v", field, err)
		}
	}
	b := *all
	b.Runtime = bundle.Runtime{Mkdir: all.Runtime.Mkdir}
	if err := Before(testContext(t), &b, paths(), nil); err == nil || !strings.Contains(err.Error(), "mkdir[0]: "+base+"/"+refused) {
		t.Errorf("mkdir: %v", err)
	}
	b.Runtime = bundle.Runtime{BindNS: all.Runtime.BindNS}
	pid, _ := nstest.Process(t, unix.CLONE_NEWNET)
	if err := Attach(testContext(t), &b, paths(), pid); err == nil || !strings.Contains(err.Error(), "bindNS.net: ") || !strings.Contains(err.Error(), refused) {
		t.Errorf("bindNS: %v", err)
	}
	if left, _ := os.ReadDir(base + "/secret"); len(left) != 2 || below(t, base+"/secret")+below(t, base+"/bound")+below(t, base+"/over") != 0 {
		t.Errorf("something was done behind the link: %v", left)
	}
	// What was mounted before the link came stays, and is reported; what is behind it stays too.
	if err := unix.Mount("inner", base+"/secret/deep", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	b.Runtime = bundle.Runtime{Mounts: []specs.Mount{{Source: "inner", Destination: base + "/app/sub/deep", Type: "tmpfs"}}}
	if err := Cleanup(testContext(t), &b, paths(), nil); err == nil || !strings.Contains(err.Error(), "mounts[0]: it stays mounted: ") || below(t, base+"/secret/deep") != 1 {
		t.Errorf("%v, %d mounts behind the link", err, below(t, base+"/secret/deep"))
	}
}

// TestSwapWhileUsed has sub change between a directory and a link as fast as it can, while
// it is used in each way: what is used is the directory or nothing.
func TestSwapWhileUsed(t *testing.T) {
	base, paths := world(t)
	app, err := unix.Open(base+"/app", unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(app)
	if err := os.Symlink(base+"/secret", base+"/app/link"); err != nil {
		t.Fatal(err)
	}
	// One like the service's, which is somebody else's.
	if err := unix.Mount("x", base+"/secret/deep", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(testContext(t))
	swapping := make(chan error, 1)
	go func() {
		var err error
		for ctx.Err() == nil && err == nil {
			err = unix.Renameat2(app, "sub", app, "link", unix.RENAME_EXCHANGE)
		}
		swapping <- err
	}()
	pid, _ := nstest.Process(t, unix.CLONE_NEWNET)
	used, refusals := 0, 0
	for i := 0; i < 2000 && (used < 100 || refusals < 20) || i < 500; i++ {
		if s, release, err := Pin(binder("web", base+"/app/sub"), paths()); err == nil {
			if got := content(t, s.Mounts[0].Source+"/is"); got != "app" {
				t.Fatalf("the pin shows what is %s", got)
			}
			if err := release(); err != nil {
				t.Fatal(err)
			}
			used++
		} else {
			refusals++
		}
		b := &bundle.Bundle{Dir: base + "/none", Name: "web", ID: "web", Section: bundle.Services, Runtime: bundle.Runtime{
			Mounts: []specs.Mount{{Source: base + "/app/sub", Destination: base + "/bound", Type: "bind"}, {Source: "x", Destination: base + "/app/sub/deep", Type: "tmpfs"}},
			BindNS: bundle.BindNS{Net: base + "/app/sub/net"},
		}}
		for k := range 3 {
			made := bundle.Runtime{Mkdir: []string{fmt.Sprintf("%s/app/sub/made%d.%d", base, i, k)}}
			_ = Before(ctx, &bundle.Bundle{Dir: b.Dir, Name: "web", ID: "web", Section: bundle.Services, Runtime: made}, paths(), nil)
		}
		if Before(ctx, b, paths(), nil) == nil {
			_ = Attach(ctx, b, paths(), pid)
		}
		if _, err := os.Lstat(base + "/bound/is"); err == nil && content(t, base+"/bound/is") != "app" {
			t.Fatal("the bind shows the secret")
		}
		_ = Cleanup(ctx, b, paths(), nil)
		_ = unix.Unmount(base+"/bound", unix.MNT_DETACH)
	}
	stop()
	if err := <-swapping; err != nil {
		t.Fatal(err)
	}
	if used == 0 || refusals == 0 {
		t.Fatalf("used %d times, refused %d times", used, refusals)
	}
	if left, _ := os.ReadDir(base + "/secret"); len(left) != 2 || below(t, base+"/secret") != 1 {
		t.Errorf("something was done behind the link: %v, %d mounts, want 1", left, below(t, base+"/secret"))
	}
}

// BenchmarkPin is what a start costs on a machine where twenty services write a directory
// each: with nothing to look at, with three binds of what nobody can change, and with one
// that is pinned.
func BenchmarkPin(b *testing.B) {
	base := b.TempDir()
	var all []*bundle.Bundle
	for i := range 20 {
		dir := filepath.Join(base, "data", itoa(i), "sub")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		all = append(all, binder("s"+itoa(i), filepath.Dir(dir)))
	}
	writers := safepath.WritersOf(all)
	pinDir = filepath.Join(base, "pins")
	b.Cleanup(func() {
		_ = unix.Unmount(pinDir, unix.MNT_DETACH)
		pinDir = "/run/keelson/binds"
	})
	three := binder("three", base)
	three.Spec.Mounts = append(three.Spec.Mounts, binder("", "/proc").Spec.Mounts[0], binder("", "/etc/hostname").Spec.Mounts[0])
	none := binder("none", "")
	for name, c := range map[string]*bundle.Bundle{"nothing": none, "three": three, "pinned": binder("one", filepath.Join(base, "data/7/sub"))} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_, release, err := Pin(c, safepath.NewResolver(func() *safepath.Writers { return writers }, false))
				if err != nil {
					b.Skip(err) // no namespace to mount in
				}
				if err := release(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
