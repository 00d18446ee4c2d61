package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"keelson/mkimage/imagetest"
)

// readAll reads all of an image as a build does.
func readAll(img v1.Image) error {
	layers, err := Layers("x", img)
	if err != nil {
		return err
	}
	for _, l := range layers {
		rc, err := l.Open()
		if err != nil {
			return err
		}
		defer rc.Close()
		if _, err := io.Copy(io.Discard, rc); err != nil {
			return err
		}
	}
	return nil
}

// parts are the digests of an image's blobs, by what they are.
func parts(t *testing.T, img v1.Image) map[string]v1.Hash {
	t.Helper()
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return map[string]v1.Hash{"manifest": digest, "configuration": m.Config.Digest, "layer": m.Layers[0].Digest}
}

func edit(t *testing.T, file string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, change(b), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestAlteredBlobsOfTheStore(t *testing.T) {
	img := simple(t, "x")
	for what, digest := range parts(t, img) {
		for how, change := range map[string]func([]byte) []byte{
			// Where neither JSON nor gzip would mind: within the length of the history, or the time of the header.
			"another byte": func(b []byte) []byte {
				if what == "layer" {
					b[4] ^= 1
					return b
				}
				return bytes.Replace(b, []byte("0"), []byte("1"), 1)
			},
			"longer":  func(b []byte) []byte { return append(b, '\n') },
			"shorter": func(b []byte) []byte { return b[:len(b)-1] },
			"nothing": func([]byte) []byte { return nil },
		} {
			s := OpenStore(t.TempDir())
			if err := s.Put("a:1", img, nil); err != nil {
				t.Fatal(err)
			}
			edit(t, s.blob(digest), change)
			got, err := s.Image("a:1")
			if err == nil {
				err = readAll(got)
			}
			if err == nil || !strings.Contains(err.Error(), what+" "+digest.String()) || !strings.Contains(err.Error(), "altered or damaged") {
				t.Errorf("%s, %s: got %v", what, how, err)
			}
			if err := s.Put("a:1", img, nil); err != nil {
				t.Fatal(err)
			}
			if got, err = s.Image("a:1"); err == nil {
				err = readAll(got)
			}
			if err != nil {
				t.Errorf("%s, %s: put again: %v", what, how, err)
			}
		}
	}
}

// An index of the store that names another image for our platform is not believed.
func TestAlteredIndexOfTheStore(t *testing.T) {
	dir := t.TempDir()
	s := OpenStore(dir)
	other := simple(t, "other")
	if err := s.Put("other:1", other, nil); err != nil {
		t.Fatal(err)
	}
	idx, raw, digest := multi(t, simple(t, "ours"))
	otherDigest, err := other.Digest()
	if err != nil {
		t.Fatal(err)
	}
	m, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put("a@"+digest.String(), indexed{simple(t, "ours"), v1.Descriptor{MediaType: m.MediaType, Digest: digest, Size: int64(len(raw))}, [][]byte{raw}}, nil); err != nil {
		t.Fatal(err)
	}
	img, err := s.Image("a@" + digest.String())
	if err != nil {
		t.Fatal(err)
	}
	if got := files(t, img)["f"]; got != "ours" {
		t.Errorf("the image with %q", got)
	}
	edit(t, s.blob(digest), func(b []byte) []byte {
		return bytes.ReplaceAll(b, []byte(m.Manifests[0].Digest.Hex), []byte(otherDigest.Hex))
	})
	if _, err := s.Image("a@" + digest.String()); err == nil || !strings.Contains(err.Error(), "index "+digest.String()+" was altered") {
		t.Errorf("got %v", err)
	}
}

// multi is an index with img for our platform.
func multi(t *testing.T, img v1.Image) (idx v1.ImageIndex, raw []byte, digest v1.Hash) {
	t.Helper()
	platform := Platform
	idx = mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &platform}})
	raw, err := idx.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	if digest, err = idx.Digest(); err != nil {
		t.Fatal(err)
	}
	return idx, raw, digest
}

