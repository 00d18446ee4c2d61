package diff

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"

	"keelson/internal/visible"
	"keelson/mkimage/sizes"
	"keelson/mkimage/tree"
)

// file is what is compared of a file.
type file struct {
	tree.Inode
	path  string // in its part
	link  string // the path of which it is another name
	group string // names of one file have one
	size  int64
	sum   [sha256.Size]byte
	text  []byte // of a configuration
}

var kinds = map[byte]string{
	tar.TypeReg: "file", tar.TypeDir: "directory", tar.TypeSymlink: "symbolic link",
	tar.TypeChar: "character device", tar.TypeBlock: "block device", tar.TypeFifo: "fifo",
}

// describe describes a file that only one image has.
func (f *file) describe() string {
	switch f.Type {
	case tar.TypeReg:
		return sizes.Human(f.size)
	case tar.TypeSymlink:
		return "-> " + visible.Text(f.Target)
	case tar.TypeChar, tar.TypeBlock:
		return fmt.Sprintf("%s %d:%d", kinds[f.Type], f.Major, f.Minor)
	}
	return kinds[f.Type]
}

// differs is what of a file differs; nothing if all is the same.
func (f *file) differs(to *file) string {
	if f.Type != to.Type {
		return fmt.Sprintf("%s -> %s", kinds[f.Type], kinds[to.Type])
	}
	var list []string
	add := func(differs bool, format string, a ...any) {
		if differs {
			list = append(list, fmt.Sprintf(format, a...))
		}
	}
	add(f.sum != to.sum, "%s", resized(f.size, to.size))
	add(f.Target != to.Target, "-> %s becomes -> %s", visible.Text(f.Target), visible.Text(to.Target))
	add(f.Mode != to.Mode, "mode %o -> %o", f.Mode, to.Mode)
	add(f.UID != to.UID || f.GID != to.GID, "owner %d:%d -> %d:%d", f.UID, f.GID, to.UID, to.GID)
	add(f.Major != to.Major || f.Minor != to.Minor, "device %d:%d -> %d:%d", f.Major, f.Minor, to.Major, to.Minor)
	const day = "2006-01-02 15:04:05"
	add(f.ModTime.Unix() != to.ModTime.Unix(), "date %s -> %s", f.ModTime.UTC().Format(day), to.ModTime.UTC().Format(day))
	add(f.group != to.group, "a name of %s -> of %s", visible.Text(f.group), visible.Text(to.group))
	add(!maps.Equal(f.Xattrs, to.Xattrs), "attributes %s -> %s", attributes(f.Xattrs), attributes(to.Xattrs))
	return strings.Join(list, ", ")
}

func attributes(m map[string]string) string {
	var names []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		names = append(names, visible.Text(strings.TrimPrefix(key, "SCHILY.xattr.")))
	}
	return "(" + strings.Join(names, " ") + ")"
}

// resized describes contents that differ.
func resized(from, to int64) string {
	if from == to {
		return sizes.Human(from) + " of other contents"
	}
	return fmt.Sprintf("%s -> %s (%s)", sizes.Human(from), sizes.Human(to), signed(to-from))
}

func signed(n int64) string {
	if n < 0 {
		return "-" + sizes.Human(-n)
	}
	return "+" + sizes.Human(n)
}
