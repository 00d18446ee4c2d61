package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"keelson/mkimage/scratch"
	"keelson/mkimage/tree"
)

// Archive is a tarball that holds images (docker save, OCI image layout), or
// the files of a root filesystem.
type Archive struct {
	name  string // of the file as the user named it
	plain string // the file that holds it uncompressed
	temp  bool
	at    map[string]section
}

// maxWindow is what a zstd stream may have kept in memory; zstd --ultra needs it.
const maxWindow = 128 << 20

const (
	maxArchiveEntries = 1_000_000
	maxLayers         = 1000 // of all images in a tarball of docker save
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

// OpenArchive reads the table of contents of a tarball, which may be compressed
// with gzip, zstd or xz. Close removes what it had to unpack for that, which is no more
// than maxSize bytes; 0 is tree.DefaultMaxSize.
func OpenArchive(name string, maxSize int64) (*Archive, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	a := &Archive{name: name, plain: name, at: map[string]section{}}
	zr, compressed, err := decompress(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if compressed {
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
		if hdr.Typeflag == tar.TypeReg {
			off, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			a.at[name] = section{off, hdr.Size}
		}
	}
}

func (a *Archive) open(name string) (io.ReadCloser, error) {
	s, ok := a.at[name]
	if !ok {
		return nil, fmt.Errorf("%s: has no %s", a.name, name)
	}
	f, err := os.Open(a.plain)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, s.off, s.size), f}, nil
}

func (a *Archive) openBlob(h v1.Hash) (io.ReadCloser, error) {
	return a.open(path.Join("blobs", h.Algorithm, h.Hex))
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

// HasImages says whether the tarball holds images rather than a root.
func (a *Archive) HasImages() bool {
	_, oci := a.at["index.json"]
	_, layout := a.at["oci-layout"]
	_, docker := a.at["manifest.json"]
	return oci && layout || docker && a.dockerTags() != nil
}

// Named is an image with the names its tarball gives it.
type Named struct {
	Names []string // fully qualified; may be empty
	Image v1.Image
}

// Images returns the images of the tarball for Platform.
func (a *Archive) Images() ([]Named, error) {
	if _, ok := a.at["oci-layout"]; ok {
		return a.ociImages()
	}
	return a.dockerImages()
}

func (a *Archive) ociImages() ([]Named, error) {
	b, err := a.read("index.json")
	if err != nil {
		return nil, err
	}
	var m v1.IndexManifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%s: index.json: %w", a.name, err)
	}
	var found []Named
	var digests []v1.Hash
	for _, d := range m.Manifests {
		img, err := openImage(a, d)
		if errors.Is(err, errPlatform) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.name, err)
		}
		at := slices.IndexFunc(digests, func(h v1.Hash) bool { return h == d.Digest })
		if at < 0 {
			at = len(found)
			found, digests = append(found, Named{Image: img}), append(digests, d.Digest)
		}
		ref, err := reference.ParseDockerRef(descName(d))
		if err != nil {
			continue
		}
		if strings.Contains(ref.String(), "@") && !byDigest(ref.String(), d) {
			return nil, fmt.Errorf("%s: index.json calls an image %s, but its digest is %s; somebody changed the name or the image", a.name, ref, d.Digest)
		}
		// One image may have several names, two of which are the same but for the tag.
		if !slices.Contains(found[at].Names, ref.String()) {
			found[at].Names = append(found[at].Names, ref.String())
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: holds no image for %s", a.name, Platform.String())
	}
	return found, nil
}

// dockerTags returns the names of each image of a docker save tarball; nil if
// it is none.
func (a *Archive) dockerTags() [][]string {
	b, err := a.read("manifest.json")
	if err != nil {
		return nil
	}
	var list []struct {
		Config   string
		RepoTags []string
	}
	if json.Unmarshal(b, &list) != nil {
		return nil
	}
	var tags [][]string
	for _, e := range list {
		if e.Config == "" {
			return nil
		}
		tags = append(tags, e.RepoTags)
	}
	return tags
}

func (a *Archive) dockerImages() ([]Named, error) {
	tags := a.dockerTags()
	if len(tags) == 0 {
		return nil, fmt.Errorf("%s: holds no image (neither index.json with oci-layout, nor manifest.json)", a.name)
	}
	if err := a.checkDocker(); err != nil {
		return nil, fmt.Errorf("%s: %w", a.name, err)
	}
	open := func() (io.ReadCloser, error) { return os.Open(a.plain) }
	if len(tags) == 1 {
		img, err := tarball.Image(open, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.name, err)
		}
		return []Named{{Names: expandAll(tags[0]), Image: img}}, nil
	}
	var found []Named
	for _, t := range tags {
		if len(t) == 0 {
			return nil, fmt.Errorf("%s: holds several images, some without a name; save each by its name", a.name)
		}
		img, err := dockerImage(open, t[0])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.name, err)
		}
		found = append(found, Named{Names: expandAll(t), Image: img})
	}
	return found, nil
}

// checkDocker refuses what the library would read into memory, or again and again.
func (a *Archive) checkDocker() error {
	b, err := a.read("manifest.json")
	if err != nil {
		return err
	}
	var list tarball.Manifest
	if err := json.Unmarshal(b, &list); err != nil {
		return fmt.Errorf("manifest.json: %w", err)
	}
	layers := 0
	for _, e := range list {
		s, ok := a.at[path.Clean(e.Config)]
		switch {
		case !ok:
			return fmt.Errorf("manifest.json names a configuration %q, which is not there", e.Config)
		case s.size > maxMetadata:
			return fmt.Errorf("%s %w", e.Config, errMetadata)
		}
		if layers += len(e.Layers); layers > maxLayers {
			return fmt.Errorf("manifest.json names more than %d layers", maxLayers)
		}
	}
	return nil
}

func expandAll(tags []string) []string {
	var full []string
	for _, t := range tags {
		// docker save writes no digests, and an image's digest here is not the registry's.
		if ref, err := reference.ParseDockerRef(t); err == nil && !strings.Contains(ref.String(), "@") {
			full = append(full, ref.String())
		}
	}
	return full
}

func dockerImage(open tarball.Opener, tag string) (v1.Image, error) {
	t, err := name.NewTag(tag, name.WeakValidation)
	if err != nil {
		return nil, err
	}
	return tarball.Image(open, &t)
}
