package assemble

import (
	"bytes"
	"fmt"
	"path"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"keelson/mkimage/config"
	"keelson/mkimage/images"
	"keelson/mkimage/tree"
)

const volumesDir = "containers/volumes"

// volumeFolders returns where containers find each volume.
func (b *builder) volumeFolders() map[string]string {
	dirs := map[string]string{}
	for _, v := range b.Config.Volumes {
		dirs[v.Name] = "/" + path.Join(volumesDir, v.Name, "merged")
	}
	return dirs
}

// volumes lays out lower (what the volume begins with), merged (where it is
// mounted) and, for one that can be written, tmp.
func (b *builder) volumes() error {
	for i, v := range b.Config.Volumes {
		done := b.begin("volume      %s", v.Name)
		err := b.volume(i, v)
		done()
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) volume(i int, v config.Volume) error {
	dir := path.Join(volumesDir, v.Name)
	parts := []string{"merged"}
	if !v.Readonly {
		parts = append(parts, "tmp")
	}
	for _, p := range parts {
		if _, err := b.tree.Root(path.Join(dir, p)); err != nil {
			return err
		}
	}
	lower, err := b.tree.Root(path.Join(dir, "lower"))
	if err != nil || v.Image == "" {
		return err
	}
	field := fmt.Sprintf("volumes[%d]", i)
	if err := b.fillVolume(v, b.image(field, v.Image), lower); err != nil {
		return b.Config.Problem(field, "%v", err)
	}
	return nil
}

func (b *builder) fillVolume(v config.Volume, l *loaded, lower *tree.Root) error {
	if v.Format != "oci" {
		return b.unpack(l, lower)
	}
	return putLayout(lower, l)
}

// putLayout lays an image out as an OCI image layout, its blobs unopened.
func putLayout(root *tree.Root, l *loaded) error {
	layers, err := l.image.Layers()
	if err != nil {
		return err
	}
	for _, ly := range layers {
		digest, err := ly.Digest()
		if err != nil {
			return err
		}
		size, err := ly.Size()
		if err != nil {
			return err
		}
		in := tree.File(0o644, nil)
		in.Size, in.Contents = size, ly.Compressed
		if err := root.Put(path.Join("blobs", digest.Algorithm, digest.Hex), in); err != nil {
			return err
		}
	}
	raw, err := l.image.RawConfigFile()
	if err != nil {
		return err
	}
	manifest, err := l.image.RawManifest()
	if err != nil {
		return err
	}
	for _, blob := range [][]byte{raw, manifest} {
		h, _, err := v1.SHA256(bytes.NewReader(blob))
		if err != nil {
			return err
		}
		if err := root.Put(path.Join("blobs", h.Algorithm, h.Hex), tree.File(0o644, blob)); err != nil {
			return err
		}
	}
	index, layout, err := images.LayoutFiles(l.ref.Name, l.image)
	if err != nil {
		return err
	}
	if err := root.Put("index.json", tree.File(0o644, index)); err != nil {
		return err
	}
	return root.Put("oci-layout", tree.File(0o644, layout))
}
