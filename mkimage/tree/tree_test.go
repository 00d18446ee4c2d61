package tree_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"keelson/mkimage/imagetest"
	"keelson/mkimage/tree"
)

type source []byte

func (s source) Name() string                 { return "image x" }
func (s source) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(s)), nil }

// listing is a tree written as one line per entry.
type listing []string

func (l *listing) WriteEntry(e tree.Entry, contents io.Reader) error {
	line := e.Path
	switch {
	case e.HardLink != "":
		line += " => " + e.HardLink
	case e.Type == tar.TypeDir:
		line += "/"
	case e.Type == tar.TypeSymlink:
		line += " -> " + e.Target
	case e.Type == tar.TypeReg:
		b, err := io.ReadAll(contents)
		if err != nil {
			return err
		}
		if int64(len(b)) != e.Size {
			return fmt.Errorf("%s: %d bytes, not %d", e.Path, len(b), e.Size)
		}
		line += " = " + string(b)
	default:
		line += fmt.Sprintf(" %c %d,%d", e.Type, e.Major, e.Minor)
	}
	*l = append(*l, line)
	return nil
}

func list(t *testing.T, tr *tree.Tree) []string {
	t.Helper()
	var l listing
	if err := tr.Write(&l); err != nil {
		t.Fatal(err)
	}
	return l
}

var (
	file, dir, symlink, hardlink = imagetest.File, imagetest.Dir, imagetest.Symlink, imagetest.HardLink
)

