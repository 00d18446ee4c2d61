// Package prepare does for a container what its runtime.json asks the machine to
// do around it: mounts, folders and cgroups before it is created, network
// interfaces and kept namespaces between create and start, and the undoing of it
// after its end.
//
// It keeps no state. What has been done already is read from the kernel (the
// mount table, the links of a network namespace), so a supervisor that died and
// came back can call any of its functions again, and a restart of a container
// mounts nothing twice. Every error names the container, the file and the field.
// It must never touch what belongs to another container, and never remove a file
// of the image, and never follow a link that a service can have made: what services
// can change is made, mounted and unmounted through descriptors (package safepath).
package prepare

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
	"keelson/internal/mounts"
	"keelson/internal/safepath"
	"keelson/internal/workshop"
)

// cgroupRoot is where the cgroup file systems are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// Before makes the mounts, the folders and the cgroups of runtime.json, in this
// order. What is there already stays as it is. What makes the container's root is
// mounted in the workshop, everything else in the machine's namespace. After an error
// Cleanup undoes what was done until then.
func Before(ctx context.Context, b *bundle.Bundle, paths *safepath.Resolver, shop *workshop.Workshop) error {
	if err := checkUsers(b); err != nil {
		return err
	}
	var steps []step
	for i, m := range b.Runtime.Mounts {
		steps = append(steps, step{inDir(b, m), fmt.Sprintf("mounts[%d]", i), func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return mount(ctx, b, paths, m)
		}})
	}
	for i, dir := range b.Runtime.Mkdir {
		steps = append(steps, step{true, fmt.Sprintf("mkdir[%d]", i), func() error { return makeFolder(b, paths, dir) }})
	}
	for i, name := range b.Runtime.Cgroups {
		steps = append(steps, step{true, fmt.Sprintf("cgroups[%d]", i), func() error { return makeCgroup(cgroupRoot, name) }})
	}
	for len(steps) > 0 {
		n := slices.IndexFunc(steps, func(s step) bool { return s.inside != steps[0].inside })
		if n < 0 {
			n = len(steps)
		}
		where := shop
		if !steps[0].inside {
			where = nil
		}
		if err := where.Do(func() error { return takeAll(b, steps[:n]) }); err != nil {
			return err
		}
		steps = steps[n:]
	}
	return nil
}

// step is one entry of runtime.json.
type step struct {
	inside bool // it is taken in the workshop
	field  string
	take   func() error
}

func takeAll(b *bundle.Bundle, steps []step) error {
	for _, s := range steps {
		if err := s.take(); err != nil {
			return fieldError(b, s.field, err)
		}
	}
	return nil
}

// inDir reports whether a mount of runtime.json is one of the container's directory, as
// those are that make its root, or lies in its root.
func inDir(b *bundle.Bundle, m specs.Mount) bool {
	target := filepath.Clean(m.Destination)
	return !filepath.IsAbs(target) || target == b.Dir || strings.HasPrefix(target, b.Dir+"/") || isRoot(b, m)
}

