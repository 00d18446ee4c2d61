package hotplug

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"keelson/internal/uevent"
)

var errUnknown = errors.New("unknown")

// machine is both sides of a Watcher: it hands out events, and writes down what
// was done about them.
type machine struct {
	events []any // uevent.Event or error
	log    []string
}

func (m *machine) Receive(context.Context) (uevent.Event, error) {
	if len(m.events) == 0 {
		return uevent.Event{}, context.Canceled
	}
	next := m.events[0]
	m.events = m.events[1:]
	if err, ok := next.(error); ok {
		return uevent.Event{}, err
	}
	return next.(uevent.Event), nil
}

func (m *machine) LoadAlias(_ context.Context, alias string) ([]string, error) {
	switch alias {
	case "nobody":
		return nil, errUnknown
	case "bad":
		return nil, errors.New("no good")
	}
	return []string{alias + "_mod"}, nil
}

func (m *machine) Coldplug(context.Context) ([]string, []error) {
	return []string{"everything"}, nil
}

func (m *machine) watcher(root string) *Watcher {
	return &Watcher{
		Modules: m, Events: m, root: root,
		Loaded:   func(names []string) { m.log = append(m.log, fmt.Sprint("loaded ", names)) },
		Failed:   func(err error) { m.log = append(m.log, "failed "+err.Error()) },
		Device:   func(e uevent.Event) { m.log = append(m.log, e.Action+" "+e.Path) },
		NotFound: func(err error) bool { return errors.Is(err, errUnknown) },
	}
}

func event(action, path, subsystem, modalias string) uevent.Event {
	return uevent.Event{Action: action, Path: path, Env: map[string]string{"SUBSYSTEM": subsystem, "MODALIAS": modalias}}
}

func TestEvents(t *testing.T) {
	m := &machine{events: []any{
		event("add", "/a", "pci", "pci:1"),
		event("add", "/b", "pci", "nobody"),
		event("add", "/c", "pci", "bad"),
		event("offline", "/d", "cpu", "cpu"),
		uevent.ErrLost,
		event("remove", "/a", "pci", "pci:1"),
	}}
	if err := m.watcher(t.TempDir()).Run(t.Context()); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	want := []string{"loaded [pci:1_mod]", "add /a", "add /b", "failed no good", "add /c", "loaded [everything]", " ", "remove /a"}
	if !slices.Equal(m.log, want) {
		t.Errorf("%q,\nwant %q", m.log, want)
	}
}

func TestPortLinks(t *testing.T) {
	root := t.TempDir()
	port := func(dev, name string) {
		dir := filepath.Join(root, "sys/class/virtio-ports", dev)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "name"), []byte(name+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want map[string]string) {
		t.Helper()
		links, _ := os.ReadDir(filepath.Join(root, "dev/virtio-ports"))
		if len(links) != len(want) {
			t.Errorf("%d links: %v, want %v", len(links), links, want)
		}
		for name, to := range want {
			if got, err := os.Readlink(filepath.Join(root, "dev/virtio-ports", name)); err != nil || got != to {
				t.Errorf("%s -> %q (%v), want %q", name, got, err, to)
			}
		}
	}
	m := &machine{}
	w := m.watcher(root)
	if err := w.PortLinks(); err != nil { // no ports at all
		t.Fatal(err)
	}
	port("vport0p1", "org.keelson.control")
	port("vport0p2", "")
	port("vport0p3", "../../etc/passwd")
	if err := w.PortLinks(); err != nil {
		t.Fatal(err)
	}
	check(map[string]string{"org.keelson.control": "../vport0p1"})

	// a port goes, another comes, and the name moves to another port
	if err := os.RemoveAll(filepath.Join(root, "sys/class/virtio-ports/vport0p1")); err != nil {
		t.Fatal(err)
	}
	port("vport1p1", "org.keelson.control")
	port("vport1p2", "second")
	m.events = []any{event("remove", "/p", "virtio-ports", ""), event("add", "/q", "virtio-ports", "")}
	_ = w.Run(t.Context())
	check(map[string]string{"org.keelson.control": "../vport1p1", "second": "../vport1p2"})
}
