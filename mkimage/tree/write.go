package tree

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Entry is one path of a finished tree.
type Entry struct {
	Path string // without a leading slash; never empty
	*Inode
	// HardLink is the path of the entry this one shares its contents with;
	// empty for the first of them.
	HardLink string
	// Links are the paths of the entries that have this one for their HardLink. The
	// directories that they lie in come before.
	Links []string
}

// A Writer takes the entries of a tree in order. contents is nil but for
// regular files, and gives exactly Size bytes.
type Writer interface {
	WriteEntry(e Entry, contents io.Reader) error
}

// Size returns the number of entries and of bytes in regular files.
func (t *Tree) Size() (entries int, bytes int64) {
	plan := t.plan()
	for _, e := range plan.plain {
		bytes += e.Size
	}
	for _, owned := range plan.owned {
		for _, e := range owned {
			bytes += e.Size
			entries++
		}
	}
	return entries + len(plan.plain) + len(plan.links), bytes
}

// Holes returns how many bytes of regular files are no data.
func (t *Tree) Holes() int64 {
	var n int64
	seen := map[*Inode]bool{}
	t.walk(func(node *node, _ string) {
		if in := node.inode; in.Data != nil && !seen[in] {
			seen[in] = true
			n += in.Size - in.Data.Data()
		}
	})
	return n
}

// Xattr is an extended attribute of a file.
type Xattr struct{ Path, Name string }

// Xattrs returns the extended attributes of all entries for which want says so, in order.
func (t *Tree) Xattrs(want func(name string) bool) []Xattr {
	var list []Xattr
	t.walk(func(n *node, path string) {
		for _, key := range slices.Sorted(maps.Keys(n.inode.Xattrs)) {
			if name := strings.TrimPrefix(key, XattrPrefix); want(name) {
				list = append(list, Xattr{path, name})
			}
		}
	})
	return list
}

func (t *Tree) walk(fn func(n *node, path string)) {
	var visit func(n *node, dir string)
	visit = func(n *node, dir string) {
		for _, name := range n.names() {
			c := n.children[name]
			fn(c, dir+name)
			if c.inode.IsDir() {
				visit(c, dir+name+"/")
			}
		}
	}
	visit(t.root, "")
}

// plan is the order a tree is written in: directories, sorted; what else has its
// contents at hand, sorted; then each source once, front to back; then hard links.
type plan struct {
	plain []Entry
	owned []map[int]Entry // by source, then by its entry's number
	links []Entry
}

func (t *Tree) plan() plan {
	attached := map[*node]bool{}
	t.walk(func(n *node, _ string) { attached[n] = true })
	// The name the file was made under keeps the contents, if it is still
	// there; else the first in order does.
	first := map[*Inode]*node{}
	t.walk(func(n *node, _ string) {
		o := n.inode.origin
		if attached[o] && o.inode == n.inode {
			first[n.inode] = o
		} else if first[n.inode] == nil {
			first[n.inode] = n
		}
	})
	links := map[*node][]string{}
	t.walk(func(n *node, path string) {
		if f := first[n.inode]; f != n {
			links[f] = append(links[f], path)
		}
	})
	p := plan{owned: make([]map[int]Entry, len(t.sources))}
	t.walk(func(n *node, path string) {
		e := Entry{Path: path, Inode: n.inode, Links: links[n]}
		switch f := first[n.inode]; {
		case f != n:
			e.HardLink = f.path()
			p.links = append(p.links, e)
		case n.inode.source >= 0:
			owned := &p.owned[n.inode.source]
			if *owned == nil {
				*owned = map[int]Entry{}
			}
			(*owned)[n.inode.entry] = e
		default:
			p.plain = append(p.plain, e)
		}
	})
	slices.SortStableFunc(p.plain, func(a, b Entry) int {
		switch {
		case a.IsDir() == b.IsDir():
			return 0
		case a.IsDir():
			return -1
		}
		return 1
	})
	return p
}

