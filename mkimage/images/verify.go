package images

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// errAltered is for bytes that are not those that their digest names.
var errAltered = errors.New("was altered or damaged")

// unknownSize is for what only a digest is known of.
const unknownSize = -1

// verified passes bytes on and compares them with a digest and a size. Its last
// bytes come with the error if there is one, so nobody gets all of them without it.
type verified struct {
	io.ReadCloser
	what string // for errors, such as "layer"
	want v1.Hash
	sum  hash.Hash
	size int64 // unknownSize if it is not known
	read int64
	err  error
}

// verify returns rc with a check of what comes out of it.
func verify(rc io.ReadCloser, what string, want v1.Hash, size int64) (io.ReadCloser, error) {
	sum, err := v1.Hasher(want.Algorithm)
	if err != nil {
		rc.Close()
		return nil, fmt.Errorf("%s %s: %w", what, want, err)
	}
	return &verified{ReadCloser: rc, what: what, want: want, sum: sum, size: size}, nil
}

// Read implements io.Reader.
func (v *verified) Read(b []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.ReadCloser.Read(b)
	v.read += int64(n)
	v.sum.Write(b[:n])
	switch {
	case v.size != unknownSize && v.read > v.size:
		err = v.altered("it has more than its %d bytes", v.size)
	case err == nil && v.read == v.size:
		err = v.last()
	case errors.Is(err, io.EOF):
		err = v.compare()
	case err != nil:
		err = fmt.Errorf("%s %s: %w", v.what, v.want, err)
	}
	v.err = err
	return n, err
}

// last checks that nothing comes any more.
func (v *verified) last() error {
	var more [1]byte
	n, err := io.ReadFull(v.ReadCloser, more[:])
	switch {
	case n > 0:
		return v.altered("it has more than its %d bytes", v.size)
	case errors.Is(err, io.EOF):
		return v.compare()
	}
	return fmt.Errorf("%s %s: %w", v.what, v.want, err)
}

// compare returns io.EOF if all was as it should be.
func (v *verified) compare() error {
	if v.size != unknownSize && v.read < v.size {
		return v.altered("it has %d bytes, not %d", v.read, v.size)
	}
	if got := hex.EncodeToString(v.sum.Sum(nil)); got != v.want.Hex {
		return v.altered("its bytes have the digest %s:%s", v.want.Algorithm, got)
	}
	return io.EOF
}

func (v *verified) altered(format string, a ...any) error {
	return fmt.Errorf("%s %s %w: %s", v.what, v.want, errAltered, fmt.Sprintf(format, a...))
}

// Layer is a layer of an image, to be unpacked. What is read of it is what the
// image's manifest and its configuration name, or an error.
type Layer struct {
	v1.Layer
	name   string
	diffID v1.Hash
	listed bool // diffID is known
}

// Layers returns the layers of an image, the lowest first; name is what errors call
// the image.
func Layers(name string, img v1.Image) ([]Layer, error) {
	if err := checkLayers(img); err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	ids := cf.RootFS.DiffIDs
	if len(ids) != 0 && len(ids) != len(layers) {
		return nil, fmt.Errorf("image %s: its manifest has %d layers, but its configuration %d (rootfs.diff_ids)", name, len(layers), len(ids))
	}
	var list []Layer
	for i, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", name, err)
		}
		add := Layer{Layer: l, name: fmt.Sprintf("image %s: layer %s", name, digest)}
		if len(ids) > 0 {
			add.diffID, add.listed = ids[i], true
		}
		list = append(list, add)
	}
	return list, nil
}

// Name is what errors call the layer.
func (l Layer) Name() string { return l.name }

// Open starts the layer's tar.
func (l Layer) Open() (io.ReadCloser, error) {
	rc, err := l.Uncompressed()
	if err != nil || !l.listed {
		return rc, err
	}
	return verify(rc, "unpacked layer", l.diffID, unknownSize)
}
