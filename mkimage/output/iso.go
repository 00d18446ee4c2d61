package output

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// The places of things on the CD, in its own sectors. In front of them are 32 KiB
// that a CD does not use.
const (
	isoSector   = 2048
	isoVolume   = 16 // descriptors: the volume, what boots, the end of them
	isoPathsLE  = 19
	isoPathsBE  = 20
	isoRoot     = 21
	isoCatalog  = 22
	isoESP      = 32 // at a multiple of what any disk counts in
	perISO      = isoSector / sector
	isoMaxCount = math.MaxUint16
)

// EFICD writes a CD, ISO 9660 with an El Torito catalog, that firmware boots
// program from. In the part that a CD does not use it has a GPT, so that it is a
// disk as well for who copies it to one.
func EFICD(w io.Writer, program []byte) error {
	e, err := newESP(int64(len(program)))
	if err != nil {
		return err
	}
	bytes := e.sectors() * sector
	if bytes > math.MaxUint32 {
		return fmt.Errorf("%d bytes: a CD holds no file of 4 GiB or more", bytes)
	}
	start := int64(isoESP * perISO)
	end := start + e.sectors()
	size := alignUp(end+gptBack, gptAlign) // sectors of a disk
	return e.writeDisk(w, program, start, end, size, func(head []byte) {
		isoDescriptors(head, uint32(size/perISO), uint32(bytes))
		isoBootCatalog(head[isoCatalog*isoSector:], e.sectors())
	})
}

// isoDescriptors fills in the volume's descriptors, its table of folders, and
// its one folder, which has the catalog and the partition as files.
func isoDescriptors(b []byte, blocks, espBytes uint32) {
	le, be := binary.LittleEndian, binary.BigEndian
	root := isoEntry("\x00", isoRoot, isoSector, 2)

	v := b[isoVolume*isoSector:][:isoSector]
	copy(v, "\x01CD001\x01")
	fill := func(from, to int, text string) { copy(v[from:to], fmt.Sprintf("%-*s", to-from, text)) }
	fill(8, 40, "")
	fill(40, 72, "KEELSON")
	both32(v[80:], blocks)
	both16(v[120:], 1) // one CD,
	both16(v[124:], 1) // the first of the set
	both16(v[128:], isoSector)
	both32(v[132:], 10) // bytes of the table of folders
	le.PutUint32(v[140:], isoPathsLE)
	be.PutUint32(v[148:], isoPathsBE)
	copy(v[156:190], root)
	fill(190, 813, "")
	for at := 813; at < 881; at += 17 { // four dates, unknown
		copy(v[at:], "0000000000000000\x00")
	}
	v[881] = 1

	boot := b[(isoVolume+1)*isoSector:]
	copy(boot, "\x00CD001\x01EL TORITO SPECIFICATION")
	le.PutUint32(boot[71:], isoCatalog)
	copy(b[(isoVolume+2)*isoSector:], "\xffCD001\x01")

	paths := b[isoPathsLE*isoSector:]
	paths[0], paths[6] = 1, 1
	le.PutUint32(paths[2:], isoRoot)
	paths = b[isoPathsBE*isoSector:]
	paths[0], paths[7] = 1, 1
	be.PutUint32(paths[2:], isoRoot)

	folder := b[isoRoot*isoSector:]
	for _, entry := range [][]byte{
		root, isoEntry("\x01", isoRoot, isoSector, 2),
		isoEntry("BOOT.CAT;1", isoCatalog, isoSector, 0), isoEntry("ESP.IMG;1", isoESP, espBytes, 0),
	} {
		folder = folder[copy(folder, entry):]
	}
}

// isoEntry is an entry of a folder, dated 1970; flags is 2 for a folder.
func isoEntry(name string, at, size uint32, flags byte) []byte {
	b := make([]byte, alignUp(33+len(name), 2))
	b[0] = byte(len(b))
	both32(b[2:], at)
	both32(b[10:], size)
	copy(b[18:], "\x46\x01\x01")
	b[25] = flags
	both16(b[28:], 1)
	b[32] = byte(len(name))
	copy(b[33:], name)
	return b
}

// isoBootCatalog says that an EFI system partition of so many sectors is on the CD.
func isoBootCatalog(b []byte, sectors int64) {
	le := binary.LittleEndian
	b[0], b[1] = 1, 0xef // for EFI
	copy(b[4:28], "KEELSON")
	b[30], b[31] = 0x55, 0xaa
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += le.Uint16(b[i:])
	}
	le.PutUint16(b[28:], -sum)

	entry := b[32:]
	entry[0] = 0x88 // it boots; and the zero behind: as it is, not as an emulated floppy
	// There are 16 bits for the size. None means "to the end of the CD", says the UEFI specification.
	if sectors <= isoMaxCount {
		le.PutUint16(entry[6:], uint16(sectors))
	}
	le.PutUint32(entry[8:], isoESP)
}

// both32 and both16 write a number in both byte orders, as this format has it.
func both32(b []byte, n uint32) {
	binary.LittleEndian.PutUint32(b, n)
	binary.BigEndian.PutUint32(b[4:], n)
}

func both16(b []byte, n uint16) {
	binary.LittleEndian.PutUint16(b, n)
	binary.BigEndian.PutUint16(b[2:], n)
}