// Write gives every entry to w.
func (t *Tree) Write(w Writer) error {
	p := t.plan()
	for _, e := range p.plain {
		if err := writePlain(w, e); err != nil {
			return fmt.Errorf("write %s: %w", e.Path, err)
		}
	}
	for i, owned := range p.owned {
		if len(owned) == 0 {
			continue
		}
		err := each(t.sources[i], nil, func(entry int, hdr *tar.Header, contents io.Reader) error {
			e, ok := owned[entry]
			if !ok {
				return nil
			}
			delete(owned, entry)
			if hdr.Size != e.Size {
				return fmt.Errorf("write %s: the image changed while it was read", e.Path)
			}
			if err := w.WriteEntry(e, contents); err != nil {
				return fmt.Errorf("write %s: %w", e.Path, err)
			}
			return nil
		})
		for _, e := range owned {
			if err == nil {
				err = fmt.Errorf("write %s: the image changed while it was read", e.Path)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", t.sources[i].Name(), err)
		}
	}
	for _, e := range p.links {
		if err := w.WriteEntry(e, nil); err != nil {
			return fmt.Errorf("write %s: %w", e.Path, err)
		}
	}
	return nil
}

func writePlain(w Writer, e Entry) error {
	if e.Type != tar.TypeReg {
		return w.WriteEntry(e, nil)
	}
	if e.Contents == nil {
		return w.WriteEntry(e, bytes.NewReader(nil))
	}
	rc, err := e.Contents()
	if err != nil {
		return err
	}
	defer rc.Close()
	return w.WriteEntry(e, rc)
}

// Bytes returns contents for a file that holds b, to be used with Size len(b).
func Bytes(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

// File returns an inode of a regular file, owned by root, that holds b.
func File(mode int64, b []byte) *Inode {
	return &Inode{Type: tar.TypeReg, Mode: mode, Size: int64(len(b)), Contents: Bytes(b)}
}

// Dir returns an inode of a folder, owned by root.
func Dir(mode int64) *Inode { return &Inode{Type: tar.TypeDir, Mode: mode} }

// Symlink returns an inode of a symbolic link to target, owned by root.
func Symlink(target string) *Inode {
	return &Inode{Type: tar.TypeSymlink, Mode: 0o777, Target: target}
}

// Open starts reading the regular file at name, links followed, and tells its
// size.
func (r *Root) Open(name string) (io.ReadCloser, int64, error) {
	in, err := r.follow(name)
	if err != nil {
		return nil, 0, err
	}
	if in.Type != tar.TypeReg {
		return nil, 0, fmt.Errorf("%s is not a regular file", name)
	}
	if in.source < 0 {
		if in.Contents == nil {
			return io.NopCloser(bytes.NewReader(nil)), 0, nil
		}
		rc, err := in.Contents()
		return rc, in.Size, err
	}
	src := r.t.sources[in.source]
	rc, err := src.Open()
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", src.Name(), err)
	}
	tr := tar.NewReader(rc)
	for entry := 0; ; entry++ {
		if _, err := tr.Next(); err != nil {
			rc.Close()
			return nil, 0, fmt.Errorf("%s: read %s: %w", src.Name(), name, err)
		}
		if entry == in.entry {
			return &file{contents: tr, stream: rc, what: src.Name() + ": read " + name}, in.Size, nil
		}
	}
}

// file is one file of a source. At its end the rest of the source is read too: a
// layer's digest is checked at its end.
type file struct {
	contents io.Reader
	stream   io.ReadCloser
	what     string
}

func (f *file) Read(b []byte) (int, error) {
	n, err := f.contents.Read(b)
	if errors.Is(err, io.EOF) {
		_, rest := io.Copy(io.Discard, f.stream)
		if rest == nil {
			return n, io.EOF
		}
		err = rest
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", f.what, err)
	}
	return n, err
}

func (f *file) Close() error { return f.stream.Close() }
