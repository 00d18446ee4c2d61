package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// A build from a store with an altered blob names image and blob, and writes nothing.
func TestBuildFromAnAlteredStore(t *testing.T) {
	dir, store := project(t)
	l, err := layout.FromPath(store)
	if err != nil {
		t.Fatal(err)
	}
	index, err := l.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Manifests {
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		im, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		for what, digest := range map[string]string{"manifest": d.Digest.Hex, "configuration": im.Config.Digest.Hex, "layer": im.Layers[0].Digest.Hex} {
			blob := filepath.Join(store, "blobs", "sha256", digest)
			whole, err := os.ReadFile(blob)
			if err != nil {
				t.Fatal(err)
			}
			altered := append([]byte{}, whole...)
			if what == "layer" {
				altered[4] ^= 1 // the time in gzip's header, which nothing else looks at
			} else {
				altered = append(altered, ' ')
			}
			write(t, blob, string(altered))
			out := filepath.Join(dir, "out")
			_, _, err = mkimage(t, "build", "-q", "--offline", "--store", store, "-o", out, filepath.Join(dir, "t.yml"))
			image := d.Annotations["io.containerd.image.name"]
			if err == nil || !strings.Contains(err.Error(), "image "+image) || !strings.Contains(err.Error(), what+" sha256:"+digest) || !strings.Contains(err.Error(), "altered") {
				t.Errorf("%s of %s: got %v", what, image, err)
			}
			if got := sums(t, out); len(got) > 0 {
				t.Errorf("%s of %s: files %v", what, image, got)
			}
			write(t, blob, string(whole))
		}
	}
}
