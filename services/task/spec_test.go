package task

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"keelson/internal/bundle"
	"keelson/internal/policy"
)

func TestCgroupOptionsOfTheMachineAreKept(t *testing.T) {
	const info = `22 1 0:20 / /proc rw,nosuid shared:2 - proc proc rw
30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
31 24 0:27 / /tmp rw shared:10 - tmpfs tmpfs rw,size=10k`
	options := cgroupOptions(strings.NewReader(info))
	if want := []string{"nsdelegate", "memory_recursiveprot"}; !slices.Equal(options, want) {
		t.Fatalf("got %q, want %q", options, want)
	}
	if got := cgroupOptions(strings.NewReader("31 24 0:27 / /tmp rw shared:10 - tmpfs tmpfs rw")); got != nil {
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

// TestSpecOfAUserNamespace: a stock shim is told whose the pipes are, and the kernel is not asked for mounts it refuses.
func TestSpecOfAUserNamespace(t *testing.T) {
	entries := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 10}}
	b := &bundle.Bundle{Section: bundle.Services, Name: "web", ID: "web", Dir: "/containers/services/web", Spec: &specs.Spec{
		Root: &specs.Root{Path: "rootfs", Readonly: true}, Process: &specs.Process{Args: []string{"web"}},
		Mounts: []specs.Mount{{Destination: "/sys", Type: "sysfs", Source: "sysfs"}},
		Linux:  &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.UserNamespace}}, UIDMappings: entries, GIDMappings: entries},
	}}
	b.Runtime.Mounts = []specs.Mount{{Source: "/containers/services/first/rootfs", Destination: "/containers/services/web/rootfs", Options: []string{"bind"}}}
	for _, mapped := range []bool{true, false} {
		wantRoot, wantSys, wantUser := "/run/userns/roots/web", "bind", uint32(200000)
		if !mapped {
			wantRoot, wantSys, wantUser = "/containers/services/web/rootfs", "sysfs", 0
			b.Spec.Linux.Namespaces = nil
		}
		encoded, err := spec(b, false, "", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		var s specs.Spec
		if err := json.Unmarshal(encoded.Value, &s); err != nil {
			t.Fatal(err)
		}
		if s.Root.Path != wantRoot || s.Mounts[0].Type != wantSys {
			t.Errorf("mapped %v: root %s, /sys %s", mapped, s.Root.Path, s.Mounts[0].Type)
		}
		opts, err := runtimeOptions(b, "/keelson/shim")
		if err != nil {
			t.Fatal(err)
		}
		var said options.Options
		if err := proto.Unmarshal(opts.Value, &said); err != nil {
			t.Fatal(err)
		}
		if said.IoUid != wantUser || said.IoGid != wantUser || said.ShimCgroup != "/keelson/shim" {
			t.Errorf("mapped %v: the shim is told %v", mapped, &said)
		}
	}
}

func TestOnlyWhoSaysHowItIsGetsASocket(t *testing.T) {
	b := &bundle.Bundle{Section: bundle.Services, Name: "web", Dir: "/containers/services/web", Spec: &specs.Spec{
		Root: &specs.Root{Path: "rootfs"}, Linux: &specs.Linux{},
		Process: &specs.Process{Args: []string{"web"}, Env: []string{"PATH=/bin", "NOTIFY_SOCKET=/old", "WATCHDOG_PID=7"}},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc"}},
	}}
	for annotations, want := range map[[2]string][]string{
		{"keelson.ready", "notify"}:  {"PATH=/bin", "NOTIFY_SOCKET=/run/keelson-notify/notify"},
		{"keelson.health", "notify"}: {"PATH=/bin", "NOTIFY_SOCKET=/run/keelson-notify/notify", "WATCHDOG_USEC=10000000"},
		{"keelson.ready", "tcp:80"}:  {"PATH=/bin", "NOTIFY_SOCKET=/old", "WATCHDOG_PID=7"},
	} {
		b.Service, _ = policy.ParseService(map[string]string{annotations[0]: annotations[1]})
		s := *b.Spec
		mounts := 1
		if Notifies(b.Service) {
			withNotify(&s, b.Service, "/run/keelson/notify/web")
			mounts = 2
		}
		if !slices.Equal(s.Process.Env, want) || len(s.Mounts) != mounts {
			t.Errorf("%v: %q, %+v", annotations, s.Process.Env, s.Mounts)
		}
		if mounts == 2 && (s.Mounts[1].Destination != "/run/keelson-notify" || s.Mounts[1].Source != "/run/keelson/notify/web" || !slices.Contains(s.Mounts[1].Options, "ro")) {
			t.Errorf("%v: %+v", annotations, s.Mounts[1])
		}
	}
	if len(b.Spec.Process.Env) != 3 || len(b.Spec.Mounts) != 1 {
		t.Errorf("the bundle's own configuration was changed: %+v", b.Spec)
	}
	// A fresh /dev needs no folder made in the image.
	b.Service, _ = policy.ParseService(map[string]string{"keelson.ready": "notify"})
	s := *b.Spec
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/run", Type: "tmpfs"}, specs.Mount{Destination: "/dev", Type: "tmpfs"})
	withNotify(&s, b.Service, "/run/keelson/notify/web")
	if last := s.Mounts[len(s.Mounts)-1]; last.Destination != "/dev/keelson-notify" {
		t.Errorf("%+v", last)
	}
}