func TestApply(t *testing.T) {
	type layers = [][]imagetest.Entry
	for _, test := range []struct {
		name   string
		images []layers
		want   []string // sorted; parents come first on their own
	}{
		{"files and folders", []layers{{{dir("a"), file("a/b", "1"), file("c", "")}}}, []string{"a/", "a/b = 1", "c = "}},
		{"folder not named", []layers{{{file("a/b/c", "1")}}}, []string{"a/", "a/b/", "a/b/c = 1"}},
		{"dot and slash in front", []layers{{{dir("."), file("./a", "1"), file("/b", "2")}}}, []string{"a = 1", "b = 2"}},
		{"upwards out of the root", []layers{{{file("../../a", "1"), file("b/../../../c", "2")}}}, []string{"a = 1", "c = 2"}},
		{"upper layer wins", []layers{{{file("a", "1")}, {file("a", "2")}}}, []string{"a = 2"}},
		{"same name twice in a layer", []layers{{{file("a", "1"), file("a", "2")}}}, []string{"a = 2"}},

		{"whiteout of a file", []layers{{{file("d/a", "1"), file("d/b", "2")}, {file("d/.wh.a", "")}}}, []string{"d/", "d/b = 2"}},
		{"whiteout of a folder", []layers{{{file("d/a", "1")}, {file(".wh.d", "")}}}, nil},
		{"whiteout of nothing", []layers{{{file("a", "1")}, {file("x/.wh.y", ""), file(".wh.z", "")}}}, []string{"a = 1"}},
		{"whiteout spares its own layer", []layers{{{file("a", "1")}, {file("a", "2"), file(".wh.a", "")}}}, []string{"a = 2"}},
		{"whiteout, then a new folder", []layers{{{file("d/a", "1")}, {file(".wh.d", ""), file("d/b", "2")}}}, []string{"d/", "d/b = 2"}},
		{"opaque folder", []layers{{{file("d/a", "1"), file("d/e/f", "2")}, {dir("d"), file("d/.wh..wh..opq", ""), file("d/b", "3")}}}, []string{"d/", "d/b = 3"}},
		{"opaque after what it spares", []layers{{{file("d/a", "1"), file("d/e/f", "2")}, {file("d/e/g", "3"), file("d/.wh..wh..opq", "")}}}, []string{"d/", "d/e/", "d/e/g = 3"}},
		{"aufs metadata", []layers{{{file(".wh..wh.plnk/1", ""), file(".wh..wh.aufs", "")}}}, []string{".wh..wh.plnk/", ".wh..wh.plnk/1 = "}},

		{"link replaced by a folder", []layers{{{dir("t"), symlink("d", "t")}, {dir("d"), file("d/a", "1")}}}, []string{"d/", "d/a = 1", "t/"}},
		{"folder replaced by a file", []layers{{{file("d/a", "1")}, {file("d", "2")}}}, []string{"d = 2"}},
		{"file replaced by a folder", []layers{{{file("d", "1")}, {file("d/a", "2")}}}, []string{"d/", "d/a = 2"}},
		{"file through a link", []layers{{{dir("usr/lib"), symlink("lib", "usr/lib")}, {file("lib/a", "1")}}}, []string{"lib -> usr/lib", "usr/", "usr/lib/", "usr/lib/a = 1"}},
		{"file through an absolute link", []layers{{{dir("usr/lib"), symlink("lib", "/usr/lib"), file("lib/a", "1")}}}, []string{"lib -> /usr/lib", "usr/", "usr/lib/", "usr/lib/a = 1"}},
		{"absolute link in a folder", []layers{{{dir("t"), symlink("d/l", "/t"), file("d/l/a", "1")}}}, []string{"d/", "d/l -> /t", "t/", "t/a = 1"}},
		{"link that leaves the root", []layers{{{symlink("l", "../../x"), file("l/a", "1")}}}, []string{"l -> ../../x", "x/", "x/a = 1"}},

		{"another image's folder goes through a link", []layers{{{dir("usr/lib"), symlink("lib", "usr/lib")}}, {{dir("lib"), file("lib/a", "1")}}}, []string{"lib -> usr/lib", "usr/", "usr/lib/", "usr/lib/a = 1"}},
		{"another image's link takes the folder's files along", []layers{{{file("lib/modules/m", "1")}}, {{dir("usr/lib/x"), symlink("lib", "usr/lib")}}}, []string{"lib -> usr/lib", "usr/", "usr/lib/", "usr/lib/modules/", "usr/lib/modules/m = 1", "usr/lib/x/"}},
		{"another image's file wins", []layers{{{file("a", "1")}}, {{file("a", "2")}}}, []string{"a = 2"}},

		{"hard link", []layers{{{file("b", "1"), hardlink("a", "b"), hardlink("c", "./b")}}}, []string{"b = 1", "a => b", "c => b"}},
		{"hard link whose first name is gone", []layers{{{file("b", "1"), hardlink("c", "b"), hardlink("d", "b")}, {file(".wh.b", "")}}}, []string{"c = 1", "d => c"}},
		{"hard link whose first name is another file", []layers{{{file("b", "1"), hardlink("c", "b")}, {file("b", "2")}}}, []string{"b = 2", "c = 1"}},
		{"hard link to a lower layer", []layers{{{file("b", "1")}, {hardlink("c", "b")}}}, []string{"b = 1", "c => b"}},
		{"hard link to itself", []layers{{{file("b", "1"), hardlink("b", "b")}}}, []string{"b = 1"}},

		{"devices", []layers{{{
			{Header: tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}},
			{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "vda", Devmajor: 254}},
			{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "pipe"}},
		}}}, []string{"null 3 1,3", "pipe 6 0,0", "vda 4 254,0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			tr := tree.New()
			root, err := tr.Root("/")
			if err != nil {
				t.Fatal(err)
			}
			for _, image := range test.images {
				tr.NextImage()
				for _, layer := range image {
					if err := root.Apply(source(imagetest.Tar(t, layer...))); err != nil {
						t.Fatal(err)
					}
				}
			}
			got := list(t, tr)
			checkParentsFirst(t, got)
			slices.Sort(got)
			want := slices.Sorted(slices.Values(test.want))
			if !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

func checkParentsFirst(t *testing.T, lines []string) {
	t.Helper()
	seen := map[string]bool{}
	for _, line := range lines {
		name, _, _ := strings.Cut(line, " ")
		name = strings.TrimSuffix(name, "/")
		if i := strings.LastIndex(name, "/"); i >= 0 && !seen[name[:i]] {
			t.Errorf("%s comes before its folder", name)
		}
		seen[name] = true
	}
}

func TestApplyRefuses(t *testing.T) {
	for _, test := range []struct {
		name  string
		layer []imagetest.Entry
		want  string
	}{
		{"hard link to nothing", []imagetest.Entry{hardlink("a", "b")}, "unpack a: hard link to b, which is not a file of this image"},
		{"hard link to a folder", []imagetest.Entry{dir("b"), hardlink("a", "b")}, "unpack a: hard link to b, which is not a file of this image"},
		{"links in a circle", []imagetest.Entry{symlink("a", "b"), symlink("b", "a"), file("a/x", "")}, "unpack a/x: /a: more than 40 symbolic links on the way"},
	} {
		t.Run(test.name, func(t *testing.T) {
			root, err := tree.New().Root("/")
			if err != nil {
				t.Fatal(err)
			}
			err = root.Apply(source(imagetest.Tar(t, test.layer...)))
			if err == nil || err.Error() != "image x: "+test.want {
				t.Errorf("got %v, want image x: %s", err, test.want)
			}
		})
	}
}

func TestRootsAreApart(t *testing.T) {
	tr := tree.New()
	a, err := tr.Root("containers/a/lower")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Apply(source(imagetest.Tar(t, symlink("etc", "/x/../../y"), file("etc/f", "1"), hardlink("g", "etc/f")))); err != nil {
		t.Fatal(err)
	}
	got := list(t, tr)
	slices.Sort(got)
	want := []string{
		"containers/", "containers/a/", "containers/a/lower/", "containers/a/lower/etc -> /x/../../y",
		"containers/a/lower/g => containers/a/lower/y/f", "containers/a/lower/x/", "containers/a/lower/y/", "containers/a/lower/y/f = 1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestPutOpenRemove(t *testing.T) {
	tr := tree.New()
	root, err := tr.Root("/")
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Apply(source(imagetest.Tar(t, file("boot/vmlinuz", "kernel"), symlink("kernel", "boot/vmlinuz"), symlink("loop", "loop")))); err != nil {
		t.Fatal(err)
	}
	if err := root.Put("etc/motd", tree.File(0o600, []byte("hi"))); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"kernel": "kernel", "/boot/vmlinuz": "kernel", "etc/motd": "hi"} {
		rc, size, err := root.Open(name)
		if err != nil {
			t.Fatalf("open %s: %v", name, err)
		}
		b, err := io.ReadAll(rc)
		rc.Close()
		if err != nil || string(b) != want || size != int64(len(want)) {
			t.Errorf("%s: got %q, %d bytes, %v", name, b, size, err)
		}
	}
	for name, want := range map[string]string{
		"none": "there is no none", "boot": "boot is not a regular file", "loop": "/loop: more than 40 symbolic links on the way",
	} {
		if _, _, err := root.Open(name); err == nil || err.Error() != want {
			t.Errorf("open %s: got %v, want %s", name, err, want)
		}
	}
	root.Remove("boot")
	if root.Exists("kernel") || root.Lookup("kernel") == nil {
		t.Error("a link to what was removed must stay, and lead nowhere")
	}
}

// changing is a source that holds something else when it is read again.
type changing struct {
	reads  int
	states [][]byte
}

func (c *changing) Name() string { return "image x" }

func (c *changing) Open() (io.ReadCloser, error) {
	c.reads++
	return io.NopCloser(bytes.NewReader(c.states[min(c.reads, len(c.states))-1])), nil
}

func TestChangedSourceIsAnError(t *testing.T) {
	for name, then := range map[string][]byte{
		"shorter": imagetest.Tar(t, file("a", "1")),
		"gone":    imagetest.Tar(t),
	} {
		tr := tree.New()
		root, err := tr.Root("/")
		if err != nil {
			t.Fatal(err)
		}
		if err := root.Apply(&changing{states: [][]byte{imagetest.Tar(t, file("a", "12")), then}}); err != nil {
			t.Fatal(err)
		}
		if err := tr.Write(&listing{}); err == nil || err.Error() != "image x: write a: the image changed while it was read" {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestWriterErrorEndsTheWriting(t *testing.T) {
	tr := tree.New()
	root, err := tr.Root("/")
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Apply(source(imagetest.Tar(t, file("a", "12")))); err != nil {
		t.Fatal(err)
	}
	full := errors.New("disk full")
	if err := tr.Write(failing{full}); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) WriteEntry(tree.Entry, io.Reader) error { return f.err }

// Each image of init: has /etc; what the first one closed stays closed.
func TestFolderOfAnEarlierImageKeepsItsMode(t *testing.T) {
	tr := tree.New()
	root, err := tr.Root("/")
	if err != nil {
		t.Fatal(err)
	}
	mode := func(e imagetest.Entry, m int64) imagetest.Entry { e.Mode = m; return e }
	for _, layers := range [][][]imagetest.Entry{
		{{mode(dir("etc"), 0o700), file("opt/a", "1")}, {mode(dir("etc"), 0o711)}},
		{{mode(dir("etc"), 0o755), file("etc/a", "1"), mode(dir("opt"), 0o750)}},
	} {
		tr.NextImage()
		for _, layer := range layers {
			if err := root.Apply(source(imagetest.Tar(t, layer...))); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The first image's own last word, and the first word on a folder that only lay on the way.
	for name, want := range map[string]int64{"etc": 0o711, "opt": 0o750} {
		if got := root.Lookup(name).Mode; got != want {
			t.Errorf("/%s has mode %o, want %o", name, got, want)
		}
	}
	if err := root.Put("etc", tree.Dir(0o750)); err != nil || root.Lookup("etc").Mode != 0o750 {
		t.Errorf("an entry of files: gives /etc mode %o, %v", root.Lookup("etc").Mode, err)
	}
}
