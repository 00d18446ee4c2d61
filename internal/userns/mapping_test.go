package userns

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// entry is a mapping's entry: inside, outside, how many.
func entry(containerID, hostID, size uint32) specs.LinuxIDMapping {
	return specs.LinuxIDMapping{ContainerID: containerID, HostID: hostID, Size: size}
}

// container returns a configuration with a user namespace of its own.
func container(entries ...specs.LinuxIDMapping) *specs.Spec {
	return &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{
		Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.UserNamespace}, {Type: specs.MountNamespace}},
		UIDMappings: entries, GIDMappings: entries,
	}}
}

func TestOwner(t *testing.T) {
	m := Of(container(entry(0, 100000, 1000), entry(5000, 7, 1), entry(60000, 4294967290, 5)))
	for inside, want := range map[uint32]int{
		0: 100000, 999: 100999, 1000: nobody, 4999: nobody, 5000: 7, 5001: nobody, 60004: 4294967294, 60005: nobody,
	} {
		if uid, gid := m.Owner(inside, inside); uid != want || gid != want {
			t.Errorf("%d is %d and %d outside, want %d", inside, uid, gid, want)
		}
	}
}

func TestWhoHasAMapping(t *testing.T) {
	joined := container(entry(0, 1, 1))
	joined.Linux.Namespaces[1].Path = "/run/ns/user"
	for what, s := range map[string]*specs.Spec{
		"nothing": nil, "no linux": {}, "no namespace": {Linux: &specs.Linux{UIDMappings: []specs.LinuxIDMapping{entry(0, 1, 1)}}}, "another's namespace": joined,
	} {
		if Of(s) != nil {
			t.Errorf("%s: has a mapping", what)
		}
	}
	if Of(container(entry(0, 1, 1))) == nil {
		t.Error("a namespace of its own has none")
	}
}

func TestCheck(t *testing.T) {
	many := make([]specs.LinuxIDMapping, maxEntries+1)
	for i := range many {
		many[i] = entry(uint32(i), uint32(i), 1)
	}
	for _, test := range []struct {
		what   string
		change func(*specs.Spec)
		want   []string
	}{
		{"right", func(s *specs.Spec) {}, nil},
		{"all there is", func(s *specs.Spec) {
			s.Linux.UIDMappings = []specs.LinuxIDMapping{entry(0, 0, 4294967295)}
		}, nil},
		{"as many as there may be", func(s *specs.Spec) { s.Linux.UIDMappings = many[:maxEntries] }, nil},
		{"no mappings", func(s *specs.Spec) { s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil }, []string{
			"userns: a new user namespace needs uidMappings: who its users are outside, as in [{containerID: 0, hostID: 100000, size: 65536}]",
			"userns: a new user namespace needs gidMappings: who its groups are outside, as in [{containerID: 0, hostID: 100000, size: 65536}]",
		}},
		{"no namespace", func(s *specs.Spec) { s.Linux.Namespaces = nil }, []string{
			"uidMappings: is for a user namespace that the container makes: give userns: new, or leave it out",
			"gidMappings: is for a user namespace that the container makes: give userns: new, or leave it out",
		}},
		{"no root", func(s *specs.Spec) { s.Linux.GIDMappings = []specs.LinuxIDMapping{entry(1, 1, 10)} }, []string{
			"gidMappings: has nobody for the container's group 0, which sets it up: let an entry begin with containerID: 0",
		}},
		{"nobody", func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{entry(0, 1, 1), entry(7, 7, 0)} }, []string{
			"uidMappings[1]: maps nobody: give a size: of 1 or more",
		}},
		{"beyond the end", func(s *specs.Spec) {
			s.Linux.UIDMappings = []specs.LinuxIDMapping{entry(0, 4294967000, 1000), entry(4294967295, 1, 1)}
		}, []string{
			"uidMappings[0]: goes beyond 4294967294, the last number there is",
			"uidMappings[1]: goes beyond 4294967294, the last number there is",
		}},
		{"overlap inside", func(s *specs.Spec) {
			s.Linux.UIDMappings = []specs.LinuxIDMapping{entry(0, 1000, 10), entry(9, 2000, 1)}
		}, []string{
			"uidMappings[1]: its containerIDs 9 are partly those of entry 0, 0 to 9: let each number be in one entry",
		}},
		{"overlap outside", func(s *specs.Spec) {
			s.Linux.UIDMappings = []specs.LinuxIDMapping{entry(100, 1009, 10), entry(0, 1000, 10)}
		}, []string{
			"uidMappings[1]: its hostIDs 1000 to 1009 are partly those of entry 0, 1009 to 1018: let each number be in one entry",
		}},
		{"too many", func(s *specs.Spec) { s.Linux.UIDMappings = many }, []string{
			"uidMappings: has 341 entries, the kernel takes 340 at most: join those that follow one another",
		}},
		{"strangers", func(s *specs.Spec) {
			s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 1002}}
		}, []string{
			"uid: 1000 is not among the container's users: there are 0 to 999",
			"gid: 1001 is not among the container's groups: there are 0 to 999",
			"additionalGids[1]: 1002 is not among the container's groups: there are 0 to 999",
		}},
	} {
		s := container(entry(0, 100000, 1000))
		test.change(s)
		var got []string
		for _, p := range Check(s) {
			got = append(got, p.Key+": "+p.Text)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s:\n%s\nwant\n%s", test.what, strings.Join(got, "\n"), strings.Join(test.want, "\n"))
		}
	}
}

func TestMountsThatANamespaceMayNotMake(t *testing.T) {
	all := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "nodev", "noexec", "relatime"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/queues", Type: "mqueue", Source: "mqueue", Options: []string{"ro", "noexec"}},
		{Destination: "/data", Type: "bind", Source: "/data", Options: []string{"rw", "rbind", "rshared"}},
	}
	shown := func(kinds ...specs.LinuxNamespaceType) string {
		s := container(entry(0, 1, 1))
		s.Mounts = all
		s.Linux.Namespaces = nil
		for _, k := range kinds {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: k})
		}
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UTSNamespace, Path: "/run/uts"})
		var text []string
		for _, m := range Mounts(s) {
			text = append(text, fmt.Sprintf("%s %s %s %s", m.Destination, m.Type, m.Source, strings.Join(m.Options, ",")))
		}
		return strings.Join(text, "\n")
	}
	const own = `/proc proc proc nosuid,nodev,noexec,relatime
/dev tmpfs tmpfs 
/sys sysfs sysfs nosuid,noexec,nodev
/queues mqueue mqueue ro,noexec
/data bind /data `
	const shared = `/proc bind /proc rbind,rprivate,nosuid,nodev,noexec,relatime
/dev tmpfs tmpfs 
/sys bind /sys rbind,rprivate,nosuid,noexec,nodev,rro
/queues bind /dev/mqueue rbind,rprivate,ro,noexec
/data bind /data `
	if got := shown(specs.UserNamespace, specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace); got != own+"rbind,rshared" {
		t.Errorf("with all namespaces of its own:\n%s", got)
	}
	if got := shown(specs.UserNamespace); got != shared+"rbind,rshared" {
		t.Errorf("with none but users of its own:\n%s", got)
	}
	if got := shown(); got != own+"rw,rbind,rshared" {
		t.Errorf("without a user namespace:\n%s", got)
	}
	if all[2].Type != "sysfs" {
		t.Error("the bundle's own mounts were changed")
	}
}
