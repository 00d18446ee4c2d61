package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"keelson/mkimage/regular"
	"keelson/mkimage/scratch"
	"keelson/mkimage/tree"
)

// Archive is a tarball or a directory that holds images, or the files of a root
// filesystem.
type Archive struct {
	name  string             // as the user gave it
	dir   bool               // a directory; else a tarball
	plain string             // the file that holds a tarball uncompressed
	temp  bool               // plain is a temporary file
	at    map[string]section // regular files of a tarball
	links map[string]string  // links of a tarball, to what they lead
	empty bool               // a tarball without an entry
}

// maxWindow is what a zstd stream may have kept in memory; zstd --ultra needs it.
const maxWindow = 128 << 20

const (
	maxArchiveEntries = 1_000_000
	maxLayers         = 1000 // of all images in a tarball of docker save
	maxArchiveLinks   = 8    // on the way to one file of a tarball
)

// capped refuses to write more than so many bytes.
type capped struct {
	io.Writer
	left, max int64
}

func newCapped(w io.Writer, max int64) *capped {
	if max == 0 {
		max = tree.DefaultMaxSize
	}
	return &capped{w, max, max}
}

func (c *capped) Write(b []byte) (int, error) {
	if c.left -= int64(len(b)); c.left < 0 {
		return 0, tree.TooLarge(c.max)
	}
	return c.Writer.Write(b)
}

type section struct{ off, size int64 }

// OpenArchive opens a directory, or reads the table of contents of a tarball, which may
// be compressed with gzip, bzip2, zstd or xz. Close removes what it had to unpack for
// that, which is no more than maxSize bytes; 0 is tree.DefaultMaxSize.
func OpenArchive(name string, maxSize int64) (*Archive, error) {
	if fi, err := os.Stat(name); err == nil {
		switch {
		case fi.IsDir():
			return &Archive{name: name, dir: true}, nil
		case !fi.Mode().IsRegular() && fi.Mode()&fs.ModeNamedPipe == 0:
			return nil, fmt.Errorf("%s is neither a file nor a directory", name)
		}
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	a := &Archive{name: name, plain: name, at: map[string]section{}, links: map[string]string{}}
	zr, compressed, err := decompress(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if compressed || !fi.Mode().IsRegular() { // a pipe can be read once
		if err := a.unpack(zr, maxSize); err != nil {
			a.Close()
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := a.scan(); err != nil {
		a.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return a, nil
}

// Close removes temporary files.
func (a *Archive) Close() {
	if a.temp {
		scratch.Remove(a.plain)
	}
}

// decompress recognises what r is compressed with by its first bytes.
func decompress(r io.Reader) (plain io.Reader, compressed bool, err error) {
	br := bufio.NewReaderSize(r, 1<<16)
	head, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		plain, err = gzip.NewReader(br)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		plain, err = zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	case bytes.HasPrefix(head, []byte("BZh")):
		plain = bzip2.NewReader(br)
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		plain, err = xz.NewReader(br)
	default:
		return br, false, nil
	}
	return plain, true, err
}

func (a *Archive) unpack(r io.Reader, maxSize int64) error {
	tmp, err := scratch.File("", "mkimage-*.tar")
	if err != nil {
		return err
	}
	defer tmp.Close()
	a.plain, a.temp = tmp.Name(), true
	if _, err := io.Copy(newCapped(tmp, maxSize), r); err != nil {
		return err
	}
	return tmp.Close()
}

// scan notes where each file of the tarball lies.
func (a *Archive) scan() error {
	f, err := os.Open(a.plain)
	if err != nil {
		return err
	}
	defer f.Close()
	tr := tar.NewReader(f)
	for n := 0; ; n++ {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			a.empty = n == 0
			return nil
		}
		if err != nil {
			if n == 0 {
				return fmt.Errorf("is not a tarball: %w", err)
			}
			return fmt.Errorf("read tar: %w", err)
		}
		if n >= maxArchiveEntries {
			return fmt.Errorf("has more than %d files", maxArchiveEntries)
		}
		name := path.Clean(hdr.Name)
		_, twice := a.at[name]
		switch {
		case name != "index.json" && name != "oci-layout" && name != "manifest.json":
		case twice:
			return fmt.Errorf("has two files %s, and tools differ in which of them they read", name)
		case hdr.Typeflag != tar.TypeReg:
			return fmt.Errorf("%s is not a regular file", name)
		}
		switch hdr.Typeflag {
		case tar.TypeSymlink: // docker save and podman have one layer once
			a.links[name] = path.Join(path.Dir(name), hdr.Linkname)
		case tar.TypeLink:
			a.links[name] = path.Clean(hdr.Linkname)
		case tar.TypeReg:
			off, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			a.at[name] = section{off, hdr.Size}
		}
	}
}

// find follows the links of a tarball to a regular file.
func (a *Archive) find(name string) (section, bool) {
	name = path.Clean(name)
	for range maxArchiveLinks {
		if s, ok := a.at[name]; ok {
			return s, true
		}
		to, ok := a.links[name]
		if !ok {
			break
		}
		name = to
	}
	return section{}, false
}

// size returns the size of a regular file, and whether there is one.
func (a *Archive) size(name string) (int64, bool) {
	if !a.dir {
		s, ok := a.find(name)
		return s.size, ok
	}
	if !filepath.IsLocal(name) {
		return 0, false
	}
	fi, err := os.Stat(filepath.Join(a.name, name))
	if err != nil || !fi.Mode().IsRegular() {
		return 0, false
	}
	return fi.Size(), true
}

func (a *Archive) has(name string) bool {
	_, ok := a.size(name)
	return ok
}

// notThere is the error for a file that an archive lacks.
type notThere string

// Error implements error.
func (n notThere) Error() string { return string(n) }

// Is has it be fs.ErrNotExist.
func (notThere) Is(target error) bool { return target == fs.ErrNotExist }

func (a *Archive) open(name string) (io.ReadCloser, error) {
	if !a.has(name) {
		return nil, notThere(fmt.Sprintf("%s: has no %s", a.name, name))
	}
	if a.dir {
		// What became a pipe since is not waited for.
		return regular.Open(filepath.Join(a.name, name))
	}
	f, err := os.Open(a.plain)
	if err != nil {
		return nil, err
	}
	s, _ := a.find(name)
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, s.off, s.size), f}, nil
}

// openBlob opens a blob of an OCI image layout, or of skopeo's dir: where each has its
// digest for a name.
func (a *Archive) openBlob(h v1.Hash) (io.ReadCloser, error) {
	blob := path.Join("blobs", h.Algorithm, h.Hex)
	for _, name := range []string{h.Hex, h.Hex + ".manifest.json", h.Hex + ".tar"} {
		if !a.has(blob) && a.has(name) {
			return a.open(name)
		}
	}
	return a.open(blob)
}

func (a *Archive) read(name string) ([]byte, error) {
	rc, err := a.open(name)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	b, err := readMetadata(rc)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", a.name, name, err)
	}
	return b, nil
}
