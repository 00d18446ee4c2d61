package output

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"keelson/mkimage/imagetest"
	"keelson/mkimage/tree"
)

type source []byte

func (s source) Name() string                 { return "image x" }
func (s source) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(s)), nil }

func sample(t *testing.T) *tree.Tree {
	t.Helper()
	tr := tree.New()
	root, err := tr.Root("/")
	if err != nil {
		t.Fatal(err)
	}
	layer := imagetest.Tar(t,
		imagetest.File("bin/busybox", "12345"),
		imagetest.HardLink("bin/sh", "bin/busybox"),
		imagetest.HardLink("sbin/init", "bin/busybox"),
		imagetest.Symlink("etc/mtab", "/proc/mounts"),
		imagetest.File("empty", ""),
		imagetest.Entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "dev/tty1", Mode: 0o620, Uid: 1, Gid: 5, Devmajor: 4, Devminor: 1}},
		imagetest.Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "su", Mode: 0o4755, Size: 2, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y"}}, Body: "su"},
	)
	if err := root.Apply(source(layer)); err != nil {
		t.Fatal(err)
	}
	return tr
}

func initrd(t *testing.T, tr *tree.Tree, early io.Reader, compression string) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := Initrd(context.Background(), &buf, tr, early, compression, nil); err != nil {
		t.Fatal(err)
	}
	if buf.Len()%4 != 0 && compression != "lz4" {
		t.Errorf("%d bytes, not a multiple of 4", buf.Len())
	}
	return buf.Bytes()
}

// TestCpio reads what was written with another implementation.
func TestCpio(t *testing.T) {
	r := cpio.NewReader(bytes.NewReader(initrd(t, sample(t), nil, "none")))
	var got []string
	inodes := map[int64]string{}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if first := inodes[h.Inode]; first != "" && (h.Links != 3 || !strings.HasPrefix(first, "bin/sh")) {
			t.Errorf("%s has the inode of %s", h.Name, first)
		}
		inodes[h.Inode] += h.Name + " "
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%s %o %d:%d %d", h.Name, h.Mode, h.Uid, h.Guid, h.Links)
		switch {
		case h.Linkname != "":
			line += " -> " + h.Linkname
		case h.Mode&cpio.TypeReg != 0 && len(body) > 0:
			line += " = " + string(body)
		}
		got = append(got, line)
	}
	want := []string{
		"bin 40755 0:0 2",
		"dev 40755 0:0 2",
		"etc 40755 0:0 2",
		"sbin 40755 0:0 2",
		"dev/tty1 20620 1:5 1",
		"empty 100644 0:0 1",
		"etc/mtab 120777 0:0 1 -> /proc/mounts",
		"bin/sh 100644 0:0 3", // three names of one file, of which the last has the contents
		"sbin/init 100644 0:0 3",
		"bin/busybox 100644 0:0 3 = 12345",
		"su 104755 0:0 1 = su",
	}
	if names := inodes[8]; names != "bin/sh sbin/init bin/busybox " {
		t.Errorf("inode 8 is %s", names)
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestCpioLinksOfOtherKinds has a hard link into a jail, where a symbolic link would
// lead to itself, and links of what is no regular file.
func TestCpioLinksOfOtherKinds(t *testing.T) {
	tr := tree.New()
	root, err := tr.Root("/")
	if err != nil {
		t.Fatal(err)
	}
	layer := imagetest.Tar(t, imagetest.File("bin/sh", "sh"), imagetest.HardLink("jail/bin/sh", "bin/sh"),
		imagetest.Symlink("bin/link", "sh"), imagetest.HardLink("jail/link", "bin/link"),
		imagetest.Entry{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "zfifo", Mode: 0o600}}, imagetest.HardLink("jail/fifo", "zfifo"),
		imagetest.File("z/empty", ""), imagetest.HardLink("a/empty", "z/empty"))
	if err := root.Apply(source(layer)); err != nil {
		t.Fatal(err)
	}
	r := cpio.NewReader(bytes.NewReader(initrd(t, tr, nil, "none")))
	seen := map[string]bool{}
	inodes := map[string]int64{}
	var got []string
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if dir := filepath.Dir(h.Name); dir != "." && !seen[dir] {
			t.Errorf("%s comes before its directory", h.Name)
		}
		seen[h.Name], inodes[h.Name] = true, h.Inode
		if h.Mode.IsDir() {
			continue
		}
		got = append(got, fmt.Sprintf("%s links %d size %d", h.Name, h.Links, h.Size))
	}
	want := []string{"bin/link links 1 size 0", "a/empty links 2 size 0", "z/empty links 2 size 0", "jail/fifo links 2 size 0", "zfifo links 2 size 0",
		"jail/bin/sh links 2 size 0", "bin/sh links 2 size 2", "jail/link links 1 size 0"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for a, b := range map[string]string{"bin/sh": "jail/bin/sh", "zfifo": "jail/fifo", "a/empty": "z/empty"} {
		if inodes[a] != inodes[b] {
			t.Errorf("%s and %s have the inodes %d and %d", a, b, inodes[a], inodes[b])
		}
	}
	if inodes["bin/link"] == inodes["jail/link"] {
		t.Error("the symbolic links have one inode")
	}
}

