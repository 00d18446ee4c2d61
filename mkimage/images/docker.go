package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	comp "github.com/google/go-containerregistry/pkg/compression"
)

// craneTag is what crane calls an image that it pulled by its digest.
const craneTag = "i-was-a-digest"

// docker returns manifest.json of docker save; nil if it is none.
func (a *Archive) docker() tarball.Manifest {
	b, err := a.read("manifest.json")
	if err != nil {
		return nil
	}
	var list tarball.Manifest
	if json.Unmarshal(b, &list) != nil || len(list) == 0 {
		return nil
	}
	for _, e := range list {
		if e.Config == "" {
			return nil
		}
	}
	return list
}

func (a *Archive) dockerImages() ([]Named, error) {
	list := a.docker()
	if err := a.checkDocker(list); err != nil {
		return nil, err
	}
	var found []Named
	other := &platforms{}
	layers := map[string]v1.Layer{} // by their file: images share them
	for _, e := range list {
		raw, err := a.read(e.Config)
		if err != nil {
			return nil, err
		}
		img := &dockerImage{config: raw}
		switch err := other.check(raw); {
		case errors.Is(err, errPlatform):
			continue
		case err != nil:
			return nil, fmt.Errorf("configuration %s: %w", e.Config, err)
		}
		for _, name := range e.Layers {
			if layers[name] == nil {
				if layers[name], err = a.dockerLayer(name); err != nil {
					return nil, fmt.Errorf("layer %s: %w", name, err)
				}
			}
			img.layers = append(img.layers, layers[name])
		}
		if img.Image, err = partial.CompressedToImage(img.core()); err != nil {
			return nil, err
		}
		found = append(found, Named{Names: expandAll(e.RepoTags), Image: img})
	}
	if len(found) == 0 {
		return nil, other.none()
	}
	for _, n := range found {
		if len(n.Names) == 0 && len(found) > 1 {
			return nil, errors.New("holds several images, some without a name; save each by its name")
		}
	}
	return found, nil
}

// checkDocker refuses what would be read into memory, or again and again, and what is
// not there.
func (a *Archive) checkDocker(list tarball.Manifest) error {
	layers := 0
	for _, e := range list {
		size, ok := a.size(e.Config)
		switch {
		case !ok:
			return fmt.Errorf("manifest.json names a configuration %q, which is not there", e.Config)
		case size > maxMetadata:
			return fmt.Errorf("%s %w", e.Config, errMetadata)
		}
		if layers += len(e.Layers); layers > maxLayers {
			return fmt.Errorf("manifest.json names more than %d layers", maxLayers)
		}
		for _, d := range e.LayerSources {
			if err := checkLayer(d); err != nil {
				return err
			}
		}
		for _, name := range e.Layers {
			if !a.has(name) {
				return fmt.Errorf("manifest.json names a layer %q, which is not there", name)
			}
		}
	}
	return nil
}

func (a *Archive) dockerLayer(name string) (v1.Layer, error) {
	open := func() (io.ReadCloser, error) { return a.open(name) }
	rc, err := open()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	head := make([]byte, 4)
	n, _ := io.ReadFull(rc, head)
	if string(head[:n]) == "\x28\xb5\x2f\xfd" {
		return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayerZStd), tarball.WithCompression(comp.ZStd))
	}
	return tarball.LayerFromOpener(open)
}

// dockerImage is an image of docker save, whose manifest is not there and is made.
type dockerImage struct {
	v1.Image
	config []byte
	layers []v1.Layer
}

// Layers returns the layers as they are, compressed or not.
func (i *dockerImage) Layers() ([]v1.Layer, error) { return i.layers, nil }

func (i *dockerImage) core() partial.CompressedImageCore { return dockerCore{i} }

type dockerCore struct{ *dockerImage }

func (c dockerCore) RawConfigFile() ([]byte, error)      { return c.config, nil }
func (c dockerCore) MediaType() (types.MediaType, error) { return types.DockerManifestSchema2, nil }

func (c dockerCore) RawManifest() ([]byte, error) {
	digest, size, err := v1.SHA256(strings.NewReader(string(c.config)))
	if err != nil {
		return nil, err
	}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.DockerManifestSchema2, Layers: []v1.Descriptor{},
		Config: v1.Descriptor{MediaType: types.DockerConfigJSON, Size: size, Digest: digest}}
	for _, l := range c.layers {
		d, err := partial.Descriptor(l)
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, *d)
	}
	return json.Marshal(m)
}

func (c dockerCore) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, l := range c.layers {
		if digest, err := l.Digest(); err == nil && digest == h {
			return l, nil
		}
	}
	return nil, fmt.Errorf("there is no layer %s", h)
}

func expandAll(tags []string) []string {
	var full []string
	for _, t := range tags {
		// docker save writes no digests, and an image's digest here is not the registry's.
		ref, err := reference.ParseDockerRef(t)
		if err == nil && !strings.Contains(ref.String(), "@") && path.Base(strings.ReplaceAll(ref.String(), ":", "/")) != craneTag {
			full = append(full, ref.String())
		}
	}
	return full
}
