package output

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"keelson/mkimage/imagetest"
	"keelson/mkimage/sparse"
	"keelson/mkimage/tree"
)

const mb = 1 << 20

// places reads like a file that has texts at places, and zeros else.
type places map[int64]string

func (p places) ReadAt(b []byte, off int64) (int, error) {
	clear(b)
	for at, text := range p {
		if from, to := max(at, off), min(at+int64(len(text)), off+int64(len(b))); from < to {
			copy(b[from-off:], text[from-at:to-at])
		}
	}
	return len(b), nil
}

// any reports whether something lies within a range.
func (p places) any(off, n int64) bool {
	for at, text := range p {
		if at < off+n && at+int64(len(text)) > off {
			return true
		}
	}
	return false
}

// inode is a sparse file of a tree.
func (p places) inode(t *testing.T, size int64) *tree.Inode {
	t.Helper()
	var s sparse.Scanner
	for off := int64(0); off < size; off += mb {
		if n := min(mb, size-off); n < mb || p.any(off, mb) {
			if _, err := io.CopyN(&s, io.NewSectionReader(p, off, n), n); err != nil {
				t.Fatal(err)
			}
		} else {
			s.Skip(mb)
		}
	}
	data := s.Map()
	if data == nil {
		t.Fatal("the file is not sparse")
	}
	return &tree.Inode{Type: tar.TypeReg, Mode: 0o644, Size: size, Data: data,
		Contents: func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(p, 0, size)), nil }}
}

func treeOf(t *testing.T, files map[string]*tree.Inode) *tree.Tree {
	t.Helper()
	tr := sample(t)
	root, err := tr.Root("/")
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range files {
		if err := root.Put(name, in); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

// sparseFiles are files whose holes are in all places.
func sparseFiles(t *testing.T) (map[string]*tree.Inode, map[string]places) {
	many := places{}
	for i := range int64(200) {
		many[i*3*mb] = fmt.Sprint("piece ", i)
	}
	contents := map[string]places{
		"empty": {}, "begin": {0: "begin"}, "end": {90*mb - 3: "end"}, "tail": {90 * mb: "tail"}, "odd": {}, "middle": {50*mb + 5000: "middle", 60 * mb: "second"}, "many": many,
	}
	sizes := map[string]int64{"empty": 64 * mb, "begin": 70*mb + 1, "end": 90 * mb, "tail": 90*mb + 4, "odd": 90*mb + 700, "middle": 5 << 30, "many": 1 << 30}
	inodes := map[string]*tree.Inode{}
	for name, p := range contents {
		inodes[name] = p.inode(t, sizes[name])
	}
	return inodes, contents
}

func tool(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if file := filepath.Join(dir, name); exec.Command(file, "-V").Err == nil {
			if _, err := os.Stat(file); err == nil {
				return file
			}
		}
	}
	t.Skipf("there is no %s on this machine", name)
	return ""
}

// TestHolesOfExt4 has e2fsck and debugfs look at what was written.
func TestHolesOfExt4(t *testing.T) {
	fsck, debugfs := tool(t, "e2fsck"), tool(t, "debugfs")
	inodes, contents := sparseFiles(t)
	f, err := os.Create(filepath.Join(t.TempDir(), "ext4"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Ext4(context.Background(), f, treeOf(t, inodes), nil); err != nil {
		t.Fatal(err)
	}
	if fi, err := f.Stat(); err != nil || fi.Size() > 20*mb {
		t.Errorf("the image has %d bytes, %v", fi.Size(), err)
	}
	if out, err := exec.Command(fsck, "-fn", f.Name()).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for name, p := range contents {
		stat, err := exec.Command(debugfs, "-R", "stat /"+name, f.Name()).Output()
		if err != nil || !strings.Contains(string(stat), fmt.Sprintf("Size: %d\n", inodes[name].Size)) {
			t.Errorf("%s: %v\n%s", name, err, stat)
		}
		if inodes[name].Size > 1<<30 {
			continue // to be read in whole
		}
		got := filepath.Join(t.TempDir(), name)
		if out, err := exec.Command(debugfs, "-R", "dump /"+name+" "+got, f.Name()).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		same(t, name, got, p, inodes[name].Size)
	}
}

// TestHolesOfALongFile has one whose data needs more entries than an inode has.
func TestHolesOfALongFile(t *testing.T) {
	if testing.Short() {
		t.Skip("writes half a gigabyte")
	}
	fsck, debugfs := tool(t, "e2fsck"), tool(t, "debugfs")
	const size, at = 700 * mb, 100*mb + 1
	p := places{at: strings.Repeat("x", 513*mb)}
	f, err := os.Create(filepath.Join(t.TempDir(), "ext4"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Ext4(context.Background(), f, treeOf(t, map[string]*tree.Inode{"long": p.inode(t, size)}), nil); err != nil {
		t.Fatal(err)
	}
	if fi, err := f.Stat(); err != nil || fi.Size() > 530*mb {
		t.Errorf("the image has %d bytes, %v", fi.Size(), err)
	}
	if out, err := exec.Command(fsck, "-fn", f.Name()).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	out, err := exec.Command(debugfs, "-R", "extents /long", f.Name()).Output()
	if err != nil {
		t.Fatal(err)
	}
	// A zero block at the front, which was the mark, and the data from its place on.
	for _, want := range []string{"0 - 0 ", "25600 - 58367 ", "123904 - 156671", "156672 - 156928"} {
		if !strings.Contains(strings.Join(strings.Fields(string(out)), " ")+" ", want) {
			t.Errorf("the extents have no %s:\n%s", want, out)
		}
	}
}

// same compares a file with what it should have.
func same(t *testing.T, name, file string, p places, size int64) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.Size() != size {
		t.Errorf("%s has %d bytes, want %d, %v", name, fi.Size(), size, err)
	}
	got, want := make([]byte, mb), make([]byte, mb)
	for off := int64(0); off < size; off += mb {
		n := int(min(mb, size-off))
		if _, err := f.ReadAt(got[:n], off); err != nil {
			t.Fatal(err)
		}
		if _, err := p.ReadAt(want[:n], off); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got[:n], want[:n]) {
			t.Errorf("%s is another file from %d on", name, off)
			return
		}
	}
}

// TestHolesOfATar keeps them, for squashfs's tool and other readers of the tar.
func TestHolesOfATar(t *testing.T) {
	inodes, contents := sparseFiles(t)
	delete(inodes, "middle") // takes the tool long
	var buf bytes.Buffer
	if err := DiskTar(context.Background(), &buf, treeOf(t, inodes), nil); err != nil {
		t.Fatal(err)
	}
	if buf.Len() > 4*mb {
		t.Errorf("the tar has %d bytes", buf.Len())
	}
	squash, unsquash := tool(t, "sqfstar"), tool(t, "unsquashfs")
	dir := t.TempDir()
	image := filepath.Join(dir, "root.squashfs")
	cmd := exec.Command(squash, "-quiet", "-no-progress", "-processors", "1", image)
	cmd.Stdin = &buf
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if fi, err := os.Stat(image); err != nil || fi.Size() > mb {
		t.Errorf("the squashfs has %d bytes, %v", fi.Size(), err)
	}
	out := filepath.Join(dir, "out")
	if text, err := exec.Command(unsquash, "-quiet", "-no-progress", "-no-xattrs", "-d", out, image, "begin", "end", "many", "tail", "odd", "bin/sh").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, name := range []string{"begin", "end", "many", "tail", "odd"} {
		same(t, name, filepath.Join(out, name), contents[name], inodes[name].Size)
	}
}

// TestHolesOfAnInitrd refuses what would take all memory, by its name.
func TestHolesOfAnInitrd(t *testing.T) {
	for _, test := range []struct {
		size int64
		want string
	}{
		{200 * mb, ""},
		{300 * mb, "write var/log/lastlog: has 299 MiB of zeros, which all take memory in an initrd; leave the file out of the image, or build kernel+squashfs or kernel+ext4, where they are holes"},
		{300 << 30, "write var/log/lastlog: has 307199 MiB of zeros, "},
	} {
		p := places{mb: "entry"}
		in := &tree.Inode{Type: tar.TypeReg, Size: test.size, Data: sparse.Map{{Off: mb, Len: sparse.Block}},
			Contents: func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(p, 0, test.size)), nil }}
		err := Initrd(context.Background(), io.Discard, treeOf(t, map[string]*tree.Inode{"var/log/lastlog": in}), nil, "none", nil)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.HasPrefix(err.Error(), test.want)) {
			t.Errorf("%d bytes: got %v, want %s", test.size, err, test.want)
		}
	}
}

