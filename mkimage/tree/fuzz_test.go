package tree

import (
	"io"
	"path"
	"strings"
	"testing"

	"keelson/mkimage/imagetest"
)

// fuzzed are two layers of one image and one of another, put into a container's folder.
func fuzzed(t *testing.T, lower, upper, other []byte) (*Tree, error) {
	tr := New()
	tr.SetMaxSize(64 << 20)
	whole, err := tr.Root("/")
	if err != nil {
		t.Fatal(err)
	}
	if err := whole.Put("outside", File(0o600, []byte("secret"))); err != nil {
		t.Fatal(err)
	}
	root, err := tr.Root("in/side")
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range [][]byte{lower, upper, other} {
		if i != 1 {
			tr.NextImage()
		}
		if err := root.Apply(layer(b)); err != nil {
			return nil, err
		}
	}
	return tr, nil
}

// checked is a writer that wants what a tree promises.
type checked struct {
	t    *testing.T
	seen map[string]byte
	in   map[string]*Inode
}

func (c *checked) WriteEntry(e Entry, contents io.Reader) error {
	switch {
	case e.Path == "" || path.Clean("/"+e.Path) != "/"+e.Path:
		c.t.Errorf("the path %q is not clean", e.Path)
	case len(e.Path) > maxPath:
		c.t.Errorf("a path of %d bytes", len(e.Path))
	case e.Path != "outside" && e.Path != "in" && e.Path != "in/side" && !strings.HasPrefix(e.Path, "in/side/"):
		c.t.Errorf("%q is outside of the folder", e.Path)
	}
	if _, twice := c.seen[e.Path]; twice {
		c.t.Errorf("%q comes twice", e.Path)
	}
	if dir := path.Dir(e.Path); dir != "." && c.seen[dir] != dirInode(0).Type {
		c.t.Errorf("%q comes before its folder, or that is none", e.Path)
	}
	if e.HardLink != "" && c.in[e.HardLink] != e.Inode {
		c.t.Errorf("%q is a hard link to %q, which is another file", e.Path, e.HardLink)
	}
	c.seen[e.Path], c.in[e.Path] = e.Type, e.Inode
	if contents == nil {
		return nil
	}
	n, err := io.Copy(io.Discard, contents)
	if err == nil && n != e.Size {
		c.t.Errorf("%q has %d bytes, not %d", e.Path, n, e.Size)
	}
	if e.Path == "outside" && (n != 6 || e.Mode != 0o600) {
		c.t.Errorf("what is outside has changed: %d bytes, mode %o", n, e.Mode)
	}
	return err
}

// FuzzApply puts layers over each other. Nothing comes to lie outside of the folder
// that they are unpacked in, and nothing outside of it changes.
func FuzzApply(f *testing.F) {
	tar := func(e ...imagetest.Entry) []byte { return imagetest.Tar(f, e...) }
	file, dir, link, hard := imagetest.File, imagetest.Dir, imagetest.Symlink, imagetest.HardLink
	f.Add(tar(file("a/b", "1"), hard("c", "a/b")), tar(file("a/.wh.b", "")), tar(link("a", "../../outside"), file("a/x", "2")))
	f.Add(tar(link("l", "../../.."), file("l/outside", "1")), tar(hard("x", "../../outside")), tar(file(".wh...", ""), file("../.wh.outside", "")))
	f.Add(tar(dir("d"), file("d/.wh..wh..opq", "")), tar(link("d", "/"), file("d/../../outside", "")), tar(dir(".."), file("..", "")))
	f.Add(tar(file("lib/m", "1")), tar(link("e", "e")), tar(dir("usr/lib"), link("lib", "usr/lib")))
	f.Fuzz(func(t *testing.T, lower, upper, other []byte) {
		tr, err := fuzzed(t, lower, upper, other)
		if err != nil {
			return
		}
		c := &checked{t, map[string]byte{}, map[string]*Inode{}}
		if err := tr.Write(c); err != nil {
			t.Fatal(err)
		}
		if _, ok := c.seen["outside"]; !ok {
			t.Error("what is outside is gone")
		}
	})
}

// FuzzNames is FuzzApply with names that the fuzzer need not find the tar for: each
// line of a layer is an entry.
func FuzzNames(f *testing.F) {
	f.Add("f a/b\nh c a/b", "f a/.wh.b", "l a ../../outside\nf a/x")
	f.Add("l l ../../..\nf l/outside", "h x ../../outside", "f .wh...\nf ../.wh.outside\nd ..")
	f.Add("f lib/m\nd x/y\nf x/y/.wh..wh..opq", "l e e\nf e/x", "d usr/lib\nl lib usr/lib\nd lib\nf lib/m")
	f.Fuzz(func(t *testing.T, lower, upper, other string) {
		var layers [3][]byte
		for i, text := range []string{lower, upper, other} {
			var entries []imagetest.Entry
			for _, line := range strings.Split(text, "\n") {
				kind, rest, _ := strings.Cut(line, " ")
				name, target, _ := strings.Cut(rest, " ")
				if strings.ContainsRune(rest, 0) || len(rest) > 1000 || name == "" {
					continue
				}
				switch kind {
				case "f":
					entries = append(entries, imagetest.File(strings.TrimRight(name, "/"), "x"))
				case "d":
					entries = append(entries, imagetest.Dir(name))
				case "l":
					entries = append(entries, imagetest.Symlink(name, target))
				case "h":
					entries = append(entries, imagetest.HardLink(name, target))
				}
			}
			if entries == nil || len(entries) > 200 {
				return
			}
			layers[i] = imagetest.Tar(t, entries...)
		}
		tr, err := fuzzed(t, layers[0], layers[1], layers[2])
		if err != nil {
			return
		}
		c := &checked{t, map[string]byte{}, map[string]*Inode{}}
		if err := tr.Write(c); err != nil {
			t.Fatal(err)
		}
		if _, ok := c.seen["outside"]; !ok {
			t.Error("what is outside is gone")
		}
	})
}
