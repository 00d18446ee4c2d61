package modules

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Coldplug loads the modules named in first, then those the devices ask for that
// are there now, and goes on until no device turns up that was not there before:
// a driver may bring new devices, as virtio_pci does. It returns what it loaded,
// in order, and every error it met; none of them keeps it from going on. A name
// of first that is not known is no error.
func (x *Index) Coldplug(ctx context.Context, first []string) (loaded []string, errs []error) {
	if x.dir == "" {
		return nil, nil
	}
	if err := x.read(); err != nil {
		return nil, []error{err}
	}
	for _, name := range first {
		names, err := x.resolve(name)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fresh, err := x.loadAll(ctx, names)
		loaded = append(loaded, fresh...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	scan := scanner{sys: filepath.Join(x.sys.root, "/sys"), seen: map[string]bool{}, known: map[string]bool{}}
	for ctx.Err() == nil {
		aliases := scan.fresh()
		if len(aliases) == 0 {
			return loaded, errs
		}
		names, err := x.match(aliases)
		if err != nil {
			return loaded, append(errs, err)
		}
		fresh, err := x.loadAll(ctx, names)
		loaded = append(loaded, fresh...)
		if err != nil {
			errs = append(errs, err)
		}
		if len(fresh) == 0 {
			return loaded, errs
		}
	}
	return loaded, append(errs, fmt.Errorf("load the modules of the devices: %w", ctx.Err()))
}

// scanner finds the devices' modaliases. It does not walk /sys/devices, which has
// a hundred folders for each device: every device with a modalias is on a bus or
// in one of two classes.
type scanner struct {
	sys   string
	seen  map[string]bool // device folders looked at
	known map[string]bool // aliases returned
}

// classes have devices with a modalias and no bus.
var classes = []string{"input", "dmi"}

// fresh returns the aliases that the last call did not see, sorted as the buses
// are, which is by name.
func (s *scanner) fresh() []string {
	var aliases []string
	buses, _ := os.ReadDir(filepath.Join(s.sys, "bus"))
	for _, bus := range buses {
		aliases = s.folder(aliases, filepath.Join(s.sys, "bus", bus.Name(), "devices"))
	}
	for _, class := range classes {
		aliases = s.folder(aliases, filepath.Join(s.sys, "class", class))
	}
	return aliases
}

func (s *scanner) folder(aliases []string, dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return aliases
	}
	names, _ := f.Readdirnames(-1)
	_ = f.Close()
	slices.Sort(names)
	for _, name := range names {
		path := dir + "/" + name
		if s.seen[path] {
			continue
		}
		s.seen[path] = true
		text, err := os.ReadFile(path + "/modalias")
		if err != nil || len(text) == 0 {
			continue
		}
		if text[len(text)-1] == '\n' {
			text = text[:len(text)-1]
		}
		if alias := string(text); alias != "" && !s.known[alias] {
			s.known[alias] = true
			aliases = append(aliases, alias)
		}
	}
	return aliases
}