func TestDeviceNumbers(t *testing.T) {
	b := initrd(t, sample(t), nil, "none")
	at := bytes.Index(b, []byte("dev/tty1"))
	header := string(b[at-110 : at])
	if major, minor := header[78:86], header[86:94]; major != "00000004" || minor != "00000001" {
		t.Errorf("device is %s,%s, want 4,1", major, minor)
	}
}

func TestCompressionAndMicrocode(t *testing.T) {
	plain := initrd(t, sample(t), nil, "none")
	for _, c := range Compressions {
		t.Run(c, func(t *testing.T) {
			one := initrd(t, sample(t), strings.NewReader("ucode"), c)
			if !bytes.Equal(one, initrd(t, sample(t), strings.NewReader("ucode"), c)) {
				t.Error("the same tree gave other bytes")
			}
			if !bytes.HasPrefix(one, []byte("ucode\x00\x00\x00")) {
				t.Fatalf("begins with %q, want the microcode padded to 4 bytes", one[:8])
			}
			var r io.Reader = bytes.NewReader(one[8:])
			var err error
			switch c {
			case "gzip":
				var zr *gzip.Reader
				if zr, err = gzip.NewReader(r); err == nil {
					zr.Multistream(false)
				}
				r = zr
			case "lz4":
				r = lz4.NewReader(r)
			case "zstd":
				// The zeros after the frame are for the kernel only.
				r, err = zstd.NewReader(bytes.NewReader(bytes.TrimRight(one[8:], "\x00")))
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, plain) {
				t.Error("unpacks to something else")
			}
		})
	}
	if err := Initrd(context.Background(), io.Discard, sample(t), nil, "lzma", nil); err == nil || err.Error() != `compression "lzma": must be one of [lz4 zstd gzip none]` {
		t.Errorf("got %v", err)
	}
}

func TestTar(t *testing.T) {
	var buf bytes.Buffer
	var told int
	if err := Tar(context.Background(), &buf, sample(t), func(n int) { told += n }); err != nil {
		t.Fatal(err)
	}
	if told != 7 {
		t.Errorf("told of %d bytes, want 7", told)
	}
	tr := tar.NewReader(&buf)
	links := map[string]string{}
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeLink {
			links[h.Name] = h.Linkname
		}
		if h.Name == "su" && (h.Mode != 0o4755 || h.PAXRecords["SCHILY.xattr.user.x"] != "y") {
			t.Errorf("su is %o with %v", h.Mode, h.PAXRecords)
		}
	}
	if links["bin/sh"] != "bin/busybox" || links["sbin/init"] != "bin/busybox" {
		t.Errorf("hard links are %v", links)
	}
}

func TestTooLargeForCpio(t *testing.T) {
	c := newCpio(io.Discard)
	big := tree.Entry{Path: "big", Inode: &tree.Inode{Type: tar.TypeReg, Size: 4 << 30}}
	if err := c.WriteEntry(big, nil); err == nil || err.Error() != "4294967296 bytes: an initrd holds no file of 4 GiB or more" {
		t.Errorf("got %v", err)
	}
}

func TestSizeThatIsNotTrue(t *testing.T) {
	for _, body := range []string{"1", "123"} {
		c := newCpio(io.Discard)
		e := tree.Entry{Path: "f", Inode: &tree.Inode{Type: tar.TypeReg, Size: 2}}
		if err := c.WriteEntry(e, strings.NewReader(body)); err == nil {
			t.Errorf("2 bytes announced, %d given, and no error", len(body))
		}
	}
}

func TestToFileLeavesNothingHalf(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "out")
	if err := os.WriteFile(name, []byte("before"), 0o644); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	err := ToFile(name, func(w *os.File) error {
		if _, err := io.WriteString(w, "half"); err != nil {
			return err
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 1 {
		t.Errorf("folder has %v, %v", list, err)
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != "before" {
		t.Errorf("file is %q, %v", b, err)
	}
}

func TestStoppedByContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Tar(ctx, io.Discard, sample(t), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
