// Package output writes a finished tree as what boots or is unpacked: an
// initrd (cpio "newc", compressed), an ext4 file system, a tar archive; and what
// EFI firmware starts: a unified kernel image, and a disk and a CD to hold it.
//
// It promises the same bytes for the same tree. It never looks inside files.
package output

import (
	"archive/tar"
	"fmt"
	"io"
	"math"
	"strings"

	"golang.org/x/sys/unix"

	"keelson/mkimage/tree"
)

// cpioWriter writes the format that the kernel unpacks an initramfs from:
// Documentation/driver-api/early-userspace/buffer-format.rst, magic 070701.
type cpioWriter struct {
	padWriter
	ino uint32
}

func newCpio(w io.Writer) *cpioWriter { return &cpioWriter{padWriter: padWriter{w: w}} }

var cpioTypes = map[byte]int64{
	tar.TypeReg:     unix.S_IFREG,
	tar.TypeDir:     unix.S_IFDIR,
	tar.TypeSymlink: unix.S_IFLNK,
	tar.TypeChar:    unix.S_IFCHR,
	tar.TypeBlock:   unix.S_IFBLK,
	tar.TypeFifo:    unix.S_IFIFO,
}

// maxHoles is what a file may have of zeros in an initrd. A file like that is a log by
// user numbers (lastlog), or a disk.
const maxHoles = 256 << 20

// WriteEntry implements tree.Writer. Entries with one inode are hard links, of which the
// last has the contents, as GNU cpio writes and reads them; those of a symbolic link
// are links of their own, as the kernel makes no hard link of them.
func (c *cpioWriter) WriteEntry(e tree.Entry, contents io.Reader) error {
	var size int64
	switch e.Type {
	case tar.TypeReg:
		size = e.Size
	case tar.TypeSymlink:
		contents = strings.NewReader(e.Target)
		size = int64(len(e.Target))
	}
	links := e.Links
	switch {
	case e.Type == tar.TypeSymlink:
		links = nil
	case e.HardLink != "":
		return nil // it came with the entry that has the contents
	}
	if holes := size - e.Data.Data(); e.Data != nil && (holes >= maxHoles || size > math.MaxUint32) {
		return fmt.Errorf("has %d MiB of zeros, which all take memory in an initrd; leave the file out of the image, or build kernel+squashfs or kernel+ext4, where they are holes", holes>>20)
	}
	if size > math.MaxUint32 {
		return fmt.Errorf("%d bytes: an initrd holds no file of 4 GiB or more", size)
	}
	c.ino++
	h := cpioHeader{
		ino: c.ino, mode: cpioTypes[e.Type] | e.Mode, uid: e.UID, gid: e.GID, nlink: 1 + len(links),
		mtime: clampTime(e.ModTime.Unix()), major: e.Major, minor: e.Minor,
	}
	if e.IsDir() {
		h.nlink = 2
	}
	for _, name := range links {
		h.name = name
		if err := c.header(h); err != nil {
			return err
		}
	}
	h.name, h.size = e.Path, size
	if err := c.header(h); err != nil {
		return err
	}
	if size == 0 {
		return nil
	}
	n, err := io.Copy(c, io.LimitReader(contents, size+1))
	if err != nil {
		return err
	}
	if n != size {
		return fmt.Errorf("has %d bytes or more, not %d as it said", n, size)
	}
	return c.pad()
}

// clampTime keeps a time within the format's 32 bits.
func clampTime(t int64) uint32 {
	return uint32(min(max(t, 0), math.MaxUint32))
}

type cpioHeader struct {
	ino          uint32
	mode         int64
	uid, gid     int
	nlink        int
	mtime        uint32
	size         int64
	major, minor int64
	name         string
}

func (c *cpioWriter) header(h cpioHeader) error {
	_, err := fmt.Fprintf(c, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		h.ino, h.mode, uint32(h.uid), uint32(h.gid), h.nlink, h.mtime, h.size,
		0, 0, h.major, h.minor, len(h.name)+1, 0, h.name)
	if err != nil {
		return err
	}
	return c.pad()
}

// Close writes the trailer. It does not close what is below.
func (c *cpioWriter) Close() error {
	return c.header(cpioHeader{nlink: 1, name: "TRAILER!!!"})
}
