package built

import (
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"keelson/mkimage/assemble"
)

const (
	sector   = 512
	fatEntry = 32
	// maxCluster is the most that the format has.
	maxCluster = 64 << 10
)

// openProgram finds the parts of an EFI program that begins at start of a file.
func (i *Image) openProgram(f *os.File, start int64) error {
	program, err := pe.NewFile(io.NewSectionReader(f, start, 1<<32))
	if err != nil {
		return fmt.Errorf("%s: the EFI program: %w", i.Name, err)
	}
	part := func(name string) *assemble.File {
		s := program.Section(name)
		if s == nil {
			return nil
		}
		at, size := start+int64(s.Offset), int64(min(s.VirtualSize, s.Size))
		return &assemble.File{Size: size, Open: func() (io.ReadCloser, error) {
			f, err := os.Open(i.Name)
			if err != nil {
				return nil, err
			}
			return section{io.NewSectionReader(f, at, size), f}, nil
		}}
	}
	i.Kernel = part(".linux")
	initrd, line := part(".initrd"), part(".cmdline")
	if initrd == nil {
		return fmt.Errorf("%s: the EFI program has no initrd in it", i.Name)
	}
	i.root = initrd.Open
	if line == nil {
		return nil
	}
	rc, err := line.Open()
	if err != nil {
		return err
	}
	defer rc.Close()
	text, err := io.ReadAll(io.LimitReader(rc, 1<<20))
	i.Cmdline = string(text)
	return err
}

// section is a part of a file.
type section struct {
	*io.SectionReader
	io.Closer
}

// findProgram finds EFI/BOOT/BOOTX64.EFI on the first partition of a disk, and returns
// where it begins. It has to lie in one piece there, as ours does.
func findProgram(r io.ReaderAt) (start int64, err error) {
	le := binary.LittleEndian
	read := func(at int64, size int) []byte {
		b := make([]byte, size)
		if _, rerr := r.ReadAt(b, at); rerr != nil && err == nil {
			err = fmt.Errorf("its first partition: %w", unexpected(rerr))
		}
		return b
	}
	entries := int64(le.Uint64(read(sector, sector)[72:]))
	partition := int64(le.Uint64(read(entries*sector, 128)[32:])) * sector
	boot := read(partition, sector)
	if err != nil {
		return 0, err
	}
	if string(boot[82:87]) != "FAT32" {
		return 0, errors.New("its first partition is no FAT32, as an EFI system partition of ours is")
	}
	cluster := int64(boot[13]) * sector
	if cluster == 0 || cluster > maxCluster {
		return 0, fmt.Errorf("its first partition has clusters of %d bytes", cluster)
	}
	data := partition + (int64(le.Uint16(boot[14:]))+int64(boot[16])*int64(le.Uint32(boot[36:])))*sector
	place := func(number uint32) int64 { return data + (int64(number)-2)*cluster }
	at := place(le.Uint32(boot[44:]))
	for _, name := range []string{"EFI        ", "BOOT       ", "BOOTX64 EFI"} {
		directory, found := read(at, int(cluster)), false
		for len(directory) >= fatEntry && err == nil {
			if entry := directory[:fatEntry]; string(entry[:11]) == name && entry[11]&0x08 == 0 {
				at, found = place(uint32(le.Uint16(entry[20:]))<<16|uint32(le.Uint16(entry[26:]))), true
				break
			}
			directory = directory[fatEntry:]
		}
		if err == nil && !found {
			err = fmt.Errorf("its first partition has no EFI/BOOT/BOOTX64.EFI (%s is missing)", strings.TrimSpace(name))
		}
	}
	return at, err
}
