package images

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"keelson/mkimage/regular"

	"keelson/mkimage/scratch"
)

// Annotations of an index entry that carry an image's name: the first is the
// image-spec's, the second is what containerd and LinuxKit's cache read.
const (
	annotationRef  = "org.opencontainers.image.ref.name"
	annotationName = "io.containerd.image.name"
)

// Platform is the only one this tool builds for.
var Platform = v1.Platform{OS: "linux", Architecture: "amd64"}

// ErrNotFound is returned for an image that is not there.
var ErrNotFound = errors.New("no such image")

// Store is an OCI image layout on disk (image-spec, image-layout.md).
type Store struct{ dir string }

// OpenStore returns the store in dir. Nothing is made until something is put.
func OpenStore(dir string) *Store { return &Store{dir: dir} }

// Dir returns the folder of the store.
func (s *Store) Dir() string { return s.dir }

// Stored is one image of the store.
type Stored struct {
	Name   string
	Digest v1.Hash
	Size   int64 // bytes of its layers, as stored
}

func (s *Store) index() (*v1.IndexManifest, error) {
	b, err := regular.Read(filepath.Join(s.dir, "index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}, nil
	}
	if err != nil {
		return nil, err
	}
	var m v1.IndexManifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%s/index.json: %w", s.dir, err)
	}
	return &m, nil
}

// fullName is the name of an index entry as a YAML's names are expanded: LinuxKit's
// cache keeps an image without a tag under the name that has none.
func fullName(d v1.Descriptor) string {
	name := descName(d)
	if ref, err := reference.ParseDockerRef(name); err == nil {
		return ref.String()
	}
	return name
}

func descName(d v1.Descriptor) string {
	if n := d.Annotations[annotationName]; n != "" {
		return n
	}
	return d.Annotations[annotationRef]
}

// Image returns the image called name, or an error that is ErrNotFound.
func (s *Store) Image(name string) (v1.Image, error) {
	m, err := s.index()
	if err != nil {
		return nil, err
	}
	is := []func(v1.Descriptor) bool{
		func(d v1.Descriptor) bool { return descName(d) == name },
		func(d v1.Descriptor) bool { return fullName(d) == name },
	}
	if strings.Contains(name, "@") { // a digest names bytes, whatever they are called
		is = []func(v1.Descriptor) bool{func(d v1.Descriptor) bool { return byDigest(name, d) }}
	}
	for _, named := range is {
		at := slices.IndexFunc(m.Manifests, named)
		if at < 0 {
			continue
		}
		img, err := openImage(s, m.Manifests[at])
		if err != nil {
			return nil, fmt.Errorf("store %s: image %s: %w", s.dir, name, err)
		}
		return img, nil
	}
	return nil, fmt.Errorf("%s: %w in store %s", name, ErrNotFound, s.dir)
}

func (s *Store) openBlob(h v1.Hash) (io.ReadCloser, error) { return regular.Open(s.blob(h)) }

// byDigest says whether name ends in @digest and d is that image.
func byDigest(name string, d v1.Descriptor) bool {
	_, digest, ok := strings.Cut(name, "@")
	return ok && digest == d.Digest.String()
}

