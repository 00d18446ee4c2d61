package prepare

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
	"keelson/internal/nstest"
	"keelson/internal/userns"
)

// copiesIn has the mapped images of a test lie below base.
func copiesIn(t *testing.T, base string) {
	was := images
	images = &userns.Images{Dir: filepath.Join(base, "run/userns")}
	t.Cleanup(func() { images = was })
}

// mapUsers gives a container a user namespace whose root is that user outside.
func mapUsers(b *bundle.Bundle, root uint32) {
	entries := []specs.LinuxIDMapping{{ContainerID: 0, HostID: root, Size: 1000}}
	b.Spec = &specs.Spec{Root: &specs.Root{Path: "rootfs"}, Process: &specs.Process{}, Linux: &specs.Linux{
		Namespaces:  []specs.LinuxNamespace{{Type: specs.UserNamespace}},
		UIDMappings: entries, GIDMappings: entries,
	}}
}

// readOnly lays out a container whose image lies in from, which may be its own.
func readOnly(t *testing.T, base, name, from string) *bundle.Bundle {
	t.Helper()
	dir := filepath.Join(base, "containers/services", name)
	if err := os.MkdirAll(dir+"/rootfs", 0o755); err != nil {
		t.Fatal(err)
	}
	return &bundle.Bundle{
		Dir: dir, Name: name, ID: name, Section: bundle.Services,
		Runtime: bundle.Runtime{Mounts: []specs.Mount{
			{Source: filepath.Join(base, "containers/services", from, "rootfs"), Destination: dir + "/rootfs", Options: []string{"bind"}},
		}},
	}
}

// owner returns the user and the group of a file.
func owner(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

func TestRootOfAUserNamespace(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	copiesIn(t, base)
	b := readWrite(t, base, "web")
	mapUsers(b, 200000)
	b.Runtime.Mkdir = []string{"srv/deep", "etc/here"}
	for range 2 { // a supervisor that comes back does it again
		if err := Before(testContext(t), b, nil, nil); err != nil {
			t.Fatal(err)
		}
		if n := below(t, b.Dir); n != 2 {
			t.Fatalf("%d mounts below %s, want tmp and rootfs", n, b.Dir)
		}
	}
	for _, path := range []string{"", "etc", "settings", "srv", "srv/deep", "etc/here"} {
		if got := owner(t, filepath.Join(Root(b), path)); got != "200000:200000" {
			t.Errorf("/%s belongs to %s", path, got)
		}
	}
	if got := owner(t, b.Dir+"/lower/etc"); got != "0:0" {
		t.Errorf("the image's /etc belongs to %s", got)
	}
	if err := os.WriteFile(filepath.Join(Root(b), "etc/new"), nil, 0o644); err != nil {
		t.Errorf("it cannot be written to: %v", err)
	}
	// Ended, and started again: nothing is left of what was written, nothing is mounted twice.
	for range 2 {
		if err := Cleanup(testContext(t), b, nil, nil); err != nil {
			t.Fatal(err)
		}
		if n := below(t, b.Dir); n != 0 {
			t.Errorf("%d mounts left", n)
		}
	}
	if err := Before(testContext(t), b, nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(Root(b), "etc/new")); err == nil || below(t, b.Dir) != 2 || owner(t, Root(b)+"/etc") != "200000:200000" {
		t.Errorf("started again: %v, %d mounts, /etc of %s", err, below(t, b.Dir), owner(t, Root(b)+"/etc"))
	}
}

// TestImageSharedWithAUserNamespace: the image lies where one of its containers has
// its root, and shows each of them, and the machine, other owners.
func TestImageSharedWithAUserNamespace(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	copiesIn(t, base)
	first := readOnly(t, base, "first", "first")
	image := first.Dir + "/rootfs"
	if err := os.Mkdir(image+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	mapUsers(first, 200000)
	plain := readOnly(t, base, "plain", "first")
	other := readOnly(t, base, "other", "first")
	mapUsers(other, 300000)
	writes := readWrite(t, base, "writes")
	mapUsers(writes, 200000)
	writes.Runtime.Mounts[2].Options[0] = "lowerdir=" + image
	all := []*bundle.Bundle{first, plain, other, writes}
	for _, b := range all {
		if err := Before(testContext(t), b, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"200000:200000", "0:0", "300000:300000", "200000:200000"}
	for i, b := range all {
		if got := owner(t, Root(b)+"/etc"); got != want[i] {
			t.Errorf("/etc of %s belongs to %s, want %s", b.Name, got, want[i])
		}
	}
	if got := owner(t, image+"/etc"); got != "0:0" {
		t.Errorf("the image's /etc belongs to %s", got)
	}
	if err := os.Mkdir(Root(first)+"/new", 0o755); err == nil {
		t.Error("a read-only root can be written to")
	}
	for _, b := range all {
		if err := Cleanup(testContext(t), b, nil, nil); err != nil {
			t.Error(err)
		}
		if n := below(t, Root(b)) + below(t, b.Dir); n != 0 {
			t.Errorf("%s: %d mounts left", b.Name, n)
		}
	}
}

func TestUsersThatCannotBe(t *testing.T) {
	b := &bundle.Bundle{Dir: "/containers/services/web", Name: "web"}
	mapUsers(b, 1000)
	b.Spec.Linux.UIDMappings = nil
	err := Before(testContext(t), b, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "web: /containers/services/web/config.json: userns: a new user namespace needs uidMappings") {
		t.Errorf("%v", err)
	}
}
