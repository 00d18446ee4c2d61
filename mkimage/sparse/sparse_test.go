package sparse

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const mb = 1 << 20

// sparseFile makes a file with data at places and holes around it.
func sparseFile(t *testing.T, size int64, data map[int64]string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "lastlog"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for off, text := range data {
		if _, err := f.WriteAt([]byte(text), off); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestOf(t *testing.T) {
	for _, test := range []struct {
		name string
		size int64
		data map[int64]string
		want Map
	}{
		{"a hole alone", 64 * mb, nil, Map{}},
		{"too small a hole", 64*mb - 1, nil, nil},
		{"begin and end", 100*mb + 5, map[int64]string{0: "begin", 100 * mb: "ended"}, Map{{0, Block}, {100*mb - Block, Block + 5}}},
		{"in the middle of a block", 100 * mb, map[int64]string{50*mb + 100: "x"}, Map{{50 * mb, Block}}},
		{"a small hole between", 200 * mb, map[int64]string{10 * mb: "x", 10*mb + mb/2: "y", 12 * mb: "z"}, Map{{10 * mb, mb/2 + Block}, {12 * mb, Block}}},
		{"a hole that ends within a block", 100*mb + 5, map[int64]string{0: "begin"}, Map{{0, Block}, {100*mb - Block, Block + 5}}},
		{"an odd size", 100*mb + 4097, map[int64]string{100*mb + 4096: "x"}, Map{{100 * mb, Block + 1}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := sparseFile(t, test.size, test.data)
			got, err := Of(f, test.size)
			if err != nil || !slices.Equal(got, test.want) || (got == nil) != (test.want == nil) {
				t.Errorf("got %v, %v, want %v", got, err, test.want)
			}
			// Written out, zeros and all, and in pieces of any length, it is the same.
			var s Scanner
			whole := io.NewSectionReader(f, 0, test.size)
			if _, err := io.CopyBuffer(struct{ io.Writer }{&s}, struct{ io.Reader }{whole}, make([]byte, 70001)); err != nil {
				t.Fatal(err)
			}
			if got := s.Map(); !slices.Equal(got, test.want) || (got == nil) != (test.want == nil) {
				t.Errorf("of the contents: got %v, want %v", got, test.want)
			}
		})
	}
}

func TestManyPiecesBecomeFew(t *testing.T) {
	var s Scanner
	one := bytes.Repeat([]byte{1}, Block)
	for range 3 * MaxExtents {
		if _, err := s.Write(one); err != nil {
			t.Fatal(err)
		}
		s.Skip(4 * mb)
	}
	s.Skip(1 << 30)
	m := s.Map()
	if len(m) == 0 || len(m) > MaxExtents {
		t.Errorf("there are %d pieces", len(m))
	}
	at := int64(-1)
	for _, e := range m {
		if e.Off <= at || e.Len <= 0 || e.Off%Block != 0 {
			t.Fatalf("the pieces are %v", m)
		}
		at = e.end()
	}
}

func TestPacked(t *testing.T) {
	f := sparseFile(t, 70*mb, map[int64]string{0: "one", 30 * mb: "two"})
	m, err := Of(f, 70*mb)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(Packed(io.NewSectionReader(f, 0, 70*mb), m))
	if err != nil || len(got) != 2*Block || !bytes.HasPrefix(got, []byte("one")) || !bytes.HasPrefix(got[Block:], []byte("two")) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if _, err := io.ReadAll(Packed(io.NewSectionReader(f, 0, 20*mb), m)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("of a file that was cut: got %v", err)
	}
}

// archive is a tar of a sparse file between two others.
func archive(t *testing.T, name string, f *os.File, size int64) ([]byte, Map) {
	t.Helper()
	m, err := Of(f, size)
	if err != nil || m == nil {
		t.Fatalf("got %v, %v", m, err)
	}
	var buf bytes.Buffer
	tw := NewTarWriter(&buf)
	small := func(name string) {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 3, Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, "abc"); err != nil {
			t.Fatal(err)
		}
	}
	small("before")
	hdr := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o640, Uid: 3_000_000, Gid: 7, ModTime: time.Unix(1700000000, 0),
		PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y"}}
	if err := tw.WriteSparse(hdr, m, DataOf(f, m)); err != nil {
		t.Fatal(err)
	}
	small("behind")
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), m
}

