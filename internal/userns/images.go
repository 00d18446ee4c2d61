package userns

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"keelson/internal/mounts"
)

// Metacopy is the option of overlay without which it neither makes such a copy nor
// shows one.
const Metacopy = "metacopy=on"

// Images has the copies of images. Several callers may use it at once.
type Images struct {
	// Dir is where the copies lie: a folder of the machine's that ends with the
	// boot. A tmpfs is mounted on it.
	Dir string

	mu   sync.Mutex
	busy map[string]chan struct{} // closed when who makes that copy is done, guarded by mu
}

// The folders of one copy. A copy is whole when it has the name layer.
const (
	layer  = "layer"
	half   = "half"
	work   = "work"
	merged = "merged"
)

// Lower returns what overlay's lowerdir must be to show an image with the owners
// that a mapping gives its files. image is the lowerdir that shows it as it is: a
// folder, or several separated by colons. The mount needs Metacopy.
func (i *Images) Lower(ctx context.Context, image string, m *Mapping) (string, error) {
	key, err := key(image, m)
	if err != nil {
		return "", err
	}
	done, err := i.enter(ctx, key)
	if err != nil {
		return "", err
	}
	defer done()
	dir := filepath.Join(i.Dir, key)
	whole := filepath.Join(dir, layer)
	if _, err := os.Stat(whole); err == nil {
		return whole + ":" + image, nil
	}
	if err := i.Mount(); err != nil {
		return "", err
	}
	if err := makeCopy(ctx, dir, image, m); err != nil {
		// nothing of it is of use to the next one who tries
		return "", errors.Join(err, remove(dir))
	}
	return whole + ":" + image, nil
}

// Mount makes the tmpfs of the copies if it is not there. It is private: what is
// mounted there for a moment is nobody else's business.
func (i *Images) Mount() error {
	if err := mounts.MkdirAll(i.Dir); err != nil {
		return fmt.Errorf("make the folder of mapped images: %w", err)
	}
	// Files without contents take no space, only inodes; there are as many as the
	// images have. The containers' users come through it to their roots.
	_, err := mounts.Entry{Source: "userns", Target: i.Dir, Type: "tmpfs", Options: []string{"mode=0711", "nr_inodes=0", "private"}}.Ensure()
	return err
}

// key is the folder of one copy.
func key(image string, m *Mapping) (string, error) {
	data, err := json.Marshal(struct {
		Image string
		*Mapping
	}{image, m})
	if err != nil {
		return "", fmt.Errorf("encode a mapping: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:12]), nil
}

// enter waits until nobody makes that copy, and keeps others from it until done.
func (i *Images) enter(ctx context.Context, key string) (done func(), err error) {
	for {
		i.mu.Lock()
		other := i.busy[key]
		if other == nil {
			if i.busy == nil {
				i.busy = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			i.busy[key] = mine
			i.mu.Unlock()
			return func() {
				i.mu.Lock()
				delete(i.busy, key)
				i.mu.Unlock()
				close(mine)
			}, nil
		}
		i.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the mapped image that another container has begun: %w", ctx.Err())
		}
	}
}

// makeCopy makes a copy: an overlay of the image is mounted, everything in it is
// given to its new owner, and what overlay has then written down is the copy.
func makeCopy(ctx context.Context, dir, image string, m *Mapping) error {
	if err := remove(dir); err != nil { // half a copy of an earlier supervisor's
		return err
	}
	first, _, _ := strings.Cut(image, ":")
	root, err := os.Stat(first)
	if err != nil {
		return fmt.Errorf("look at the image: %w", err)
	}
	for _, name := range []string{half, work, merged} {
		if err := mounts.MkdirAll(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("make the folder of a mapped image: %w", err)
		}
	}
	// It is for overlay alone, which has found it before anybody else asks.
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("close the folder of a mapped image: %w", err)
	}
	if err := os.Chmod(filepath.Join(dir, half), root.Mode()&(fs.ModePerm|fs.ModeSetgid|fs.ModeSticky)); err != nil {
		return fmt.Errorf("make the folder of a mapped image: %w", err)
	}
	// With an index, as some kernels have it by default, all names of a file get their new owner
	// with the first one, and nobody would know with the second that it is the new one.
	over := mounts.Entry{Source: "overlay", Target: filepath.Join(dir, merged), Type: "overlay", Options: []string{
		"lowerdir=" + image, "upperdir=" + filepath.Join(dir, half), "workdir=" + filepath.Join(dir, work), Metacopy, "index=off",
	}}
	if _, err := over.Ensure(); err != nil {
		return fmt.Errorf("it takes an overlay with metacopy (Linux 4.19) to map an image: %w", err)
	}
	if err := chownAll(ctx, over.Target, m); err != nil {
		return err
	}
	if err := unix.Unmount(over.Target, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", over.Target, err)
	}
	for _, name := range []string{work, merged} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("tidy up a mapped image: %w", err)
		}
	}
	if err := os.Rename(filepath.Join(dir, half), filepath.Join(dir, layer)); err != nil {
		return fmt.Errorf("finish a mapped image: %w", err)
	}
	return nil
}

// remove removes a copy with what is mounted for it.
func remove(dir string) error {
	if err := mounts.UnmountBelow(dir); err != nil {
		return fmt.Errorf("remove half a mapped image: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove half a mapped image: %w", err)
	}
	return nil
}
