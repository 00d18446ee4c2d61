package task

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestCgroupOptionsOfTheMachineAreKept(t *testing.T) {
	const info = `22 1 0:20 / /proc rw,nosuid shared:2 - proc proc rw
30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
31 24 0:27 / /tmp rw shared:10 - tmpfs tmpfs rw,size=10k`
	options := cgroupOptions(info)
	if want := []string{"nsdelegate", "memory_recursiveprot"}; !slices.Equal(options, want) {
		t.Fatalf("got %q, want %q", options, want)
	}
	if got := cgroupOptions("31 24 0:27 / /tmp rw shared:10 - tmpfs tmpfs rw"); got != nil {
		t.Errorf("a machine without cgroup2: %q", got)
	}
	mounts := []specs.Mount{
		{Destination: "/dev", Type: "tmpfs", Options: []string{"nosuid"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Options: []string{"ro", "nsdelegate"}},
	}
	got := withCgroupOptions(mounts, options)
	if !slices.Equal(got[0].Options, []string{"nosuid"}) || !slices.Equal(got[1].Options, []string{"ro", "nsdelegate", "memory_recursiveprot"}) {
		t.Errorf("got %v", got)
	}
	if len(mounts[1].Options) != 2 {
		t.Errorf("the bundle's own mounts were changed: %v", mounts)
	}
}