// An index's digest names an image as well as a manifest's does; what was pulled by
// it is found without the registry.
func TestPullByTheDigestOfAnIndex(t *testing.T) {
	host := testRegistry(t)
	img := simple(t, "ours")
	idx, _, digest := multi(t, img)
	ref, err := name.ParseReference(host + "/you/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, idx); err != nil {
		t.Fatal(err)
	}
	manifest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []v1.Hash{digest, manifest} {
		r := &Resolver{Store: OpenStore(t.TempDir())}
		for _, offline := range []bool{false, true} {
			r.Offline = offline
			if got, err := resolve(t, r, host+"/you/app@"+d.String()); err != nil || got != "ours" {
				t.Errorf("%s, offline %v: got %q, %v", d, offline, got, err)
			}
		}
	}
}

// rewrite returns a tarball with its files changed; a nil result leaves one out.
func rewrite(t *testing.T, file string, change func(name string, b []byte) []byte) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var entries []imagetest.Entry
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if b = change(h.Name, b); b == nil {
				continue
			}
		}
		e := imagetest.File(h.Name, string(b))
		e.Typeflag = h.Typeflag
		entries = append(entries, e)
	}
	out := filepath.Join(t.TempDir(), "changed.tar")
	if err := os.WriteFile(out, imagetest.Tar(t, entries...), 0o644); err != nil {
		t.Fatal(err)
	}
	return out
}

