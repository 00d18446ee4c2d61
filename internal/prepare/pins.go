package prepare

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
	"keelson/internal/mounts"
	"keelson/internal/safepath"
)

// pinDir is where the sources of binds are pinned. No container reaches it.
var pinDir = "/run/keelson/binds"

// Pin returns the container's configuration with paths that nobody can change. The runtime
// makes a container's binds from paths, and joins namespaces by them; so what lies below a
// directory that a service can write gets a mount of its own in a private place, made from
// a descriptor, and that is what the runtime uses. It shares its propagation with the
// source as the bind would. release takes the pins away, and may be called before the
// container is started: the runtime has bound the sources when it has made the container.
func Pin(b *bundle.Bundle, paths *safepath.Resolver) (pinned *specs.Spec, release func() error, err error) {
	p := pins{paths: paths, dir: filepath.Join(pinDir, b.ID)}
	s := *b.Spec
	s.Mounts = slices.Clone(s.Mounts)
	for i, m := range s.Mounts {
		// That of a file system is only looked at: who can replace a device owns the machine.
		if e := toEntry(m); filepath.IsAbs(e.Source) && err == nil {
			err = p.add(fmt.Sprintf("mounts[%d].source", i), &s.Mounts[i].Source, e.IsBind(), e.Recursive())
		}
	}
	linux := *s.Linux
	linux.Namespaces = slices.Clone(linux.Namespaces)
	for i, n := range linux.Namespaces {
		if filepath.IsAbs(n.Path) && err == nil {
			err = p.add(fmt.Sprintf("linux.namespaces[%d].path", i), &linux.Namespaces[i].Path, true, false)
		}
	}
	s.Linux = &linux
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: %s: %w", b.Name, filepath.Join(b.Dir, "config.json"), err), p.release())
	}
	return &s, p.release, nil
}

// Pinned reports whether the source of a bind is a pin, which stands for another path.
func Pinned(source string) bool { return strings.HasPrefix(source, pinDir+"/") }

// pins are those of one container.
type pins struct {
	paths *safepath.Resolver
	dir   string
	count int
}

// add pins what a path leads to, if somebody can change that, and puts the pin's path in
// its place.
func (p *pins) add(field string, path *string, mayPin, recursive bool) error {
	source, err := p.paths.Open(*path, safepath.Options{})
	if err != nil {
		if link, ok := errors.AsType[*safepath.LinkError](err); ok {
			return fmt.Errorf("%s: %w", field, link)
		}
		return nil // it comes again from the runtime
	}
	defer source.Close()
	p.paths.Bound(*path, source)
	if source.By == "" || !mayPin {
		return nil
	}
	if p.count == 0 {
		if err := newPins(p.dir); err != nil {
			return fmt.Errorf("%s: pin it: %w", field, err)
		}
	}
	at := filepath.Join(p.dir, strconv.Itoa(p.count))
	p.count++
	if err := pin(source, at, recursive); err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	*path = at
	return nil
}

func (p *pins) release() error {
	if p.count == 0 {
		return nil
	}
	return unpin(p.dir)
}

// newPins makes the directory of a container's pins, without those of an attempt that an
// earlier supervisor did not finish.
func newPins(dir string) error {
	if err := mounts.Private(pinDir); err != nil {
		return err
	}
	if err := unpin(dir); err != nil {
		return err
	}
	return os.Mkdir(dir, 0o700)
}

// pin mounts what was found at a path of ours.
func pin(source *safepath.Place, at string, recursive bool) error {
	if !source.Exists() {
		return fmt.Errorf("%s: %w", source.Path, unix.ENOENT)
	}
	var err error
	if source.IsDir() {
		err = os.Mkdir(at, 0o700)
	} else {
		err = os.WriteFile(at, nil, 0o600)
	}
	if err != nil {
		return err
	}
	tree, err := mounts.Clone(source.FD, recursive)
	if err != nil {
		return fmt.Errorf("%s: open_tree: %w", source.Path, err)
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source.Path, at, err)
	}
	return nil
}

// unpin removes a container's pins.
func unpin(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove the pinned sources of its binds: %w", err)
	}
	var errs []error
	for _, e := range entries {
		at := filepath.Join(dir, e.Name())
		if err := mounts.Detach(at); err != nil {
			errs = append(errs, err)
			continue // what is mounted is not to be removed through it
		}
		errs = append(errs, os.Remove(at))
	}
	errs = append(errs, os.Remove(dir))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the pinned sources of its binds: %w", err)
	}
	return nil
}

// Unpin removes the pins of all containers: those of an earlier supervisor that died while
// the runtime made a container. That one is made anew.
func Unpin() error {
	entries, err := os.ReadDir(pinDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove the pinned sources of binds: %w", err)
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, unpin(filepath.Join(pinDir, e.Name())))
	}
	return errors.Join(errs...)
}
