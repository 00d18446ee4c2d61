package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"keelson/mkimage/regular"
	"keelson/mkimage/scratch"
)

// ImportOptions say how a root filesystem becomes an image.
type ImportOptions struct {
	Config    v1.Config // entry point, command, environment, labels ...
	KeepOwner bool      // keep the owners of a folder's files; else all are root's
	Created   time.Time // of the image and, for a folder, of every file
	Devices   []Device  // put into the image of a folder
	MaxSize   int64     // bytes of the root's tar; 0 is tree.DefaultMaxSize
	// Warn is told of what of a directory is left out; may be nil.
	Warn func(format string, a ...any)
}

// FromRoot makes an image of one layer from a folder or from a tarball of a
// root filesystem. The layer is kept in a temporary folder until cleanup.
func FromRoot(file string, opt ImportOptions) (img v1.Image, cleanup func(), err error) {
	dir, err := scratch.Dir("mkimage-*")
	if err != nil {
		return nil, nil, err
	}
	remove := func() { scratch.Remove(dir) }
	defer func() {
		if err != nil {
			remove()
		}
	}()
	fi, err := os.Stat(file)
	if err != nil {
		return nil, nil, err
	}
	layer, err := newLayer(dir, func(w io.Writer) error {
		w = newCapped(w, opt.MaxSize)
		if fi.IsDir() {
			return writeFolder(w, file, folderOptions{keepOwner: opt.KeepOwner, mtime: opt.Created, devices: opt.Devices, warn: opt.Warn})
		}
		return copyTar(w, file)
	})
	if err != nil {
		return nil, nil, err
	}
	if img, err = imageOf(layer, opt); err != nil {
		return nil, nil, err
	}
	return img, remove, nil
}

// copyTar passes a tarball on as it is, having checked that it is one.
func copyTar(w io.Writer, file string) error {
	f, err := regular.Open(file)
	if errors.Is(err, regular.ErrOther) { // a pipe was read before, to look for images in it
		return fmt.Errorf("%w; write the root filesystem to a file first, and name that", err)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	plain, _, err := decompress(f)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	tee := io.TeeReader(plain, w)
	tr := tar.NewReader(tee)
	for n := 0; ; n++ {
		_, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: is not a whole tarball (entry %d: %w)", file, n, err)
		}
	}
	_, err = io.Copy(io.Discard, tee)
	return err
}

func imageOf(layer v1.Layer, opt ImportOptions) (v1.Image, error) {
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	created := v1.Time{Time: opt.Created.UTC()}
	img, err := mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{Created: created, CreatedBy: "mkimage import"}})
	if err != nil {
		return nil, err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture, cf.Created, cf.Config = Platform.OS, Platform.Architecture, created, opt.Config
	return mutate.ConfigFile(img, cf)
}

// WriteArchive writes images as an OCI image layout in a tar, which Docker,
// containerd and linuxkit cache import read. Same images, same bytes. An image
// with the tag latest is there without a tag, too: LinuxKit looks for the name as
// its YAML has it.
func WriteArchive(w io.Writer, list []Named) error {
	dir, err := scratch.Dir("mkimage-*")
	if err != nil {
		return err
	}
	defer scratch.Remove(dir)
	s := OpenStore(dir)
	for _, n := range list {
		for _, full := range n.Names {
			if err := s.Put(full, n.Image, nil); err != nil {
				return err
			}
			if bare, ok := strings.CutSuffix(full, ":latest"); ok {
				if err := s.Put(bare, n.Image, nil); err != nil {
					return err
				}
			}
		}
	}
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	if err != nil {
		return err
	}
	slices.Sort(blobs)
	tw := tar.NewWriter(w)
	for _, d := range []string{"blobs/", "blobs/sha256/"} {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: 0o755, Format: tar.FormatUSTAR, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	for _, b := range append(blobs, filepath.Join(dir, "index.json"), filepath.Join(dir, "oci-layout")) {
		rel, err := filepath.Rel(dir, b)
		if err != nil {
			return err
		}
		if err := addFile(tw, rel, b); err != nil {
			return err
		}
	}
	return tw.Close()
}

func addFile(tw *tar.Writer, rel, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	hdr := &tar.Header{Typeflag: tar.TypeReg, Name: rel, Mode: 0o644, Size: fi.Size(), ModTime: time.Unix(0, 0)}
	if err := tw.WriteHeader(hdr); err != nil {
		return err
	}
	_, err = io.Copy(tw, f)
	return err
}

// ParseConfig reads an image configuration as image-spec's config.md has it
// under "config", such as {"Entrypoint": ["/bin/app"]}. Unknown keys are errors.
func ParseConfig(b []byte) (v1.Config, error) {
	var c v1.Config
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return c, fmt.Errorf("image configuration: %w", err)
	}
	return c, nil
}

// LayoutFiles returns index.json and oci-layout of a layout that holds just img.
func LayoutFiles(name string, img v1.Image) (index, layout []byte, err error) {
	manifest, err := img.RawManifest()
	if err != nil {
		return nil, nil, err
	}
	digest, err := img.Digest()
	if err != nil {
		return nil, nil, err
	}
	mt, err := img.MediaType()
	if err != nil {
		return nil, nil, err
	}
	m := &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	setImage(m, name, v1.Descriptor{MediaType: mt, Digest: digest, Size: int64(len(manifest))})
	index, err = indexJSON(m)
	return index, layoutJSON, err
}
