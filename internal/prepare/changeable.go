package prepare

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
	"keelson/internal/mounts"
	"keelson/internal/safepath"
	"keelson/internal/userns"
)

// stageDir is where file systems are mounted for a moment, before they are moved to a
// place that a service can change.
var stageDir = "/run/keelson/stage"

// inRoot returns the path of what lies in the container's root file system, relative to it.
func inRoot(b *bundle.Bundle, path string) (string, bool) {
	for _, root := range []string{Root(b), b.Rootfs()} {
		if rest, ok := strings.CutPrefix(filepath.Clean(path), root+"/"); ok {
			return rest, true
		}
	}
	return "", false
}

// ours reports whether a path is one of the container's own directory, or, for what makes
// its root file system, of another one's that has the image: the builder writes those.
func ours(b *bundle.Bundle, path string, root bool) bool {
	path, dir := filepath.Clean(path), b.Dir
	if root {
		dir = filepath.Dir(filepath.Dir(b.Dir))
	}
	return path == dir || strings.HasPrefix(path, dir+"/") || path == Root(b)
}

// changeable reports whether somebody can change where one of a mount's paths leads. A
// link that somebody can have put there is an error.
func changeable(b *bundle.Bundle, paths *safepath.Resolver, e mounts.Entry) (bool, error) {
	if _, ok := inRoot(b, e.Target); ok {
		return true, nil
	}
	any, root := false, filepath.Clean(e.Target) == b.Rootfs()
	check := func(field, path string) error {
		if !filepath.IsAbs(path) || ours(b, path, root) {
			return nil
		}
		by, err := whoCanChange(paths, path)
		if err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		any = any || by != ""
		return nil
	}
	if err := check("destination", e.Target); err != nil {
		return false, err
	}
	if !e.OnlyChanges() {
		if err := check("source", e.Source); err != nil {
			return false, err
		}
	}
	if e.Type == "overlay" {
		for _, o := range mounts.Words(e.Options...) {
			key, dirs := overlayDirs(o)
			for _, dir := range dirs {
				if err := check(key, dir); err != nil {
					return false, err
				}
			}
		}
	}
	return any, nil
}

// whoCanChange says who can change where a path leads, "" for nobody. Of the errors only
// a link that somebody can have made is one: the others come again when the path is used.
func whoCanChange(paths *safepath.Resolver, path string) (string, error) {
	p, err := paths.Open(path, safepath.Options{})
	if err != nil {
		if link, ok := errors.AsType[*safepath.LinkError](err); ok {
			return "", link
		}
		return "", nil
	}
	defer p.Close()
	return p.By, nil
}

