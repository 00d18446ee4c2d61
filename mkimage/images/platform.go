package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// maxIndexDepth bounds indexes in indexes.
const maxIndexDepth = 8

// errForeign is for a layer whose bytes an image leaves out.
var errForeign = errors.New("is a foreign layer, as Windows base images have them: its bytes are not in the image; use an image whose layers are all its own")

// platforms looks for the image for Platform, and notes which others there are.
type platforms struct {
	others []string
	seen   map[v1.Hash]bool // of one search
}

// none is the error that there is no image for Platform.
func (p *platforms) none() error {
	if len(p.others) == 0 {
		return fmt.Errorf("holds no image for %s", Platform.String())
	}
	return fmt.Errorf("holds no image for %s, but for %s", Platform.String(), strings.Join(p.others, ", "))
}

func (p *platforms) note(other string) error {
	if !slices.Contains(p.others, other) && len(p.others) < 10 {
		p.others = append(p.others, other)
	}
	return errPlatform
}

// open follows an index entry to the image for Platform, through indexes where there
// are any.
func (p *platforms) open(from blobs, d v1.Descriptor) (v1.Image, error) {
	p.seen = map[v1.Hash]bool{}
	img, raw, err := p.descend(from, d, 0)
	if err != nil || raw == nil {
		return img, err
	}
	return indexed{img, v1.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, raw}, nil
}

// descend returns the image, and the indexes that it was found through.
func (p *platforms) descend(from blobs, d v1.Descriptor, depth int) (v1.Image, [][]byte, error) {
	if d.Platform != nil && !forUs(d.Platform) {
		if d.Platform.OS == "unknown" { // an attestation of buildx
			return nil, nil, errPlatform
		}
		return nil, nil, p.note(d.Platform.String())
	}
	if p.seen[d.Digest] {
		return nil, nil, errPlatform
	}
	p.seen[d.Digest] = true
	var raw []byte
	if d.MediaType.IsIndex() || d.MediaType == "" || d.Platform == nil {
		what := "manifest"
		if d.MediaType.IsIndex() {
			what = "index"
		}
		var err error
		if raw, err = readBlob(from, what, d); err != nil {
			return nil, nil, err
		}
	}
	if d.MediaType == "" {
		d.MediaType = sniff(raw)
	}
	if !d.MediaType.IsIndex() {
		img, err := p.image(from, d, raw)
		return img, nil, err
	}
	if depth > maxIndexDepth {
		return nil, nil, fmt.Errorf("index %s: lies in more than %d indexes", d.Digest, maxIndexDepth)
	}
	var m v1.IndexManifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, nil, fmt.Errorf("index %s: %w", d.Digest, err)
	}
	missing := errPlatform
	for _, sub := range byRank(m.Manifests) {
		img, below, err := p.descend(from, sub, depth+1)
		switch {
		case errors.Is(err, errPlatform):
		case errors.Is(err, fs.ErrNotExist): // of another platform, most often: tools keep one
			missing = err
		default:
			return img, append([][]byte{raw}, below...), err
		}
	}
	return nil, nil, missing
}

// byRank has entries for Platform first, those without a variant (v2 and v3 are for
// newer processors) before others, and those that name no platform last.
func byRank(list []v1.Descriptor) []v1.Descriptor {
	rank := func(d v1.Descriptor) int {
		switch {
		case !forUs(d.Platform):
			return 2
		case d.Platform.Variant != "" && d.Platform.Variant != "v1":
			return 1
		}
		return 0
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b v1.Descriptor) int { return rank(a) - rank(b) })
	return list
}

// image opens an image. raw is its manifest, which is read where nothing else says what
// the image is for.
func (p *platforms) image(from blobs, d v1.Descriptor, raw []byte) (v1.Image, error) {
	if d.MediaType.IsSchema1() {
		return nil, fmt.Errorf("manifest %s: is of schema 1, which no tool writes today; pull and save the image again", d.Digest)
	}
	li := &layoutImage{from: from, d: d}
	if raw != nil && d.Platform == nil {
		m, err := li.parse()
		if err != nil {
			return nil, err
		}
		if !isImage(m) {
			return nil, errPlatform // a signature, a list of what is in another image ...
		}
		config, err := li.RawConfigFile()
		if err != nil {
			return nil, err
		}
		if err := p.check(config); err != nil {
			return nil, err
		}
	}
	return partial.CompressedToImage(li)
}

// check returns errPlatform for the configuration of an image that is not for Platform.
func (p *platforms) check(config []byte) error {
	var c struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return err
	}
	if c.OS != "" && c.OS != Platform.OS || c.Architecture != "" && c.Architecture != Platform.Architecture {
		return p.note(c.OS + "/" + c.Architecture)
	}
	return nil
}

// isImage tells an image from what else is kept as a manifest.
func isImage(m *v1.Manifest) bool {
	if t := m.Config.MediaType; t != "" && !t.IsConfig() {
		return false
	}
	return !slices.ContainsFunc(m.Layers, func(d v1.Descriptor) bool { return d.MediaType != "" && !isLayer(d.MediaType) })
}

// isLayer reports whether this is a file system, foreign and encrypted ones included.
func isLayer(t types.MediaType) bool {
	return t.IsLayer() || t == dockerZstdLayer || strings.HasPrefix(string(t), "application/vnd.oci.image.layer.") ||
		strings.HasPrefix(string(t), "application/vnd.docker.image.rootfs.")
}

// dockerZstdLayer is what Docker calls a layer with zstd in a manifest of its own.
const dockerZstdLayer types.MediaType = "application/vnd.docker.image.rootfs.diff.tar.zstd"

// checkLayer refuses layers that cannot be unpacked.
func checkLayer(d v1.Descriptor) error {
	switch {
	case !d.MediaType.IsDistributable():
		return fmt.Errorf("layer %s %w", d.Digest, errForeign)
	case strings.HasSuffix(string(d.MediaType), "+encrypted"):
		return fmt.Errorf("layer %s is encrypted; decrypt the image first, such as with skopeo copy --decryption-key", d.Digest)
	case d.MediaType != "" && !isLayer(d.MediaType):
		return fmt.Errorf("layer %s is of the type %s, which is no file system: this is not an image of a container", d.Digest, d.MediaType)
	}
	return nil
}

// checkLayers refuses an image with a layer that cannot be unpacked.
func checkLayers(img v1.Image) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	for _, d := range m.Layers {
		if err := checkLayer(d); err != nil {
			return err
		}
	}
	return nil
}

// sniff returns what a manifest is by what is in it; "" for what is none.
func sniff(b []byte) types.MediaType {
	var m struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     types.MediaType `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Config        json.RawMessage `json:"config"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if json.Unmarshal(b, &m) != nil {
		return ""
	}
	switch {
	case m.SchemaVersion == 1 && m.FSLayers != nil:
		return types.DockerManifestSchema1
	case m.SchemaVersion != 2:
		return ""
	case m.MediaType != "":
		return m.MediaType
	case m.Manifests != nil:
		return types.OCIImageIndex
	case m.Config != nil:
		return types.OCIManifestSchema1
	}
	return ""
}
