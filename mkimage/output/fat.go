package output

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

const sector = 512

// esp is the layout of an EFI system partition: FAT32, as the UEFI specification
// has it, with one file, EFI/BOOT/BOOTX64.EFI, which firmware starts where nobody
// told it of another.
type esp struct {
	size       int64  // of the file
	perCluster uint32 // sectors
	clusters   uint32
	perTable   uint32 // sectors of each of the two tables
}

const (
	fatReserved = 32 // sectors in front of the tables
	fatTables   = 2
	// Fewer clusters would be a FAT16 to whoever counts them, as the specification says to.
	fatLeastClusters = 65525 + 16
	// Room for firmware that writes down its variables.
	espSpare = 1 << 20
	// The first clusters are the folders: the root, EFI, EFI/BOOT.
	fatRoot, fatEFI, fatBoot, fatFile = 2, 3, 4, 5
)

// newESP lays out a partition for a program of size bytes.
func newESP(size int64) (esp, error) {
	if size > math.MaxUint32 {
		return esp{}, fmt.Errorf("%d bytes: the FAT of an EFI system partition holds no file of 4 GiB or more", size)
	}
	e := esp{size: size, perCluster: 1}
	if size > 128<<20 {
		e.perCluster = 8
	}
	cluster := int64(e.perCluster) * sector
	e.clusters = max(uint32((size+espSpare)/cluster)+fatFile, fatLeastClusters)
	e.perTable = alignUp((e.clusters+2)*4, sector) / sector
	return e, nil
}

// sectors is how large the partition is.
func (e esp) sectors() int64 {
	return fatReserved + fatTables*int64(e.perTable) + int64(e.clusters)*int64(e.perCluster)
}

// write writes the partition, which begins at sector start of its disk and is
// called by id, with a program that has the size it was made for.
func (e esp) write(w io.Writer, program []byte, start int64, id uint32) error {
	le := binary.LittleEndian
	head := make([]byte, (fatReserved+fatTables*int(e.perTable))*sector)
	used := uint32((e.size + int64(e.perCluster)*sector - 1) / (int64(e.perCluster) * sector)) // clusters of the file

	boot := head[:sector]
	copy(boot, "\xeb\x58\x90KEELSON ")
	le.PutUint16(boot[11:], sector)
	boot[13] = byte(e.perCluster)
	le.PutUint16(boot[14:], fatReserved)
	boot[16] = fatTables
	boot[21] = 0xf8             // a disk that stays where it is
	le.PutUint16(boot[24:], 32) // sectors of a track and heads: nobody uses them,
	le.PutUint16(boot[26:], 64) // and zero is refused by some
	le.PutUint32(boot[28:], uint32(start))
	le.PutUint32(boot[32:], uint32(e.sectors()))
	le.PutUint32(boot[36:], e.perTable)
	le.PutUint32(boot[44:], fatRoot)
	le.PutUint16(boot[48:], 1) // the sector with what is free
	le.PutUint16(boot[50:], 6) // the sector with a copy of this one
	boot[64], boot[66] = 0x80, 0x29
	le.PutUint32(boot[67:], id)
	copy(boot[71:], "ESP        FAT32   ")
	copy(boot[510:], "\x55\xaa")

	free := head[sector : 2*sector]
	le.PutUint32(free, 0x41615252)
	le.PutUint32(free[484:], 0x61417272)
	le.PutUint32(free[488:], e.clusters-(fatFile-fatRoot)-used)
	le.PutUint32(free[492:], fatFile+used)
	le.PutUint32(free[508:], 0xaa550000)
	copy(head[6*sector:], head[:2*sector])

	const end = 0x0fffffff
	table := head[fatReserved*sector:][:int(e.perTable)*sector]
	for i, v := range []uint32{0x0ffffff8, end, end, end, end} {
		le.PutUint32(table[4*i:], v)
	}
	for i := range used {
		next := fatFile + i + 1
		if i == used-1 {
			next = end
		}
		le.PutUint32(table[4*(fatFile+i):], next)
	}
	copy(head[(fatReserved+int(e.perTable))*sector:], table)

	cluster := int(e.perCluster) * sector
	folders := make([]byte, (fatFile-fatRoot)*cluster)
	root, efi, bootx := folders, folders[cluster:], folders[2*cluster:]
	copy(root, fatEntry("ESP        ", fatVolume, 0, 0))
	copy(root[32:], fatEntry("EFI        ", fatFolder, fatEFI, 0))
	copy(efi, fatEntry(".          ", fatFolder, fatEFI, 0))
	copy(efi[32:], fatEntry("..         ", fatFolder, 0, 0))
	copy(efi[64:], fatEntry("BOOT       ", fatFolder, fatBoot, 0))
	copy(bootx, fatEntry(".          ", fatFolder, fatBoot, 0))
	copy(bootx[32:], fatEntry("..         ", fatFolder, fatEFI, 0))
	first := uint32(fatFile)
	if used == 0 {
		first = 0
	}
	copy(bootx[64:], fatEntry("BOOTX64 EFI", fatPlain, first, uint32(e.size)))

	for _, part := range [][]byte{head, folders, program} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	rest := e.sectors()*sector - int64(len(head)+len(folders)) - e.size
	return zeros(w, rest)
}

const fatVolume, fatFolder, fatPlain = 0x08, 0x10, 0x20

// fatEntry is an entry of a folder, dated as early as the format can.
func fatEntry(name string, kind byte, cluster, size uint32) []byte {
	le := binary.LittleEndian
	b := make([]byte, 32)
	copy(b, name)
	b[11] = kind
	const firstDay = 1<<5 | 1 // of January, 1980
	for _, at := range []int{16, 18, 24} {
		le.PutUint16(b[at:], firstDay)
	}
	le.PutUint16(b[20:], uint16(cluster>>16))
	le.PutUint16(b[26:], uint16(cluster))
	le.PutUint32(b[28:], size)
	return b
}

// zeros writes n of them.
func zeros(w io.Writer, n int64) error {
	buf := make([]byte, min(n, 1<<20))
	for n > 0 {
		wrote, err := w.Write(buf[:min(n, int64(len(buf)))])
		if err != nil {
			return err
		}
		n -= int64(wrote)
	}
	return nil
}
