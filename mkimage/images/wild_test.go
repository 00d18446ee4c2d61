package images

import (
	"errors"
	"flag"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"keelson/mkimage/imagetest"
)

var update = flag.Bool("update", false, "write testdata/images-wild instead of comparing with it")

const wildDir = "../../testdata/images-wild"

// content returns the files of a directory, or of what is one file.
func content(t *testing.T, root string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		rel, _ := filepath.Rel(root, name)
		got[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestWildIsWhatTheGeneratorWrites keeps the archives that lie beside the sources and
// the generator the same.
func TestWildIsWhatTheGeneratorWrites(t *testing.T) {
	dir := t.TempDir()
	if *update {
		if err := os.RemoveAll(wildDir); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(wildDir, 0o755); err != nil {
			t.Fatal(err)
		}
		dir = wildDir
	}
	for _, f := range imagetest.Wild(t) {
		f.Write(t, dir)
	}
	got, want := content(t, wildDir), content(t, dir)
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s is not what the generator writes; run go test -run %s -update", name, t.Name())
		}
	}
	if len(got) != len(want) {
		t.Errorf("there are %d files, and the generator writes %d", len(got), len(want))
	}
}

// TestWild takes over an image from each form.
func TestWild(t *testing.T) {
	for _, f := range imagetest.Wild(t) {
		t.Run(f.Name, func(t *testing.T) {
			a, err := OpenArchive(f.Write(t, t.TempDir()), 0)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			list, err := takeAll(t, a)
			if f.Err != "" {
				if err == nil || !strings.Contains(err.Error(), f.Err) || !strings.Contains(err.Error(), f.Name+": ") {
					t.Fatalf("got %v, want an error that has %q", err, f.Err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(list) != 1 || !slices.Equal(list[0].Names, f.Names) || !slices.Equal(list[0].Tags, f.Tags) {
				t.Fatalf("got %+v, want one image with the names %q, the tags %q", list, f.Names, f.Tags)
			}
			s := OpenStore(t.TempDir())
			if err := s.Put("x", list[0].Image, nil); err != nil {
				t.Fatal(err)
			}
			stored, err := s.Image("x")
			if err != nil {
				t.Fatal(err)
			}
			for what, img := range map[string]v1.Image{"the archive": list[0].Image, "the store": stored} {
				checkWild(t, what, img, f.Digest)
			}
		})
	}
}

// takeAll returns the images of an archive that can be stored.
func takeAll(t *testing.T, a *Archive) ([]Named, error) {
	has, err := a.HasImages()
	if err != nil {
		return nil, err
	}
	if !has {
		t.Fatal("it is taken for the files of a root")
	}
	return a.Images()
}

func checkWild(t *testing.T, what string, img v1.Image, digest string) {
	t.Helper()
	layers, err := Layers("x", img)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		rc, err := l.Open()
		if err != nil {
			t.Fatal(err)
		}
		// To its end, where the digests are compared.
		if _, err := io.Copy(io.Discard, rc); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		rc.Close()
	}
	got := files(t, img)
	want := maps.Clone(imagetest.WildFiles)
	delete(want, "same") // a hard link
	if !maps.Equal(got, want) {
		t.Errorf("%s: it has %v, want %v", what, got, want)
	}
	cf, err := img.ConfigFile()
	if err != nil || cf.Architecture != "amd64" || !slices.Equal(cf.Config.Cmd, []string{"/app"}) {
		t.Errorf("%s: the configuration is %+v, %v", what, cf, err)
	}
	if d, err := img.Digest(); err != nil || digest != "" && d.String() != digest {
		t.Errorf("%s: its digest is %s, %v, want %s", what, d, err, digest)
	}
}

// TestForeignLayersOfARegistry refuses them before anybody is asked for them.
func TestForeignLayersOfARegistry(t *testing.T) {
	host := testRegistry(t)
	img, err := mutate.Append(simple(t, "app"), mutate.Addendum{Layer: foreign{first(t, simple(t, "windows"))}, MediaType: types.DockerForeignLayer})
	if err != nil {
		t.Fatal(err)
	}
	push(t, host+"/you/app:1", img)
	r := &Resolver{Store: OpenStore(t.TempDir())}
	if _, err := resolve(t, r, host+"/you/app:1"); err == nil || !strings.Contains(err.Error(), "is a foreign layer") {
		t.Errorf("got %v", err)
	}
}

// foreign is a layer that says of itself that its bytes are elsewhere.
type foreign struct{ v1.Layer }

func (foreign) MediaType() (types.MediaType, error) { return types.DockerForeignLayer, nil }

func first(t *testing.T, img v1.Image) v1.Layer {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	return layers[0]
}

// counted refuses to open more than so many blobs.
type counted struct {
	blobs
	left int
}

func (c *counted) openBlob(h v1.Hash) (io.ReadCloser, error) {
	if c.left--; c.left < 0 {
		return nil, errors.New("too many were opened")
	}
	return c.blobs.openBlob(h)
}

// TestIndexesInIndexesEnd follows them only so far, and opens each once.
func TestIndexesInIndexesEnd(t *testing.T) {
	s := OpenStore(t.TempDir())
	d := v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}, Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}
	for depth := range maxIndexDepth + 2 {
		index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
		for range 100 { // to the power of the depth, if each were opened
			index.Manifests = append(index.Manifests, d)
		}
		b, err := indexJSON(&index)
		if err != nil {
			t.Fatal(err)
		}
		h, err := s.putBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		d = v1.Descriptor{MediaType: types.OCIImageIndex, Digest: h, Size: int64(len(b))}
		_, err = openImage(&counted{s, 20}, d)
		if tooDeep := err != nil && strings.Contains(err.Error(), "lies in more than 8 indexes"); tooDeep != (depth > maxIndexDepth) {
			t.Fatalf("%d indexes in one: got %v", depth, err)
		} else if !tooDeep && !errors.Is(err, errPlatform) {
			t.Fatalf("%d indexes in one: got %v", depth, err)
		}
	}
}

func TestBaselineBeforeNewerProcessors(t *testing.T) {
	s := OpenStore(t.TempDir())
	var index v1.IndexManifest
	for _, variant := range []string{"v3", "", "v2"} {
		img := simple(t, "variant "+variant)
		if err := s.Put("x", img, nil); err != nil {
			t.Fatal(err)
		}
		m, err := s.index()
		if err != nil {
			t.Fatal(err)
		}
		d := m.Manifests[0]
		d.Platform = &v1.Platform{OS: "linux", Architecture: "amd64", Variant: variant}
		index.Manifests = append(index.Manifests, d)
	}
	index.SchemaVersion = 2
	b, err := indexJSON(&index)
	if err != nil {
		t.Fatal(err)
	}
	h, err := s.putBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	img, err := openImage(s, v1.Descriptor{MediaType: types.OCIImageIndex, Digest: h, Size: int64(len(b))})
	if err != nil {
		t.Fatal(err)
	}
	if got := files(t, img)["f"]; got != "variant " {
		t.Errorf("got %q", got)
	}
}