// overlayDirs returns the directories that an option of overlay names.
func overlayDirs(option string) (key string, dirs []string) {
	key, value, _ := strings.Cut(option, "=")
	switch key {
	case "upperdir", "workdir":
		return key, []string{value}
	case "lowerdir":
		if strings.Contains(value, `\`) {
			return key, nil // a name with a colon or a comma
		}
		return key, strings.Split(value, ":")
	}
	return "", nil
}

// openIn resolves a path of runtime.json: in the container's root file system if it lies
// there, else on the machine.
func openIn(b *bundle.Bundle, paths *safepath.Resolver, path string, o safepath.Options) (*safepath.Place, error) {
	rest, ok := inRoot(b, path)
	if !ok {
		return paths.Open(path, o)
	}
	return paths.In(Root(b), rest, o)
}

// mountAt makes a mount where somebody can change what its paths lead to.
func mountAt(b *bundle.Bundle, paths *safepath.Resolver, e mounts.Entry) error {
	if err := mounts.Private(stageDir); err != nil {
		return err
	}
	a := mounts.At{Entry: e, SourceFD: -1, Stage: stageDir}
	file := false
	if filepath.IsAbs(e.Source) && !e.OnlyChanges() {
		source, err := paths.Open(e.Source, safepath.Options{})
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		defer source.Close()
		if source.Exists() {
			a.SourceFD, file = source.FD, !source.IsDir() && e.IsBind()
		} else if e.IsBind() {
			return fmt.Errorf("mount %s: %w: source %s does not exist", e, unix.ENOENT, e.Source)
		}
	}
	target, err := openIn(b, paths, e.Target, safepath.Options{Make: !e.OnlyChanges(), MakeFile: file})
	if err != nil {
		return fmt.Errorf("make the destination: %w", mounts.ExplainMake(e.Target, err))
	}
	defer target.Close()
	if !target.Exists() {
		return fmt.Errorf("mount %s: %w", e, unix.ENOENT)
	}
	a.TargetFD = target.FD
	options, done, err := overlayOptions(paths, e)
	defer done()
	if err != nil {
		return err
	}
	a.Options = options
	_, err = a.Ensure()
	return err
}

// overlayOptions returns options in which overlay's directories are descriptors, which
// are open until done.
func overlayOptions(paths *safepath.Resolver, e mounts.Entry) (options []string, done func(), err error) {
	var open []*safepath.Place
	done = func() {
		for _, p := range open {
			p.Close()
		}
	}
	if e.Type != "overlay" {
		return e.Options, done, nil
	}
	for _, o := range mounts.Words(e.Options...) {
		key, dirs := overlayDirs(o)
		for i, dir := range dirs {
			p, err := paths.Open(dir, safepath.Options{Make: key != "lowerdir"})
			if err != nil {
				return nil, done, fmt.Errorf("%s: %w", key, mounts.ExplainMake(dir, err))
			}
			open = append(open, p)
			if p.Exists() {
				dirs[i] = p.Proc()
			}
		}
		if len(dirs) > 0 {
			o = key + "=" + strings.Join(dirs, ":")
		}
		options = append(options, o)
	}
	return options, done, nil
}

// unmount undoes a mount of runtime.json that is not in the container's directory. One that
// somebody uses stays.
func unmount(paths *safepath.Resolver, e mounts.Entry) error {
	if e.OnlyChanges() {
		return nil
	}
	target, err := paths.Open(e.Target, safepath.Options{})
	if err != nil {
		if link, ok := errors.AsType[*safepath.LinkError](err); ok {
			return fmt.Errorf("it stays mounted: %w", link)
		}
		return nil
	}
	defer target.Close()
	if target.By == "" {
		target.Close() // or it is in use
		return e.Unmount()
	}
	if !target.Exists() || target.Dir < 0 {
		return nil
	}
	a := mounts.At{Entry: e, TargetFD: target.FD, SourceFD: -1}
	if filepath.IsAbs(e.Source) {
		source, err := paths.Open(e.Source, safepath.Options{})
		if err != nil {
			return fmt.Errorf("it stays mounted: %w", err)
		}
		defer source.Close()
		a.SourceFD = source.FD
	}
	if there, err := a.Mounted(); err != nil || !there {
		return err
	}
	_ = unix.Close(target.FD)
	target.FD = -1
	if err := mounts.UnmountIn(target.Dir, target.Name); err != nil {
		return fmt.Errorf("unmount %s: %w", e.Target, err)
	}
	return nil
}

// makeFolder makes a folder of runtime.json and those above it. What is made in the root
// of a container in a user namespace belongs to the root there.
func makeFolder(b *bundle.Bundle, paths *safepath.Resolver, dir string) error {
	path, err := within(b, dir)
	if err != nil {
		return err
	}
	rest, scoped := inRoot(b, path)
	if !scoped {
		by, err := whoCanChange(paths, path)
		if err != nil {
			return err
		}
		if by == "" {
			return mounts.MkdirAll(path)
		}
	} else if !filepath.IsAbs(dir) {
		rest = dir
	}
	o := safepath.Options{Make: true}
	var p *safepath.Place
	if scoped {
		if users := userns.Of(b.Spec); users != nil {
			uid, gid := users.Owner(0, 0)
			o.Made = func(fd int) error {
				if err := unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
					return fmt.Errorf("give it to the container's root: %w", err)
				}
				return nil
			}
		}
		p, err = paths.In(Root(b), rest, o)
	} else {
		p, err = paths.Open(path, o)
	}
	if err != nil {
		return mounts.ExplainMake(path, err)
	}
	defer p.Close()
	if !p.IsDir() {
		return mounts.ExplainMake(path, fmt.Errorf("mkdir %s: %w", path, unix.ENOTDIR))
	}
	return nil
}
