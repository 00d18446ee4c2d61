package output

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// qemuImg runs QEMU's tool for disks, which knows the formats better than we do.
func qemuImg(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("qemu-img", args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("qemu-img is not on this machine; on Debian: apt-get install qemu-utils")
	}
	if err != nil {
		t.Fatalf("qemu-img %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func diskFile(t *testing.T, name string, write func(*os.File) error) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := write(f); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// program is a program for the disks that has a hole and does not compress.
func program() []byte {
	var b bytes.Buffer
	for i := range 20000 {
		sum := sha256.Sum256([]byte(fmt.Sprint(i)))
		b.Write(sum[:])
		if i == 10000 {
			b.Write(make([]byte, 1<<20))
		}
	}
	return b.Bytes()
}

// Each format holds the very disk of EFIDisk, says QEMU's tool.
func TestDiskFormats(t *testing.T) {
	var plain bytes.Buffer
	if err := EFIDisk(&plain, program()); err != nil {
		t.Fatal(err)
	}
	want := diskFile(t, "want", func(f *os.File) error { _, err := f.Write(plain.Bytes()); return err })
	for name, format := range map[string]DiskFormat{"raw": Raw, "qcow2": QCOW2, "vpc": VHD, "vmdk": VMDK} {
		t.Run(name, func(t *testing.T) {
			file := diskFile(t, "disk", func(f *os.File) error { return EFIDiskFile(f, program(), format) })
			if out := qemuImg(t, "compare", "-f", name, "-F", "raw", file, want); !strings.Contains(out, "identical") {
				t.Errorf("another disk: %s", out)
			}
			if name == "qcow2" || name == "vmdk" {
				if out := qemuImg(t, "check", "-f", name, file); !strings.Contains(out, "No errors were found") {
					t.Errorf("the check: %s", out)
				}
			}
			var info struct {
				Size int64 `json:"virtual-size"`
			}
			if err := json.Unmarshal([]byte(qemuImg(t, "info", "--output", "json", "-f", name, file)), &info); err != nil || info.Size != int64(plain.Len()) {
				t.Errorf("a disk of %d bytes, want %d (%v)", info.Size, plain.Len(), err)
			}
			var st unix.Stat_t
			if err := unix.Stat(file, &st); err != nil || st.Blocks*512 > int64(len(program()))+1<<20 {
				t.Errorf("takes %d bytes, %v; the program has %d", st.Blocks*512, err, len(program()))
			}
			again := diskFile(t, "disk", func(f *os.File) error { return EFIDiskFile(f, program(), format) })
			if one, two := read(t, file), read(t, again); !bytes.Equal(one, two) {
				t.Error("the same program gave other bytes")
			}
		})
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Disks that take more than one table of each kind, with data in few places.
func TestLargeDisks(t *testing.T) {
	const size = 576 << 20
	data := map[int64]string{0: "first", 300<<20 + 5: "middle", 1<<29 - 2: "over the edge", size - 200000: "last"}
	want := diskFile(t, "want", func(f *os.File) error {
		for at, text := range data {
			if _, err := f.WriteAt([]byte(text), at); err != nil {
				return err
			}
		}
		return f.Truncate(size)
	})
	for name, format := range map[string]DiskFormat{"raw": Raw, "qcow2": QCOW2, "vpc": VHD, "vmdk": VMDK} {
		file := diskFile(t, "disk", func(f *os.File) error {
			w, err := format.open(f, size, [16]byte{})
			if err != nil {
				return err
			}
			from, err := os.Open(want)
			if err != nil {
				return err
			}
			defer from.Close()
			if _, err := io.CopyBuffer(w, from, make([]byte, 1<<20)); err != nil {
				return err
			}
			return w.Close()
		})
		if out := qemuImg(t, "compare", "-f", name, "-F", "raw", file, want); strings.TrimSpace(out) != "Images are identical." {
			t.Errorf("%s: another disk: %s", name, out)
		}
		if n := len(read(t, file)); name == "vmdk" && n > 90<<10 {
			t.Errorf("%s: %d bytes for five grains: it has tables for nothing", name, n)
		}
		if name == "qcow2" || name == "vmdk" {
			if out := qemuImg(t, "check", "-f", name, file); !strings.Contains(out, "No errors were found") {
				t.Errorf("%s: the check: %s", name, out)
			}
		}
	}
}

// A VMDK is imported front to back, by its markers alone: each grain says where on the
// disk it belongs, each table is announced, and only those with a grain are there.
func TestVMDKAsAStream(t *testing.T) {
	var want bytes.Buffer
	if err := EFIDisk(&want, program()); err != nil {
		t.Fatal(err)
	}
	b := read(t, diskFile(t, "disk", func(f *os.File) error { return EFIDiskFile(f, program(), VMDK) }))
	le := binary.LittleEndian
	disk := make([]byte, want.Len())
	var seen []string
	at := vmdkFront * sector
	for at < len(b) {
		number, size, kind := le.Uint64(b[at:]), int(le.Uint32(b[at+8:])), le.Uint32(b[at+12:])
		if size > 0 {
			zr, err := zlib.NewReader(bytes.NewReader(b[at+12 : at+12+size]))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(zr, disk[number*sector:][:pieceSize]); err != nil {
				t.Fatal(err)
			}
			at += alignUp(12+size, sector)
			continue
		}
		at += sector
		body := b[at : at+int(number)*sector]
		switch at += len(body); kind {
		case vmdkTableMark:
			seen = append(seen, "table")
			if nothing(body) {
				t.Error("a table has no grain")
			}
		case vmdkDirectoryMark:
			seen = append(seen, "directory")
		case vmdkFooterMark:
			seen = append(seen, "footer")
			if string(body[:4]) != "KDMV" {
				t.Errorf("the footer begins with %q", body[:4])
			}
		case 0:
			seen = append(seen, "end")
		}
	}
	if got := strings.Join(seen, " "); got != "table table directory footer end" || at != len(b) {
		t.Errorf("behind the grains: %s, to %d of %d bytes", got, at, len(b))
	}
	if !bytes.Equal(disk, want.Bytes()) {
		t.Error("the grains make another disk")
	}
}

// A qcow2 counts each of its clusters, those of the counts too, wherever that ends.
func TestQCOW2Counts(t *testing.T) {
	for next := uint64(qcow2PerCounts - 4); next < qcow2PerCounts+3; next++ {
		file := diskFile(t, "disk", func(f *os.File) error {
			w, err := newQCOW2(f, pieceSize, [16]byte{})
			if err != nil {
				return err
			}
			q := w.(*qcow2)
			for q.next < next-2 { // as many clusters of data
				q.next++
				q.where = append(q.where, (q.next-1)*pieceSize|qcow2Copied)
				q.size = int64(len(q.where)) * pieceSize
			}
			return q.Close()
		})
		if out := qemuImg(t, "check", "-f", "qcow2", file); !strings.Contains(out, "No errors were found") {
			t.Errorf("%d clusters: %s", next, out)
		}
	}
}

// Google's cloud takes a tar in GNU's old format with disk.raw, of whole gigabytes; and
// the disk has the copy of its table at its end.
func TestGCP(t *testing.T) {
	file := diskFile(t, "disk", func(f *os.File) error { return EFIDiskFile(f, program(), GCP) })
	zr, err := gzip.NewReader(bytes.NewReader(read(t, file)))
	if err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 512)
	if _, err := io.ReadFull(zr, head); err != nil || string(head[257:265]) != "ustar  \x00" {
		t.Errorf("the tar begins with %q, %v", head[257:265], err)
	}
	tr := tar.NewReader(io.MultiReader(bytes.NewReader(head), zr))
	hdr, err := tr.Next()
	if err != nil || hdr.Name != "disk.raw" || hdr.Size != 1<<30 || hdr.Typeflag != tar.TypeReg {
		t.Fatalf("holds %+v, %v", hdr, err)
	}
	front, back := make([]byte, 64<<20), make([]byte, sector)
	if _, err := io.ReadFull(tr, front); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, tr, 1<<30-int64(len(front)+len(back))); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(tr, back); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(front, program()) {
		t.Error("the program is not there")
	}
	if at := binary.LittleEndian.Uint64(front[sector+32:]); at != 1<<30/sector-1 || string(back[:8]) != "EFI PART" {
		t.Errorf("the copy of the table is at sector %d, and the last one begins with %q", at, back[:8])
	}
	if _, err := tr.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("behind the disk: %v", err)
	}
}

// The geometry of a VHD, as other programs that follow the specification have it.
func TestVHDGeometry(t *testing.T) {
	for sectors, want := range map[int64][3]int64{
		40 << 11:  {963, 5, 17}, // qemu-img rounds these up
		1 << 21:   {2080, 16, 63},
		100 << 21: {51400, 16, 255},
		3 << 32:   {65535, 16, 255},
	} {
		c, h, s := vhdGeometry(sectors)
		if got := [3]int64{c, h, s}; got != want {
			t.Errorf("%d sectors: got %v, want %v", sectors, got, want)
		}
	}
}
