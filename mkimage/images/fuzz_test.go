package images

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"keelson/mkimage/imagetest"
)

// FuzzArchive imports whatever is given as a tarball. What is taken is whole.
func FuzzArchive(f *testing.F) {
	img := imagetest.Image(f, v1.Config{Cmd: []string{"/a"}}, []imagetest.Entry{imagetest.File("f", "x")})
	dir := f.TempDir()
	oci, docker := filepath.Join(dir, "oci.tar"), filepath.Join(dir, "docker.tar")
	w, err := os.Create(oci)
	if err != nil {
		f.Fatal(err)
	}
	if err := WriteArchive(w, []Named{{Names: []string{"docker.io/you/app:1"}, Image: img}}); err != nil {
		f.Fatal(err)
	}
	w.Close()
	tag, err := name.NewTag("you/app:1")
	if err != nil {
		f.Fatal(err)
	}
	if err := tarball.WriteToFile(docker, tag, img); err != nil {
		f.Fatal(err)
	}
	for _, file := range []string{oci, docker} {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0})
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0})
	f.Add([]byte("\xfd7zXZ\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		t.Setenv("TMPDIR", dir)
		file := filepath.Join(dir, "x.tar")
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		s := OpenStore(filepath.Join(dir, "store"))
		if put(s, file) == nil {
			whole(t, s)
		}
		left, err := filepath.Glob(filepath.Join(dir, "mkimage-*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left %v, %v", left, err)
		}
	})
}

// whole checks that all that a store names is what its names and digests stand for.
func whole(t *testing.T, s *Store) {
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		img, err := s.Image(i.Name)
		if err != nil {
			t.Fatal(err)
		}
		layers, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range layers {
			digest, err := l.Digest()
			if err != nil {
				t.Fatal(err)
			}
			size, err := l.Size()
			if err != nil {
				t.Fatal(err)
			}
			if !s.holds(v1.Descriptor{Digest: digest, Size: size}) {
				t.Errorf("%s: layer %s is not what it is named", i.Name, digest)
			}
		}
	}
}

// FuzzManifest has a store with any index, manifest and configuration. An image that is
// found has the digest that the index names.
func FuzzManifest(f *testing.F) {
	img := imagetest.Image(f, v1.Config{Cmd: []string{"/a"}}, []imagetest.Entry{imagetest.File("f", "x")})
	manifest, err := img.RawManifest()
	if err != nil {
		f.Fatal(err)
	}
	config, err := img.RawConfigFile()
	if err != nil {
		f.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		f.Fatal(err)
	}
	m := &v1.IndexManifest{SchemaVersion: 2}
	setImage(m, "a:1", v1.Descriptor{MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: digest, Size: int64(len(manifest))})
	index, err := json.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(index, manifest, config)
	f.Add([]byte(`{"manifests":null}`), manifest, config)
	f.Add(index, []byte(`{"layers":[{"digest":"sha256:00","size":-1}]}`), []byte("{}"))
	f.Fuzz(func(t *testing.T, index, manifest, config []byte) {
		s := OpenStore(t.TempDir())
		for _, b := range [][]byte{manifest, config} {
			if _, err := s.putBytes(b); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(s.Dir(), "index.json"), index, 0o644); err != nil {
			t.Fatal(err)
		}
		_, _ = s.List()
		m, err := s.index()
		if err != nil {
			return
		}
		for _, d := range m.Manifests {
			img, err := s.Image("x@" + d.Digest.String())
			if err != nil {
				continue
			}
			got, err := img.Digest()
			if _, through := img.(indexed); err == nil && got != d.Digest && !through {
				t.Errorf("%s is taken for %s", got, d.Digest)
			}
			_ = readAll(img)
		}
	})
}
