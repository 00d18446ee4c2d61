// Package sizes reports what takes room in an image: which of its parts, in the machine's
// memory and in the file, and which files.
//
//   - What several containers share is counted once, with the one that has it.
//   - What a part takes in an initrd is measured while that is written, not estimated.
package sizes

import (
	"archive/tar"
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/mkimage/tree"
)

// Part is a part of an image: a container, a volume, the modules of the kernel, the
// rest of the root.
type Part struct {
	Name   string
	Files  int
	Size   int64  // of its files: in memory, or without Table.Memory as they are
	Packed int64  // in the initrd
	Of     string // the part that has this container's files
}

// File is a file of an image.
type File struct {
	Path string
	Size int64
}

// Table is what takes room.
type Table struct {
	Parts   []Part // the kernel, then the largest first
	Largest []File // likewise
	Memory  bool   // the root is unpacked into memory
	Packed  bool   // Part.Packed is known
}

// What a file takes of the memory besides its bytes, as measured with Linux 6.1: whole pages, of which a symbolic
// link on ramfs has one as well, and the kernel's inode and name.
const (
	page     = 4096
	perEntry = 900
)

// Counter adds up the entries of an image. It is an output.Meter.
type Counter struct {
	// Disk is for a root that stays on its disk.
	Disk bool

	parts   map[string]*Part
	files   []File // the largest by now, in no order
	now     string // the part of the last entry
	measure bool
	packed  int64
}

// mostFiles is how many files a table can name.
const mostFiles = 100

// Microcode is what lies in front of an initrd's root, and Modules those of the kernel.
const Microcode, Modules, rest = "microcode", "kernel modules", "root"

// PartOf names the part of an image that a path belongs to.
func PartOf(name string) string {
	words := strings.SplitN(name, "/", 4)
	switch {
	case words[0] == "containers" && len(words) > 2:
		return container(words[1], words[2])
	case strings.HasPrefix(name, "lib/modules/"), strings.HasPrefix(name, "usr/lib/modules/"):
		return Modules
	}
	return rest
}

func container(section, name string) string {
	switch section {
	case "volumes":
		return "volume " + name
	case "onboot", "onshutdown":
		if _, after, ok := strings.Cut(name, "-"); ok {
			name = after
		}
	}
	return section + " " + name
}

func (c *Counter) part(name string) *Part {
	if c.parts == nil {
		c.parts = map[string]*Part{}
	}
	if c.parts[name] == nil {
		c.parts[name] = &Part{Name: name}
	}
	return c.parts[name]
}

// Add counts an entry.
func (c *Counter) Add(e tree.Entry) {
	p := c.part(PartOf(e.Path))
	if !e.IsDir() {
		p.Files++
	}
	size := int64(0)
	if e.Type == tar.TypeReg && e.HardLink == "" {
		size = e.Size
		if c.Disk && e.Data != nil { // holes take room in memory alone
			size = e.Data.Data()
		}
	}
	if !c.Disk {
		pages := (size + page - 1) / page
		if e.Type == tar.TypeSymlink {
			pages = 1
		}
		p.Size += pages*page + perEntry
	} else {
		p.Size += size
	}
	if size > 0 {
		c.files = append(c.files, File{e.Path, size})
	}
	if len(c.files) > 10*mostFiles {
		c.cut()
	}
}

// cut keeps the largest files.
func (c *Counter) cut() {
	slices.SortFunc(c.files, func(a, b File) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), strings.Compare(a.Path, b.Path))
	})
	c.files = c.files[:min(len(c.files), mostFiles)]
}

// Runtime learns from a container's runtime.json, which lies in dir, whose files it has.
func (c *Counter) Runtime(dir string, text []byte) {
	var r struct{ Mounts []specs.Mount }
	if json.Unmarshal(text, &r) == nil { // else the machine reports it
		c.Mounts(dir, r.Mounts)
	}
}

// Mounts is Runtime, of the mounts in that file.
func (c *Counter) Mounts(dir string, mounts []specs.Mount) {
	own := PartOf(dir + "/x")
	for _, m := range mounts {
		if m.Destination != "/"+dir+"/rootfs" {
			continue
		}
		from := m.Source
		for _, o := range m.Options {
			if lower, ok := strings.CutPrefix(o, "lowerdir="); ok {
				from = lower
			}
		}
		if of := PartOf(strings.TrimPrefix(from, "/")); of != rest && of != own {
			c.part(own).Of = of
		}
	}
}

// Writer implements output.Meter.
func (c *Counter) Writer(w tree.Writer, packed func() (int64, error)) tree.Writer {
	c.measure = true
	return writer{c, w, packed}
}

// Done implements output.Meter.
func (c *Counter) Done(packed int64) { c.upTo(packed) }

// upTo gives what the initrd has become larger to the part of the last entry.
func (c *Counter) upTo(packed int64) {
	if more := packed - c.packed; more > 0 {
		c.part(cmp.Or(c.now, Microcode)).Packed += more
	}
	c.packed = packed
}

type writer struct {
	*Counter
	to     tree.Writer
	packed func() (int64, error)
}

// maxRuntime is more than any runtime.json has.
const maxRuntime = 1 << 20

// WriteEntry implements tree.Writer.
func (w writer) WriteEntry(e tree.Entry, contents io.Reader) error {
	if part := PartOf(e.Path); part != w.now {
		n, err := w.packed()
		if err != nil {
			return err
		}
		w.upTo(n)
		w.now = part
	}
	w.Add(e)
	if dir, name := path.Split(e.Path); name == "runtime.json" && strings.Count(dir, "/") == 3 && e.Type == tar.TypeReg && contents != nil && e.Size < maxRuntime {
		text, err := io.ReadAll(contents)
		if err != nil {
			return err
		}
		w.Runtime(strings.TrimSuffix(dir, "/"), text)
		contents = bytes.NewReader(text)
	}
	return w.to.WriteEntry(e, contents)
}

// Table returns what was counted, with a kernel of so many bytes.
func (c *Counter) Table(kernel int64) Table {
	c.cut()
	t := Table{Largest: c.files, Memory: !c.Disk, Packed: c.measure}
	for _, p := range c.parts {
		t.Parts = append(t.Parts, *p)
	}
	slices.SortFunc(t.Parts, func(a, b Part) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(b.Packed, a.Packed), strings.Compare(a.Name, b.Name))
	})
	if kernel > 0 {
		k := Part{Name: "kernel", Files: 1, Packed: kernel}
		if c.Disk {
			k.Size = kernel // in memory it is another size, which no file has
		}
		t.Parts = slices.Insert(t.Parts, 0, k)
	}
	return t
}
