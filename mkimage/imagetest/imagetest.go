// Package imagetest makes small images for tests, without touching a disk.
package imagetest

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Entry is one entry of a layer; its contents are Body.
type Entry struct {
	tar.Header
	Body string
}

// File returns a regular file.
func File(name, body string) Entry {
	return Entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body))}, body}
}

// Executable returns a regular file that anybody may execute.
func Executable(name, body string) Entry {
	e := File(name, body)
	e.Mode = 0o755
	return e
}

// Dir returns a folder.
func Dir(name string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}}
}

// Symlink returns a symbolic link.
func Symlink(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

// HardLink returns a hard link to another entry.
func HardLink(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}}
}

// Capability returns the extended attribute security.capability that gives the user who runs
// a file a capability (linux/capability.h, revision 2).
func Capability(number int) string {
	b := make([]byte, 20)
	binary.LittleEndian.PutUint32(b, 0x02000001) // effective
	binary.LittleEndian.PutUint32(b[4+8*(number/32):], 1<<(number%32))
	return string(b)
}

// Tar returns entries as a tar archive.
func Tar(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		if err := tw.WriteHeader(&e.Header); err != nil {
			t.Fatalf("write header of %s: %v", e.Name, err)
		}
		if _, err := io.WriteString(tw, e.Body); err != nil {
			t.Fatalf("write %s: %v", e.Name, err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Image returns a linux/amd64 image of layers, the lowest first.
func Image(t testing.TB, cfg v1.Config, layers ...[]Entry) v1.Image {
	t.Helper()
	img := empty.Image
	for _, entries := range layers {
		b := Tar(t, entries...)
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture, cf.Config = "linux", "amd64", cfg
	img, err = mutate.ConfigFile(img, cf)
	if err != nil {
		t.Fatal(err)
	}
	return img
}