// Leave unmounts in the workshop what the container has by now: it was created. What is
// left of it is Cleanup's. What is mounted in the root goes with the root: its path may lead
// elsewhere once that is gone, by a link that the image has below it.
func Leave(b *bundle.Bundle) {
	targets := []string{Root(b)}
	for _, m := range b.Runtime.Mounts {
		if _, in := inRoot(b, m.Destination); !in && inDir(b, m) && filepath.IsAbs(m.Destination) {
			targets = append(targets, filepath.Clean(m.Destination))
		}
	}
	for _, target := range slices.Compact(targets) {
		// With what is mounted below it; an entry that only changes a mount has none.
		_ = unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
}

// Attach gives the created container, whose first process is pid, its network
// interfaces, and binds its namespaces to the files of bindNS. A container that
// has them already is left as it is.
func Attach(ctx context.Context, b *bundle.Bundle, paths *safepath.Resolver, pid int) error {
	if len(b.Runtime.Interfaces) > 0 {
		if err := attachInterfaces(ctx, b, pid); err != nil {
			return err
		}
	}
	for _, n := range bindings(b.Runtime.BindNS) {
		if err := ctx.Err(); err != nil {
			return fieldError(b, "bindNS."+n.field, err)
		}
		if err := n.bind(paths, pid); err != nil {
			return fieldError(b, "bindNS."+n.field, err)
		}
	}
	return nil
}

// Cleanup undoes Before and Attach after the container's end: everything mounted
// at or below its folder is unmounted, newest first. For a service the mounts of
// its runtime.json that lie elsewhere and the files of its bindNS go too; a
// one-shot's stay, because setting up the machine is what one-shots are for.
// Folders, cgroups and what was written into them stay. It goes on after an
// error and returns all of them.
func Cleanup(ctx context.Context, b *bundle.Bundle, paths *safepath.Resolver, shop *workshop.Workshop) error {
	var errs []error
	if b.Section == bundle.Services {
		for _, n := range slices.Backward(bindings(b.Runtime.BindNS)) {
			if err := n.unbind(paths); err != nil {
				errs = append(errs, fieldError(b, "bindNS."+n.field, err))
			}
		}
		for i, m := range slices.Backward(b.Runtime.Mounts) {
			e, err := entry(b, m)
			if err != nil || e.Target == b.Dir || strings.HasPrefix(e.Target, b.Dir+"/") {
				continue // unmounted below with everything in the folder
			}
			if err := unmount(paths, e); err != nil {
				errs = append(errs, fieldError(b, fmt.Sprintf("mounts[%d]", i), err))
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return errors.Join(append(errs, fmt.Errorf("%s: clean up: %w", b.Name, err))...)
	}
	errs = append(errs, shop.Do(func() error {
		var errs []error
		for _, dir := range slices.Compact([]string{Root(b), b.Dir}) {
			if err := mounts.UnmountBelow(dir); err != nil {
				errs = append(errs, fmt.Errorf("%s: clean up: %w", b.Name, err))
			}
		}
		return errors.Join(errs...)
	}))
	return errors.Join(errs...)
}

// fieldError says where in which file the reason lies.
func fieldError(b *bundle.Bundle, field string, err error) error {
	return fmt.Errorf("%s: %s: %s: %w", b.Name, filepath.Join(b.Dir, "runtime.json"), field, err)
}

// within returns the absolute path of dir. A relative one lies in the
// container's root file system, and so do the symbolic links on its way: those
// are the container's, not the machine's.
func within(b *bundle.Bundle, dir string) (string, error) {
	if dir == "" {
		return "", errors.New("the path is empty: name a folder, absolute, or relative to the container's rootfs")
	}
	if filepath.IsAbs(dir) {
		return filepath.Clean(dir), nil
	}
	path, err := securejoin.SecureJoin(Root(b), dir)
	if err != nil {
		return "", fmt.Errorf("find %s in %s: %w", dir, Root(b), err)
	}
	return path, nil
}

func entry(b *bundle.Bundle, m specs.Mount) (mounts.Entry, error) {
	if m.Destination == "" {
		return mounts.Entry{}, errors.New("destination is empty: name the folder to mount on")
	}
	target, err := within(b, m.Destination)
	e := mounts.Entry{Source: m.Source, Target: target, Type: m.Type, Options: m.Options}
	if e.Type == "tmpfs" && e.Target == filepath.Join(b.Dir, "tmp") && !e.OnlyChanges() {
		e.Options = withSize(e.Options, b.Spec)
	}
	return e, err
}

// withSize adds to the options of a writable root's tmpfs what they do not say: half
// of the RAM, as the kernel has it, or the container's limit of memory if that is
// less, and a file for each page of it.
func withSize(options []string, spec *specs.Spec) []string {
	has := func(key string) bool {
		return slices.ContainsFunc(mounts.Words(options...), func(o string) bool { return strings.HasPrefix(o, key+"=") })
	}
	if has("size") || has("nr_blocks") {
		return options
	}
	size := memory() / 2
	if spec != nil && spec.Linux != nil && spec.Linux.Resources != nil {
		if m := spec.Linux.Resources.Memory; m != nil && m.Limit != nil && *m.Limit > 0 {
			size = min(size, *m.Limit)
		}
	}
	if size <= 0 {
		return options
	}
	page := int64(os.Getpagesize())
	options = append(slices.Clone(options), fmt.Sprintf("size=%d", size/page*page))
	if !has("nr_inodes") {
		options = append(options, fmt.Sprintf("nr_inodes=%d", max(size/page, leastFiles)))
	}
	return options
}

// leastFiles are those that a root may have whatever its size: a container with little
// memory has as many empty files and links as any other.
const leastFiles = 1024

// memory is how much RAM the machine has, 0 if that is unknown.
func memory() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// mount makes one mount of runtime.json and what it needs to exist.
func mount(ctx context.Context, b *bundle.Bundle, paths *safepath.Resolver, m specs.Mount) error {
	if inUserNamespace(b) && isRoot(b, m) {
		return mountMapped(ctx, b, m)
	}
	e, err := entry(b, m)
	if err != nil {
		return err
	}
	if err := e.Check(); err != nil {
		return err
	}
	if changeable, err := changeable(b, paths, e); err != nil {
		return err
	} else if changeable {
		return mountAt(b, paths, e)
	}
	if err := makeTarget(e); err != nil {
		return fmt.Errorf("make the destination: %w", err)
	}
	if e.Type == "overlay" {
		for _, dir := range mounts.OverlayFolders(e.Options) {
			if err := mounts.MkdirAll(dir); err != nil {
				return fmt.Errorf("make overlay's folder: %w", err)
			}
		}
	}
	_, err = e.Ensure()
	return err
}

// makeTarget makes what a mount lies on: a file for the bind of a file, else a
// folder.
func makeTarget(e mounts.Entry) error {
	if _, err := os.Stat(e.Target); err == nil || e.OnlyChanges() {
		return nil // a missing target of a remount is said by the remount
	}
	if src, err := os.Stat(e.Source); err == nil && !src.IsDir() && e.IsBind() {
		return makeFile(e.Target)
	}
	return mounts.MkdirAll(e.Target)
}

// makeFile makes an empty file to mount on, and the folders above it. A file
// that is there stays as it is.
func makeFile(path string) error {
	if err := mounts.MkdirAll(filepath.Dir(path)); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return fmt.Errorf("%w%s", err, mounts.Full(filepath.Dir(path)))
	}
	return f.Close()
}
