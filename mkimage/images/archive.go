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

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxMetadata bounds an index, a manifest or an image's configuration.
const maxMetadata = 16 << 20

// Archive is a tarball that holds images (docker save, OCI image layout), or
// the files of a root filesystem.
type Archive struct {
	name  string // of the file as the user named it
	plain string // the file that holds it uncompressed
	temp  bool
	at    map[string]section
}

type section struct{ off, size int64 }

// OpenArchive reads the table of contents of a tarball, which may be compressed
// with gzip, zstd or xz. Close removes what it had to unpack for that.
func OpenArchive(name string) (*Archive, error) {
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
		if err := a.unpack(zr); err != nil {
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
func (a *Archive) Close() error {
	if a.temp {
		return os.Remove(a.plain)
	}
	return nil
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
		plain, err = zstd.NewReader(br)
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		plain, err = xz.NewReader(br)
	default:
		return br, false, nil
	}
	return plain, true, err
}

func (a *Archive) unpack(r io.Reader) error {
	tmp, err := os.CreateTemp("", "mkimage-*.tar")
	if err != nil {
		return err
	}
	defer tmp.Close()
	a.plain, a.temp = tmp.Name(), true
	if _, err := io.Copy(tmp, r); err != nil {
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
		if hdr.Typeflag == tar.TypeReg {
			off, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			a.at[path.Clean(hdr.Name)] = section{off, hdr.Size}
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

func (a *Archive) read(name string) ([]byte, error) {
	if s := a.at[name]; s.size > maxMetadata {
		return nil, fmt.Errorf("%s: %s has %d bytes, more than any index, manifest or configuration", a.name, name, s.size)
	}
	rc, err := a.open(name)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
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
	for _, d := range m.Manifests {
		img, err := a.image(d)
		if err != nil {
			return nil, err
		}
		if img == nil {
			continue
		}
		n := Named{Image: img}
		if ref, err := reference.ParseDockerRef(descName(d)); err == nil {
			n.Names = []string{ref.String()}
		}
		found = append(found, n)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: holds no image for %s", a.name, Platform.String())
	}
	return found, nil
}

// image follows an index entry, through an index for several platforms, to the
// image for ours; nil if it has none.
func (a *Archive) image(d v1.Descriptor) (v1.Image, error) {
	if !d.MediaType.IsIndex() {
		if d.Platform != nil && !forUs(d.Platform) {
			return nil, nil
		}
		return partial.CompressedToImage(archiveImage{a, d})
	}
	b, err := a.read(blobName(d.Digest))
	if err != nil {
		return nil, err
	}
	var m v1.IndexManifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%s: index %s: %w", a.name, d.Digest, err)
	}
	for _, d := range m.Manifests {
		if forUs(d.Platform) {
			return partial.CompressedToImage(archiveImage{a, d})
		}
	}
	return nil, nil
}

func blobName(h v1.Hash) string { return path.Join("blobs", h.Algorithm, h.Hex) }

// archiveImage is an image of an OCI layout in a tarball.
type archiveImage struct {
	a *Archive
	d v1.Descriptor
}

func (i archiveImage) MediaType() (types.MediaType, error) { return i.d.MediaType, nil }
func (i archiveImage) RawManifest() ([]byte, error)        { return i.a.read(blobName(i.d.Digest)) }

func (i archiveImage) manifest() (*v1.Manifest, error) {
	b, err := i.RawManifest()
	if err != nil {
		return nil, err
	}
	var m v1.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%s: manifest %s: %w", i.a.name, i.d.Digest, err)
	}
	return &m, nil
}

func (i archiveImage) RawConfigFile() ([]byte, error) {
	m, err := i.manifest()
	if err != nil {
		return nil, err
	}
	return i.a.read(blobName(m.Config.Digest))
}

func (i archiveImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	m, err := i.manifest()
	if err != nil {
		return nil, err
	}
	for _, d := range append(m.Layers, m.Config) {
		if d.Digest == h {
			return archiveBlob{i.a, d}, nil
		}
	}
	return nil, fmt.Errorf("%s: image has no layer %s", i.a.name, h)
}

type archiveBlob struct {
	a *Archive
	d v1.Descriptor
}

func (b archiveBlob) Digest() (v1.Hash, error)            { return b.d.Digest, nil }
func (b archiveBlob) Size() (int64, error)                { return b.d.Size, nil }
func (b archiveBlob) MediaType() (types.MediaType, error) { return b.d.MediaType, nil }
func (b archiveBlob) Compressed() (io.ReadCloser, error)  { return b.a.open(blobName(b.d.Digest)) }

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

func expandAll(tags []string) []string {
	var full []string
	for _, t := range tags {
		if ref, err := reference.ParseDockerRef(t); err == nil {
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
