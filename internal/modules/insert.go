package modules

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
)

// maxModule bounds a module taken apart in memory, so that a damaged file cannot
// take the machine's memory. The largest modules of today are some 10 MB.
const maxModule = 256 << 20

// compressedFile is MODULE_INIT_COMPRESSED_FILE of finit_module(2).
const compressedFile = 4

// errSymbol tells the kernel's ENOENT (a symbol nobody has) from a missing file.
var errSymbol = errors.New("unknown symbol")

// kernelUnpacks is the one compression the running kernel undoes itself: "gzip",
// "xz", "zstd", or empty.
var kernelUnpacks = sync.OnceValue(func() string {
	b, _ := os.ReadFile("/sys/module/compression")
	return strings.TrimSpace(string(b))
})

// unpackers are the compressions of module files by the end of their names.
var unpackers = map[string]struct {
	kernel string // its name in /sys/module/compression
	reader func(io.Reader) (io.Reader, error)
}{
	".gz": {"gzip", func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
	".xz": {"xz", func(r io.Reader) (io.Reader, error) { return xz.NewReader(r) }},
	".zst": {"zstd", func(r io.Reader) (io.Reader, error) {
		// one goroutine, and no more memory than the window needs
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	}},
}

// insert hands one module file to the kernel, which runs the module's
// initialisation before it answers.
func insert(path, params string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	unpacker, compressed := unpackers[filepath.Ext(path)]
	if !compressed || unpacker.kernel == kernelUnpacks() {
		flags := 0
		if compressed {
			flags = compressedFile
		}
		err := unix.FinitModule(int(f.Fd()), params, flags)
		// a kernel that cannot after all: EOPNOTSUPP, or EINVAL for the flag
		if !compressed || !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) {
			return symbolError(err)
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("read %s again: %w", path, err)
		}
	}
	image, err := unpack(f, filepath.Ext(path), maxModule)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", path, err)
	}
	return symbolError(unix.InitModule(image, params))
}

func symbolError(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return errSymbol
	}
	return err
}

// Locked reports whether the kernel loads no more modules until it boots again.
func Locked() bool {
	text, err := os.ReadFile("/proc/sys/kernel/modules_disabled")
	return err == nil && strings.TrimSpace(string(text)) == "1"
}

// unpack undoes the compression that the name's end stands for.
func unpack(r io.Reader, ext string, limit int64) ([]byte, error) {
	plain, err := unpackers[ext].reader(r)
	if err != nil {
		return nil, err
	}
	if c, ok := plain.(interface{ Close() }); ok { // zstd's decoder
		defer c.Close()
	}
	var image bytes.Buffer
	n, err := io.Copy(&image, io.LimitReader(plain, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("more than %d MiB", limit>>20)
	}
	return image.Bytes(), nil
}
