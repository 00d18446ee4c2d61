package images

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keelson/mkimage/imagetest"
	"keelson/mkimage/tree"
)

func TestArchivesThatUnpackToTooMuch(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(plain, imagetest.Tar(t, imagetest.File("f", strings.Repeat("x", 1<<20))), 0o644); err != nil {
		t.Fatal(err)
	}
	small := compressFile(t, plain)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	if _, err := OpenArchive(small, 1<<20); !errors.Is(err, tree.ErrTooLarge) || !strings.Contains(err.Error(), small+": unpacks to more than 1 MiB") {
		t.Errorf("got %v", err)
	}
	if _, _, err := FromRoot(small, ImportOptions{MaxSize: 1 << 20}); !errors.Is(err, tree.ErrTooLarge) {
		t.Errorf("a root: got %v", err)
	}
	a, err := OpenArchive(small, 2<<20)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestPullOfAnImageThatIsTooLarge(t *testing.T) {
	host := testRegistry(t)
	push(t, host+"/you/app:1", simple(t, "app"))
	r := &Resolver{Store: OpenStore(t.TempDir()), MaxSize: 10}
	if _, err := resolve(t, r, host+"/you/app:1"); !errors.Is(err, tree.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
}

func TestArchivesThatToolsReadDifferently(t *testing.T) {
	config := imagetest.Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "c.json", Linkname: "/etc/passwd"}}
	many := `[{"Config":"c.json","Layers":["l"` + strings.Repeat(`,"l"`, 1000) + `]}]`
	for name, test := range map[string]struct {
		entries []imagetest.Entry
		want    string
	}{
		"two manifests":          {[]imagetest.Entry{imagetest.File("manifest.json", "[]"), imagetest.File("./manifest.json", "[]")}, "two files manifest.json"},
		"a manifest that leads":  {[]imagetest.Entry{imagetest.Symlink("index.json", "x")}, "index.json is not a regular file"},
		"a configuration's link": {[]imagetest.Entry{imagetest.File("manifest.json", `[{"Config":"c.json"}]`), config}, `a configuration "c.json", which is not there`},
		"many layers":            {[]imagetest.Entry{imagetest.File("manifest.json", many), imagetest.File("c.json", "{}")}, "more than 1000 layers"},
	} {
		file := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(file, imagetest.Tar(t, test.entries...), 0o644); err != nil {
			t.Fatal(err)
		}
		a, err := OpenArchive(file, 0)
		if err == nil {
			_, err = a.Images()
		}
		if err == nil || !strings.Contains(err.Error(), file+": ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %s", name, err, test.want)
		}
	}
}
