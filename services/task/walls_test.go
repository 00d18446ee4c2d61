package task

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/bundle"
	"keelson/internal/harden"
	"keelson/internal/policy"
)

func hardened(annotations map[string]string) *bundle.Bundle {
	b := &bundle.Bundle{Section: bundle.Services, Name: "web", ID: "web", Dir: "/containers/services/web", Spec: &specs.Spec{
		Root: &specs.Root{Path: "rootfs"}, Process: &specs.Process{Args: []string{"web"}}, Linux: &specs.Linux{},
		Mounts: []specs.Mount{{Destination: "/sys", Type: "sysfs"}},
	}}
	b.Service, _ = policy.ParseService(annotations)
	b.OneShot, _ = policy.ParseOneShot(false, annotations)
	return b
}

func TestMachineWalls(t *testing.T) {
	for _, tc := range []struct {
		cmdline string
		off     bool
		wrong   string
	}{
		{"quiet", false, ""},
		{"keelson.harden=linuxkit quiet", true, ""},
		{"keelson.harden=strict", false, "kernel command line: keelson.harden=strict is not keelson.harden=linuxkit"},
		{"keelson.harden", false, "kernel command line: keelson.harden is not keelson.harden=linuxkit"},
	} {
		w, err := MachineWalls(tc.cmdline)
		if w.Off != tc.off || (err == nil) != (tc.wrong == "") || err != nil && !strings.HasPrefix(err.Error(), tc.wrong) {
			t.Errorf("%s: %+v, %v", tc.cmdline, w, err)
		}
	}
}

func TestHasPids(t *testing.T) {
	dir := t.TempDir()
	if hasPids(dir) {
		t.Error("where there are no cgroups")
	}
	if err := os.Mkdir(filepath.Join(dir, "pids"), 0o755); err != nil {
		t.Fatal(err)
	}
	if !hasPids(dir) {
		t.Error("not found in version 1")
	}
	for text, want := range map[string]bool{"cpu pids memory\n": true, "cpu memory\n": false} {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.controllers"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := hasPids(dir); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// The container and what is started in it later have the same walls.
func TestSpecIsHardened(t *testing.T) {
	for _, tc := range []struct {
		walls   Walls
		section bundle.Section
		level   string
		want    bool
	}{
		{Walls{}, bundle.Services, "", true},
		{Walls{}, bundle.Services, "linuxkit", false},
		{Walls{Off: true}, bundle.Services, "", false},
		{Walls{Off: true}, bundle.Services, "strict", false},
		{Walls{}, bundle.Onboot, "", false},
		{Walls{}, bundle.Onboot, "auto", true},
	} {
		b := hardened(map[string]string{"keelson.harden": tc.level})
		if tc.level == "" {
			b = hardened(nil)
		}
		b.Section = tc.section
		h, err := tc.walls.hardened(b, false)
		if err != nil {
			t.Fatal(err)
		}
		s := encodedSpec(t, h)
		p, err := (&Runtime{Walls: tc.walls}).Process(b)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Linux.Seccomp != nil && len(s.Linux.ReadonlyPaths) > 0 && s.Process.NoNewPrivileges; got != tc.want || p.NoNewPrivileges != tc.want {
			t.Errorf("%+v, %s %q: the container is hardened: %v, what is started in it: %v", tc.walls, tc.section, tc.level, got, p.NoNewPrivileges)
		}
		if b.Spec.Linux.Seccomp != nil || b.Spec.Process.NoNewPrivileges || len(b.Spec.Mounts[0].Options) > 0 {
			t.Errorf("the bundle's own configuration was changed: %+v", b.Spec)
		}
	}
}

func TestStrictThatCannotBeIsNotStarted(t *testing.T) {
	b := hardened(map[string]string{"keelson.harden": "strict"})
	const want = "/containers/services/web/config.json: keelson.harden: strict wants a user other than 0, or a user namespace: write uid: 1000"
	if _, err := (Walls{}).hardened(b, false); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	b.Spec.Process.User.UID = 7
	b.Spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.NetworkNamespace}}
	if _, added, err := (Walls{}).Harden(b); err != nil || len(added) == 0 {
		t.Errorf("%v, %v", added, err)
	}
	if level := (Walls{}).Level(b.Walls()); level != harden.Strict {
		t.Errorf("level %s", level)
	}
}

// encodedSpec is what a runtime is given for a bundle.
func encodedSpec(t *testing.T, b *bundle.Bundle) (s specs.Spec) {
	t.Helper()
	encoded, err := spec(b, false, "", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(encoded.Value, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// Our shim is given the profile's name; any other, and people who ask, the profile.
func TestProfileByName(t *testing.T) {
	w := Walls{}
	for _, byName := range []bool{true, false} {
		h, err := w.hardened(hardened(nil), byName)
		if err != nil {
			t.Fatal(err)
		}
		s := encodedSpec(t, h)
		if got := harden.IsPlaceholder(s.Linux.Seccomp); got != byName || (s.Annotations[harden.SeccompAnnotation] == "default") != byName {
			t.Errorf("by name %v: a placeholder: %v, annotations %v", byName, got, s.Annotations)
		}
		if !byName && len(s.Linux.Seccomp.Syscalls) == 0 {
			t.Error("a shim that does not know the name has no profile")
		}
	}
}
