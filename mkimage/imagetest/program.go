package imagetest

import "encoding/binary"

// Program returns the least 64-bit binary for this kind of machine that takes no
// interpreter: headers alone. It does nothing.
func Program() []byte {
	b := make([]byte, 64)
	copy(b, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(b[18:], 62) // amd64
	le.PutUint64(b[32:], 64) // where the program headers are, of which there are none
	le.PutUint16(b[54:], 56)
	return b
}
