package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

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

func writeArchive(t *testing.T, list ...Named) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "images.tar")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := WriteArchive(f, list); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestArchiveIsWhatLinuxKitReads(t *testing.T) {
	const full = "docker.io/keelson/init:latest"
	file := writeArchive(t, Named{Names: []string{full}, Image: simple(t, "init")})
	again := writeArchive(t, Named{Names: []string{full}, Image: simple(t, "init")})
	one, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(again)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("the same image gave other bytes")
	}
	a, err := OpenArchive(file)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := a.read("index.json")
	if err != nil {
		t.Fatal(err)
	}
	var m v1.IndexManifest
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	d := m.Manifests[0]
	if d.Annotations["io.containerd.image.name"] != full || d.Annotations["org.opencontainers.image.ref.name"] != full {
		t.Errorf("annotations are %v", d.Annotations)
	}
	if d.Platform == nil || d.Platform.String() != "linux/amd64" {
		t.Errorf("platform is %v", d.Platform)
	}
	img, err := openImage(a, d)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	rc, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if _, err := gzip.NewReader(rc); err != nil {
		t.Errorf("the layer is not gzip: %v", err)
	}
}

func TestArchives(t *testing.T) {
	img := simple(t, "saved")
	oci := writeArchive(t, Named{Names: []string{"docker.io/you/app:1"}, Image: img})
	docker := filepath.Join(t.TempDir(), "docker.tar")
	tag, err := name.NewTag("you/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(docker, tag, img); err != nil {
		t.Fatal(err)
	}
	for what, file := range map[string]string{"OCI": oci, "docker": docker, "OCI, gzip": compressFile(t, oci), "docker, gzip": compressFile(t, docker)} {
		t.Run(what, func(t *testing.T) {
			a, err := OpenArchive(file)
			if err != nil {
				t.Fatal(err)
			}
			if !a.HasImages() {
				t.Fatal("says it has no images")
			}
			list, err := a.Images()
			if err != nil {
				t.Fatal(err)
			}
			if len(list) != 1 || !slices.Equal(list[0].Names, []string{"docker.io/you/app:1"}) && what[:3] == "OCI" {
				t.Errorf("got %+v", list)
			}
			if got := files(t, list[0].Image)["f"]; got != "saved" {
				t.Errorf("got %q", got)
			}
			s := OpenStore(t.TempDir())
			if err := s.Put("x", list[0].Image, nil); err != nil {
				t.Fatal(err)
			}
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			stored, err := s.Image("x")
			if err != nil {
				t.Fatal(err)
			}
			if got := files(t, stored)["f"]; got != "saved" {
				t.Errorf("from the store: got %q", got)
			}
		})
	}
}

func compressFile(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	if _, err := zw.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "x.tar.gz")
	if err := os.WriteFile(out, buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestBadArchives(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	whole, err := os.ReadFile(writeArchive(t, Named{Names: []string{"a:1"}, Image: simple(t, "x")}))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ file, want string }{
		{write("text", bytes.Repeat([]byte("no tar "), 200)), "is not a tarball"},
		{write("cut.tar", whole[:len(whole)-3000]), "read tar"},
		{write("cut.gz", []byte{0x1f, 0x8b, 8, 0, 0}), "EOF"},
		{filepath.Join(dir, "none"), "no such file"},
	} {
		a, err := OpenArchive(test.file)
		if err == nil {
			a.Close()
			t.Errorf("%s was taken", test.file)
			continue
		}
		if !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.file) {
			t.Errorf("%s: got %v, want %s", test.file, err, test.want)
		}
	}
}

