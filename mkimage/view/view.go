// Package view tells what the machine and each of its containers will find at a path, as
// far as that is known when the image is built.
//
//   - It knows the image's files, what PID 1 and the supervisor mount and make, and what
//     containers' runtime sections, binds and mounts add.
//   - Its answer is There, Missing or Unknown. Unknown is what only a running machine can
//     tell: devices, /proc, the contents of a volume or a disk.
//   - Symbolic links lead where the kernel will follow them: those of a container's files
//     and of what is bound into it never lead out of the container.
//
// It must never guess: what somebody could make at run time is the caller's to judge, with
// Machine.Maker.
package view

import (
	"archive/tar"
	"io"
	"path"
	"strings"

	"keelson/mkimage/tree"
)

// State tells whether something is at a path.
type State int

// The states.
const (
	Missing State = iota
	There
	Unknown
)

// Place is what owns a path at which something is missing.
type Place int

// The places.
const (
	Image   Place = iota // the files of a container's image
	Root                 // the machine's root, which is read-only
	Area                 // a file system of the machine's that is empty at each boot, and can be written
	Fresh                // a tmpfs of the container's own
	NotADir              // a file is on the way
)

// Found is what a path leads to.
type Found struct {
	State State
	// Path is the path without links. Of what is missing it is where that would be made.
	Path string
	// Place is what lacks it, and Area the directory of one.
	Place Place
	Area  string
	// Dir reports that it is a directory.
	Dir bool
	// File is the inode in the image, nil of what the machine makes.
	File *tree.Inode

	root *tree.Root // that the file is in
	at   string
}

// Open opens the contents of a regular file of the image.
func (f Found) Open() (io.ReadCloser, int64, error) { return f.root.Open(f.at) }

// Regular reports whether it is a regular file of the image.
func (f Found) Regular() bool {
	return f.State == There && f.File != nil && f.File.Type == tar.TypeReg
}

// node is what is at a path whose directories are known to be no links.
type node struct {
	Found
	link string
}

// maxLinks is how many links the kernel follows on one way.
const maxLinks = 40

// walk follows a path through what look finds.
func walk(look func(string) node, name string) Found {
	at, found := "/", Found{State: There, Path: "/", Dir: true}
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		word := rest[0]
		rest = rest[1:]
		switch word {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			found = look(at).Found
			continue
		}
		if !found.Dir {
			return Found{Place: NotADir, Path: at}
		}
		next := path.Join(at, word)
		n := look(next)
		switch {
		case n.State != There:
			n.Path = path.Join(append([]string{next}, rest...)...)
			return n.Found
		case n.link != "":
			if links++; links > maxLinks {
				return Found{Place: NotADir, Path: next}
			}
			rest = append(strings.Split(n.link, "/"), rest...)
			if path.IsAbs(n.link) {
				at, found = "/", Found{State: There, Path: "/", Dir: true}
			}
			continue
		}
		at, found = next, n.Found
		found.Path = at
	}
	return found
}

// inTree finds a path in files of the image.
func inTree(root *tree.Root, name string, lacks Place) node {
	in := root.Lookup(name)
	if in == nil {
		return node{Found: Found{Place: lacks}}
	}
	n := node{Found: Found{State: There, Dir: in.IsDir(), File: in, root: root, at: name}}
	if in.Type == tar.TypeSymlink {
		n.link = in.Target
	}
	return n
}

// below reports whether name lies in dir, or is it.
func below(name, dir string) bool {
	return name == dir || dir == "/" || strings.HasPrefix(name, dir+"/")
}

// Tree returns what finds paths in files of the image alone.
func Tree(root *tree.Root) func(name string) Found {
	return func(name string) Found {
		return walk(func(p string) node { return inTree(root, p, Root) }, name)
	}
}
