package output

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"strings"
	"testing"
)

// stub is the least EFI program: headers with room for a few sections, and one section.
func stub() []byte {
	b := make([]byte, 0x600)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[peOffset:], 0x80)
	copy(b[0x80:], "PE\x00\x00")
	coff := b[0x84:]
	le.PutUint16(coff[0:], pe.IMAGE_FILE_MACHINE_AMD64)
	le.PutUint16(coff[2:], 1)
	le.PutUint16(coff[16:], 240)
	opt := b[0x98:]
	le.PutUint16(opt, 0x20b)
	le.PutUint32(opt[optSectionAlign:], 0x1000)
	le.PutUint32(opt[optFileAlign:], 0x200)
	le.PutUint32(opt[optHeadersSize:], 0x400)
	le.PutUint32(opt[108:], 16)
	h := b[0x98+240:]
	copy(h, ".text")
	le.PutUint32(h[8:], 0x100)
	le.PutUint32(h[12:], 0x1000)
	le.PutUint32(h[16:], 0x200)
	le.PutUint32(h[20:], 0x400)
	return b
}

func TestUKI(t *testing.T) {
	sections := []Section{{".cmdline", []byte("quiet")}, {".initrd", bytes.Repeat([]byte("i"), 5000)}, {".linux", []byte("kernel")}}
	out, err := UKI(stub(), sections)
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
		"no EFI program": {[]byte("\x7fELF"), nil},
		"no room":        {stub(), make([]Section, 20)},
		"too long":       {stub(), []Section{{".much-too-long", nil}}},
	} {
		if _, err := UKI(in.stub, in.sections); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
