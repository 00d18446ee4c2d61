package modules

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// lane is a line of modules that are loaded one after the other, beside the other
// lanes: a driver that waits for its disks does not hold up the network. Within a
// lane the order is that of the aliases, so that eth0 is the same interface at
// every boot.
type lane int

const (
	network  lane = iota // network cards, virtio and whatever is in no other lane
	storage              // disks and their buses
	platform             // buttons, sensors, the processor, input
	lanes
)

// laneOf sorts an alias by its bus and, on PCI, by its device class.
func laneOf(alias string) lane {
	bus, rest, _ := strings.Cut(alias, ":")
	switch bus {
	case "scsi", "nvme", "mmc":
		return storage
	case "acpi", "dmi", "platform", "input", "serio", "hid", "i2c", "pnp":
		return platform
	case "pci":
		// virtio's PCI devices come as one driver, whatever they are
		if strings.Contains(rest, "bc01") && !strings.HasPrefix(rest, "v00001AF4") {
			return storage
		}
	}
	return network
}

// virtioFirst puts what virtual machines boot from before other hardware.
func virtioFirst(a, b string) int {
	va, vb := isVirtio(a), isVirtio(b)
	switch {
	case va == vb:
		return 0
	case va:
		return -1
	}
	return 1
}

func isVirtio(alias string) bool {
	return strings.HasPrefix(alias, "virtio:") || strings.HasPrefix(alias, "pci:v00001AF4")
}

// Early loads the modules named in first, then those that the devices ask for which are
// there now and that a container may miss, and goes on until no device turns up that was
// not there before: a driver may bring new devices, as virtio_pci does. It returns what it
// loaded, and every error it met; none of them keeps it from going on. A name of first
// that is not known is no error. Coldplug loads the rest.
//
// When ctx ends it returns at once. A module that is just being initialised
// cannot be called off; it is named in the error.
//
// named reports whether a container names a path. brought is told whenever modules were
// loaded, which may have brought devices.
func (x *Index) Early(ctx context.Context, first []string, named func(path string) bool, brought func()) (loaded []string, errs []error) {
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
	c := x.coldplug()
	c.skip = func(module string) bool { return x.isLate(module, named) }
	c.brought = brought
	c.run(ctx)
	return append(loaded, c.loaded...), append(errs, c.errs...)
}

// Coldplug is Early for all modules that the devices ask for. Those that are there are no
// work.
func (x *Index) Coldplug(ctx context.Context) (loaded []string, errs []error) {
	if x.dir == "" {
		return nil, nil
	}
	if err := x.read(); err != nil {
		return nil, []error{err}
	}
	c := x.coldplug()
	c.run(ctx)
	return c.loaded, c.errs
}

// Processor loads the modules that the processors ask for: KVM, frequency
// scaling, faster ciphers. They are apart from Coldplug because no container waits
// for them while they are large, or try for long what a virtual processor has not;
// they are for when the machine is up.
func (x *Index) Processor(ctx context.Context) (loaded []string, err error) {
	if x.dir == "" {
		return nil, nil
	}
	if err := x.read(); err != nil {
		return nil, err
	}
	scan := newScanner(x.sys.root)
	aliases := slices.DeleteFunc(scan.fresh(), func(a string) bool { return !isProcessor(a) })
	if alias := scan.read(unix.AT_FDCWD, filepath.Join(scan.sys, "devices/system/cpu/modalias")); alias != "" {
		aliases = append(aliases, alias)
	}
	names, err := x.match(aliases)
	if err != nil {
		return nil, err
	}
	return x.loadAll(ctx, names)
}

// isProcessor recognizes the processors among the ACPI devices.
func isProcessor(alias string) bool {
	return strings.HasPrefix(alias, "acpi:LNXCPU:") || strings.HasPrefix(alias, "acpi:ACPI0007:") || strings.HasPrefix(alias, "cpu:")
}

// coldplug is one run of Early or Coldplug; one goroutine has it, and one for each lane
// that is loading tells it what came of it.
type coldplug struct {
	x       *Index
	scan    *scanner
	skip    func(module string) bool
	brought func()
	queued  [lanes][]string // modules that wait for their lane
	running [lanes][]string // modules their lane is loading
	tried   []string
	done    chan batch
	loaded  []string
	errs    []error
}

func (x *Index) coldplug() *coldplug {
	return &coldplug{
		x: x, scan: newScanner(x.sys.root), done: make(chan batch, lanes),
		skip: func(string) bool { return false }, brought: func() {},
	}
}

// run loads until no device is left that asks for something, or ctx ends.
func (c *coldplug) run(ctx context.Context) {
	c.rescan()
	for c.start(ctx) {
		select {
		case b := <-c.done:
			c.running[b.lane] = nil
			c.loaded = append(c.loaded, b.loaded...)
			if b.err != nil {
				c.errs = append(c.errs, b.err)
			}
			if len(b.loaded) > 0 {
				c.brought()
				c.rescan()
			}
		case <-ctx.Done():
			c.errs = append(c.errs, fmt.Errorf("load the modules of the devices: %w while loading %s", ctx.Err(), strings.Join(slices.Concat(c.running[:]...), " ")))
			return
		}
	}
}

// batch is what came of a lane's modules.
type batch struct {
	lane   lane
	loaded []string
	err    error
}

// rescan queues the modules of devices that were not there before.
func (c *coldplug) rescan() {
	aliases := slices.DeleteFunc(c.scan.fresh(), isProcessor)
	if len(aliases) == 0 {
		return
	}
	slices.SortStableFunc(aliases, virtioFirst)
	found, err := c.x.matchEach(aliases)
	if err != nil {
		c.errs = append(c.errs, err)
		return
	}
	for i, alias := range aliases {
		l := laneOf(alias)
		for _, name := range found[i] {
			if !slices.Contains(c.tried, name) && !c.skip(name) {
				c.tried = append(c.tried, name)
				c.queued[l] = append(c.queued[l], name)
			}
		}
	}
}

// start gives every idle lane what waits for it, and reports whether any is busy.
func (c *coldplug) start(ctx context.Context) bool {
	busy := false
	for l := range lanes {
		if c.running[l] == nil && len(c.queued[l]) > 0 {
			names := c.queued[l]
			c.running[l], c.queued[l] = names, nil
			go func() {
				loaded, err := c.x.loadAll(ctx, names)
				c.done <- batch{l, loaded, err} // has room for every lane
			}()
		}
		busy = busy || c.running[l] != nil
	}
	return busy
}
