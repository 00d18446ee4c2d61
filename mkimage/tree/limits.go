package tree

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"keelson/mkimage/sparse"
)

// What a tree holds at most. Whatever is above comes of a mistake or of somebody who
// wants to have a build stand still.
const (
	maxPath      = 4095      // bytes of a path, the kernel's PATH_MAX: it leaves out what is longer
	maxName      = 255       // bytes of a name in it, NAME_MAX
	maxDepth     = 256       // directories on the way to an entry
	maxSteps     = 1024      // names that a path passes through, those of links included
	maxEntries   = 1_000_000 // entries of all layers, and directories that lie on their way
	maxEntryMeta = 128 << 10 // bytes of one entry's name, target and extended attributes
	maxMeta      = 256 << 20 // bytes of those of all entries
	sparseness   = 64        // bytes of sparse files, holes included, for each that may be unpacked
	maxMajor     = 1<<12 - 1
	maxMinor     = 1<<20 - 1
	maxID        = 1<<32 - 2 // of a user or group; the last number is for none
)

// DefaultMaxSize bounds the bytes that layers unpack to.
const DefaultMaxSize = 16 << 30

// ErrTooLarge is for what unpacks to more than was allowed.
var ErrTooLarge = errors.New("--max-size allows more")

// TooLarge returns the error for what unpacks to more than limit bytes.
func TooLarge(limit int64) error {
	size := fmt.Sprintf("%d bytes", limit)
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if div := int64(1) << (10 * (i + 1)); limit%div == 0 {
			size = fmt.Sprintf("%d %s", limit/div, unit)
		}
	}
	return fmt.Errorf("unpacks to more than %s; %w", size, ErrTooLarge)
}

// usage is what has been put into a tree.
type usage struct {
	entries int
	meta    int64
	files   int64 // bytes of regular files, as their entries state them
	sparse  int64 // bytes of files whose holes the tar leaves out, holes included
	stream  int64 // bytes of tar streams
}

// SetMaxSize bounds the bytes that all layers together unpack to.
func (t *Tree) SetMaxSize(n int64) { t.maxSize = min(n, math.MaxInt64/sparseness) }

func (t *Tree) countEntry() error {
	if t.used.entries++; t.used.entries > maxEntries {
		return fmt.Errorf("more than %d files and directories", maxEntries)
	}
	return nil
}

// count checks one entry of a tar, and all that came so far.
func (t *Tree) count(hdr *tar.Header) error {
	meta := len(hdr.Name) + len(hdr.Linkname)
	for k, v := range hdr.PAXRecords {
		if strings.HasPrefix(k, XattrPrefix) || strings.HasPrefix(k, bsdXattrPrefix) {
			meta += len(k) + len(v)
		}
	}
	t.used.meta += int64(meta)
	switch {
	case len(hdr.Name) > maxPath:
		return fmt.Errorf("a path of %d bytes; the kernel takes %d", len(hdr.Name), maxPath)
	case len(hdr.Linkname) > maxPath:
		return fmt.Errorf("a link to a path of %d bytes; the kernel takes %d", len(hdr.Linkname), maxPath)
	case meta > maxEntryMeta:
		return fmt.Errorf("name and extended attributes of %d bytes; at most %d are read", meta, maxEntryMeta)
	case t.used.meta > maxMeta:
		return fmt.Errorf("names and extended attributes of more than %d MiB in all", maxMeta>>20)
	case hdr.Uid < 0 || hdr.Uid > maxID || hdr.Gid < 0 || hdr.Gid > maxID:
		return fmt.Errorf("owner %d:%d; a user and a group are numbers from 0 to %d", hdr.Uid, hdr.Gid, maxID)
	case hdr.Devmajor < 0 || hdr.Devmajor > maxMajor || hdr.Devminor < 0 || hdr.Devminor > maxMinor:
		return fmt.Errorf("device %d:%d; the kernel takes up to %d:%d", hdr.Devmajor, hdr.Devminor, maxMajor, maxMinor)
	}
	if sparse.InTar(hdr) { // its holes take no room, and its data counts as it is read
		if limit := t.maxSize * sparseness; hdr.Size > limit || t.used.sparse > limit-hdr.Size {
			return fmt.Errorf("sparse files of more than %d times what may be unpacked in all; %w", sparseness, ErrTooLarge)
		}
		t.used.sparse += hdr.Size
	} else if t.used.files += hdr.Size; t.used.files > t.maxSize || hdr.Size > t.maxSize {
		return TooLarge(t.maxSize)
	}
	return t.countEntry()
}

// metered counts the bytes of a tar stream.
type metered struct {
	io.Reader
	t *Tree
}

func (m metered) Read(b []byte) (int, error) {
	n, err := m.Reader.Read(b)
	if m.t.used.stream += int64(n); m.t.used.stream > m.t.maxSize {
		return n, TooLarge(m.t.maxSize)
	}
	return n, err
}

// short is a name for an error, which may be of any length.
func short(name string) string {
	if len(name) > 100 {
		return fmt.Sprintf("%s... (%d bytes)", name[:80], len(name))
	}
	return name
}
