// Package tree holds a root filesystem while it is being put together.
//
// It owns the merging: image layers with their whiteouts, several images in
// one folder, single files on top. Only metadata is kept in memory; the
// contents of files stay in the tar streams they came from and are copied
// through when the tree is written, so the size of an image does not matter.
//
// It promises that the same sources applied in the same order give the same
// entries in the same order, each path once and every folder before what is in
// it. It never touches the file system of the machine it runs on.
package tree

import (
	"archive/tar"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"keelson/mkimage/sparse"
)

// Epoch is the modification time of everything an image does not bring itself.
var Epoch = time.Unix(0, 0).UTC()

// maxLinks bounds how many symbolic links one path may pass through, as the
// kernel does (path_resolution(7)).
const maxLinks = 40

// A Source is a tar stream that can be read more than once: first to learn
// what it holds, then to copy contents from it.
type Source interface {
	// Name is what errors call it.
	Name() string
	// Open starts the uncompressed tar stream from its beginning.
	Open() (io.ReadCloser, error)
}

// Inode is a file apart from its name: hard links share one.
type Inode struct {
	Type         byte  // one of the tar type flags, never tar.TypeLink
	Mode         int64 // permission bits, setuid, setgid and sticky
	UID, GID     int
	ModTime      time.Time
	Size         int64             // bytes, of a regular file
	Target       string            // of a symbolic link
	Major, Minor int64             // of a device
	Xattrs       map[string]string // PAX records that hold extended attributes

	// Data is what of a regular file is data, nil for all of it; the rest is zeros, which
	// Contents and a source give as well.
	Data sparse.Map

	// Contents opens a regular file that no source holds; it must give Size
	// bytes. Nil for an empty file and for one that lies in a source.
	Contents func() (io.ReadCloser, error)

	source, entry int // where the contents lie; source -1: in no source
	origin        *node
}

// IsDir says whether the inode is a folder.
func (in *Inode) IsDir() bool { return in.Type == tar.TypeDir }

type node struct {
	name     string
	parent   *node
	children map[string]*node
	inode    *Inode
	image    int  // the image that put it there
	layer    int  // the layer that put it there
	implied  bool // a folder that nothing has an entry for, only what lies in it
	depth    int  // folders above it
	length   int  // bytes of its path
	pruned   int  // the layer that last took away what earlier layers had in it
}

func (n *node) path() string { return n.pathBelow(nil) }