// put imports all images of a tarball, as mkimage import does.
func put(s *Store, file string) error {
	a, err := OpenArchive(file, 0)
	if err != nil {
		return err
	}
	defer a.Close()
	list, err := a.Images()
	if err != nil {
		return err
	}
	for _, n := range list {
		for _, full := range n.Names {
			if err := s.Put(full, n.Image, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestATarballCannotClaimADigest(t *testing.T) {
	img := simple(t, "hostile")
	real, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	claimed := "docker.io/library/redis@sha256:" + strings.Repeat("ab", 32)
	claim := func(to string) string {
		return rewrite(t, writeArchive(t, Named{Names: []string{"x:1"}, Image: img}), func(name string, b []byte) []byte {
			if name == "index.json" {
				return bytes.ReplaceAll(b, []byte(`"x:1"`), []byte(`"`+to+`"`))
			}
			return b
		})
	}
	s := OpenStore(t.TempDir())
	err = put(s, claim(claimed))
	if err == nil || !strings.Contains(err.Error(), claimed) || !strings.Contains(err.Error(), real.String()) {
		t.Errorf("got %v, want an error with both digests", err)
	}
	if err := s.Put(claimed, img, nil); err == nil || !strings.Contains(err.Error(), real.String()) {
		t.Errorf("the store: got %v", err)
	}
	if _, err := s.Image(claimed); err == nil {
		t.Error("the store has it under the name")
	}
	// Its own digest it may state.
	if err := put(s, claim("docker.io/library/redis@"+real.String())); err != nil {
		t.Error(err)
	}
	if _, err := s.Image("docker.io/library/redis@" + real.String()); err != nil {
		t.Error(err)
	}
}

// A store that another tool or hand has written is not believed either.
func TestANameOfTheStoreIsNoDigest(t *testing.T) {
	s := OpenStore(t.TempDir())
	if err := s.Put("x:1", simple(t, "x"), nil); err != nil {
		t.Fatal(err)
	}
	claimed := "docker.io/library/redis@sha256:" + strings.Repeat("ab", 32)
	edit(t, filepath.Join(s.Dir(), "index.json"), func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`"x:1"`), []byte(`"`+claimed+`"`)) })
	if _, err := s.Image(claimed); err == nil {
		t.Error("the image was taken for one of another digest")
	}
}

// A tarball whose blob has the bytes of another image's layer is refused, and the
// other image stays.
func TestAHostileTarballLeavesOtherImages(t *testing.T) {
	s := OpenStore(t.TempDir())
	victim, bad := simple(t, "victim"), simple(t, "bad")
	if err := s.Put("victim:1", victim, nil); err != nil {
		t.Fatal(err)
	}
	theirs, err := os.ReadFile(s.blob(parts(t, victim)["layer"]))
	if err != nil {
		t.Fatal(err)
	}
	layer := path.Join("blobs/sha256", parts(t, bad)["layer"].Hex)
	hostile := rewrite(t, writeArchive(t, Named{Names: []string{"docker.io/you/bad:1"}, Image: bad}), func(name string, b []byte) []byte {
		if name == layer {
			return theirs
		}
		return b
	})
	if err := put(s, hostile); err == nil || !strings.Contains(err.Error(), "altered") {
		t.Errorf("got %v", err)
	}
	img, err := s.Image("victim:1")
	if err == nil {
		err = readAll(img)
	}
	if err != nil {
		t.Errorf("the other image: %v", err)
	}
	if _, err := s.Image("docker.io/you/bad:1"); err == nil {
		t.Error("the store has the hostile one")
	}
}

// What docker save writes has digests of its unpacked layers only.
func TestAlteredLayerOfDockerSave(t *testing.T) {
	file := filepath.Join(t.TempDir(), "docker.tar")
	tag, err := name.NewTag("you/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(file, tag, simple(t, "good")); err != nil {
		t.Fatal(err)
	}
	other := imagetest.Tar(t, imagetest.File("f", "evil"))
	file = rewrite(t, file, func(name string, b []byte) []byte {
		if strings.HasSuffix(name, ".tar.gz") {
			return other
		}
		return b
	})
	r := &Resolver{Store: OpenStore(t.TempDir())}
	defer r.Close()
	img, err := r.Image(t.Context(), Ref{Archive: file})
	if err == nil {
		err = readAll(img)
	}
	if err == nil || !strings.Contains(err.Error(), "unpacked layer sha256:") || !strings.Contains(err.Error(), "altered") {
		t.Errorf("got %v", err)
	}
}

// A registry, or who is on the way to it, that gives other bytes.
func TestAlteredBlobsOfARegistry(t *testing.T) {
	img := simple(t, "x")
	for what, digest := range parts(t, img) {
		back := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
		alter := false
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !alter || r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, digest.String()) {
				back.ServeHTTP(w, r)
				return
			}
			rec := httptest.NewRecorder()
			back.ServeHTTP(rec, r)
			b := rec.Body.Bytes()
			b[len(b)/2] ^= 1
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			w.WriteHeader(rec.Code)
			w.Write(b)
		}))
		defer srv.Close()
		host := strings.TrimPrefix(srv.URL, "http://")
		push(t, host+"/you/app:1", img)
		alter = true
		r := &Resolver{Store: OpenStore(t.TempDir())}
		ref := host + "/you/app@" + parts(t, img)["manifest"].String()
		if _, err := resolve(t, r, ref); err == nil || !strings.Contains(err.Error(), digest.Hex) {
			t.Errorf("%s: got %v", what, err)
		}
		if list, err := r.Store.List(); err != nil || len(list) > 0 {
			t.Errorf("%s: the store has %v, %v", what, list, err)
		}
	}
}

// Several builds write and read one image of one store.
func TestStoreOfSeveralBuildsAtOnce(t *testing.T) {
	dir := t.TempDir()
	img := simple(t, strings.Repeat("x", 1<<16))
	if err := OpenStore(dir).Put("a:1", img, nil); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s := OpenStore(dir)
			for range 5 {
				if err := s.Put("a:1", img, nil); err != nil {
					t.Error(err)
				}
				got, err := s.Image("a:1")
				if err == nil {
					err = readAll(got)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil || !json.Valid(b) {
		t.Errorf("the index is %q, %v", b, err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", ".new-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files left: %v, %v", left, err)
	}
}