// List returns the images of the store that are for Platform, sorted by name.
func (s *Store) List() ([]Stored, error) {
	m, err := s.index()
	if err != nil {
		return nil, err
	}
	var list []Stored
	for _, d := range m.Manifests {
		img, err := openImage(s, d)
		if errors.Is(err, errPlatform) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("store %s: image %s: %w", s.dir, descName(d), err)
		}
		mf, err := img.Manifest()
		if err != nil {
			return nil, fmt.Errorf("store %s: image %s: %w", s.dir, descName(d), err)
		}
		st := Stored{Name: descName(d), Digest: d.Digest}
		for _, l := range mf.Layers {
			st.Size += l.Size
		}
		list = append(list, st)
	}
	slices.SortFunc(list, func(a, b Stored) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Put stores img as name, in place of what had that name. count, if not nil, is
// told of the bytes of layers as they are written.
func (s *Store) Put(name string, img v1.Image, count func(n int)) error {
	if err := checkLayers(img); err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		if err := s.putLayer(l, count); err != nil {
			return err
		}
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	if _, err := s.putBytes(raw); err != nil {
		return err
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return err
	}
	digest, err := s.putBytes(manifest)
	if err != nil {
		return err
	}
	mt, err := img.MediaType()
	if err != nil {
		return err
	}
	d := v1.Descriptor{MediaType: mt, Digest: digest, Size: int64(len(manifest))}
	if x, ok := img.(indexed); ok && byDigest(name, x.index) {
		for _, raw := range x.raw {
			if _, err := s.putBytes(raw); err != nil {
				return err
			}
		}
		d = x.index
	}
	if strings.Contains(name, "@") && !byDigest(name, d) {
		return fmt.Errorf("%s: the image has the digest %s, so it cannot have this name", name, d.Digest)
	}
	return s.update(func(m *v1.IndexManifest) { setImage(m, name, d) })
}

// setImage enters an image into an index under name; entries stay sorted.
func setImage(m *v1.IndexManifest, name string, d v1.Descriptor) {
	m.Manifests = slices.DeleteFunc(m.Manifests, func(d v1.Descriptor) bool { return descName(d) == name })
	platform := Platform
	d.Platform = &platform
	d.Annotations = map[string]string{annotationRef: name, annotationName: name}
	m.Manifests = append(m.Manifests, d)
	slices.SortFunc(m.Manifests, func(a, b v1.Descriptor) int { return strings.Compare(descName(a), descName(b)) })
}

func (s *Store) putLayer(l v1.Layer, count func(int)) error {
	digest, err := l.Digest()
	if err != nil {
		return err
	}
	size, err := l.Size()
	if err != nil {
		return err
	}
	d := v1.Descriptor{Digest: digest, Size: size}
	if s.holds(d) {
		if count != nil {
			count(int(size))
		}
		return nil
	}
	rc, err := l.Compressed()
	if err != nil {
		return err
	}
	if rc, err = verify(rc, "layer", digest, size); err != nil {
		return err
	}
	defer rc.Close()
	_, err = s.putBlob(rc, count)
	return err
}

// holds reports whether a blob is there and whole. One that a full disk cut off, or
// that was altered, is to be written again.
func (s *Store) holds(d v1.Descriptor) bool {
	rc, err := openVerified(s, "layer", d)
	if err != nil {
		return false
	}
	defer rc.Close()
	_, err = io.Copy(io.Discard, rc)
	return err == nil
}

func (s *Store) putBytes(b []byte) (v1.Hash, error) {
	return s.putBlob(bytes.NewReader(b), nil)
}

// putBlob writes a blob and names it by its digest.
func (s *Store) putBlob(r io.Reader, count func(int)) (v1.Hash, error) {
	dir := filepath.Join(s.dir, "blobs", "sha256")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return v1.Hash{}, err
	}
	f, err := scratch.File(dir, ".new-*")
	if err != nil {
		return v1.Hash{}, err
	}
	defer scratch.Remove(f.Name())
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, sum, countWriter(count)), r); err != nil {
		return v1.Hash{}, err
	}
	if err := f.Chmod(0o644); err != nil {
		return v1.Hash{}, err
	}
	if err := f.Close(); err != nil {
		return v1.Hash{}, err
	}
	h := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}
	return h, scratch.Publish(scratch.Named{Temp: f.Name(), Name: s.blob(h)})
}

type countWriter func(int)

func (c countWriter) Write(b []byte) (int, error) {
	if c != nil {
		c(len(b))
	}
	return len(b), nil
}

func (s *Store) blob(h v1.Hash) string {
	return filepath.Join(s.dir, "blobs", h.Algorithm, h.Hex)
}

// update changes the index under a lock, so that several imports may run at
// the same time.
func (s *Store) update(change func(*v1.IndexManifest)) error {
	lock, err := os.OpenFile(filepath.Join(s.dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	m, err := s.index()
	if err != nil {
		return err
	}
	change(m)
	b, err := indexJSON(m)
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(s.dir, "oci-layout"), layoutJSON); err != nil {
		return err
	}
	return replaceFile(filepath.Join(s.dir, "index.json"), b)
}

// layoutJSON is the oci-layout file of image-spec 1.x.
var layoutJSON = []byte(`{"imageLayoutVersion":"1.0.0"}` + "\n")

func indexJSON(m *v1.IndexManifest) ([]byte, error) {
	b, err := json.MarshalIndent(m, "", "  ")
	return append(b, '\n'), err
}

func replaceFile(name string, b []byte) error {
	if have, err := os.ReadFile(name); err == nil && bytes.Equal(have, b) {
		return nil
	}
	return scratch.Replace(name, b)
}
