package output

import (
	"encoding/binary"
	"io"
	"math"
	"os"
)

// vhd writes a fixed VHD (Virtual Hard Disk Image Format Specification): the disk as
// it is, and a footer. It is what Azure takes.
type vhd struct {
	io.WriteCloser // the disk
	f              *os.File
	size           int64
	id             [16]byte
}

func newVHD(f *os.File, size int64, id [16]byte) (io.WriteCloser, error) {
	disk, err := newRaw(f, size, id)
	return vhd{disk, f, size, id}, err
}

// Close implements io.Closer.
func (v vhd) Close() error {
	if err := v.WriteCloser.Close(); err != nil {
		return err
	}
	_, err := v.f.WriteAt(v.footer(), v.size)
	return err
}

func (v vhd) footer() []byte {
	be := binary.BigEndian
	b := make([]byte, sector)
	copy(b, "conectix")
	be.PutUint32(b[8:], 2)               // a bit that is always set
	be.PutUint32(b[12:], 0x0001_0000)    // version of the format
	be.PutUint64(b[16:], math.MaxUint64) // nothing follows
	// The creator: from this one readers take the size as it is, not what geometry makes of it.
	copy(b[28:], "win \x00\x0a\x00\x00Wi2k")
	be.PutUint64(b[40:], uint64(v.size))
	be.PutUint64(b[48:], uint64(v.size))
	cylinders, heads, sectors := vhdGeometry(v.size / sector)
	be.PutUint16(b[56:], uint16(cylinders))
	b[58], b[59] = byte(heads), byte(sectors)
	be.PutUint32(b[60:], 2) // fixed
	copy(b[68:], v.id[:])
	var sum uint32
	for _, c := range b {
		sum += uint32(c)
	}
	be.PutUint32(b[64:], ^sum)
	return b
}

// vhdGeometry is the specification's way from a number of sectors to the geometry of
// a disk of old.
func vhdGeometry(total int64) (cylinders, heads, sectors int64) {
	total = min(total, 65535*16*255)
	if total >= 65535*16*63 {
		return total / (16 * 255), 16, 255
	}
	sectors = 17
	perHead := total / sectors
	heads = max((perHead+1023)/1024, 4)
	if perHead >= heads*1024 || heads > 16 {
		sectors, heads = 31, 16
		perHead = total / sectors
	}
	if perHead >= heads*1024 {
		sectors, heads = 63, 16
		perHead = total / sectors
	}
	return perHead / heads, heads, sectors
}
