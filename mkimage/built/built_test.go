package built

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"golang.org/x/sys/unix"

	"keelson/mkimage/assemble"
	"keelson/mkimage/imagetest"
	"keelson/mkimage/output"
	"keelson/mkimage/tree"
)

// newc is an entry of an initrd as other programs write it.
func newc(ino, mode, links int, name, contents string) string {
	pad := func(s string) string { return s + strings.Repeat("\x00", -len(s)&3) }
	head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00", ino, mode, 1, 2, links, 1000, len(contents), 0, 0, 5, 6, len(name)+1, 0, name)
	return pad(head) + pad(contents)
}

var trailer = newc(0, 0, 1, cpioTrailer, "")

// list is what an initrd or tar has, a line for each entry.
func list(b string) (string, error) {
	var lines []string
	err := readRoot(strings.NewReader(b), visitor(func(e tree.Entry, contents io.Reader) error {
		text, err := io.ReadAll(contents)
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%c %o %s %s%s%s %s", e.Type, e.Mode, e.Path, e.Target, e.HardLink, strings.Join(e.Links, "+"), text)))
		return err
	}), false)
	return strings.Join(lines, "\n"), err
}

func gzipped(s string) string {
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	_, _ = io.WriteString(zw, s)
	_ = zw.Close()
	return b.String()
}

func zstandard(s string) string {
	var b bytes.Buffer
	zw, _ := zstd.NewWriter(&b)
	_, _ = io.WriteString(zw, s)
	_ = zw.Close()
	return b.String()
}

func lz4ed(s string) string {
	var b bytes.Buffer
	zw := lz4.NewWriter(&b)
	_ = zw.Apply(lz4.LegacyOption(true))
	_, _ = io.WriteString(zw, s)
	_ = zw.Close()
	return b.String()
}

func TestInitrdsOfOthers(t *testing.T) {
	const file, dir, link, device = unix.S_IFREG | 0o644, unix.S_IFDIR | 0o755, unix.S_IFLNK | 0o777, unix.S_IFCHR | 0o600
	plain := newc(1, dir, 2, "d", "") + newc(2, file, 1, "d/f", "text") + newc(3, link, 1, "l", "d/f") + newc(4, device, 1, "null", "")
	const want = "5 755 d\n0 644 d/f  text\n2 777 l d/f\n3 600 null"
	for name, test := range map[string]struct{ in, want string }{
		"plain":                         {plain + trailer, want},
		"compressed":                    {gzipped(plain + trailer), want},
		"compressed and padded":         {gzipped(plain+trailer) + strings.Repeat("\x00", 600), want},
		"with zstd, and padded":         {zstandard(plain+trailer) + "\x00\x00", want},
		"with zstd, padded more":        {zstandard(plain+trailer) + strings.Repeat("\x00", 600), want},
		"with LZ4":                      {lz4ed(plain + trailer), want},
		"with LZ4, and padded":          {lz4ed(plain+trailer) + "\x00\x00", want},
		"with LZ4, padded more":         {lz4ed(plain+trailer) + strings.Repeat("\x00", 600), want},
		"microcode in front":            {newc(1, file, 1, "u", "code") + trailer + strings.Repeat("\x00", 512) + gzipped(plain+trailer), "0 644 u  code\n" + want},
		"two archives":                  {plain + trailer + newc(1, file, 1, "last", "x") + trailer, want + "\n0 644 last  x"},
		"nothing":                       {"", ""},
		"the last name has the text":    {newc(7, file, 3, "a", "") + newc(8, file, 1, "other", "o") + newc(7, file, 3, "b", "") + newc(7, file, 3, "c", "text") + trailer, "0 644 other  o\n0 644 c a+b text\n0 644 a c\n0 644 b c"},
		"the first name has the text":   {newc(7, file, 2, "a", "text") + newc(7, file, 2, "b", "") + trailer, "0 644 a  text\n0 644 b a"},
		"names of a file without bytes": {newc(7, file, 2, "a", "") + newc(7, file, 2, "b", "") + trailer, "0 644 a b\n0 644 b a"},
		"one number for two kinds":      {newc(7, file, 2, "a", "") + newc(7, dir, 2, "d", "") + newc(7, file, 2, "b", "text") + trailer, "5 755 d\n0 644 b a text\n0 644 a b"},
	} {
		if got, err := list(test.in); err != nil || got != test.want {
			t.Errorf("%s: got %v\n%s\nwant\n%s", name, err, got, test.want)
		}
	}
	for name, test := range map[string]struct{ in, want string }{
		"cut in a header":       {plain[:100], "unexpected EOF"},
		"cut in a file":         {plain[:112+116+2], "d/f: unexpected EOF"},
		"without a trailer":     {plain, "unexpected EOF"},
		"no archive":            {"hello, world", `"hell" begins neither a cpio archive nor what is compressed with LZ4, zstd or gzip`},
		"no digits":             {strings.Replace(plain, "00000001", "0000000g", 1) + trailer, "an entry of the cpio archive: encoding/hex: invalid byte"},
		"a name without end":    {newc(1, file, 1, strings.Repeat("n", 5000), ""), "an entry of the cpio archive has a name of 5001 bytes"},
		"a link without end":    {newc(1, link, 1, "l", strings.Repeat("n", 5000)), "l: a symbolic link of 5000 bytes"},
		"no kind of file":       {newc(1, 0o644, 1, "x", ""), "x: mode 644 is that of no kind of file"},
		"compressed for ever":   {gzipped(gzipped(plain + trailer)), `begins neither a cpio archive nor what is compressed`},
		"damaged":               {gzipped(plain + trailer)[:60], "unexpected EOF"},
		"Google's cloud":        {tarOf("disk.raw"), "it is an archive for Google's cloud; give the raw-efi of the same build, or the .yml"},
		"garbage in an archive": {newc(1, file, 1, "f", "text") + "garbage in its place" + strings.Repeat(".", 200), `"garbag" begins no entry of a cpio archive`},
	} {
		if got, err := list(test.in); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %s\n%s", name, err, test.want, got)
		}
	}
}

