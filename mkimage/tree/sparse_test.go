package tree

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"keelson/mkimage/imagetest"
	"keelson/mkimage/sparse"
)

// TestHolesOfLayers finds them in the header of a sparse file, and in the zeros of one
// that was written out.
func TestHolesOfLayers(t *testing.T) {
	const size = 70 << 20
	body := make([]byte, size)
	copy(body[66<<20:], "entry")
	want := sparse.Map{{Off: 66 << 20, Len: sparse.Block}}
	var listed bytes.Buffer
	tw := sparse.NewTarWriter(&listed)
	if err := tw.WriteSparse(&tar.Header{Typeflag: tar.TypeReg, Name: "lastlog", Size: size}, want, bytes.NewReader(body[66<<20:66<<20+sparse.Block])); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string][]byte{"zeros": imagetest.Tar(t, imagetest.File("lastlog", string(body)), imagetest.File("behind", "x")), "a list": listed.Bytes()} {
		tr := New()
		if what == "a list" {
			tr.SetMaxSize(2 << 20) // of which the holes take nothing
		}
		root, err := tr.Root("/")
		if err != nil {
			t.Fatal(err)
		}
		if err := root.Apply(layer(b)); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		in := root.Lookup("lastlog")
		if in == nil || in.Size != size || !slices.Equal(in.Data, want) {
			t.Fatalf("%s: got %+v", what, in)
		}
		if got := tr.Holes(); got != size-sparse.Block {
			t.Errorf("%s: %d bytes of holes", what, got)
		}
		rc, _, err := root.Open("lastlog")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(rc)
		rc.Close()
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%s: it reads as %d other bytes, %v", what, len(got), err)
		}
	}
}

// TestSparseFilesHaveABound as they can claim any size.
func TestSparseFilesHaveABound(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("there is no tar on this machine")
	}
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(DefaultMaxSize*sparseness/2 + 1); err != nil {
			t.Skip(err)
		}
	}
	out, err := exec.Command("tar", "-C", dir, "--format=pax", "--sparse-version=0.1", "-S", "-cf", "-", "a", "b").Output()
	if err != nil {
		t.Fatal(err)
	}
	tr := New()
	root, err := tr.Root("/")
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Apply(layer(out)); err == nil || !strings.Contains(err.Error(), "unpack b: sparse files of more than 64 times what may be unpacked in all; --max-size allows more") {
		t.Errorf("got %v", err)
	}
}