// pathBelow is the path of n in root, in the whole tree if that is nil.
func (n *node) pathBelow(root *node) string {
	var names []string
	for ; n != root && n.parent != nil; n = n.parent {
		names = append(names, n.name)
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}

// place puts n into the folder parent, and tells what is below n of it.
func (n *node) place(parent *node) error {
	n.parent, n.depth, n.length = parent, parent.depth+1, parent.length+1+len(n.name)
	switch {
	case len(n.name) > maxName:
		return fmt.Errorf("a name of %d bytes; the kernel takes %d", len(n.name), maxName)
	case n.depth > maxDepth:
		return fmt.Errorf("more than %d folders lie on the way", maxDepth)
	case n.length > maxPath:
		return fmt.Errorf("a path of more than %d bytes, with the folder that it is unpacked in", maxPath)
	}
	for _, c := range n.children {
		if err := c.place(n); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) remove() { delete(n.parent.children, n.name) }

// names returns the children's names in order.
func (n *node) names() []string {
	names := make([]string, 0, len(n.children))
	for name := range n.children {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Tree is a root filesystem being put together. The zero value is not usable.
type Tree struct {
	root    *node
	sources []Source
	image   int
	layer   int
	maxSize int64
	used    usage
}

// New returns a tree with nothing but its root folder.
func New() *Tree {
	return &Tree{maxSize: DefaultMaxSize, root: &node{children: map[string]*node{}, inode: dirInode(0o755)}}
}

func dirInode(mode int64) *Inode {
	return &Inode{Type: tar.TypeDir, Mode: mode, ModTime: Epoch, source: -1}
}

// Root is a folder of the tree that something is unpacked into. Symbolic links
// met on the way are followed inside that folder only, as in a chroot.
type Root struct {
	t *Tree
	n *node
}

// Root returns the folder dir, made (mode 0755) where it is missing.
func (t *Tree) Root(dir string) (*Root, error) {
	whole := &Root{t: t, n: t.root}
	n, err := whole.resolve(clean(dir), true)
	if err != nil {
		return nil, err
	}
	return &Root{t: t, n: n}, nil
}

// NextImage begins another image: within one image a layer's folder replaces a
// link of the layer below, between images folders are merged through links.
func (t *Tree) NextImage() { t.image++ }

func clean(name string) string { return path.Clean("/" + name) }

// resolve finds the folder dir below r, following links, and makes what is
// missing when asked to. Without create it returns nil for a missing folder.
func (r *Root) resolve(dir string, create bool) (*node, error) {
	links, steps := 0, 0
	cur := r.n
	rest := strings.Split(strings.TrimPrefix(dir, "/"), "/")
	for len(rest) > 0 {
		if steps++; steps > maxSteps {
			return nil, fmt.Errorf("%s: more than %d names on the way", short(dir), maxSteps)
		}
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if cur != r.n {
				cur = cur.parent
			}
			continue
		}
		next := cur.children[name]
		switch {
		case next == nil:
			if !create {
				return nil, nil
			}
			var err error
			if next, err = r.t.imply(cur, name); err != nil {
				return nil, err
			}
		case next.inode.Type == tar.TypeSymlink:
			if links++; links > maxLinks {
				return nil, fmt.Errorf("%s: more than %d symbolic links on the way", dir, maxLinks)
			}
			rest = append(strings.Split(next.inode.Target, "/"), rest...)
			if strings.HasPrefix(next.inode.Target, "/") {
				cur = r.n
			}
			continue
		case !next.inode.IsDir():
			if !create {
				return nil, nil
			}
			next.remove()
			var err error
			if next, err = r.t.imply(cur, name); err != nil {
				return nil, err
			}
		}
		cur = next
	}
	return cur, nil
}

// imply adds a folder that something lies in.
func (t *Tree) imply(parent *node, name string) (*node, error) {
	if err := t.countEntry(); err != nil {
		return nil, err
	}
	n, err := t.add(parent, name, dirInode(0o755))
	if err == nil {
		n.implied = true
	}
	return n, err
}

// add puts a new node into the tree in place of whatever had its name.
func (t *Tree) add(parent *node, name string, in *Inode) (*node, error) {
	n := &node{name: name, inode: in, image: t.image, layer: t.layer}
	if err := n.place(parent); err != nil {
		return nil, err
	}
	if in.IsDir() {
		n.children = map[string]*node{}
	}
	if in.origin == nil {
		in.origin = n
	}
	parent.children[name] = n
	return n, nil
}

// find returns the node at name, its last element not followed if it is a link.
func (r *Root) find(name string) (*node, error) {
	name = clean(name)
	if name == "/" {
		return r.n, nil
	}
	dir, err := r.resolve(path.Dir(name), false)
	if dir == nil || err != nil {
		return nil, err
	}
	return dir.children[path.Base(name)], nil
}

// Lookup returns the inode at name, nil if there is none. A link that is the
// last element is not followed.
func (r *Root) Lookup(name string) *Inode {
	n, err := r.find(name)
	if n == nil || err != nil {
		return nil
	}
	return n.inode
}

// Remove takes name, and what is below it, out of the tree.
func (r *Root) Remove(name string) {
	if n, err := r.find(name); n != nil && err == nil && n != r.n {
		n.remove()
	}
}

// Put adds one entry at name, making the folders on its way (mode 0755) and
// replacing what was there. A folder put over a folder keeps what is in it.
func (r *Root) Put(name string, in *Inode) error {
	if in.ModTime.IsZero() {
		in.ModTime = Epoch
	}
	in.source = -1
	_, err := r.put(clean(name), in)
	return err
}

func (r *Root) put(name string, in *Inode) (*node, error) {
	if name == "/" {
		if in.IsDir() {
			r.n.inode = in
			in.origin = r.n
		}
		return r.n, nil
	}
	dir, err := r.resolve(path.Dir(name), true)
	if err != nil {
		return nil, err
	}
	base := path.Base(name)
	old := dir.children[base]
	switch {
	case old == nil:
	case in.IsDir() && old.inode.IsDir():
		in.origin = old
		old.inode, old.image, old.layer, old.implied = in, r.t.image, r.t.layer, false
		return old, nil
	case in.IsDir() && old.inode.Type == tar.TypeSymlink && old.image != r.t.image:
		// Another image has this folder elsewhere (lib -> usr/lib): what
		// comes next goes there through the link.
		if n, err := r.resolve(name, false); err == nil && n != nil {
			return n, nil
		}
	case in.Type == tar.TypeSymlink && old.inode.IsDir() && old.image != r.t.image && len(old.children) > 0:
		return r.relink(dir, base, old, in)
	}
	return r.t.add(dir, base, in)
}

// relink puts a symbolic link where another image has a folder with files in
// it, and moves those files to where the link points.
func (r *Root) relink(dir *node, base string, old *node, in *Inode) (*node, error) {
	link, err := r.t.add(dir, base, in)
	if err != nil {
		return nil, err
	}
	target, err := r.resolve(link.pathBelow(r.n), true)
	if err != nil {
		return nil, err
	}
	return link, merge(target, old)
}

// merge moves the children of from below to; what is there already stays.
func merge(to, from *node) error {
	for name, c := range from.children {
		have := to.children[name]
		var err error
		switch {
		case have == nil:
			to.children[name] = c
			err = c.place(to)
		case have.inode.IsDir() && c.inode.IsDir():
			err = merge(have, c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// follow returns the inode at name, all links followed.
func (r *Root) follow(name string) (*Inode, error) {
	for range maxLinks {
		n, err := r.find(name)
		if err != nil {
			return nil, err
		}
		if n == nil {
			return nil, fmt.Errorf("there is no %s", name)
		}
		if n.inode.Type != tar.TypeSymlink {
			return n.inode, nil
		}
		target := n.inode.Target
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(clean(name)), target)
		}
		name = target
	}
	return nil, fmt.Errorf("%s: more than %d symbolic links on the way", name, maxLinks)
}

// IsDir says whether there is a folder at name, all links followed.
func (r *Root) IsDir(name string) bool {
	in, err := r.follow(name)
	return err == nil && in.IsDir()
}

// Empty says whether nothing lies below name, its last element not followed if
// it is a link.
func (r *Root) Empty(name string) bool {
	n, err := r.find(name)
	return err != nil || n == nil || len(n.children) == 0
}

// Exists says whether there is something at name, all links followed.
func (r *Root) Exists(name string) bool {
	in, err := r.follow(name)
	return err == nil && in != nil
}
