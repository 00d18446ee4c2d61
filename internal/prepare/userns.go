package prepare

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/bundle"
	"keelson/internal/mounts"
	"keelson/internal/userns"
)

// images has the images whose files belong to the users of user namespaces. Those
// users must come through the folders above: /run/keelson is closed to them.
var images = &userns.Images{Dir: "/run/userns"}

// Reserve makes what later starts need on file systems that containers can fill.
func Reserve() error {
	if err := mounts.MkdirAll(images.Dir); err != nil {
		return fmt.Errorf("make the folder of mapped images: %w", err)
	}
	return nil
}

// Root is where the root file system of a container is once Before is done. It is
// what its configuration says, but for a read-only one in a user namespace: where
// that would be, the image itself may lie, which others use.
func Root(b *bundle.Bundle) string {
	if inUserNamespace(b) && slices.ContainsFunc(b.Runtime.Mounts, func(m specs.Mount) bool { return isRoot(b, m) && toEntry(m).IsBind() }) {
		return filepath.Join(images.Dir, "roots", b.ID)
	}
	return b.Rootfs()
}

func inUserNamespace(b *bundle.Bundle) bool { return userns.Of(b.Spec) != nil }

// isRoot reports whether a mount of runtime.json makes the container's root file
// system out of its image.
func isRoot(b *bundle.Bundle, m specs.Mount) bool {
	e := toEntry(m)
	return filepath.Clean(e.Target) == b.Rootfs() && (e.Type == "overlay" || e.IsBind())
}

func toEntry(m specs.Mount) mounts.Entry {
	return mounts.Entry{Source: m.Source, Target: m.Destination, Type: m.Type, Options: m.Options}
}

// checkUsers says what is wrong with the users of a container in a user namespace,
// before anything is done for it.
func checkUsers(b *bundle.Bundle) error {
	if !inUserNamespace(b) {
		return nil
	}
	for _, p := range userns.Check(b.Spec) {
		return fmt.Errorf("%s: %s: %s: %s", b.Name, filepath.Join(b.Dir, "config.json"), p.Key, p.Text)
	}
	return nil
}

// mountMapped makes the root of a container in a user namespace: an overlay in
// which the image's files belong to the container's users, in place of what
// runtime.json says.
func mountMapped(ctx context.Context, b *bundle.Bundle, m specs.Mount) error {
	users := userns.Of(b.Spec)
	e := toEntry(m)
	e.Target = Root(b)
	e.Options = mounts.Words(e.Options...)
	if e.IsBind() {
		rest := slices.DeleteFunc(e.Options, func(o string) bool { return o == "bind" || o == "rbind" || o == "rw" })
		e = mounts.Entry{Source: "overlay", Target: e.Target, Type: "overlay", Options: append(rest, "lowerdir="+e.Source)}
	}
	if there, err := e.Mounted(); err != nil || there {
		return err
	}
	options := []string{userns.Metacopy}
	for _, o := range e.Options {
		if image, ok := strings.CutPrefix(o, "lowerdir="); ok {
			lower, err := images.Lower(ctx, image, users)
			if err != nil {
				return err
			}
			o = "lowerdir=" + lower
		}
		options = append(options, o)
	}
	e.Options = options
	if err := mounts.MkdirAll(e.Target); err != nil {
		return fmt.Errorf("make the destination: %w", err)
	}
	for _, dir := range mounts.OverlayFolders(e.Options) {
		if err := mounts.MkdirAll(dir); err != nil {
			return fmt.Errorf("make overlay's folder: %w", err)
		}
		// It shows as the container's root folder.
		if err := giveToRoot(users, dir); err != nil {
			return err
		}
	}
	_, err := e.Ensure()
	return err
}

// giveToRoot gives a file to the container's root.
func giveToRoot(users *userns.Mapping, path string) error {
	uid, gid := users.Owner(0, 0)
	if err := os.Lchown(path, uid, gid); err != nil {
		return fmt.Errorf("give it to the container's root: %w", err)
	}
	return nil
}
