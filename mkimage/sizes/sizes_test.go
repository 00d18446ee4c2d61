package sizes

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"keelson/mkimage/output"
	"keelson/mkimage/sparse"
	"keelson/mkimage/tree"
)

// noise does not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	_, _ = r.Read(b)
	return b
}

// image has a container with files, one that shares them, one of its own, a module.
func image(t *testing.T) *tree.Tree {
	t.Helper()
	tr := tree.New()
	put := func(name string, in *tree.Inode) {
		t.Helper()
		root, err := tr.Root("/")
		if err == nil {
			err = root.Put(name, in)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	const overlay = `{"mounts": [{"type": "tmpfs", "destination": "/%s/tmp"}, {"destination": "/%[1]s/rootfs", "options": ["lowerdir=/%s", "upperdir=/x"]}]}`
	put("init", tree.File(0o755, noise(5000)))
	put("lib/modules/6/x.ko", tree.File(0o644, noise(20000)))
	put("containers/onboot/000-dhcp/lower/bin/busybox", tree.File(0o755, noise(100000)))
	put("containers/onboot/000-dhcp/lower/bin/sh", tree.Symlink("busybox"))
	put("containers/onboot/000-dhcp/runtime.json", tree.File(0o644, fmt.Appendf(nil, overlay, "containers/onboot/000-dhcp", "containers/onboot/000-dhcp/lower")))
	put("containers/services/web/runtime.json", tree.File(0o644, fmt.Appendf(nil, overlay, "containers/services/web", "containers/onboot/000-dhcp/lower")))
	put("containers/services/ro/runtime.json", tree.File(0o644, []byte(`{"mounts": [{"source": "/containers/onboot/000-dhcp/lower", "destination": "/containers/services/ro/rootfs", "options": ["bind"]}]}`)))
	put("containers/services/zeros/rootfs/big", tree.File(0o644, make([]byte, 300000)))
	put("containers/volumes/v/lower/f", tree.File(0o644, nil))
	return tr
}

func TestParts(t *testing.T) {
	for path, want := range map[string]string{
		"init": "root", "containers": "root", "containers/services": "root", "lib/modules": "root", "lib/modules/6/x.ko": "kernel modules", "usr/lib/modules/x": "kernel modules",
		"containers/services/web": "services web", "containers/services/web/rootfs/a/b": "services web",
		"containers/onboot/000-dhcp/x": "onboot dhcp", "containers/onshutdown/012-a-b/x": "onshutdown a-b", "containers/volumes/v/lower": "volume v",
	} {
		if got := PartOf(path); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}

func TestTableOfAnInitrd(t *testing.T) {
	var c Counter
	var initrd bytes.Buffer
	early := make([]byte, 512)
	if err := output.MeasuredInitrd(t.Context(), &initrd, image(t), bytes.NewReader(early), "zstd", nil, &c); err != nil {
		t.Fatal(err)
	}
	parts := map[string]Part{}
	total := int64(0)
	table := c.Table(1 << 20)
	for _, p := range table.Parts {
		parts[p.Name] = p
		if p.Name != "kernel" {
			total += p.Packed
		}
	}
	if total != int64(initrd.Len()) {
		t.Errorf("the parts have %d bytes, the initrd %d", total, initrd.Len())
	}
	if !table.Memory || !table.Packed || table.Parts[0].Name != "kernel" || parts["kernel"].Packed != 1<<20 || parts[Microcode].Packed != 512 {
		t.Errorf("got %+v", table)
	}
	// Whole pages, 900 bytes for each name, and a page for the symbolic link.
	if p := parts["services zeros"]; p.Files != 1 || p.Size != 74*4096+3*900 || p.Packed > 1000 {
		t.Errorf("zeros: %+v", p)
	}
	if p := parts["onboot dhcp"]; p.Files != 3 || p.Size != 25*4096+4096+4096+6*900 || p.Packed < 100000 || p.Packed > 102000 || p.Of != "" {
		t.Errorf("dhcp: %+v", p)
	}
	if p := parts[Modules]; p.Packed < 20000 || p.Packed > 20300 {
		t.Errorf("modules: %+v", p)
	}
	for _, name := range []string{"services web", "services ro"} {
		if p := parts[name]; p.Of != "onboot dhcp" || p.Size > 10000 {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if f := table.Largest; len(f) != 7 || f[0] != (File{"containers/services/zeros/rootfs/big", 300000}) || f[1].Size != 100000 {
		t.Errorf("the largest are %+v", f)
	}
	// Measured or not, and from either tree, it is the same initrd.
	var again bytes.Buffer
	if err := output.MeasuredInitrd(t.Context(), &again, image(t), bytes.NewReader(early), "zstd", nil, new(Counter)); err != nil || !bytes.Equal(initrd.Bytes(), again.Bytes()) {
		t.Errorf("another initrd of %d bytes, %v", again.Len(), err)
	}
}

func TestTableOfADisk(t *testing.T) {
	c := Counter{Disk: true}
	image(t).Entries(c.Add)
	c.Add(tree.Entry{Path: "again", HardLink: "init", Inode: &tree.Inode{Type: tar.TypeReg, Size: 5000}})
	table := c.Table(10)
	if table.Memory || table.Packed {
		t.Errorf("got %+v", table)
	}
	var b strings.Builder
	if err := table.Print(&b, 4, 1); err != nil {
		t.Fatal(err)
	}
	want := `PART            FILES      SIZE
kernel              1      10 B
services zeros      1  300.0 kB
onboot dhcp         3  100.2 kB
5 more              6   25.3 kB
total              11  425.6 kB

LARGEST FILES
300.0 kB  /containers/services/zeros/rootfs/big
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestPrint(t *testing.T) {
	table := Table{Memory: true, Packed: true, Parts: []Part{
		{"kernel", 1, 0, 14_100_000, ""}, {"root\x1b[2J", 14, 28_000_000, 10_300_000, ""}, {"services web", 2, 11400, 197, "onboot a"},
	}, Largest: []File{{"a\u202eb", 999}}}
	var b strings.Builder
	if err := table.Print(&b, 10, 10); err != nil {
		t.Fatal(err)
	}
	want := `PART          FILES   IN RAM  COMPRESSED
kernel            1        -     14.1 MB
root\x1b[2J      14  28.0 MB     10.3 MB
services web      2  11.4 kB       197 B  the files of onboot a
total            17  28.0 MB     24.4 MB

LARGEST FILES
   999 B  /a\u202eb
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// However many files there are, the largest are kept.
func TestLargestOfMany(t *testing.T) {
	var c Counter
	for i := range 5000 {
		c.Add(tree.Entry{Path: fmt.Sprint(i), Inode: &tree.Inode{Type: tar.TypeReg, Size: int64(i*7919%5000) + 1}})
	}
	f := c.Table(0).Largest
	if len(f) != mostFiles || f[0].Size != 5000 || f[99].Size != 4901 {
		t.Errorf("%d files from %v to %v", len(f), f[0], f[len(f)-1])
	}
}

// A runtime.json that is none says nothing, and is written as it is.
func TestRuntimeThatIsNone(t *testing.T) {
	var c Counter
	var got []byte
	w := c.Writer(writerFunc(func(_ tree.Entry, contents io.Reader) (err error) {
		got, err = io.ReadAll(contents)
		return err
	}), func() (int64, error) { return 0, nil })
	e := tree.Entry{Path: "containers/services/a/runtime.json", Inode: &tree.Inode{Type: tar.TypeReg, Size: 3}}
	if err := w.WriteEntry(e, strings.NewReader("{x}")); err != nil || string(got) != "{x}" {
		t.Errorf("got %q, %v", got, err)
	}
	if p := c.Table(0).Parts; len(p) != 1 || p[0].Of != "" {
		t.Errorf("got %+v", p)
	}
}

type writerFunc func(tree.Entry, io.Reader) error

func (w writerFunc) WriteEntry(e tree.Entry, contents io.Reader) error { return w(e, contents) }

// Holes of a file take room in memory, and none on a disk.
func TestHoles(t *testing.T) {
	for disk, want := range map[bool]int64{false: 100<<20 + perEntry, true: 4096} {
		c := Counter{Disk: disk}
		c.Add(tree.Entry{Path: "lastlog", Inode: &tree.Inode{Type: tar.TypeReg, Size: 100 << 20, Data: sparse.Map{{Off: 0, Len: 4096}}}})
		if got := c.Table(0).Parts[0].Size; got != want {
			t.Errorf("disk %v: %d bytes, want %d", disk, got, want)
		}
	}
}
