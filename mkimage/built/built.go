// Package built reads back what a build wrote: an initrd, a tar, an EFI program, and a
// raw disk or CD that holds one.
//
//   - It reads an initrd from front to back and keeps no contents, whatever their size.
//   - It believes no number of a file: what does not fit is an error that names the file.
package built

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"keelson/mkimage/assemble"
	"keelson/mkimage/output"
	"keelson/mkimage/tree"
)

// Image is an image whose files can be looked at, built or about to be.
type Image struct {
	Name    string
	Kernel  *assemble.File // nil without one
	Cmdline string

	root func() (io.ReadCloser, error) // an initrd or a tar
	boot bool                          // the kernel is in /boot of it
}

// FromRoot is the image that a build would write, as an initrd holds it.
func FromRoot(ctx context.Context, name string, res *assemble.Result, cmdline string) *Image {
	return &Image{Name: name, Kernel: res.Kernel, Cmdline: cmdline, root: func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(writePlain(ctx, w, res)) }() // ends when r is closed
		return r, nil
	}}
}

// writePlain writes the initrd of an image, not compressed.
func writePlain(ctx context.Context, w io.Writer, res *assemble.Result) error {
	early, err := res.Early()
	if err != nil {
		return err
	}
	defer early.Close()
	return output.Initrd(ctx, w, res.Root, early, "none", nil)
}

// suffixes of what Open reads, behind the prefix of a build.
var suffixes = []string{"-initrd.img", ".efi", "-efi.img", "-efi.iso", ".vhd", ".tar"}

// Open opens a file that a build wrote, or the first of those with a prefix.
func Open(name string) (*Image, error) {
	_, err := os.Stat(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return open(name)
	}
	for _, suffix := range suffixes {
		if _, err := os.Stat(name + suffix); err == nil {
			return open(name + suffix)
		}
	}
	return nil, fmt.Errorf("there is no %s, nor %s with %s behind it; build it first (mkimage build), or give the .yml itself", name, name, strings.Join(suffixes, ", "))
}

// unread are files of builds that this package does not read, by what they have where.
var unread = []struct {
	at          int
	magic, what string
}{
	{0, "QFI\xfb", "a qcow2 disk"},
	{0, "KDMV", "a VMDK disk"},
	{0, "hsqs", "a squashfs"},
	{1080, "\x53\xef", "an ext4 file system"},
}

// open finds out what a file is.
func open(name string) (*Image, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is not a file of a build", name), err)
	}
	head := make([]byte, 4096)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	head = head[:n]
	has := func(at int, magic string) bool {
		return len(head) >= at && bytes.HasPrefix(head[at:], []byte(magic))
	}
	image := &Image{Name: name}
	switch {
	case has(0, "MZ"):
		return image, image.openProgram(f, 0)
	case has(sector, "EFI PART"):
		start, err := findProgram(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return image, image.openProgram(f, start)
	case has(257, "ustar"):
		image.root = func() (io.ReadCloser, error) { return os.Open(name) }
		return image, image.readBoot()
	case has(0, "0707"), has(0, gzipMagic), has(0, zstdMagic), has(0, lz4Magic):
		image.root = func() (io.ReadCloser, error) { return os.Open(name) }
		return image, image.openBeside(name)
	}
	what := "neither an initrd nor another format of mkimage"
	for _, u := range unread {
		if has(u.at, u.magic) {
			what = u.what
		}
	}
	return nil, fmt.Errorf("%s is %s; what can be read are initrds, tar, efi, raw-efi, iso-efi and vhd; or give the .yml", name, what)
}

// openBeside finds kernel and command line beside an initrd.
func (i *Image) openBeside(name string) error {
	prefix, ok := strings.CutSuffix(name, "-initrd.img")
	if !ok {
		return nil
	}
	kernel := prefix + "-kernel"
	if fi, err := os.Stat(kernel); err == nil {
		i.Kernel = &assemble.File{Size: fi.Size(), Open: func() (io.ReadCloser, error) { return os.Open(kernel) }}
	}
	line, err := os.ReadFile(prefix + "-cmdline")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	i.Cmdline = string(line)
	return err
}

// readBoot finds kernel and command line in /boot of a tar.
func (i *Image) readBoot() error {
	return i.raw(context.Background(), visitor(func(e tree.Entry, contents io.Reader) error {
		switch e.Path {
		case bootKernel:
			i.boot = true
			i.Kernel = &assemble.File{Size: e.Size, Open: func() (io.ReadCloser, error) { return i.open(bootKernel) }}
		case bootCmdline:
			line, err := io.ReadAll(io.LimitReader(contents, 1<<20))
			i.Cmdline = string(line)
			return err
		}
		return nil
	}))
}

