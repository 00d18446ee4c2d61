package imagetest

import "encoding/binary"

// Stub returns the least EFI program that a unified kernel image can begin with:
// headers with room for a few sections, and one section. It does nothing.
func Stub() []byte {
	b := make([]byte, 0x600)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x80)                 // where the rest of the headers is
	copy(b[0x80:], "PE\x00\x00\x64\x86\x01\x00") // amd64, one section
	le.PutUint16(b[0x84+16:], 240)
	opt := b[0x98:]
	le.PutUint16(opt, 0x20b)
	le.PutUint32(opt[32:], 0x1000) // sections in memory and in the file begin at multiples of this
	le.PutUint32(opt[36:], 0x200)
	le.PutUint32(opt[60:], 0x400) // the headers' size
	le.PutUint32(opt[108:], 16)
	h := opt[240:]
	copy(h, ".text")
	for i, v := range []uint32{0x100, 0x1000, 0x200, 0x400} {
		le.PutUint32(h[8+4*i:], v)
	}
	return b
}
