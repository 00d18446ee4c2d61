// Package diff reports how two images differ: by container, file for file, and of a
// container's configuration by its fields.
//
//   - Two images are the same if a machine would find the same in both: files, their
//     contents, owners, modes and dates, the kernel, the command line.
//   - Containers are compared by their names, so a one-shot that another was put in front
//     of is still the same one.
//   - No contents are kept but those of config.json and runtime.json.
package diff

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"strings"

	"keelson/mkimage/assemble"
	"keelson/mkimage/built"
	"keelson/mkimage/sizes"
	"keelson/mkimage/tree"
)

// Report is how two images differ. Parts without a difference are not there.
type Report struct {
	Kernel  string // how it differs
	Cmdline [2]string
	Parts   []Part
}

// Same reports that the images do not differ.
func (r *Report) Same() bool {
	return r.Kernel == "" && r.Cmdline[0] == r.Cmdline[1] && len(r.Parts) == 0
}

// Part is a part of the images that differs: a container, a volume, the root.
type Part struct {
	Name  string
	Whole Change // Added or Removed if only one image has it
	Files []File
	Size  int64 // bytes of files more in the second image
}

// Change is what became of a file or a part.
type Change string

// What there is of them.
const (
	Added   Change = "added"
	Removed Change = "removed"
	Changed Change = "changed"
)

// File is a file that differs.
type File struct {
	Path   string // in its part
	Change Change
	What   string   // its size, or what of it changed
	Fields []string // of a configuration, a line each
	size   int64
}

// Images compares two images.
func Images(ctx context.Context, a, b *built.Image) (*Report, error) {
	var snapshots [2]*snapshot
	var kernels [2]kernel
	for i, image := range []*built.Image{a, b} {
		snapshots[i] = newSnapshot()
		if err := image.WriteContext(ctx, snapshots[i]); err != nil {
			return nil, err
		}
		snapshots[i].link()
		var err error
		if kernels[i], err = readKernel(image.Kernel); err != nil {
			return nil, fmt.Errorf("the kernel of %s: %w", image.Name, err)
		}
	}
	r := &Report{
		Kernel:  kernels[0].differs(kernels[1]),
		Cmdline: [2]string{strings.TrimRight(a.Cmdline, "\x00\n"), strings.TrimRight(b.Cmdline, "\x00\n")},
	}
	from, to := snapshots[0].parts, snapshots[1].parts
	names := maps.Clone(from)
	maps.Copy(names, to)
	for _, name := range slices.SortedFunc(maps.Keys(names), inOrder) {
		if p := compare(name, from[name], to[name]); len(p.Files) > 0 {
			r.Parts = append(r.Parts, p)
		}
	}
	return r, nil
}

// inOrder has the root in front of containers.
func inOrder(a, b string) int {
	rank := func(name string) int {
		if strings.Contains(name, " ") && name != sizes.Modules {
			return 1
		}
		return 0
	}
	if d := rank(a) - rank(b); d != 0 {
		return d
	}
	return strings.Compare(a, b)
}

// compare returns how the files of a part differ.
func compare(name string, from, to map[string]*file) Part {
	p := Part{Name: name}
	switch {
	case from == nil:
		p.Whole = Added
	case to == nil:
		p.Whole = Removed
	}
	paths := maps.Clone(from)
	if paths == nil {
		paths = map[string]*file{}
	}
	maps.Copy(paths, to)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		a, b := from[path], to[path]
		switch {
		case a == nil:
			p.Files = append(p.Files, File{Path: path, Change: Added, What: b.describe(), size: b.size})
			p.Size += b.size
		case b == nil:
			p.Files = append(p.Files, File{Path: path, Change: Removed, What: a.describe(), size: a.size})
			p.Size -= a.size
		default:
			if what := a.differs(b); what != "" {
				p.Files = append(p.Files, File{Path: path, Change: Changed, What: what, Fields: fields(a.text, b.text)})
				p.Size += b.size - a.size
			}
		}
	}
	return p
}

// kernel is what is compared of a kernel.
type kernel struct {
	size int64
	sum  [sha256.Size]byte
}

func readKernel(f *assemble.File) (k kernel, err error) {
	if f == nil {
		return k, nil
	}
	rc, err := f.Open()
	if err != nil {
		return k, err
	}
	defer rc.Close()
	h := sha256.New()
	k.size, err = io.Copy(h, rc)
	return kernel{k.size, [sha256.Size]byte(h.Sum(nil))}, err
}

func (k kernel) differs(to kernel) string {
	switch {
	case k == to:
		return ""
	case k.size == 0:
		return fmt.Sprintf("%s, %s", Added, sizes.Human(to.size))
	case to.size == 0:
		return fmt.Sprintf("%s, %s", Removed, sizes.Human(k.size))
	}
	return resized(k.size, to.size)
}

// snapshot is what is kept of an image's files. It is a tree.Writer.
type snapshot struct {
	parts map[string]map[string]*file // by part, then by path in it
	dirs  map[string]string           // containers' directories, to their parts
	owner map[string]*file            // by the whole path
	links []*file
}

func newSnapshot() *snapshot {
	return &snapshot{parts: map[string]map[string]*file{}, dirs: map[string]string{}, owner: map[string]*file{}}
}

// place returns the part of a path, and the path in it.
func (s *snapshot) place(path string) (part, rest string) {
	words := strings.SplitN(path, "/", 4)
	part = sizes.PartOf(path)
	if words[0] != "containers" || len(words) < 3 {
		return part, path
	}
	dir := strings.Join(words[:3], "/")
	if s.dirs[dir] == "" {
		name := part
		for n := 2; s.parts[name] != nil; n++ { // one-shots may have one name
			name = fmt.Sprintf("%s (%d)", part, n)
		}
		s.dirs[dir] = name
	}
	if len(words) == 3 {
		return s.dirs[dir], "."
	}
	return s.dirs[dir], words[3]
}

// maxText is more than any configuration has.
const maxText = 1 << 20

// WriteEntry implements tree.Writer.
func (s *snapshot) WriteEntry(e tree.Entry, contents io.Reader) error {
	part, rest := s.place(e.Path)
	f := &file{Inode: *e.Inode, path: rest, group: rest}
	if s.parts[part] == nil {
		s.parts[part] = map[string]*file{}
	}
	s.parts[part][rest] = f
	s.owner[e.Path] = f
	if e.HardLink != "" {
		f.link = e.HardLink
		s.links = append(s.links, f)
		return nil
	}
	if e.Type != tar.TypeReg {
		return nil
	}
	var h hash.Hash = sha256.New()
	var to io.Writer = h
	var text bytes.Buffer
	keep := part != "root" && (rest == "config.json" || rest == "runtime.json") && e.Size <= maxText
	if keep {
		to = io.MultiWriter(h, &text)
	}
	n, err := io.Copy(to, contents)
	f.size = n
	f.sum = [sha256.Size]byte(h.Sum(nil))
	if keep {
		f.text = text.Bytes()
	}
	return err
}

// link gives hard links what they share. Their group is named for the first of them,
// whichever has the contents in the file.
func (s *snapshot) link() {
	groups := map[*file][]*file{}
	for _, l := range s.links {
		if o := s.owner[l.link]; o != nil && o.link == "" {
			l.size, l.sum, l.text = o.size, o.sum, o.text
			groups[o] = append(groups[o], l)
		}
	}
	for o, members := range groups {
		members = append(members, o)
		first := slices.MinFunc(members, func(a, b *file) int { return strings.Compare(a.path, b.path) })
		for _, m := range members {
			m.group = first.path
		}
	}
}
