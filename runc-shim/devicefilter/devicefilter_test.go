package devicefilter

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"golang.org/x/sys/unix"
)

// group makes a cgroup of version 2 that goes with the test.
func group(t *testing.T, name string) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			dir, err := os.MkdirTemp(f[1], "keelson-devicefilter-"+name)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Rmdir(dir) })
			return dir
		}
	}
	t.Skip("no cgroup v2 is mounted")
	return ""
}

func rules(minors ...int64) *cgroups.Resources {
	r := &cgroups.Resources{}
	for _, m := range minors {
		r.Devices = append(r.Devices, &devices.Rule{Type: devices.CharDevice, Major: 1, Minor: m, Permissions: "rwm", Allow: true})
	}
	return r
}

// programs returns those of a cgroup.
func programs(t *testing.T, path string) []uint32 {
	t.Helper()
	dir, err := unix.Open(path, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	ids, err := attached(dir)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestOneProgramForTheSameRules(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("programs are root's to attach")
	}
	loaded := 0
	c := &cache{programs: map[string]int{}, set: func(path string, r *cgroups.Resources) error {
		loaded++
		return cgroups.DevicesSetV2(path, r)
	}}
	defer func() {
		for _, fd := range c.programs {
			unix.Close(fd)
		}
	}()
	apply := func(path string, r *cgroups.Resources) {
		t.Helper()
		if err := c.apply(path, r); err != nil {
			t.Fatal(err)
		}
		if n := len(programs(t, path)); n != 1 {
			t.Fatalf("%s has %d programs, want 1", filepath.Base(path), n)
		}
	}
	a, b, other := group(t, "a"), group(t, "b"), group(t, "other")
	apply(a, rules(3, 5))
	apply(b, rules(3, 5))
	apply(other, rules(3, 8))
	if !slices.Equal(programs(t, a), programs(t, b)) || loaded != 2 {
		t.Errorf("the same rules: programs %d and %d, %d loaded", programs(t, a), programs(t, b), loaded)
	}
	if slices.Equal(programs(t, a), programs(t, other)) {
		t.Error("other rules have the same program")
	}
	before := programs(t, b)
	apply(a, rules(3))
	if slices.Equal(programs(t, a), before) || !slices.Equal(programs(t, b), before) {
		t.Errorf("a changed: %d, b %d, both were %d", programs(t, a), programs(t, b), before)
	}
}

func TestProgramsThatAreKept(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("programs are root's to attach")
	}
	c := &cache{programs: map[string]int{}, set: cgroups.DevicesSetV2}
	for i := range int64(most + 3) {
		if err := c.apply(group(t, "kept"), rules(i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.programs) != most {
		t.Errorf("%d programs are kept, want %d", len(c.programs), most)
	}
	for _, fd := range c.programs {
		unix.Close(fd)
	}
}

func TestKey(t *testing.T) {
	allow, deny := rules(3), rules(3)
	deny.Devices[0].Allow = false
	if key(allow) == key(deny) || key(allow) == key(rules(4)) || key(allow) == key(rules(3, 4)) || key(allow) != key(rules(3)) {
		t.Error("rules are not told apart")
	}
}
