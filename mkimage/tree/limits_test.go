package tree

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"keelson/mkimage/imagetest"
)

type layer []byte

func (l layer) Name() string                 { return "image x" }
func (l layer) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(l)), nil }

// unpack applies entries to a tree of which start may have used up a part.
func unpack(t *testing.T, start func(*Tree), entries ...imagetest.Entry) error {
	t.Helper()
	tr := New()
	if start != nil {
		start(tr)
	}
	root, err := tr.Root("/")
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Apply(layer(imagetest.Tar(t, entries...))); err != nil {
		return err
	}
	return tr.Write(discard{})
}

type discard struct{}

func (discard) WriteEntry(_ Entry, contents io.Reader) error {
	if contents == nil {
		return nil
	}
	_, err := io.Copy(io.Discard, contents)
	return err
}

func TestLimits(t *testing.T) {
	owned := func(uid, gid int) imagetest.Entry { e := imagetest.File("a", ""); e.Uid, e.Gid = uid, gid; return e }
	device := func(major, minor int64) imagetest.Entry {
		return imagetest.Entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "a", Devmajor: major, Devminor: minor}}
	}
	xattr := func(bytes int) imagetest.Entry {
		e := imagetest.File("a", "")
		e.PAXRecords = map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", bytes)}
		return e
	}
	long := strings.Repeat("n", 255)
	for _, test := range []struct {
		name    string
		start   func(*Tree)
		entries []imagetest.Entry
		want    string // of the error; "" for none
	}{
		{"a deep path", nil, []imagetest.Entry{imagetest.File(strings.Repeat("d/", 250)+"a", "")}, ""},
		{"one that is too deep", nil, []imagetest.Entry{imagetest.File(strings.Repeat("d/", 2000)+"a", "")}, "more than 256 folders"},
		{"deep through links", nil, []imagetest.Entry{
			imagetest.Symlink("l", strings.Repeat("d/", 200)), imagetest.Symlink("l/m", strings.Repeat("e/", 200)), imagetest.File("l/m/a", ""),
		}, "more than 256 folders"},
		{"a long name", nil, []imagetest.Entry{imagetest.File(long, "")}, ""},
		{"a name that is too long", nil, []imagetest.Entry{imagetest.File(long+"n", "")}, "a name of 256 bytes; the kernel takes 255"},
		{"a long path", nil, []imagetest.Entry{imagetest.File(strings.Repeat(long+"/", 15)+long[1:], "")}, ""},
		{"a path that is too long", nil, []imagetest.Entry{imagetest.File(strings.Repeat(long+"/", 16)+"a", "")}, "a path of 4097 bytes; the kernel takes 4095"},
		{"a link to one", nil, []imagetest.Entry{imagetest.Symlink("a", strings.Repeat(long+"/", 16)+"a")}, "a link to a path of 4097 bytes"},
		{"long through links", nil, []imagetest.Entry{
			imagetest.Symlink("l", strings.Repeat(long+"/", 9)), imagetest.File("l/"+strings.Repeat(long+"/", 9)+"a", ""),
		}, "a path of more than 4095 bytes"},
		{"many names on the way", nil, []imagetest.Entry{
			imagetest.Dir("d"), imagetest.Symlink("l", strings.Repeat("d/../", 600)), imagetest.File("l/a", ""),
		}, "more than 1024 names on the way"},
		{"attributes", nil, []imagetest.Entry{xattr(64 << 10)}, ""},
		{"attributes that are too long", nil, []imagetest.Entry{xattr(200 << 10)}, "at most 131072 are read"},
		{"attributes of all files", func(t *Tree) { t.used.meta = maxMeta - 100 }, []imagetest.Entry{xattr(200)}, "more than 256 MiB in all"},
		{"entries", func(t *Tree) { t.used.entries = maxEntries - 2 }, []imagetest.Entry{imagetest.File("d/a", "")}, ""},
		{"too many entries", func(t *Tree) { t.used.entries = maxEntries - 1 }, []imagetest.Entry{imagetest.File("d/a", "")}, "more than 1000000 files and directories"},
		{"too many of one name", func(t *Tree) { t.used.entries = maxEntries - 1 }, []imagetest.Entry{imagetest.File("a", ""), imagetest.File("a", "")}, "more than 1000000 files and directories"},
		{"an owner", nil, []imagetest.Entry{owned(1<<32-2, 0)}, ""},
		{"an owner that would become root", nil, []imagetest.Entry{owned(1<<32, 0)}, "owner 4294967296:0"},
		{"a group that would become root's", nil, []imagetest.Entry{owned(0, 1<<32)}, "owner 0:4294967296"},
		{"a device of another header", nil, []imagetest.Entry{device(1<<33, 0)}, "device 8589934592:0"},
		{"bytes", func(t *Tree) { t.SetMaxSize(20 << 10) }, []imagetest.Entry{imagetest.File("a", strings.Repeat("x", 9<<10)), imagetest.File("b", "")}, ""},
		{"too many bytes", func(t *Tree) { t.SetMaxSize(20 << 10) }, []imagetest.Entry{imagetest.File("a", strings.Repeat("x", 9<<10)), imagetest.File("b", strings.Repeat("x", 12<<10))}, "unpacks to more than 20 KiB; --max-size allows more"},
		{"too many bytes of headers", func(t *Tree) { t.SetMaxSize(1 << 10) }, []imagetest.Entry{imagetest.File("a", ""), imagetest.File("b", ""), imagetest.File("c", "")}, "unpacks to more than 1 KiB"},
	} {
		err := unpack(t, test.start, test.entries...)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", test.name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "image x: ")):
			t.Errorf("%s: got %v, want %s", test.name, err, test.want)
		case err != nil && len(err.Error()) > 400:
			t.Errorf("%s: an error of %d bytes", test.name, len(err.Error()))
		}
	}
}

// A file may state more bytes than the archive has: those of a sparse one are not there.
func TestStatedSizeIsBounded(t *testing.T) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "a", Size: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	root, err := New().Root("/")
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Apply(layer(buf.Bytes())); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "more than 16 GiB") {
		t.Errorf("got %v", err)
	}
}

// What another image moves with a link stays within the bounds too.
func TestLimitsOfWhatALinkMoves(t *testing.T) {
	tr := New()
	root, err := tr.Root("/")
	if err != nil {
		t.Fatal(err)
	}
	deep := strings.Repeat("d/", 200)
	for _, entries := range [][]imagetest.Entry{
		{imagetest.File("a/"+deep+"f", "")},
		{imagetest.Symlink("a", strings.Repeat("e/", 100))},
	} {
		tr.NextImage()
		err = root.Apply(layer(imagetest.Tar(t, entries...)))
	}
	if err == nil || !strings.Contains(err.Error(), "more than 256 folders") {
		t.Errorf("got %v", err)
	}
}

// A layer's opaque whiteout need not look again at what another one has looked at: else
// these take minutes.
func TestManyWhiteouts(t *testing.T) {
	var entries []imagetest.Entry
	for i := range 30_000 {
		entries = append(entries, imagetest.File(fmt.Sprintf("d/%d", i), ""), imagetest.File("d/.wh..wh..opq", ""))
	}
	begin := time.Now()
	if err := unpack(t, nil, entries...); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("took %v", took)
	}
}
