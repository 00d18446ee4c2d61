package images

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
)

// fileLayer is a gzip-compressed layer in a file.
type fileLayer struct {
	name   string
	digest v1.Hash
	diffID v1.Hash
	size   int64
}

func (l *fileLayer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *fileLayer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *fileLayer) Size() (int64, error)                { return l.size, nil }
func (l *fileLayer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }
func (l *fileLayer) Compressed() (io.ReadCloser, error)  { return os.Open(l.name) }
func (l *fileLayer) Uncompressed() (io.ReadCloser, error) {
	f, err := os.Open(l.name)
	if err != nil {
		return nil, err
	}
	zr, err := gzip.NewReader(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{zr, f}, nil
}

// newLayer compresses what write gives into a file of dir.
func newLayer(dir string, write func(io.Writer) error) (*fileLayer, error) {
	f, err := os.CreateTemp(dir, "layer-*.tar.gz")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l := &fileLayer{name: f.Name()}
	digest, diffID := sha256.New(), sha256.New()
	zw := gzip.NewWriter(io.MultiWriter(f, digest))
	if err := write(io.MultiWriter(zw, diffID)); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	st, err := os.Stat(l.name)
	if err != nil {
		return nil, err
	}
	l.size = st.Size()
	l.digest = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(digest.Sum(nil))}
	l.diffID = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(diffID.Sum(nil))}
	return l, nil
}

// Device is a character device that an image holds though the folder it is made
// of does not: making one takes more rights than making an image.
type Device struct {
	Path         string // in the image
	Major, Minor int64
}

// ParseDevice reads PATH:MAJOR:MINOR.
func ParseDevice(text string) (Device, error) {
	wrong := fmt.Errorf("%q is no device; want PATH:MAJOR:MINOR such as /dev/null:1:3", text)
	fields := strings.Split(text, ":")
	if len(fields) != 3 || strings.Trim(fields[0], "/") == "" {
		return Device{}, wrong
	}
	major, err1 := strconv.ParseUint(fields[1], 10, 12)
	minor, err2 := strconv.ParseUint(fields[2], 10, 20)
	if err1 != nil || err2 != nil {
		return Device{}, wrong
	}
	return Device{strings.TrimPrefix(filepath.Clean("/"+fields[0]), "/"), int64(major), int64(minor)}, nil
}
