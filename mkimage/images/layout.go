package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// maxMetadata bounds an index, a manifest or an image's configuration, in bytes.
const maxMetadata = 16 << 20

var errMetadata = fmt.Errorf("has more than %d bytes, too many for an index, a manifest or a configuration", maxMetadata)

// errPlatform is for an image that is there, but not for Platform.
var errPlatform = errors.New("is not for " + Platform.String())

// blobs is where the blobs of an OCI image layout are: a folder or a tarball.
type blobs interface {
	openBlob(h v1.Hash) (io.ReadCloser, error)
}

func readMetadata(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxMetadata+1))
	if err == nil && len(b) > maxMetadata {
		err = errMetadata
	}
	return b, err
}

// openVerified opens a blob, whose bytes are compared with what d says of them.
func openVerified(from blobs, what string, d v1.Descriptor) (io.ReadCloser, error) {
	if d.Size < 0 {
		return nil, fmt.Errorf("%s %s: %d bytes is no size", what, d.Digest, d.Size)
	}
	rc, err := from.openBlob(d.Digest)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, d.Digest, err)
	}
	return verify(rc, what, d.Digest, d.Size)
}

func readBlob(from blobs, what string, d v1.Descriptor) ([]byte, error) {
	if d.Size > maxMetadata {
		return nil, fmt.Errorf("%s %s: %w", what, d.Digest, errMetadata)
	}
	rc, err := openVerified(from, what, d)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}

// openImage follows an index entry to the image for Platform.
func openImage(from blobs, d v1.Descriptor) (v1.Image, error) {
	return (&platforms{}).open(from, d)
}

// indexed is an image that was found through an index. Under the index's digest it is
// stored with the index, which shows that it is what is named.
type indexed struct {
	v1.Image
	index v1.Descriptor
	raw   [][]byte // the index, and those in it on the way to the image
}

// forUs says whether a platform is the one we build for.
func forUs(p *v1.Platform) bool {
	return p != nil && p.OS == Platform.OS && p.Architecture == Platform.Architecture
}

// layoutImage is an image of an OCI image layout.
type layoutImage struct {
	from     blobs
	d        v1.Descriptor
	manifest *v1.Manifest
}

func (i *layoutImage) MediaType() (types.MediaType, error) { return i.d.MediaType, nil }
func (i *layoutImage) RawManifest() ([]byte, error)        { return readBlob(i.from, "manifest", i.d) }

func (i *layoutImage) parse() (*v1.Manifest, error) {
	if i.manifest != nil {
		return i.manifest, nil
	}
	b, err := i.RawManifest()
	if err != nil {
		return nil, err
	}
	var m v1.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", i.d.Digest, err)
	}
	i.manifest = &m
	return &m, nil
}

func (i *layoutImage) RawConfigFile() ([]byte, error) {
	m, err := i.parse()
	if err != nil {
		return nil, err
	}
	return readBlob(i.from, "configuration", m.Config)
}

func (i *layoutImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	m, err := i.parse()
	if err != nil {
		return nil, err
	}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if d.Digest == h {
			return layoutBlob{i.from, d}, nil
		}
	}
	return nil, fmt.Errorf("manifest %s: has no layer %s", i.d.Digest, h)
}

type layoutBlob struct {
	from blobs
	d    v1.Descriptor
}

func (b layoutBlob) Digest() (v1.Hash, error)            { return b.d.Digest, nil }
func (b layoutBlob) Size() (int64, error)                { return b.d.Size, nil }
func (b layoutBlob) MediaType() (types.MediaType, error) { return b.d.MediaType, nil }
func (b layoutBlob) Compressed() (io.ReadCloser, error)  { return openVerified(b.from, "layer", b.d) }
