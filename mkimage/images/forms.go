package images

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// form is how a tarball or a directory holds images.
type form int

const (
	noImages   form = iota
	ociLayout       // index.json: buildx, podman, skopeo oci:, crane, ko, kaniko, containerd, docker save since 25
	dockerSave      // manifest.json with a list: docker save, podman, skopeo docker-archive:, crane, ko, kaniko
	skopeoDir       // manifest.json of one image: skopeo dir:, podman save --format docker-dir
)

// form looks at what only images have. Docker and containerd write two forms into one
// tarball; the OCI layout has the digests of the registry.
func (a *Archive) form() form {
	if a.has("index.json") && a.has("oci-layout") {
		// docker save IMAGE@DIGEST leaves the index without an entry.
		if m, err := a.index(); err == nil && len(m.Manifests) == 0 && a.docker() != nil {
			return dockerSave
		}
		return ociLayout
	}
	if !a.has("manifest.json") {
		return noImages
	}
	if a.docker() != nil {
		return dockerSave
	}
	if b, err := a.read("manifest.json"); err == nil && sniff(b) != "" {
		return skopeoDir
	}
	return noImages
}

// HasImages says whether this is images rather than a root. The error is for what
// looks like images and is not whole.
func (a *Archive) HasImages() (bool, error) {
	switch {
	case a.form() != noImages:
		return true, nil
	case !a.dir && a.empty:
		return false, fmt.Errorf("%s: is an empty tarball; make it again, and look for an error of the tool that writes it", a.name)
	case a.broken() && !a.has("etc/passwd"):
		return false, fmt.Errorf("%s: has a manifest.json that is not whole, so the image in it cannot be read; save the image again", a.name)
	case a.has("oci-layout"):
		return false, fmt.Errorf("%s: has an oci-layout but no index.json, so it is not a whole OCI image layout", a.name)
	case a.has("repositories") && !a.has("etc/passwd"):
		return false, fmt.Errorf("%s: was written by a Docker older than 1.10 (repositories without manifest.json); save the image again with a newer one", a.name)
	}
	return false, nil
}

// broken reports whether manifest.json is one of images, and not whole. Other things
// have a file of this name too, such as web applications an object.
func (a *Archive) broken() bool {
	b, err := a.read("manifest.json")
	if err != nil {
		return false
	}
	if version, err := a.read("version"); err == nil && bytes.HasPrefix(version, []byte("Directory Transport")) {
		return true // skopeo's
	}
	var list []map[string]any
	switch json.Unmarshal(b, &list).(type) {
	case nil: // null is no error
		return len(list) == 0 || slices.ContainsFunc(list, func(e map[string]any) bool { return e == nil || e["Config"] != nil || e["Layers"] != nil })
	case *json.UnmarshalTypeError:
		return false
	}
	return true
}

// Named is an image with the names that its tarball or directory gives it.
type Named struct {
	Names []string // fully qualified; may be empty
	Tags  []string // those that came without a name, as skopeo writes them
	Image v1.Image
}

// Images returns the images for Platform.
func (a *Archive) Images() ([]Named, error) {
	var list []Named
	var err error
	switch a.form() {
	case ociLayout:
		list, err = a.ociImages()
	case dockerSave:
		list, err = a.dockerImages()
	case skopeoDir:
		list, err = a.skopeoImage()
	default:
		err = errors.New("holds no image (neither index.json with oci-layout, nor manifest.json)")
	}
	for _, n := range list {
		if err == nil {
			err = checkLayers(n.Image)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.name, err)
	}
	return list, nil
}

func (a *Archive) index() (*v1.IndexManifest, error) {
	b, err := a.read("index.json")
	if err != nil {
		return nil, err
	}
	var m v1.IndexManifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	return &m, nil
}

func (a *Archive) ociImages() ([]Named, error) {
	m, err := a.index()
	if err != nil {
		return nil, err
	}
	var found []Named
	at := map[v1.Hash]int{} // of found, -1 for what is not there for Platform
	other := &platforms{}
	for _, d := range m.Manifests {
		i, known := at[d.Digest]
		if !known {
			img, err := other.open(a, d)
			switch {
			case errors.Is(err, errPlatform):
				i = -1
			case err != nil:
				return nil, err
			default:
				i = len(found)
				found = append(found, Named{Image: img})
			}
			at[d.Digest] = i
		}
		if i < 0 {
			continue
		}
		if err := found[i].name(d); err != nil {
			return nil, err
		}
	}
	if len(found) == 0 {
		return nil, other.none()
	}
	return found, nil
}

// name adds the name that an index entry gives an image.
func (n *Named) name(d v1.Descriptor) error {
	name := descName(d)
	if name == d.Annotations[annotationRef] && !strings.ContainsAny(name, "/:@") {
		// The image-spec's annotation is often a tag alone.
		if name != "" && !slices.Contains(n.Tags, name) {
			n.Tags = append(n.Tags, name)
		}
		return nil
	}
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return nil
	}
	if strings.Contains(ref.String(), "@") && !byDigest(ref.String(), d) {
		return fmt.Errorf("index.json calls an image %s, but its digest is %s; somebody changed the name or the image", ref, d.Digest)
	}
	// One image may have several names, two of which are the same but for the tag.
	if !slices.Contains(n.Names, ref.String()) {
		n.Names = append(n.Names, ref.String())
	}
	return nil
}

func (a *Archive) skopeoImage() ([]Named, error) {
	b, err := a.read("manifest.json")
	if err != nil {
		return nil, err
	}
	digest, size, err := v1.SHA256(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	p := &platforms{}
	img, err := p.open(skopeoBlobs{a, digest, b}, v1.Descriptor{MediaType: sniff(b), Digest: digest, Size: size})
	if errors.Is(err, errPlatform) {
		err = p.none()
	}
	if err != nil {
		return nil, err
	}
	return []Named{{Image: img}}, nil
}

// skopeoBlobs are the blobs of an image whose manifest has no digest for a name.
type skopeoBlobs struct {
	*Archive
	digest   v1.Hash
	manifest []byte
}

func (s skopeoBlobs) openBlob(h v1.Hash) (io.ReadCloser, error) {
	if h == s.digest {
		return io.NopCloser(bytes.NewReader(s.manifest)), nil
	}
	return s.Archive.openBlob(h)
}
