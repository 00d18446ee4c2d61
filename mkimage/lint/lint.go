// Package lint finds what of an assembled image would fail in the machine at every boot,
// for a reason that is known when it is built.
//
//   - It judges the root, the containers' configurations and the kernel image as they were
//     put together, so YAML, images' labels and images' configurations by the same checks.
//   - An error is what cannot work. A warning is what something else, that the image does
//     not show, may make work.
//   - What it cannot know it passes over: a false alarm is worse than a miss.
//
// It must never change the image.
package lint

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"keelson/internal/bundle"
	"keelson/mkimage/assemble"
	"keelson/mkimage/config"
	"keelson/mkimage/tree"
	"keelson/mkimage/view"
)

// Image is what is judged.
type Image struct {
	Config *config.Config
	*assemble.Result
	// Disk is the command line with which the root is a disk, "" if it is in memory.
	Disk string
}

// Finding is one thing that does not work, or may not.
type Finding struct {
	config.Problem
	Warning bool
}

// Problems returns the findings that are warnings, or the errors.
func Problems(all []Finding, warnings bool) config.Problems {
	var list config.Problems
	for _, f := range all {
		if f.Warning == warnings {
			list = append(list, f.Problem)
		}
	}
	return list
}

type checker struct {
	Image
	machine  *view.Machine
	root     *tree.Root
	kernel   *kernel
	programs map[*tree.Inode]program
	found    []Finding
}

// Check returns what is wrong with an image, in the order of the YAML's lines. The error
// is one of reading the image.
func Check(image Image) ([]Finding, error) {
	c := &checker{Image: image, programs: map[*tree.Inode]program{}}
	var err error
	if c.root, err = image.Root.Root("/"); err != nil {
		return nil, err
	}
	if c.machine, err = view.NewMachine(image.Root, image.Bundles()); err != nil {
		return nil, err
	}
	c.kernel = readKernel(c.root, image.Kernel)
	c.stray()
	c.files()
	if err := c.init(); err != nil {
		return nil, err
	}
	c.cmdline()
	for i := range image.Containers {
		if err := c.container(&image.Containers[i]); err != nil {
			return nil, err
		}
	}
	c.overlay()
	c.sort()
	return c.found, nil
}

// sort puts what was found into the order of the files' lines.
func (c *checker) sort() {
	files := map[string]int{}
	for _, k := range c.Containers {
		if _, ok := files[k.File]; !ok {
			files[k.File] = len(files)
		}
	}
	slices.SortStableFunc(c.found, func(a, b Finding) int {
		if a.File != b.File {
			return files[a.File] - files[b.File]
		}
		return a.Line - b.Line
	})
}

func (c *checker) add(warning bool, p config.Problem) {
	if f := (Finding{p, warning}); !slices.Contains(c.found, f) {
		c.found = append(c.found, f)
	}
}

// stray reports quotes that nothing opened. In a command or the environment they may be meant.
func (c *checker) stray() {
	for _, p := range c.Config.StrayQuotes() {
		free := strings.Contains(p.Field, ".command[") || strings.Contains(p.Field, ".env[")
		c.add(free, p)
	}
}

// files warns of files that nobody sees.
func (c *checker) files() {
	for i, f := range c.Config.Files {
		if area := view.AreaOf(f.Path); area != "" && !f.Directory {
			c.add(true, c.Config.Problem(index("files", i)+".path", "%s is hidden in the machine, where %s is empty at each boot: put it elsewhere, such as /etc", f.Path, area))
		}
	}
}

// init checks what the kernel starts. A root without it is reported where it is put together.
func (c *checker) init() error {
	if len(c.Config.Init) == 0 {
		return nil
	}
	in := view.Tree(c.root)
	f := in("/init")
	if f.State != view.There {
		return nil
	}
	why, err := c.cannotRun(f, place{find: in})
	if err != nil || why == "" {
		return err
	}
	c.add(false, c.Config.Problem("init", "/init %s: the kernel cannot start it", why))
	return nil
}

// one is a container that is being checked.
type one struct {
	*checker
	*assemble.Container
	view *view.Container
	errs []error
}

func (c *checker) container(k *assemble.Container) error {
	v, err := c.machine.Container(c.Root, k.Bundle)
	if err != nil {
		return c.Config.Problem(k.Field, "%v", err)
	}
	o := &one{checker: c, Container: k, view: v}
	o.process()
	o.command()
	o.mounts()
	o.runtime()
	o.namespaces()
	o.limits()
	o.modules()
	return errors.Join(o.errs...)
}

// error and warn report a field of the container, be it of the YAML or of its image.
func (o *one) error(key, format string, a ...any) { o.report(false, key, format, a...) }

func (o *one) warn(key, format string, a ...any) { o.report(true, key, format, a...) }

func (o *one) report(warning bool, key, format string, a ...any) {
	p := o.Config.Problem(o.Field+"."+key, format, a...)
	for up := key; p.Line == 0; { // a field of a field may have no line of its own
		i := strings.LastIndexAny(up, ".[")
		if i < 0 {
			break
		}
		up = up[:i]
		p.Line = o.Config.Problem(o.Field+"."+up, "").Line
	}
	if p.Line == 0 {
		key, _, _ = strings.Cut(key, "[")
		p = o.Config.Problem(o.Field, "%s of its image: %s", key, fmt.Sprintf(format, a...))
	}
	o.add(warning, p)
}

// graded reports what cannot work unless somebody else makes it.
func (o *one) graded(s view.Strength, key, format string, a ...any) {
	switch s {
	case view.Nobody:
		o.error(key, format, a...)
	case view.Might:
		o.warn(key, format, a...)
	}
}

// any reports whether one of the containers is such, of those that run at boot.
func (c *checker) any(is func(*bundle.Bundle) bool) bool {
	return slices.ContainsFunc(c.Containers, func(k assemble.Container) bool {
		return k.Bundle.Section != bundle.Onshutdown && is(k.Bundle)
	})
}

// index is the key of an item of a list.
func index(key string, i int) string { return key + "[" + strconv.Itoa(i) + "]" }

// read returns the beginning of a file of the image.
func read(f view.Found, most int64) ([]byte, error) {
	rc, _, err := f.Open()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(io.LimitReader(rc, most))
}
