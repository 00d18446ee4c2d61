package images

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"keelson/mkimage/imagetest"
)

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

// TestPullFromIndexesInIndexes pulls what only a configuration says the platform of, and
// the baseline before an image for newer processors.
func TestPullFromIndexesInIndexes(t *testing.T) {
	host := testRegistry(t)
	arm := simple(t, "arm")
	cf, err := arm.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.Architecture = "arm64"
	if arm, err = mutate.ConfigFile(arm, cf); err != nil {
		t.Fatal(err)
	}
	newer, ours := Platform, Platform
	newer.Variant = "v3"
	write := func(ref string, idx v1.ImageIndex) {
		parsed, err := name.ParseReference(ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(parsed, idx); err != nil {
			t.Fatal(err)
		}
	}
	variants := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: simple(t, "v3"), Descriptor: v1.Descriptor{Platform: &newer}},
		mutate.IndexAddendum{Add: simple(t, "baseline"), Descriptor: v1.Descriptor{Platform: &ours}})
	write(host+"/you/variants:1", variants)
	unsaid := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: arm}, mutate.IndexAddendum{Add: simple(t, "unsaid")})
	write(host+"/you/unsaid:1", unsaid)
	nested := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: arm})}, mutate.IndexAddendum{Add: variants})
	write(host+"/you/nested:1", nested)
	digest, err := nested.Digest()
	if err != nil {
		t.Fatal(err)
	}
	store := OpenStore(t.TempDir())
	for _, offline := range []bool{false, true} { // the second time from the store
		r := &Resolver{Store: store, Offline: offline}
		for ref, want := range map[string]string{"/you/variants:1": "baseline", "/you/unsaid:1": "unsaid", "/you/nested:1": "baseline", "/you/nested@" + digest.String(): "baseline"} {
			if got, err := resolve(t, r, host+ref); err != nil || got != want {
				t.Errorf("%s, offline %v: got %q, %v, want %q", ref, offline, got, err, want)
			}
		}
	}
	write(host+"/you/arm:1", mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: arm}))
	if _, err := resolve(t, &Resolver{Store: store}, host+"/you/arm:1"); err == nil || !strings.Contains(err.Error(), "holds no image for linux/amd64, but for linux/arm64") {
		t.Errorf("got %v", err)
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

// TestSlowIsNotSilent checks that every byte of a download puts the end off.
func TestSlowIsNotSilent(t *testing.T) {
	ref := testRegistry(t) + "/you/app:1"
	push(t, ref, simple(t, "x"))
	w := &watch{}
	r := &Resolver{Store: OpenStore(t.TempDir()), afterFunc: func(time.Duration, func()) timer { return w }}
	if _, err := resolve(t, r, ref); err != nil {
		t.Fatal(err)
	}
	if w.resets == 0 || w.stops != 1 {
		t.Errorf("the watchdog was set back %d times and stopped %d times", w.resets, w.stops)
	}
}

type watch struct{ resets, stops int }

func (w *watch) Reset(time.Duration) bool { w.resets++; return true }
func (w *watch) Stop() bool               { w.stops++; return true }

// TestSilentRegistryIsAskedOnce checks that ten images of a registry that is
// away do not take ten times as long to fail.
func TestSilentRegistryIsAskedOnce(t *testing.T) {
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		asked.Add(1)
		<-req.Context().Done()
	}))
	t.Cleanup(srv.Close)
	host := strings.TrimPrefix(srv.URL, "http://")
	r := &Resolver{Store: OpenStore(t.TempDir()), Timeout: 200 * time.Millisecond}
	if _, err := resolve(t, r, host+"/a"); err == nil {
		t.Fatal("there was an image")
	}
	before := asked.Load()
	if _, err := resolve(t, r, host+"/b"); err == nil || asked.Load() != before {
		t.Errorf("asked %d times, then %d; error %v", before, asked.Load(), err)
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
