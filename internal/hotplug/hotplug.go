// Package hotplug keeps up with devices while the machine runs: it loads the
// module a new device asks for and keeps the names below /dev that the kernel
// does not make itself.
//
// Device nodes are devtmpfs's. Here are only the links /dev/virtio-ports/NAME,
// which a virtio serial port is known by. It promises that a device is not missed
// because too much happened at once: after a loss everything is looked at again.
// It never runs a program.
package hotplug

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"keelson/internal/uevent"
)

// Modules is what it needs of modules.Index.
type Modules interface {
	LoadAlias(ctx context.Context, alias string) ([]string, error)
	Coldplug(ctx context.Context) ([]string, []error)
}

// Source is what it needs of uevent.Listener.
type Source interface {
	Receive(ctx context.Context) (uevent.Event, error)
}

// Watcher handles device events. Its fields are set before Run and not changed.
type Watcher struct {
	Modules Modules
	Events  Source
	// Loaded is told which modules an event brought; nil is fine.
	Loaded func(modules []string)
	// Failed is told what went wrong; the watch goes on. nil is fine.
	Failed func(err error)
	// Device is told of each device that came or went, after its module was
	// loaded, and once with the zero Event after a loss: anything may have
	// changed. nil is fine.
	Device func(uevent.Event)

	// NotFound reports whether an error of LoadAlias says only that no module is
	// known, which is nothing to tell.
	NotFound func(error) bool

	root string // prefix of /sys and /dev, for tests
}

// Run handles events until ctx ends, and returns why it ended.
func (w *Watcher) Run(ctx context.Context) error {
	for {
		e, err := w.Events.Receive(ctx)
		switch {
		case errors.Is(err, uevent.ErrLost):
			w.rescan(ctx)
		case err != nil:
			return err
		default:
			w.handle(ctx, e)
		}
	}
}

func (w *Watcher) rescan(ctx context.Context) {
	loaded, errs := w.Modules.Coldplug(ctx)
	w.report(loaded, errors.Join(errs...))
	w.report(nil, w.PortLinks())
	w.tell(uevent.Event{})
}

func (w *Watcher) handle(ctx context.Context, e uevent.Event) {
	switch e.Action {
	case "add":
		if alias := e.Env["MODALIAS"]; alias != "" {
			loaded, err := w.Modules.LoadAlias(ctx, alias)
			if err != nil && w.NotFound != nil && w.NotFound(err) {
				err = nil
			}
			w.report(loaded, err)
		}
		fallthrough
	case "change", "bind":
		// the port's name comes from the host, after the port itself
		if e.Env["SUBSYSTEM"] == "virtio-ports" {
			w.report(nil, w.PortLinks())
		}
	case "remove":
		if e.Env["SUBSYSTEM"] == "virtio-ports" {
			w.report(nil, w.PortLinks())
		}
	default:
		return
	}
	w.tell(e)
}

func (w *Watcher) report(loaded []string, err error) {
	if len(loaded) > 0 && w.Loaded != nil {
		w.Loaded(loaded)
	}
	if err != nil && w.Failed != nil {
		w.Failed(err)
	}
}

func (w *Watcher) tell(e uevent.Event) {
	if w.Device != nil {
		w.Device(e)
	}
}

// PortLinks makes /dev/virtio-ports hold one link for each virtio serial port
// that has a name, to its node, and nothing else. It is called once after
// coldplug; Run calls it when ports come and go.
func (w *Watcher) PortLinks() error {
	class := filepath.Join(w.root, "/sys/class/virtio-ports")
	dir := filepath.Join(w.root, "/dev/virtio-ports")
	ports, err := os.ReadDir(class)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("list the virtio ports: %w", err)
	}
	want := map[string]string{}
	for _, port := range ports {
		text, err := os.ReadFile(filepath.Join(class, port.Name(), "name"))
		name := strings.TrimSpace(string(text))
		// the name is the host's choice: it must stay one name in our folder
		if err != nil || name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			continue
		}
		want[name] = "../" + port.Name()
	}
	have, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("name the virtio ports: %w", err)
	}
	var errs []error
	for _, link := range have {
		path := filepath.Join(dir, link.Name())
		if to, err := os.Readlink(path); err == nil && to == want[link.Name()] {
			delete(want, link.Name())
			continue
		}
		if err := os.Remove(path); err != nil {
			errs = append(errs, fmt.Errorf("name the virtio ports: %w", err))
		}
	}
	if len(want) > 0 {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("name the virtio ports: %w", err)
		}
	}
	for name, to := range want {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			errs = append(errs, fmt.Errorf("name the virtio port %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
