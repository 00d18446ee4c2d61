package images

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"keelson/mkimage/imagetest"
)

func TestParseRef(t *testing.T) {
	for _, test := range []struct{ in, want, err string }{
		{in: "redis", want: "docker.io/library/redis:latest"},
		{in: "keelson/init", want: "docker.io/keelson/init:latest"},
		{in: "you/app:1.2", want: "docker.io/you/app:1.2"},
		{in: "localhost:5000/app", want: "localhost:5000/app:latest"},
		{in: "ghcr.io/a/b/c:d", want: "ghcr.io/a/b/c:d"},
		{in: "a@sha256:" + strings.Repeat("0", 64), want: "docker.io/library/a@sha256:" + strings.Repeat("0", 64)},
		{in: "oci-archive:x.tar", want: "oci-archive:/base/x.tar"},
		{in: "./x.tar", want: "oci-archive:/base/x.tar"},
		{in: "../x.tar", want: "oci-archive:/x.tar"},
		{in: "/abs/x.tar", want: "oci-archive:/abs/x.tar"},
		{in: "oci-archive:", err: `"oci-archive:" names no tarball; write oci-archive:PATH`},
		{in: "a b", err: `"a b" is no image name (invalid reference format); a name looks like nginx, you/app:1.2 or registry.example.com/you/app:1.2`},
	} {
		ref, err := ParseRef(test.in, "/base")
		got := ""
		if err != nil {
			got = err.Error()
		}
		if ref.String() != test.want && test.err == "" || got != test.err {
			t.Errorf("%s: got %s, %v", test.in, ref, err)
		}
	}
}

// files returns the contents of the regular files of an image, its layers put

// over each other by name only.

func files(t *testing.T, img v1.Image) map[string]string {
	t.Helper()
	rc := mutate.Extract(img)
	defer rc.Close()
	got := map[string]string{}
	tr := tar.NewReader(rc)
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		if hdr.Typeflag == tar.TypeReg {
			b, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			got[hdr.Name] = string(b)
		}
	}
}

func simple(t *testing.T, body string) v1.Image {
	return imagetest.Image(t, v1.Config{Cmd: []string{"/bin/" + body}}, []imagetest.Entry{imagetest.File("f", body)})
}

func TestStore(t *testing.T) {
	s := OpenStore(filepath.Join(t.TempDir(), "store"))
	if _, err := s.Image("docker.io/library/a:latest"); !errors.Is(err, ErrNotFound) {
		t.Errorf("empty store: got %v", err)
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("empty store lists %v, %v", list, err)
	}
	for _, put := range []struct{ name, body string }{{"b:1", "one"}, {"a:1", "two"}, {"b:1", "three"}} {
		if err := s.Put(put.name, simple(t, put.body), nil); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].Name != "a:1" || list[1].Name != "b:1" {
		t.Errorf("got %v, want a:1 and b:1", list)
	}
	img, err := s.Image("b:1")
	if err != nil {
		t.Fatal(err)
	}
	if got := files(t, img)["f"]; got != "three" {
		t.Errorf("b:1 has %q, must be what was put last", got)
	}
	if _, err := s.Image("x@" + list[0].Digest.String()); err != nil {
		t.Errorf("by digest: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(s.Dir(), "blobs", "sha256", ".new-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files left: %v, %v", left, err)
	}
}

func TestStoreTakesSeveralWritersAtOnce(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := OpenStore(dir).Put(fmt.Sprintf("i:%d", i), simple(t, fmt.Sprint(i)), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if list, err := OpenStore(dir).List(); err != nil || len(list) != 8 {
		t.Errorf("%d images, %v", len(list), err)
	}
}

func TestStoreRefusesALayerThatIsNotItsDigest(t *testing.T) {
	img := simple(t, "x")
	s := OpenStore(t.TempDir())
	err := s.Put("a:1", lying{img}, nil)
	if err == nil || !strings.Contains(err.Error(), "its bytes have the digest") {
		t.Errorf("got %v", err)
	}
	if _, err := s.Image("a:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the image is in the store all the same: %v", err)
	}
}

func TestStoreReplacesABlobThatWasCutOff(t *testing.T) {
	s := OpenStore(t.TempDir())
	img := simple(t, "x")
	if err := s.Put("a:1", img, nil); err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.blob(digest), 10); err != nil {
		t.Fatal(err)
	}
	if err := s.Put("a:1", img, nil); err != nil {
		t.Fatal(err)
	}
	stored, err := s.Image("a:1")
	if err != nil {
		t.Fatal(err)
	}
	if got := files(t, stored)["f"]; got != "x" {
		t.Errorf("got %q", got)
	}
}

// lying is an image whose layers say another digest than they have.

type lying struct{ v1.Image }

func (l lying) Layers() ([]v1.Layer, error) {
	layers, err := l.Image.Layers()
	return []v1.Layer{lyingLayer{layers[0]}}, err
}

type lyingLayer struct{ v1.Layer }

func (lyingLayer) Digest() (v1.Hash, error) {
	return v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}, nil
}

// TestStoreOfAnotherTool reads an index entry that is itself an index.

func TestStoreOfAnotherTool(t *testing.T) {
	dir := t.TempDir()
	s := OpenStore(dir)
	img := simple(t, "ours")
	if err := s.Put("inner", img, nil); err != nil {
		t.Fatal(err)
	}
	other, platform := Platform, Platform
	other.Architecture = "arm64"
	idx := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: simple(t, "other"), Descriptor: v1.Descriptor{Platform: &other}},
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &platform}})
	raw, err := idx.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := s.putBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	mt, err := idx.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{{
		MediaType: mt, Digest: digest, Size: int64(len(raw)), Annotations: map[string]string{annotationRef: "multi:1"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "index.json"), index, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := s.Image("multi:1")
	if err != nil {
		t.Fatal(err)
	}
	if f := files(t, got)["f"]; f != "ours" {
		t.Errorf("got the image with %q", f)
	}
}

// LinuxKit's cache has images whose names have no tag.
func TestStoreWithNamesWithoutATag(t *testing.T) {
	s := OpenStore(t.TempDir())
	for name, contents := range map[string]string{"docker.io/keelson/init": "bare", "docker.io/you/app": "bare", "docker.io/you/app:latest": "tagged"} {
		if err := s.Put(name, simple(t, contents), nil); err != nil {
			t.Fatal(err)
		}
	}
	for short, want := range map[string]string{"keelson/init": "bare", "keelson/init:latest": "bare", "you/app": "tagged"} {
		ref, err := ParseRef(short, "")
		if err != nil {
			t.Fatal(err)
		}
		img, err := s.Image(ref.Name)
		if err != nil {
			t.Errorf("%s: %v", short, err)
			continue
		}
		if got := files(t, img)["f"]; got != want {
			t.Errorf("%s is the image with %q, want %q", short, got, want)
		}
	}
	if _, err := s.Image("docker.io/keelson/init:1.2"); !errors.Is(err, ErrNotFound) {
		t.Errorf("another tag: %v", err)
	}
}