// TestTar reads a sparse file with the library that Docker and containerd read layers with.
func TestTar(t *testing.T) {
	const size = 10<<30 + 7
	f := sparseFile(t, size, map[int64]string{5 << 30: "middle", size - 3: "end"})
	name := "var/log/" + strings.Repeat("long", 40) + "/lastlog"
	b, want := archive(t, name, f, size)
	if len(b) > 100<<10 {
		t.Errorf("the archive has %d bytes", len(b))
	}
	tr := tar.NewReader(bytes.NewReader(b))
	var names []string
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, hdr.Name)
		if hdr.Name != name {
			if body, err := io.ReadAll(tr); err != nil || string(body) != "abc" {
				t.Errorf("%s is %q, %v", hdr.Name, body, err)
			}
			continue
		}
		if hdr.Size != size || hdr.Uid != 3_000_000 || hdr.Mode != 0o640 || hdr.ModTime.Unix() != 1700000000 || hdr.PAXRecords["SCHILY.xattr.user.x"] != "y" {
			t.Errorf("the header is %+v", hdr)
		}
		m, known, err := FromTar(hdr)
		if err != nil || !known || !InTar(hdr) || !slices.Equal(m, want) {
			t.Errorf("the data is %v, %v, %v, want %v", m, known, err, want)
		}
		got, err := io.ReadAll(Packed(tr, m))
		if err != nil || int64(len(got)) != want.Data() || !bytes.HasPrefix(got, []byte("middle")) || !bytes.HasSuffix(got, []byte("end")) {
			t.Errorf("%d bytes of data, %v", len(got), err)
		}
	}
	if want := []string{"before", name, "behind"}; !slices.Equal(names, want) {
		t.Errorf("the entries are %q", names)
	}
}

// TestGNUTar has GNU tar read what we write, and reads what it writes, in each of its formats.
func TestGNUTar(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("there is no tar on this machine")
	}
	const size = 100 * mb
	f := sparseFile(t, size, map[int64]string{0: "begin", 60 * mb: "middle"})
	b, want := archive(t, "lastlog", f, size)
	dir := t.TempDir()
	cmd := exec.Command("tar", "-xf", "-", "-C", dir, "--no-same-owner")
	cmd.Stdin = bytes.NewReader(b)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := os.ReadFile(filepath.Join(dir, "lastlog"))
	if err != nil || int64(len(got)) != size || !bytes.HasPrefix(got[60*mb:], []byte("middle")) {
		t.Errorf("it has %d bytes, %v", len(got), err)
	}
	for _, args := range [][]string{{"--format=gnu"}, {"--format=pax", "--sparse-version=0.0"}, {"--format=pax", "--sparse-version=0.1"}, {"--format=pax", "--sparse-version=1.0"}} {
		out, err := exec.Command("tar", append(args, "-S", "-C", filepath.Dir(f.Name()), "-cf", "-", "lastlog")...).Output()
		if err != nil {
			t.Fatalf("tar %v: %v", args, err)
		}
		tr := tar.NewReader(bytes.NewReader(out))
		hdr, err := tr.Next()
		if err != nil {
			t.Fatal(err)
		}
		m, known, err := FromTar(hdr)
		if err != nil {
			t.Fatal(err)
		}
		if !known {
			var s Scanner
			if _, err := io.Copy(&s, tr); err != nil {
				t.Fatal(err)
			}
			m = s.Map()
		}
		if !InTar(hdr) || !slices.Equal(m, want) {
			t.Errorf("tar %v: sparse %v, known %v, data %v, want %v", args, InTar(hdr), known, m, want)
		}
	}
}

func TestListsThatCannotBe(t *testing.T) {
	for _, text := range []string{"10,5,0,5", "0,-1", "-5,2", "0,101", "x,1", "9223372036854775807,1", "90,20"} {
		hdr := &tar.Header{Size: 100, PAXRecords: map[string]string{"GNU.sparse.map": text}}
		if m, _, err := FromTar(hdr); err == nil {
			t.Errorf("%s was taken for %v", text, m)
		}
	}
	for _, text := range []string{"", "0,5", "0,5,5,5,100,0"} {
		if _, known, err := FromTar(&tar.Header{Size: 100, PAXRecords: map[string]string{"GNU.sparse.map": text}}); err != nil || !known {
			t.Errorf("%q: %v, %v", text, known, err)
		}
	}
	if fmt.Sprint(Map(nil).Data()) != "0" {
		t.Error("no data is not nothing")
	}
}
