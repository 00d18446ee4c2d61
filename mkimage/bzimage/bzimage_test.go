package bzimage

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// image is a bzImage with the payload, and the size that the kernel's build puts behind
// it.
func image(payload []byte, size int) io.Reader {
	head := make([]byte, 3*512+7)
	head[0x1f1] = 2
	copy(head[0x202:], "HdrS\x0f\x02")
	payload = binary.LittleEndian.AppendUint32(payload, uint32(size))
	binary.LittleEndian.PutUint32(head[0x248:], 7)
	binary.LittleEndian.PutUint32(head[0x24c:], uint32(len(payload)))
	return io.MultiReader(bytes.NewReader(head), bytes.NewReader(payload), strings.NewReader("what follows"))
}

func gzipped(t *testing.T, s string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// kernel is somewhat more than is searched at a time, with text over the end of that.
func kernel(text string) string {
	b := bytes.Repeat([]byte("\x00a kernel"), (2*window+window/4)/9)
	copy(b[100:], strings.Repeat("\xe8\x00\x01\x00\x00", 100)) // calls
	copy(b[2*window-len(text)/2:], text)
	return string(b)
}

func TestUnpacksLZ4(t *testing.T) {
	with, without := kernel(lz4Message), kernel("nothing")
	config := func(line string) string {
		return kernel(configBegin + string(gzipped(t, "CONFIG_64BIT=y\n"+line+"\n")) + configEnd + lz4Message)
	}
	pack := map[string]func(string) []byte{
		"gzip": func(s string) []byte { return gzipped(t, s) },
		"zstd": func(s string) []byte {
			e, err := zstd.NewWriter(nil)
			if err != nil {
				t.Fatal(err)
			}
			return e.EncodeAll([]byte(s), nil)
		},
		"lz4": func(s string) []byte {
			var b bytes.Buffer
			w := lz4.NewWriter(&b)
			if err := w.Apply(lz4.LegacyOption(true)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(w, s); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			return b.Bytes()
		},
		"none": func(s string) []byte { return []byte("\x7fELF" + s) },
	}
	// As the kernel's build calls it.
	if tool, err := exec.LookPath("xz"); err == nil {
		pack["xz"] = func(s string) []byte {
			cmd := exec.Command(tool, "--check=crc32", "--x86", "--lzma2=dict=32MiB")
			cmd.Stdin = strings.NewReader(s)
			b, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	for name, pack := range pack {
		for _, test := range []struct {
			what, kernel string
			want         bool
		}{
			{"the message", with, true},
			{"no message", without, false},
			{"a configuration with it", config("CONFIG_RD_LZ4=y"), true},
			{"a configuration without it", config("# CONFIG_RD_LZ4 is not set"), false},
		} {
			got, err := UnpacksLZ4(image(pack(test.kernel), len(test.kernel)))
			if err != nil || got != test.want {
				t.Errorf("%s, %s: got %v, %v; want %v", name, test.what, got, err, test.want)
			}
		}
	}
}

func TestNotKnown(t *testing.T) {
	packed := gzipped(t, kernel(""))
	for name, test := range map[string]struct {
		in   io.Reader
		want string
	}{
		"empty":    {strings.NewReader(""), "it is no bzImage"},
		"script":   {strings.NewReader(strings.Repeat("#!/bin/sh\n", 100)), "it is no bzImage"},
		"lzo":      {image([]byte("\x89LZO\x00\r\n\x1a\n"), 0), "its image is compressed with something that is not known here (89 4c 5a 4f 00 0d)"},
		"damaged":  {image(append(packed[:len(packed)-20:len(packed)-20], make([]byte, 20)...), 0), "its image is damaged"},
		"cut":      {io.LimitReader(image(packed, 0), 1000), "its image ends too soon"},
		"no bytes": {io.LimitReader(image(packed, 0), 3*512+7), "its image ends too soon"},
	} {
		if _, err := UnpacksLZ4(test.in); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %s", name, err, test.want)
		}
	}
}
