package output

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"io"
)

const (
	gptEntries   = 128
	gptEntrySize = 128
	gptTable     = gptEntries * gptEntrySize / sector // sectors
	gptFront     = 2 + gptTable                       // the old table, the header, the entries
	gptBack      = gptTable + 1                       // the entries, the header
	gptAlign     = 1 << 20 / sector                   // where partitions begin, as everybody has it
)

// espType is the partition type of EFI system partitions, C12A7328-F81F-11D2-BA4B-00A0C93EC93B.
var espType = []byte("\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b")

// EFIDisk writes a disk with a GPT and one partition, an EFI system partition
// with program for firmware to start.
func EFIDisk(w io.Writer, program []byte) error {
	e, err := newESP(int64(len(program)))
	if err != nil {
		return err
	}
	size := e.diskSize(sector*gptAlign) / sector
	return e.writeDisk(w, program, gptAlign, size-gptAlign, size, func([]byte) {})
}

// diskSize is how large a disk with the partition is, in bytes, as a multiple of some
// megabytes: behind the partition is room for the copy of the table at the very end.
func (e esp) diskSize(multiple int64) int64 {
	return alignUp((gptAlign+alignUp(e.sectors(), gptAlign)+gptAlign)*sector, multiple)
}

// writeDisk writes a disk of size sectors with a GPT and the partition, from sector
// start to before end. What lies in front of the partition is given to more, which may
// write where the table is not.
func (e esp) writeDisk(w io.Writer, program []byte, start, end, size int64, more func(head []byte)) error {
	sum := sha256.Sum256(program)
	front, back := gpt(size, start, end, sum)
	head := make([]byte, start*sector)
	copy(head, front)
	more(head)
	if _, err := w.Write(head); err != nil {
		return err
	}
	if err := e.write(w, program, start, binary.LittleEndian.Uint32(sum[28:])); err != nil {
		return err
	}
	if err := zeros(w, (size-start-e.sectors())*sector-int64(len(back))); err != nil {
		return err
	}
	_, err := w.Write(back)
	return err
}

// gpt is what a disk of size sectors begins and ends with that has one EFI system
// partition, from sector start to before end. Its identifiers are taken from sum,
// so that the same contents have the same ones, and others have others.
func gpt(size, start, end int64, sum [32]byte) (front, back []byte) {
	le := binary.LittleEndian
	entries := make([]byte, gptTable*sector)
	copy(entries, espType)
	copy(entries[16:], guid(sum[:16]))
	le.PutUint64(entries[32:], uint64(start))
	le.PutUint64(entries[40:], uint64(end-1))
	for i, letter := range "ESP" {
		le.PutUint16(entries[56+2*i:], uint16(letter))
	}
	header := func(own, other, table int64) []byte {
		h := make([]byte, sector)
		copy(h, "EFI PART\x00\x00\x01\x00")
		le.PutUint32(h[12:], 92)
		le.PutUint64(h[24:], uint64(own))
		le.PutUint64(h[32:], uint64(other))
		le.PutUint64(h[40:], gptFront)
		le.PutUint64(h[48:], uint64(size-gptBack-1))
		copy(h[56:], guid(sum[8:24]))
		le.PutUint64(h[72:], uint64(table))
		le.PutUint32(h[80:], gptEntries)
		le.PutUint32(h[84:], gptEntrySize)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		return h
	}
	// For who knows only the old kind of table, one partition takes all of the disk.
	old := make([]byte, sector)
	copy(old[446:], "\x00\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00")
	le.PutUint32(old[458:], uint32(min(size-1, 1<<32-1)))
	copy(old[510:], "\x55\xaa")

	front = append(append(old, header(1, size-1, 2)...), entries...)
	back = append(append([]byte(nil), entries...), header(size-1, 1, size-gptBack)...)
	return front, back
}

// guid makes 16 bytes an identifier of the kind that says of itself it is random.
func guid(b []byte) []byte {
	g := append([]byte(nil), b...)
	g[7] = g[7]&0x0f | 0x40
	g[8] = g[8]&0x3f | 0x80
	return g
}

func alignUp[T int | int64 | uint32](n, to T) T { return (n + to - 1) / to * to }
