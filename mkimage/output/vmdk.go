package output

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
)

// vmdk writes the kind of VMDK that is made to be carried and imported,
// streamOptimized (VMware's Virtual Disk Format 5.0): the grains that have anything
// in them, compressed, then the tables of where each lies. VMware's OVF tools,
// vCenter, VirtualBox and the import of clouds take it.
type vmdk struct {
	pieces
	f         *os.File
	size      int64
	next      int64    // sector of the file
	grain     int64    // of the disk
	table     []uint32 // where the grains of the present table lie; 0 has none
	directory []uint32 // where the tables lie; 0 has no grains
	sum       uint32   // of the grains
}

const (
	vmdkGrain    = pieceSize / sector
	vmdkPerTable = 512
	vmdkFront    = 128 // sectors: the header, the descriptor, and room
	vmdkText     = 20  // sectors of the descriptor

	vmdkTableMark, vmdkDirectoryMark, vmdkFooterMark = 1, 2, 3
)

func newVMDK(f *os.File, size int64, _ [16]byte) (io.WriteCloser, error) {
	v := &vmdk{f: f, size: size, next: vmdkFront}
	v.pieces = newPieces(pieceSize, v.addGrain)
	return v, nil
}

// add writes sectors behind those that are there, and returns the first.
func (v *vmdk) add(b []byte) (at uint32, err error) {
	first := v.next
	b = append(b, make([]byte, alignUp(len(b), sector)-len(b))...)
	v.next += int64(len(b) / sector)
	_, err = v.f.WriteAt(b, first*sector)
	return uint32(first), err
}

// addMarked is add for metadata, with a marker in front that tells what it is.
func (v *vmdk) addMarked(kind uint32, b []byte) (at uint32, err error) {
	mark := make([]byte, sector)
	binary.LittleEndian.PutUint64(mark, uint64(alignUp(len(b), sector)/sector))
	binary.LittleEndian.PutUint32(mark[12:], kind)
	if _, err := v.add(mark); err != nil {
		return 0, err
	}
	return v.add(b)
}

func (v *vmdk) addGrain(piece []byte) error {
	at := uint32(0)
	if !nothing(piece) {
		v.sum = crc32.Update(v.sum, crc32.IEEETable, piece)
		var b bytes.Buffer
		b.Write(make([]byte, 12))
		zw := zlib.NewWriter(&b)
		if _, err := zw.Write(piece); err != nil {
			return err
		}
		if err := zw.Close(); err != nil {
			return err
		}
		binary.LittleEndian.PutUint64(b.Bytes(), uint64(v.grain*vmdkGrain))
		binary.LittleEndian.PutUint32(b.Bytes()[8:], uint32(b.Len()-12))
		var err error
		if at, err = v.add(b.Bytes()); err != nil {
			return err
		}
	}
	v.grain++
	v.table = append(v.table, at)
	if len(v.table) == vmdkPerTable {
		return v.endTable()
	}
	return nil
}

// endTable writes the present table, unless it has no grains.
func (v *vmdk) endTable() error {
	at, used := uint32(0), false
	b := make([]byte, 4*vmdkPerTable)
	for i, grain := range v.table {
		binary.LittleEndian.PutUint32(b[4*i:], grain)
		used = used || grain != 0
	}
	if used {
		var err error
		if at, err = v.addMarked(vmdkTableMark, b); err != nil {
			return err
		}
	}
	v.directory = append(v.directory, at)
	v.table = v.table[:0]
	return nil
}

// Close implements io.Closer.
func (v *vmdk) Close() error {
	if len(v.table) > 0 {
		if err := v.endTable(); err != nil {
			return err
		}
	}
	b := make([]byte, 4*len(v.directory))
	for i, table := range v.directory {
		binary.LittleEndian.PutUint32(b[4*i:], table)
	}
	directory, err := v.addMarked(vmdkDirectoryMark, b)
	if err != nil {
		return err
	}
	if _, err := v.addMarked(vmdkFooterMark, v.header(uint64(directory))); err != nil {
		return err
	}
	if _, err := v.add(make([]byte, sector)); err != nil { // the end of the stream
		return err
	}
	front := append(v.header(math.MaxUint64), v.descriptor()...) // in front: the directory is at the end
	_, err = v.f.WriteAt(append(front, make([]byte, vmdkFront*sector-len(front))...), 0)
	return err
}

func (v *vmdk) header(directory uint64) []byte {
	le := binary.LittleEndian
	h := make([]byte, sector)
	copy(h, "KDMV")
	le.PutUint32(h[4:], 3)        // version
	le.PutUint32(h[8:], 0x3_0001) // what follows is there: the test of line ends, compression, markers
	le.PutUint64(h[12:], uint64(v.size/sector))
	le.PutUint64(h[20:], vmdkGrain)
	le.PutUint64(h[28:], 1) // where the descriptor is
	le.PutUint64(h[36:], vmdkText)
	le.PutUint32(h[44:], vmdkPerTable)
	le.PutUint64(h[56:], directory)
	le.PutUint64(h[64:], vmdkFront)
	copy(h[73:], "\n \r\n") // shows whether somebody took it for a text
	le.PutUint16(h[77:], 1) // deflate
	return h
}

func (v *vmdk) descriptor() []byte {
	const heads, sectors = 255, 63
	text := fmt.Sprintf(`# Disk DescriptorFile
version=1
CID=%08x
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW %d SPARSE "disk.vmdk"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "%d"
ddb.geometry.sectors = "%d"
ddb.adapterType = "lsilogic"
`, v.sum&math.MaxInt32, v.size/sector, v.size/sector/(heads*sectors), heads, sectors)
	return append([]byte(text), make([]byte, vmdkText*sector-len(text))...)
}
