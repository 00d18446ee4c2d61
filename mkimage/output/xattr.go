package output

import (
	"io"
	"strings"

	"keelson/mkimage/tree"
)

// HeldOnDisk reports whether ext4 and squashfs hold an extended attribute as an image has
// it. ACLs (system.posix_acl_access) are kept in a form of their own there.
func HeldOnDisk(name string) bool {
	return strings.HasPrefix(name, "security.") || strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.")
}

// onDisk leaves out the extended attributes that no file system holds.
type onDisk struct{ tree.Writer }

// WriteEntry implements tree.Writer.
func (d onDisk) WriteEntry(e tree.Entry, contents io.Reader) error {
	held := map[string]string{}
	for key, v := range e.Xattrs {
		if HeldOnDisk(strings.TrimPrefix(key, tree.XattrPrefix)) {
			held[key] = v
		}
	}
	if len(held) < len(e.Xattrs) {
		in := *e.Inode
		in.Xattrs = held
		e.Inode = &in
	}
	return d.Writer.WriteEntry(e, contents)
}
