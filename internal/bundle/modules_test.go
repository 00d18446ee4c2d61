package bundle

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestModulesThatAConfigurationAsksFor(t *testing.T) {
	for name, tc := range map[string]struct {
		bundle Bundle
		want   []string
	}{
		"nothing":       {Bundle{Spec: &specs.Spec{Process: &specs.Process{Args: []string{"sleep", "1"}}, Mounts: []specs.Mount{{Source: "/dev"}}}}, nil},
		"no spec":       {Bundle{}, nil},
		"a loop device": {Bundle{Spec: &specs.Spec{Process: &specs.Process{Args: []string{"loopy", "-c", "/dev/loop0", "/var/image"}}}}, []string{"loop"}},
		"in a script":   {Bundle{Spec: &specs.Spec{Process: &specs.Process{Args: []string{"sh", "-c", "mount /dev/mapper/data /mnt"}}}}, []string{"dm-mod"}},
		"a bind":        {Bundle{Spec: &specs.Spec{Mounts: []specs.Mount{{Source: "/proc/sys/fs/binfmt_misc"}}}}, []string{"binfmt_misc"}},
		"runtime.json":  {Bundle{Runtime: Runtime{Mounts: []specs.Mount{{Source: "/dev/mapper/x"}, {Source: "/dev/mapper/y"}}}}, []string{"dm-mod"}},
		"a device":      {Bundle{Spec: &specs.Spec{Linux: &specs.Linux{Devices: []specs.LinuxDevice{{Path: "/dev/loop1"}}}}}, []string{"loop"}},
	} {
		if got := tc.bundle.Modules(); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// A one-shot has any name; containerd gets one that it accepts.
func TestNamesThatContainerdRefuses(t *testing.T) {
	long := ""
	for len(long) < 66 {
		long += "n"
	}
	ids := map[string]string{}
	for _, name := range []string{"000-a--b", "000-a_-b", "000-a.-b", "000-_x", "001-_x", "000-" + long, "000-" + long + "n", "000-___", "000-é"} {
		id := mappedID(Onboot, name)
		if !idPattern.MatchString(id) || len(id) > maxID {
			t.Errorf("%s: containerd would refuse %q", name, id)
		}
		if was, taken := ids[id]; taken {
			t.Errorf("%s and %s are both %s", was, name, id)
		}
		ids[id] = name
		if again := mappedID(Onboot, name); again != id {
			t.Errorf("%s is %s and then %s", name, id, again)
		}
		b, _ := Load(Onboot, "/containers/onboot/"+name) // there is no such folder
		if b.ID != id || b.FullName() != "onboot."+name {
			t.Errorf("%s: ID %q, full name %q", name, b.ID, b.FullName())
		}
	}
	if b, _ := Load(Onboot, "/containers/onboot/000-plain"); b.ID != "onboot.000-plain" {
		t.Errorf("a name that containerd accepts became %q", b.ID)
	}
	if b, err := Load(Services, "/containers/services/a--b"); err == nil || b.ID != "a--b" {
		t.Errorf("a service whose ID is its name: %v", err)
	}
}