// TestAttributesOnADisk leaves out only what no file system there holds.
func TestAttributesOnADisk(t *testing.T) {
	tr := tree.New()
	root, err := tr.Root("/")
	if err != nil {
		t.Fatal(err)
	}
	e := imagetest.File("f", "x")
	e.PAXRecords = map[string]string{}
	for _, name := range []string{"security.capability", "user.x", "trusted.y", "system.posix_acl_access"} {
		e.PAXRecords["SCHILY.xattr."+name] = "1"
	}
	e.PAXRecords["LIBARCHIVE.xattr.user.bsd%20name"] = "aGVsbG8"
	if err := root.Apply(source(imagetest.Tar(t, e))); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := DiskTar(context.Background(), &buf, tr, nil); err != nil {
		t.Fatal(err)
	}
	hdr, err := tar.NewReader(&buf).Next()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"security.capability": "1", "user.x": "1", "trusted.y": "1", "user.bsd name": "hello"}
	got := 0
	for key, v := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			if got++; want[name] != v {
				t.Errorf("%s is %q, want %q", name, v, want[name])
			}
		}
	}
	if got != len(want) {
		t.Errorf("the attributes are %v", hdr.PAXRecords)
	}
	if lost := tr.Xattrs(func(name string) bool { return !HeldOnDisk(name) }); len(lost) != 1 || lost[0] != (tree.Xattr{Path: "f", Name: "system.posix_acl_access"}) {
		t.Errorf("lost: %v", lost)
	}
}