func tarOf(name string) string {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	_ = tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644})
	_ = tw.Close()
	return b.String()
}

// image is one with a file, a kernel and a command line.
func image(t *testing.T) *assemble.Result {
	t.Helper()
	res := &assemble.Result{Root: tree.New(), Cmdline: "quiet", Kernel: &assemble.File{Size: 6, Open: tree.Bytes([]byte("kernel"))}}
	root, err := res.Root.Root("/")
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Put("etc/x", tree.File(0o644, []byte("text"))); err != nil {
		t.Fatal(err)
	}
	return res
}

// Each format that is read gives the files, the kernel and the command line again.
func TestFormats(t *testing.T) {
	dir := t.TempDir()
	res := image(t)
	var initrd bytes.Buffer
	if err := output.Initrd(t.Context(), &initrd, res.Root, nil, "zstd", nil); err != nil {
		t.Fatal(err)
	}
	program, err := output.UKI(imagetest.Stub(), []output.Section{
		{Name: ".cmdline", Data: []byte("quiet")}, {Name: ".initrd", Data: initrd.Bytes()}, {Name: ".linux", Data: []byte("kernel")},
	})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]func(f *os.File) error{
		"a-initrd.img": func(f *os.File) error { _, err := f.Write(initrd.Bytes()); return err },
		"a-kernel":     func(f *os.File) error { _, err := f.WriteString("kernel"); return err },
		"a-cmdline":    func(f *os.File) error { _, err := f.WriteString("quiet"); return err },
		"b.efi":        func(f *os.File) error { _, err := f.Write(program); return err },
		"c-efi.img":    func(f *os.File) error { return output.EFIDiskFile(f, program, output.Raw) },
		"d-efi.iso":    func(f *os.File) error { return output.EFICD(f, program) },
		"e.vhd":        func(f *os.File) error { return output.EFIDiskFile(f, program, output.VHD) },
		"f.tar": func(f *os.File) error {
			res := image(t)
			if err := res.PutBoot(); err != nil {
				return err
			}
			return output.Tar(t.Context(), f, res.Root, nil)
		},
		"q.qcow2":  func(f *os.File) error { return output.EFIDiskFile(f, program, output.QCOW2) },
		"v.vmdk":   func(f *os.File) error { return output.EFIDiskFile(f, program, output.VMDK) },
		"s.efi":    func(f *os.File) error { _, err := f.Write(imagetest.Stub()); return err },
		"x.ext4":   func(f *os.File) error { return output.Ext4(t.Context(), f, res.Root, nil) },
		"text":     func(f *os.File) error { _, err := f.WriteString("hello"); return err },
		"empty":    func(f *os.File) error { return nil },
		"half.img": func(f *os.File) error { _, err := f.WriteString(strings.Repeat("\x00", 512) + "EFI PART"); return err },
	}
	for name, write := range files {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(write(f), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	images := map[string]*Image{"root": FromRoot(t.Context(), "root", res, "quiet")}
	for _, name := range []string{"a", "a-initrd.img", "b", "b.efi", "c", "c-efi.img", "d", "d-efi.iso", "e", "e.vhd", "f", "f.tar"} {
		i, err := Open(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		images[name] = i
	}
	for name, i := range images {
		var got []string
		err := i.Write(visitor(func(e tree.Entry, contents io.Reader) error {
			b, err := io.ReadAll(contents)
			got = append(got, e.Path+"="+string(b))
			return err
		}))
		if err != nil || strings.Join(got, " ") != "etc= etc/x=text" {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
		if i.Kernel == nil || i.Cmdline != "quiet" {
			t.Errorf("%s: kernel %v, command line %q", name, i.Kernel, i.Cmdline)
			continue
		}
		rc, err := i.Kernel.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(rc)
		if err = errors.Join(err, rc.Close()); err != nil || string(b) != "kernel" || i.Kernel.Size != 6 {
			t.Errorf("%s: a kernel of %d bytes, %q, %v", name, i.Kernel.Size, b, err)
		}
	}
	const readable = "; what can be read are initrds, tar, efi, raw-efi, iso-efi and vhd; or give the .yml"
	for name, want := range map[string]string{
		"q.qcow2":  "is a qcow2 disk" + readable,
		"v.vmdk":   "is a VMDK disk" + readable,
		"x.ext4":   "is an ext4 file system" + readable,
		"text":     "is neither an initrd nor another format of mkimage" + readable,
		"empty":    "is neither an initrd nor another format of mkimage" + readable,
		"s.efi":    "the EFI program has no initrd in it",
		"half.img": "its first partition: unexpected EOF",
		".":        "is not a file of a build",
		"none":     "nor " + filepath.Join(dir, "none") + " with -initrd.img, .efi, -efi.img, -efi.iso, .vhd, .tar behind it; build it first (mkimage build), or give the .yml itself",
	} {
		if _, err := Open(filepath.Join(dir, name)); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
}

func TestReadingEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	i := FromRoot(t.Context(), "root", image(t), "")
	if err := i.WriteContext(ctx, visitor(func(tree.Entry, io.Reader) error { return nil })); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// What is no image is an error, and nothing worse.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(newc(7, unix.S_IFREG|0o644, 2, "a", "") + newc(7, unix.S_IFREG|0o644, 2, "c", "text") + trailer))
	f.Add([]byte(gzipped(trailer) + "\x00"))
	f.Add([]byte(tarOf("x")))
	f.Add(imagetest.Stub())
	f.Add([]byte(strings.Repeat("\x00", 512) + "EFI PART" + strings.Repeat("\x01", 4096)))
	f.Fuzz(func(t *testing.T, b []byte) {
		name := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if i, err := Open(name); err == nil {
			_ = i.Write(visitor(func(tree.Entry, io.Reader) error { return nil }))
		}
	})
}
