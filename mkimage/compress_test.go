package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"keelson/mkimage/assemble"
)

// uncompressedKernel is a bzImage whose kernel is not compressed and holds the text.
func uncompressedKernel(text string) *assemble.File {
	payload := "\x7fELF" + text
	image := make([]byte, 3*512)
	image[0x1f1] = 2
	copy(image[0x202:], "HdrS\x0f\x02")
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(payload)))
	image = append(image, payload...)
	return &assemble.File{Size: int64(len(image)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(image)), nil
	}}
}

func TestChooseCompression(t *testing.T) {
	script := &assemble.File{Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("#!/bin/sh\n")), nil }}
	for _, test := range []struct {
		what      string
		compress  compression
		kernel    *assemble.File
		name, why string
	}{
		{"a kernel that unpacks it", auto, uncompressedKernel("chunk length is longer than allocated"), "lz4", ""},
		{"one that does not", auto, uncompressedKernel("an old kernel"), "gzip", "the kernel does not unpack LZ4 (CONFIG_RD_LZ4), which boots faster"},
		{"no kernel's file", auto, script, "gzip", "whether the kernel unpacks LZ4 is not known: it is no bzImage; --compress lz4 takes it anyway"},
		{"no kernel", auto, nil, "gzip", "whether the kernel unpacks LZ4 is not known: the image has none; --compress lz4 takes it anyway"},
		{"a choice of the user's", "lz4", script, "lz4", ""},
		{"another", "none", nil, "none", ""},
	} {
		if name, why := test.compress.choose(test.kernel); name != test.name || why != test.why {
			t.Errorf("%s: got %q, %q; want %q, %q", test.what, name, why, test.name, test.why)
		}
	}
}
