package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keelson/mkimage/imagetest"
)

// TestImagesOfEachWriter imports an image in each form, and builds one that names the
// tarball or directory itself.
func TestImagesOfEachWriter(t *testing.T) {
	dir, store := project(t)
	write(t, filepath.Join(dir, "init.yml"), "init: [you/init]\n")
	for _, f := range imagetest.Wild(t) {
		t.Run(f.Name, func(t *testing.T) {
			path := f.Write(t, dir)
			ours := filepath.Join(t.TempDir(), "store")
			_, _, unnamed := mkimage(t, "import", "--store", ours, path)
			_, _, renamed := mkimage(t, "import", "--store", ours, "you/renamed:3", path)
			yml := filepath.Join(dir, "wild.yml")
			write(t, yml, fmt.Sprintf("onboot: [{name: direct, image: ./%s}]\n", f.Name))
			out := filepath.Join(dir, "out")
			_, _, built := mkimage(t, "build", "-q", "--lenient", "--offline", "--store", store, "--format", "tar", "-o", out, filepath.Join(dir, "init.yml"), yml) // its /app is no program
			if f.Err != "" {
				for what, err := range map[string]error{"import": unnamed, "import NAME": renamed, "build": built} {
					if err == nil || !strings.Contains(err.Error(), f.Err) {
						t.Errorf("%s: got %v, want %s", what, err, f.Err)
					}
				}
				return
			}
			switch {
			case len(f.Names) > 0 && unnamed != nil, renamed != nil, built != nil:
				t.Fatalf("import: %v; with a name: %v; build: %v", unnamed, renamed, built)
			case len(f.Tags) > 0 && (unnamed == nil || !strings.Contains(unnamed.Error(), "mkimage import NAME:"+f.Tags[0]+" "+path)):
				t.Errorf("of an image with a tag alone: %v", unnamed)
			case len(f.Names)+len(f.Tags) == 0 && (unnamed == nil || !strings.Contains(unnamed.Error(), "mkimage import NAME "+path)):
				t.Errorf("of an image without a name: %v", unnamed)
			}
			list := must(t, "ls", "--store", ours)
			for _, name := range append(f.Names, "docker.io/you/renamed:3") {
				if !strings.Contains(list, name+" ") {
					t.Errorf("the store has no %s:\n%s", name, list)
				}
			}
			checkTar(t, filepath.Join(out, "wild.tar"), "containers/onboot/000-direct/lower/")
		})
	}
}

// TestFlagsOfARootAreNoneOfAnImage refuses what would have no effect.
func TestFlagsOfARootAreNoneOfAnImage(t *testing.T) {
	path := imagetest.Wild(t)[0].Write(t, t.TempDir())
	for _, flags := range [][]string{{"--cmd", "/x"}, {"--device", "/dev/null:1:3"}, {"--keep-owner"}} {
		_, _, err := mkimage(t, append([]string{"import", "--store", filepath.Join(t.TempDir(), "store"), "you/app", path}, flags...)...)
		if err == nil || !strings.Contains(err.Error(), flags[0]) || !strings.Contains(err.Error(), "taken over as they are") {
			t.Errorf("%v: got %v", flags, err)
		}
	}
}

// checkTar wants the files of the wild image below dir, and not what its upper layer
// removes.
func checkTar(t *testing.T, name, dir string) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := map[string]string{}
	for tr := tar.NewReader(f); ; {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		rel, ok := strings.CutPrefix(hdr.Name, dir)
		if !ok {
			continue
		}
		switch hdr.Typeflag {
		case tar.TypeReg:
			b, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			got[rel] = string(b)
		case tar.TypeLink:
			got[rel] = got[strings.TrimPrefix(hdr.Linkname, dir)]
		}
	}
	for file, want := range imagetest.WildFiles {
		if got[file] != want {
			t.Errorf("%s is %q, want %q", file, got[file], want)
		}
	}
	if _, ok := got["gone"]; ok {
		t.Error("what the upper layer removes is there")
	}
}

// TestSeveralTagsOfOneDirectory gives each image the name with its own tag, as skopeo
// oci:DIR:TAG keeps them.
func TestSeveralTagsOfOneDirectory(t *testing.T) {
	dir := t.TempDir()
	path := imagetest.TwoTags(t, dir)
	store := filepath.Join(dir, "store")
	printed := must(t, "import", "--store", store, "you/app", path)
	if got := strings.Count(printed, "\n"); got != 2 || !strings.Contains(printed, "docker.io/you/app:1 ") || !strings.Contains(printed, "docker.io/you/app:2 ") {
		t.Errorf("printed %q", printed)
	}
	if _, _, err := mkimage(t, "import", "--store", store, "you/app:3", path); err == nil || !strings.Contains(err.Error(), "holds 2 images, so one name does not do") {
		t.Errorf("got %v", err)
	}
	write(t, filepath.Join(dir, "t.yml"), "onboot: [{name: a, image: ./"+filepath.Base(path)+"}]\n")
	if _, _, err := mkimage(t, "build", "--offline", "--store", store, filepath.Join(dir, "t.yml")); err == nil || !strings.Contains(err.Error(), "holds 2 images; import it") {
		t.Errorf("got %v", err)
	}
}
