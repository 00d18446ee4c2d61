package output

import (
	"bytes"
	"debug/pe"
	"strings"
	"testing"

	"keelson/mkimage/imagetest"
)

func TestUKI(t *testing.T) {
	sections := []Section{{".cmdline", []byte("quiet")}, {".initrd", bytes.Repeat([]byte("i"), 5000)}, {".linux", []byte("kernel")}}
	out, err := UKI(imagetest.Stub(), sections)
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	var end uint32
	for i, s := range f.Sections {
		if s.VirtualAddress < end || s.VirtualAddress%0x1000 != 0 || s.Offset%0x200 != 0 {
			t.Errorf("%s lies at %#x in memory, %#x in the file, after %#x", s.Name, s.VirtualAddress, s.Offset, end)
		}
		end = s.VirtualAddress + s.VirtualSize
		if i == 0 {
			continue
		}
		want := sections[i-1]
		data, err := s.Data()
		if err != nil || s.Name != want.Name || !bytes.Equal(data[:s.VirtualSize], want.Data) {
			t.Errorf("section %d is %s with %d bytes, want %s with %d (%v)", i, s.Name, s.VirtualSize, want.Name, len(want.Data), err)
		}
	}
	if size := f.OptionalHeader.(*pe.OptionalHeader64).SizeOfImage; size < end || size%0x1000 != 0 {
		t.Errorf("the image's size is %#x, its last section ends at %#x", size, end)
	}
}

func TestUKIRefuses(t *testing.T) {
	for want, in := range map[string]struct {
		stub     []byte
		sections []Section
	}{
		"no EFI program":          {[]byte("\x7fELF"), nil},
		"no room":                 {imagetest.Stub(), make([]Section, 20)},
		"a section .text already": {imagetest.Stub(), []Section{{".text", nil}}},
		"too long":                {imagetest.Stub(), []Section{{".much-too-long", nil}}},
	} {
		if _, err := UKI(in.stub, in.sections); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