const bootKernel, bootCmdline = "boot/kernel", "boot/cmdline"

type visitor func(e tree.Entry, contents io.Reader) error

// WriteEntry implements tree.Writer.
func (v visitor) WriteEntry(e tree.Entry, contents io.Reader) error { return v(e, contents) }

// open opens one file of the root.
func (i *Image) open(name string) (io.ReadCloser, error) {
	r, w := io.Pipe()
	go func() { // ends when r is closed
		err := fmt.Errorf("there is no %s: %w", name, fs.ErrNotExist)
		rerr := i.raw(context.Background(), visitor(func(e tree.Entry, contents io.Reader) error {
			if e.Path != name {
				return nil
			}
			if _, err = io.Copy(w, contents); err == nil {
				return errFound
			}
			return err
		}))
		if rerr != nil && !errors.Is(rerr, errFound) {
			err = rerr
		}
		w.CloseWithError(err)
	}()
	return r, nil
}

var errFound = errors.New("found")

// Write gives each file of the root to w, with contents for regular ones. Those of
// /boot, which only a tar has, are Kernel and Cmdline.
func (i *Image) Write(w tree.Writer) error { return i.WriteContext(context.Background(), w) }

// WriteContext is Write until ctx is done.
func (i *Image) WriteContext(ctx context.Context, w tree.Writer) error {
	return i.raw(ctx, visitor(func(e tree.Entry, contents io.Reader) error {
		if i.boot && slices.Contains([]string{"boot", bootKernel, bootCmdline, "boot/ucode.cpio"}, e.Path) {
			return nil
		}
		return w.WriteEntry(e, contents)
	}))
}

func (i *Image) raw(ctx context.Context, w tree.Writer) error {
	rc, err := i.root()
	if err != nil {
		return err
	}
	defer rc.Close()
	if err := readRoot(until{rc, ctx}, w, false); err != nil {
		return fmt.Errorf("read %s: %w", i.Name, err)
	}
	return nil
}

// until is a reader that ends with its context.
type until struct {
	io.Reader
	ctx context.Context
}

func (u until) Read(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.Reader.Read(b)
}

const (
	gzipMagic = "\x1f\x8b"
	zstdMagic = "\x28\xb5\x2f\xfd"
	lz4Magic  = "\x02\x21\x4c\x18" // of the legacy format, the one that the kernel unpacks
	// maxWindow is what the kernel's decoder of zstd takes.
	maxWindow = 128 << 20
)

// decompressor opens the compressed part of an initrd.
func decompressor(magic []byte, r io.Reader) (io.ReadCloser, error) {
	if bytes.HasPrefix(magic, []byte(gzipMagic)) {
		zr, err := gzip.NewReader(r)
		if err == nil {
			zr.Multistream(false) // padding follows
		}
		return zr, err
	}
	if bytes.HasPrefix(magic, []byte(lz4Magic)) {
		return io.NopCloser(lz4.NewReader(r)), nil
	}
	zr, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return zr.IOReadCloser(), nil
}

// readTar gives the entries of a tar to w.
func readTar(r io.Reader, w tree.Writer) error {
	tr := tar.NewReader(r)
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if hdr.Name == "disk.raw" {
			return errors.New("it is an archive for Google's cloud; give the raw-efi of the same build, or the .yml")
		}
		in := &tree.Inode{
			Type: hdr.Typeflag, Mode: hdr.Mode, UID: hdr.Uid, GID: hdr.Gid, ModTime: hdr.ModTime, Size: hdr.Size,
			Target: hdr.Linkname, Major: hdr.Devmajor, Minor: hdr.Devminor, Xattrs: map[string]string{},
		}
		for key, value := range hdr.PAXRecords {
			if strings.HasPrefix(key, "SCHILY.xattr.") {
				in.Xattrs[key] = value
			}
		}
		e := tree.Entry{Path: strings.TrimSuffix(hdr.Name, "/"), Inode: in}
		if hdr.Typeflag == tar.TypeLink {
			e.HardLink, in.Type, in.Target, in.Size = hdr.Linkname, tar.TypeReg, "", 0
		}
		if err := w.WriteEntry(e, tr); err != nil {
			return err
		}
	}
}
