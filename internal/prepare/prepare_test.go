package prepare

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
	"keelson/internal/mounts"
	"keelson/internal/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// readWrite lays out a container as the image builder does for one with a
// writable root file system.
func readWrite(t *testing.T, base, name string) *bundle.Bundle {
	t.Helper()
	dir := filepath.Join(base, "containers/services", name)
	for _, d := range []string{"lower/etc", "tmp", "rootfs"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc", filepath.Join(dir, "lower/settings")); err != nil {
		t.Fatal(err)
	}
	return &bundle.Bundle{
		Dir: dir, Name: name, ID: name, Section: bundle.Services,
		Runtime: bundle.Runtime{Mounts: []specs.Mount{
			{Destination: dir + "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}},
			{Destination: dir + "/tmp", Options: []string{"remount", "private"}},
			{Destination: dir + "/rootfs", Type: "overlay", Source: "overlay",
				Options: []string{"lowerdir=" + dir + "/lower", "upperdir=" + dir + "/tmp/upper", "workdir=" + dir + "/tmp/work"}},
		}},
	}
}

func below(t *testing.T, dir string) int {
	t.Helper()
	points, err := mounts.Below(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(points)
}

func TestBeforeTwiceAndCleanupTwice(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	outside := filepath.Join(base, "var/data")
	b := readWrite(t, base, "web")
	b.Runtime.Mounts = append(b.Runtime.Mounts,
		specs.Mount{Destination: outside, Type: "tmpfs", Source: "data"},
		specs.Mount{Destination: "settings/inner", Type: "tmpfs", Source: "inner"},
	)
	b.Runtime.Mkdir = []string{outside + "/deep/er", "settings/made", "../../../escaped"}
	for range 2 {
		if err := Before(testContext(t), b, nil, nil); err != nil {
			t.Fatal(err)
		}
		if n := below(t, b.Dir); n != 3 {
			t.Fatalf("%d mounts below %s, want tmp, rootfs, inner", n, b.Dir)
		}
		if n := below(t, outside); n != 1 {
			t.Fatalf("%d mounts on %s", n, outside)
		}
	}
	for _, made := range []string{outside + "/deep/er", b.Dir + "/rootfs/etc/made", b.Dir + "/rootfs/etc/inner", b.Dir + "/rootfs/escaped", b.Dir + "/tmp/upper"} {
		if info, err := os.Stat(made); err != nil || !info.IsDir() {
			t.Errorf("%s was not made: %v", made, err)
		}
	}
	for range 2 {
		if err := Cleanup(testContext(t), b, nil, nil); err != nil {
			t.Fatal(err)
		}
		if below(t, b.Dir) != 0 || below(t, outside) != 0 {
			t.Fatalf("left mounted: %d in the folder, %d outside", below(t, b.Dir), below(t, outside))
		}
	}
	if _, err := os.Stat(b.Dir + "/lower/etc"); err != nil {
		t.Errorf("the image was touched: %v", err)
	}
}

func TestOneShotsMountsOutsideStay(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	outside := filepath.Join(base, "var")
	b := readWrite(t, base, "format")
	b.Section = bundle.Onboot
	b.Runtime.Mounts = append(b.Runtime.Mounts, specs.Mount{Destination: outside, Type: "tmpfs", Source: "var"})
	if err := Before(testContext(t), b, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := Cleanup(testContext(t), b, nil, nil); err != nil {
		t.Fatal(err)
	}
	if below(t, b.Dir) != 0 || below(t, outside) != 1 {
		t.Errorf("%d mounts left in the folder, %d outside; want 0 and 1", below(t, b.Dir), below(t, outside))
	}
}

func TestSharedImageSurvivesTheOthersCleanup(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	first, second := filepath.Join(base, "a"), filepath.Join(base, "b")
	for _, d := range []string{first + "/rootfs/bin", second + "/rootfs"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bind := func(dir string) *bundle.Bundle {
		return &bundle.Bundle{Dir: dir, Name: filepath.Base(dir), Section: bundle.Services, Runtime: bundle.Runtime{Mounts: []specs.Mount{
			{Source: first + "/rootfs", Destination: dir + "/rootfs", Type: "bind", Options: []string{"bind"}},
		}}}
	}
	a, b := bind(first), bind(second)
	for _, c := range []*bundle.Bundle{a, b} {
		if err := Before(testContext(t), c, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := Cleanup(testContext(t), a, nil, nil); err != nil {
		t.Fatal(err)
	}
	if below(t, a.Dir) != 0 || below(t, b.Dir) != 1 {
		t.Errorf("a has %d mounts, b %d; want 0 and 1", below(t, a.Dir), below(t, b.Dir))
	}
	if _, err := os.Stat(second + "/rootfs/bin"); err != nil {
		t.Errorf("the second container lost its root: %v", err)
	}
}

func TestBindOfAFileMakesAFile(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	src := filepath.Join(base, "src")
	if err := os.WriteFile(src, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	b := &bundle.Bundle{Dir: base, Name: "x", Section: bundle.Services, Runtime: bundle.Runtime{Mounts: []specs.Mount{
		{Source: src, Destination: base + "/new/dst", Type: "bind"},
	}}}
	if err := Before(testContext(t), b, nil, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(base + "/new/dst"); err != nil || string(got) != "x" {
		t.Errorf("%q %v", got, err)
	}
}

func TestErrorsNameContainerFileAndField(t *testing.T) {
	nstest.Need(t)
	full := nstest.Tmpfs(t, "nr_inodes=2")
	for _, c := range []struct {
		runtime bundle.Runtime
		want    string
	}{
		{bundle.Runtime{Mounts: []specs.Mount{{Destination: "/proc", Options: []string{"private"}}, {Destination: "/x"}}},
			"web: /c/web/runtime.json: mounts[1]: type is empty"},
		{bundle.Runtime{Mounts: []specs.Mount{{Type: "tmpfs"}}}, "mounts[0]: destination is empty"},
		{bundle.Runtime{Mkdir: []string{full, ""}}, "mkdir[1]: the path is empty"},
		{bundle.Runtime{Mkdir: []string{full + "/a/b/c"}}, "has no inodes left"},
		{bundle.Runtime{Cgroups: []string{"../up"}}, "cgroups[0]: \"../up\" leads out of"},
		{bundle.Runtime{Cgroups: []string{""}}, "cgroups[0]: \"\" is no cgroup"},
	} {
		b := &bundle.Bundle{Dir: "/c/web", Name: "web", Section: bundle.Services, Runtime: c.runtime}
		if err := Before(testContext(t), b, nil, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("\n got  %v\n want ...%s", err, c.want)
		}
	}
}

func TestBindNS(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	pid, end := nstest.Process(t, syscall.CLONE_NEWNS|syscall.CLONE_NEWNET|syscall.CLONE_NEWUTS|syscall.CLONE_NEWIPC|syscall.CLONE_NEWPID|syscall.CLONE_NEWUSER|unix.CLONE_NEWCGROUP)
	f := func(n string) string { return filepath.Join(base, "ns", n) }
	b := &bundle.Bundle{Dir: base + "/none", Name: "net", Section: bundle.Services, Runtime: bundle.Runtime{BindNS: bundle.BindNS{
		Cgroup: f("cgroup"), IPC: f("ipc"), Mnt: f("mnt"), Net: f("net"), PID: f("pid"), User: f("user"), UTS: f("uts"),
	}}}
	for range 2 {
		if err := Attach(testContext(t), b, nil, pid); err != nil {
			t.Fatal(err)
		}
		if n := below(t, base+"/ns"); n != 8 { // one each, and the private one of mnt
			t.Fatalf("%d mounts, want 8", n)
		}
	}
	links := map[string]string{}
	for _, n := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		if !sameNamespace("/proc/"+itoa(pid)+"/ns/"+n, f(n)) {
			t.Errorf("%s is not the namespace of the process", f(n))
		}
		links[n], _ = os.Readlink("/proc/" + itoa(pid) + "/ns/" + n)
	}
	end() // the namespaces outlive it
	if fd, err := os.Open(f("net")); err != nil {
		t.Error(err)
	} else if err := unix.Setns(int(fd.Fd()), unix.CLONE_NEWUTS); !errors.Is(err, unix.EINVAL) {
		t.Errorf("setns to a net namespace as uts: %v, want EINVAL", err)
	}
	// the next run of the service takes the files over
	pid, _ = nstest.Process(t, syscall.CLONE_NEWNS|syscall.CLONE_NEWNET|syscall.CLONE_NEWUTS|syscall.CLONE_NEWIPC|syscall.CLONE_NEWPID|syscall.CLONE_NEWUSER|unix.CLONE_NEWCGROUP)
	if err := Attach(testContext(t), b, nil, pid); err != nil {
		t.Fatal(err)
	}
	if n := below(t, base+"/ns"); n != 8 {
		t.Errorf("%d mounts after the second run, want 8", n)
	}
	for _, n := range []string{"net", "mnt"} {
		if !sameNamespace("/proc/"+itoa(pid)+"/ns/"+n, f(n)) {
			t.Errorf("%s still holds the namespace of the first run (%s)", f(n), links[n])
		}
	}
	// a one-shot's stay
	b.Section = bundle.Onboot
	if err := Cleanup(testContext(t), b, nil, nil); err != nil || below(t, base+"/ns") != 8 {
		t.Errorf("one-shot: %v, %d mounts left, want 8", err, below(t, base+"/ns"))
	}
	b.Section = bundle.Services
	for range 2 {
		if err := Cleanup(testContext(t), b, nil, nil); err != nil || below(t, base+"/ns") != 0 {
			t.Errorf("service: %v, %d mounts left, want none", err, below(t, base+"/ns"))
		}
	}
	if left, _ := os.ReadDir(base + "/ns"); len(left) != 0 {
		t.Errorf("files left: %v", left)
	}
}

func TestBindNSErrors(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	pid, _ := nstest.Process(t, syscall.CLONE_NEWNET)
	for _, c := range []struct {
		ns   bundle.BindNS
		pid  int
		want string
	}{
		{bundle.BindNS{Net: "netns/web"}, pid, `web: /c/web/runtime.json: bindNS.net: "netns/web" is not absolute`},
		{bundle.BindNS{Net: base}, pid, base + " is a folder: name a file"},
		{bundle.BindNS{Net: base + "/n"}, 1 << 22, "the container has ended"},
		{bundle.BindNS{Mnt: base + "/m"}, pid, "the container shares the machine's mount namespace"},
	} {
		b := &bundle.Bundle{Dir: "/c/web", Name: "web", Section: bundle.Services, Runtime: bundle.Runtime{BindNS: c.ns}}
		if err := Attach(testContext(t), b, nil, c.pid); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("\n got  %v\n want ...%s", err, c.want)
		}
	}
}

func TestWithSize(t *testing.T) {
	half := memory() / 2 / 4096 * 4096
	limited := func(n int64) *specs.Spec {
		return &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &n}}}}
	}
	for _, c := range []struct {
		given string
		spec  *specs.Spec
		want  string
	}{
		{"", nil, fmt.Sprintf("size=%d,nr_inodes=%d", half, half/4096)},
		{"mode=755", limited(-1), fmt.Sprintf("mode=755,size=%d,nr_inodes=%d", half, half/4096)},
		{"", limited(64<<20 + 1), "size=67108864,nr_inodes=16384"},
		{"", limited(1 << 20), "size=1048576,nr_inodes=1024"},
		{"", limited(1 << 62), fmt.Sprintf("size=%d,nr_inodes=%d", half, half/4096)},
		{"nr_inodes=7", limited(1 << 20), "nr_inodes=7,size=1048576"},
		{"nosuid,size=10%", limited(1 << 20), "nosuid,size=10%"},
		{"nr_blocks=5", nil, "nr_blocks=5"},
	} {
		var given []string
		if c.given != "" {
			given = []string{c.given}
		}
		if got := strings.Join(withSize(given, c.spec), ","); got != c.want {
			t.Errorf("%q: %q, want %q", c.given, got, c.want)
		}
	}
}

// TestRootHasASize: the one that runtime.json does not say, on the mount itself.
func TestRootHasASize(t *testing.T) {
	nstest.Need(t)
	b := readWrite(t, nstest.Tmpfs(t, "size=10m"), "web")
	b.Runtime.Mounts[0].Options = nil
	limit := int64(2 << 20)
	b.Spec = &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}}}
	if err := Before(testContext(t), b, nil, nil); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(b.Dir+"/tmp", &st); err != nil || int64(st.Blocks)*st.Bsize != limit || st.Files != 1024 {
		t.Errorf("%d bytes, %d files, %v", int64(st.Blocks)*st.Bsize, st.Files, err)
	}
}