func TestFromFolder(t *testing.T) {
	digest := func(umask os.FileMode) v1.Hash {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "bin", "app"), []byte("app"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(filepath.Join(dir, "bin", "app"), filepath.Join(dir, "bin", "same")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("app", filepath.Join(dir, "bin", "link")); err != nil {
			t.Fatal(err)
		}
		when := time.Unix(int64(umask)*1000, 0)
		if err := os.Chtimes(filepath.Join(dir, "bin", "app"), when, when); err != nil {
			t.Fatal(err)
		}
		img, cleanup, err := FromRoot(dir, ImportOptions{Config: v1.Config{Cmd: []string{"/bin/app"}}, Created: time.Unix(0, 0)})
		if err != nil {
			t.Fatal(err)
		}
		defer cleanup()
		got := files(t, img)
		if got["bin/app"] != "app" {
			t.Errorf("got %v", got)
		}
		cf, err := img.ConfigFile()
		if err != nil || cf.OS != "linux" || cf.Architecture != "amd64" || cf.Config.Cmd[0] != "/bin/app" {
			t.Errorf("configuration %+v, %v", cf, err)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if a, b := digest(1), digest(2); a != b {
		t.Errorf("the same files at another time and place gave %s and %s", a, b)
	}
}

func TestFromTarball(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(plain, imagetest.Tar(t, imagetest.File("./f", "x")), 0o644); err != nil {
		t.Fatal(err)
	}
	var digests []v1.Hash
	for _, file := range []string{plain, compressFile(t, plain)} {
		img, cleanup, err := FromRoot(file, ImportOptions{Created: time.Unix(0, 0)})
		if err != nil {
			t.Fatal(err)
		}
		defer cleanup()
		if got := files(t, img)["f"]; got != "x" {
			t.Errorf("got %q", got)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d)
	}
	if digests[0] != digests[1] {
		t.Error("compressed and not, one root gave two images")
	}
}

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig([]byte(`{"Entrypoint": ["/a"], "Labels": {"k": "v"}}`))
	if err != nil || c.Entrypoint[0] != "/a" || c.Labels["k"] != "v" {
		t.Errorf("got %+v, %v", c, err)
	}
	if _, err := ParseConfig([]byte(`{"Entrypont": ["/a"]}`)); err == nil || !strings.Contains(err.Error(), `unknown field "Entrypont"`) {
		t.Errorf("got %v", err)
	}
}

func testRegistry(t *testing.T) (host string) {
	t.Helper()
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

func push(t *testing.T, ref string, img v1.Image) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img); err != nil {
		t.Fatal(err)
	}
}

func resolve(t *testing.T, r *Resolver, ref string) (string, error) {
	t.Helper()
	parsed, err := ParseRef(ref, "")
	if err != nil {
		t.Fatal(err)
	}
	img, err := r.Image(context.Background(), parsed)
	if err != nil {
		return "", err
	}
	return files(t, img)["f"], nil
}

func TestPull(t *testing.T) {
	ref := testRegistry(t) + "/you/app:1"
	push(t, ref, simple(t, "old"))
	store := OpenStore(t.TempDir())
	var told int64
	r := &Resolver{Store: store, Progress: func(_ string, total int64) (func(int), func()) {
		return func(n int) { told += int64(n) }, func() {
			if told != total {
				t.Errorf("told of %d bytes of %d", told, total)
			}
		}
	}}
	for _, step := range []struct {
		what, want    string
		pull, offline bool
	}{
		{"first", "old", false, false},
		{"from the store, though the registry has another", "old", false, false},
		{"asked for", "new", true, false},
		{"from the store again", "new", false, true},
	} {
		told = 0
		if r.Pull, r.Offline = step.pull, step.offline; step.what != "first" {
			push(t, ref, simple(t, "new"))
		}
		got, err := resolve(t, r, ref)
		if err != nil || got != step.want {
			t.Errorf("%s: got %q, %v; want %q", step.what, got, err, step.want)
		}
	}
}

func TestPullPicksThePlatform(t *testing.T) {
	ref := testRegistry(t) + "/you/multi:1"
	other, ours := Platform, Platform
	other.Architecture = "arm64"
	idx := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: simple(t, "arm"), Descriptor: v1.Descriptor{Platform: &other}},
		mutate.IndexAddendum{Add: simple(t, "amd"), Descriptor: v1.Descriptor{Platform: &ours}})
	parsed, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(parsed, idx); err != nil {
		t.Fatal(err)
	}
	got, err := resolve(t, &Resolver{Store: OpenStore(t.TempDir())}, ref)
	if err != nil || got != "amd" {
		t.Errorf("got %q, %v", got, err)
	}
	digest, err := idx.Digest()
	if err != nil {
		t.Fatal(err)
	}
	byDigest := strings.TrimSuffix(ref, ":1") + "@" + digest.String()
	store := OpenStore(t.TempDir())
	for _, offline := range []bool{false, true} {
		if got, err := resolve(t, &Resolver{Store: store, Offline: offline}, byDigest); err != nil || got != "amd" {
			t.Errorf("by digest, offline %v: got %q, %v", offline, got, err)
		}
	}
}

func TestPullFails(t *testing.T) {
	host := testRegistry(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close() // it takes connections and never says a word
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	store := OpenStore("/no/store")
	for _, test := range []struct {
		name, ref string
		offline   bool
		want      string
	}{
		{"unknown image", host + "/you/app:1", false, "_UNKNOWN"},
		{"silent registry", silent.Addr().String() + "/you/app:1", false, "nothing heard from " + silent.Addr().String() + " for 200ms"},
		{"no registry", closed.Addr().String() + "/you/app:1", false, "connection refused"},
		{"offline", host + "/you/app:1", true, "is not in the store /no/store; from a folder"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &Resolver{Store: store, Offline: test.offline, Timeout: 200 * time.Millisecond}
			for range 2 { // the second time it is known that nobody answers
				_, err := resolve(t, r, test.ref)
				if err == nil {
					t.Fatal("there was an image")
				}
				for _, want := range []string{test.want, "image " + test.ref + " is not in the store /no/store", "mkimage import --store /no/store " + test.ref + " PATH"} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("got %v\nwhich does not say %q", err, want)
					}
				}
			}
		})
	}
}

func TestPullOfWhatTheStoreHas(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	ref := closed.Addr().String() + "/you/app:1"
	r := &Resolver{Store: OpenStore(t.TempDir()), Pull: true}
	if err := r.Store.Put(ref, simple(t, "x"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := resolve(t, r, ref); err == nil || !strings.Contains(err.Error(), "without --pull the one in the store") {
		t.Errorf("got %v", err)
	}
}

func TestArchiveAsAnImage(t *testing.T) {
	one := writeArchive(t, Named{Names: []string{"a:1"}, Image: simple(t, "one")})
	two := writeArchive(t, Named{Names: []string{"a:1"}, Image: simple(t, "one")}, Named{Names: []string{"b:1"}, Image: simple(t, "two")})
	root := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(root, imagetest.Tar(t, imagetest.File("f", "x")), 0o644); err != nil {
		t.Fatal(err)
	}
	r := &Resolver{Store: OpenStore(t.TempDir())}
	defer r.Close()
	if got, err := resolve(t, r, "oci-archive:"+compressFile(t, one)); err != nil || got != "one" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := resolve(t, r, two); err == nil || !strings.Contains(err.Error(), "holds 2 images; import it") {
		t.Errorf("got %v", err)
	}
	if _, err := resolve(t, r, root); err == nil || !strings.Contains(err.Error(), "holds no image, only files") {
		t.Errorf("got %v", err)
	}
}
