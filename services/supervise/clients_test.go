package supervise

import (
	"os"
	"path/filepath"
	"testing"

	"keelson/internal/bundle"
	"keelson/internal/policy"
	"keelson/internal/steer"
)

// Whose a process is follows from the image's directories, and from what was read again.
func TestClients(t *testing.T) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	config := func(section, name, text string) string {
		dir := filepath.Join(root, section, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	const good = `{"process":{"args":["x"]},"root":{"path":"rootfs"},"annotations":{"keelson.control":"read"},"linux":{"namespaces":[{"type":"pid"}]}}`
	web := config("services", "web", good)
	config("services", "bad", `{"process":`)
	config("onboot", "000-dhcp", good)
	var inForce []*bundle.Bundle
	c := &clients{containers: root, services: func() []*bundle.Bundle { return inForce }}
	if got, err := c.of(os.Getpid()); err != nil || got != (steer.Client{Control: policy.ControlAll}) {
		t.Errorf("the supervisor's own: %+v %v (%s)", got, err, own)
	}
	find := func(cgroup string) steer.Client {
		t.Helper()
		if _, err := c.of(os.Getpid()); err != nil {
			t.Fatal(err)
		}
		return c.table.Find("0::" + cgroup + "\n")
	}
	for cgroup, want := range map[string]steer.Client{
		"/services/web": {Name: "web", Control: policy.ControlRead}, "/services/bad": {Name: "bad", Control: policy.ControlNone},
		"/services/.onboot/000-dhcp": {Name: "dhcp", Control: policy.ControlRead},
	} {
		if got := find(cgroup); got != want {
			t.Errorf("%s: %+v, want %+v", cgroup, got, want)
		}
	}
	b, err := bundle.Load(bundle.Services, web)
	if err != nil {
		t.Fatal(err)
	}
	changed := *b
	changed.Service.Control = policy.ControlAll
	for _, next := range []*bundle.Bundle{b, &changed, b} {
		inForce = []*bundle.Bundle{next}
		if got := find("/services/web"); got.Control != next.Service.Control {
			t.Errorf("read again: %+v, want %s", got, next.Service.Control)
		}
	}
	if _, err := c.of(1 << 30); err == nil {
		t.Error("a process that is not there is somebody's")
	}
}
