package prepare

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"keelson/internal/nstest"
)

// files lays out a folder that looks like a cgroup file system.
func files(t *testing.T, root string, content map[string]string) {
	t.Helper()
	for name, text := range content {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCgroupV1InEachHierarchy(t *testing.T) {
	root := t.TempDir()
	files(t, root, map[string]string{"memory/tasks": "", "cpu,cpuacct/tasks": ""})
	if err := os.Symlink("cpu,cpuacct", filepath.Join(root, "cpu")); err != nil {
		t.Fatal(err)
	}
	if err := makeCgroup(root, "pods/one"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"memory/pods/one", "cpu,cpuacct/pods/one"} {
		if _, err := os.Stat(filepath.Join(root, dir)); err != nil {
			t.Error(err)
		}
	}
}

func TestCgroupV2HandsControllersDown(t *testing.T) {
	root := t.TempDir()
	files(t, root, map[string]string{
		"cgroup.controllers": "cpu memory pids\n", "cgroup.subtree_control": "cpu\n",
		"pods/cgroup.controllers": "cpu memory pids\n", "pods/cgroup.subtree_control": "",
	})
	if err := makeCgroup(root, "/pods/one/"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "pods/one")); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{"cgroup.subtree_control": "+memory +pids", "pods/cgroup.subtree_control": "+cpu +memory +pids"} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q %v, want %q", name, got, err, want)
		}
	}
}

func TestCgroupV2OfThisKernel(t *testing.T) {
	nstest.Need(t)
	root := t.TempDir()
	if err := unix.Mount("cgroup2", root, "cgroup2", 0, ""); err != nil {
		t.Skipf("this machine mounts no cgroup2: %v", err)
	}
	defer func() { _ = unix.Unmount(root, unix.MNT_DETACH) }()
	name := "keelson-test-" + itoa(os.Getpid())
	defer func() {
		_ = os.Remove(filepath.Join(root, name, "inner"))
		_ = os.Remove(filepath.Join(root, name))
	}()
	for range 2 {
		if err := makeCgroup(root, name+"/inner"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, name, "inner/cgroup.procs")); err != nil {
		t.Error(err)
	}
	have, _ := os.ReadFile(filepath.Join(root, name, "cgroup.controllers"))
	got, _ := os.ReadFile(filepath.Join(root, name, "inner/cgroup.controllers"))
	if strings.TrimSpace(string(have)) != strings.TrimSpace(string(got)) {
		t.Errorf("controllers %q came to the inner cgroup as %q", have, got)
	}
}

func TestCgroupWithoutFileSystem(t *testing.T) {
	if err := makeCgroup(t.TempDir(), "x"); err == nil || !strings.Contains(err.Error(), "no cgroup file system is mounted") {
		t.Errorf("%v", err)
	}
}
