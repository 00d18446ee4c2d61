// Package volumes mounts the named volumes of the image, which containers bind
// from /containers/volumes/NAME/merged.
//
// The image holds a volume's content in NAME/lower. A writable volume has an
// empty folder NAME/tmp as well: it gets a tmpfs there for what is written, and
// an overlay of both on NAME/merged. Without that folder the volume is
// read-only: merged is an overlay that has nothing to write to, since a container
// that binds it may take a flag of the mount away, or lower bound to it where the
// kernel has no overlay. It
// promises that a volume is mounted once in a boot however often Mount is called,
// and that a volume that cannot be mounted keeps none of the others from it.
package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"keelson/internal/mounts"
)

// Dir is where the image has its volumes.
const Dir = "/containers/volumes"

// Volume is one that is ready for use.
type Volume struct {
	Name     string
	ReadOnly bool
	Path     string // what containers bind: .../merged
}

// Mount mounts all volumes below dir and returns those that are ready. No such
// folder is no error.
func Mount(dir string) ([]Volume, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the volumes: %w", err)
	}
	var ready []Volume
	var errs []error
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		v, err := mount(dir, e.Name())
		if err != nil {
			errs = append(errs, fmt.Errorf("volume %s: %w", e.Name(), err))
			continue
		}
		ready = append(ready, v)
	}
	return ready, errors.Join(errs...)
}

func mount(dir, name string) (Volume, error) {
	lower, tmp, merged := filepath.Join(dir, name, "lower"), filepath.Join(dir, name, "tmp"), filepath.Join(dir, name, "merged")
	v := Volume{Name: name, Path: merged}
	for _, needed := range []string{lower, merged} {
		if info, err := os.Lstat(needed); err != nil || !info.IsDir() { // a link leads out of the volume
			return v, fmt.Errorf("%s is missing: a volume has the folders lower and merged, and tmp if it is to be written to", needed)
		}
	}
	info, err := os.Lstat(tmp)
	if err == nil && !info.IsDir() {
		return v, fmt.Errorf("%s is no folder", tmp)
	}
	v.ReadOnly = errors.Is(err, fs.ErrNotExist)
	if v.ReadOnly {
		return v, mountReadOnly(lower, merged)
	}
	over := mounts.Entry{Source: "overlay", Target: merged, Type: "overlay", Options: []string{
		"lowerdir=" + lower, "upperdir=" + tmp + "/upper", "workdir=" + tmp + "/work",
	}}
	if there, err := over.Mounted(); err != nil || there {
		return v, err
	}
	if _, err := (mounts.Entry{Source: "tmpfs", Target: tmp, Type: "tmpfs"}).Ensure(); err != nil {
		return v, err
	}
	for _, folder := range mounts.OverlayFolders(over.Options) {
		if err := mounts.MkdirAll(folder); err != nil {
			return v, err
		}
	}
	// overlay takes the mode and the owner of merged from upper
	if err := copyOwner(lower, filepath.Join(tmp, "upper")); err != nil {
		return v, err
	}
	_, err = over.Ensure()
	return v, err
}

// mountReadOnly shows lower at merged. An overlay wants two lower folders where it
// has no upper one: the other is merged itself, which is empty.
func mountReadOnly(lower, merged string) error {
	over := mounts.Entry{Source: "overlay", Target: merged, Type: "overlay", Options: []string{"ro", "lowerdir=" + lower + ":" + merged}}
	if _, err := over.Ensure(); err == nil {
		return nil
	}
	_, err := mounts.Entry{Source: lower, Target: merged, Type: "bind", Options: []string{"ro"}}.Ensure()
	return err
}

func copyOwner(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if uid, gid, ok := owner(info); ok {
		if err := os.Chown(to, uid, gid); err != nil {
			return err
		}
	}
	return os.Chmod(to, info.Mode()&(fs.ModePerm|fs.ModeSetgid|fs.ModeSticky))
}
