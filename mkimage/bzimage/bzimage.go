// Package bzimage reads from the image of a kernel for x86 what an initrd for it may be
// compressed with.
//
// - It believes the kernel's own configuration, where the image has it (CONFIG_IKCONFIG).
// - Otherwise it looks for a message that only the kernel's decompressor of LZ4 has.
// - What it cannot read it reports as not known: a kernel that cannot unpack its initrd
// does not boot.
package bzimage

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz/lzma"
)

// lz4Message is of lib/decompress_unlz4.c, in every version of it, and of nothing else.
const lz4Message = "chunk length is longer than allocated"

// The configuration stands between these, compressed with gzip.
const configBegin, configEnd = "IKCFG_ST", "IKCFG_ED"

const (
	window    = 1 << 20   // of what is searched, kept for the next time; no configuration is that large
	maxConfig = 4 << 20   // of a configuration that is unpacked
	maxSize   = 512 << 20 // of an unpacked kernel
)

// UnpacksLZ4 reports whether the kernel unpacks an initrd that is compressed with LZ4.
// The error says why it is not known.
func UnpacksLZ4(image io.Reader) (bool, error) {
	kernel, err := payload(image)
	if err != nil {
		return false, err
	}
	return search(io.LimitReader(kernel, maxSize))
}

// payload finds the kernel in its image and unpacks it: Documentation/arch/x86/boot.rst.
func payload(image io.Reader) (io.Reader, error) {
	const (
		setupSectors, magicAt, versionAt = 0x1f1, 0x202, 0x206
		offsetAt, lengthAt, end          = 0x248, 0x24c, 0x250
		sector                           = 512
	)
	head := make([]byte, end)
	if _, err := io.ReadFull(image, head); err != nil || string(head[magicAt:versionAt]) != "HdrS" || binary.LittleEndian.Uint16(head[versionAt:]) < 0x0208 {
		return nil, errors.New("it is no bzImage")
	}
	setup := int64(head[setupSectors])
	if setup == 0 {
		setup = 4
	}
	start := (setup+1)*sector + int64(binary.LittleEndian.Uint32(head[offsetAt:]))
	if _, err := io.CopyN(io.Discard, image, start-end); err != nil {
		return nil, fmt.Errorf("its image ends too soon: %w", err)
	}
	return unpack(bufio.NewReaderSize(io.LimitReader(image, int64(binary.LittleEndian.Uint32(head[lengthAt:]))), 1<<16))
}

// unpack recognizes by its first bytes what a kernel is compressed with.
func unpack(r *bufio.Reader) (io.Reader, error) {
	magic, err := r.Peek(6)
	if err != nil {
		return nil, fmt.Errorf("its image ends too soon: %w", err)
	}
	is := func(s string) bool { return bytes.HasPrefix(magic, []byte(s)) }
	switch {
	case is("\x02\x21\x4c\x18"):
		return lz4.NewReader(r), nil
	case is("\x1f\x8b"):
		zr, err := gzip.NewReader(r)
		if err == nil {
			zr.Multistream(false) // the size of the kernel follows
		}
		return zr, err
	case is("\x28\xb5\x2f\xfd"):
		zr, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return zr.IOReadCloser(), nil
	case is("\xfd7zXZ\x00"):
		return unpackXZ(r)
	case is("BZh"):
		return bzip2.NewReader(r), nil
	case is("\x5d\x00\x00"):
		return lzma.NewReader(r)
	case is("\x7fELF"):
		return r, nil
	}
	return nil, fmt.Errorf("its image is compressed with something that is not known here (% x)", magic)
}

// unpackXZ undoes the compression of xz without its filter for x86, which the library
// lacks: it changes the targets of calls and no text. The configuration may suffer from
// it, and is then not believed.
func unpackXZ(r *bufio.Reader) (io.Reader, error) {
	const streamHeader = 12
	head, err := r.Peek(streamHeader + 1)
	if err != nil {
		return nil, fmt.Errorf("its image ends too soon: %w", err)
	}
	if _, err := r.Discard(streamHeader + 4*(int(head[streamHeader])+1)); err != nil {
		return nil, fmt.Errorf("its image ends too soon: %w", err)
	}
	return lzma.Reader2Config{DictCap: 64 << 20}.NewReader2(r)
}

// search reads an unpacked kernel through, unless it finds its configuration.
func search(kernel io.Reader) (found bool, err error) {
	buf := make([]byte, 0, 2*window)
	for {
		n, err := kernel.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == nil && len(buf) < cap(buf) {
			continue
		}
		if has, ok := configured(buf); ok {
			return has, nil
		}
		found = found || bytes.Contains(buf, []byte(lz4Message))
		switch {
		case err == nil:
			buf = append(buf[:0], buf[len(buf)-window:]...)
		case found, errors.Is(err, io.EOF), errors.Is(err, zstd.ErrMagicMismatch): // the kernel's size follows
			return found, nil
		default:
			return false, fmt.Errorf("its image is damaged: %w", err)
		}
	}
}

// configured looks for the configuration; ok reports that it was there.
func configured(b []byte) (has, ok bool) {
	begin := bytes.Index(b, []byte(configBegin))
	if begin < 0 {
		return false, false
	}
	b = b[begin+len(configBegin):]
	end := bytes.Index(b, []byte(configEnd))
	if end < 0 {
		return false, false
	}
	zr, err := gzip.NewReader(bytes.NewReader(b[:end]))
	if err != nil {
		return false, false
	}
	text, err := io.ReadAll(io.LimitReader(zr, maxConfig))
	if err != nil {
		return false, false
	}
	return bytes.Contains(text, []byte("\nCONFIG_RD_LZ4=y\n")), true
}
