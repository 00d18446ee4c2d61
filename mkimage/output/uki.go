package output

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Section is a named part of a unified kernel image.
type Section struct {
	Name string // at most eight letters
	Data []byte
}

// Fields of a PE file, from the specification of the format: offsets from the PE
// signature, from the optional header, and within a section's header.
const (
	peOffset = 0x3c

	coffSections, coffOptionalSize, coffSize = 6, 20, 24

	optInitialized, optSectionAlign, optFileAlign = 8, 32, 36
	optImageSize, optHeadersSize, optChecksum     = 56, 60, 64
	optLeast                                      = 68

	sectionSize         = 40
	initializedReadable = 0x40000040
)

// UKI returns an EFI program: the stub, which is one already, with sections added
// behind its own. The stub finds in them, by their names, what to boot: .cmdline,
// .initrd, .linux (The Unified Kernel Image specification of uapi-group.org).
func UKI(stub []byte, sections []Section) ([]byte, error) {
	if len(stub) < peOffset+4 || string(stub[:2]) != "MZ" {
		return nil, errors.New("the stub is no EFI program")
	}
	le := binary.LittleEndian
	pe := int(le.Uint32(stub[peOffset:]))
	if pe < 0 || pe+coffSize+optLeast > len(stub) || string(stub[pe:pe+4]) != "PE\x00\x00" {
		return nil, errors.New("the stub is no EFI program")
	}
	out := bytes.Clone(stub)
	opt := pe + coffSize
	count := int(le.Uint16(out[pe+coffSections:]))
	table := opt + int(le.Uint16(out[pe+coffOptionalSize:]))
	fileAlign, memoryAlign := le.Uint32(out[opt+optFileAlign:]), le.Uint32(out[opt+optSectionAlign:])
	room := table + (count+len(sections))*sectionSize
	if fileAlign == 0 || memoryAlign == 0 || room > int(le.Uint32(out[opt+optHeadersSize:])) || room > len(out) {
		return nil, fmt.Errorf("the stub's headers have no room for %d more sections", len(sections))
	}
	var address uint32 // where the next section lies in memory
	for i := range count {
		h := out[table+i*sectionSize:]
		if name := strings.TrimRight(string(h[:8]), "\x00"); slices.ContainsFunc(sections, func(s Section) bool { return s.Name == name }) {
			return nil, fmt.Errorf("the stub has a section %s already: it is a finished program, not what one begins with", name)
		}
		address = max(address, le.Uint32(h[12:])+le.Uint32(h[8:]))
	}
	added := uint32(0)
	for i, s := range sections {
		if len(s.Name) > 8 {
			return nil, fmt.Errorf("section %s: its name is too long", s.Name)
		}
		if err := ukiFits(int64(len(out)) + int64(len(s.Data))); err != nil {
			return nil, fmt.Errorf("with %s it has %w", s.Name, err)
		}
		address = alignUp(address, memoryAlign)
		out = append(out, make([]byte, int(alignUp(uint32(len(out)), fileAlign))-len(out))...)
		at, size := uint32(len(out)), uint32(len(s.Data))
		out = append(out, s.Data...)
		out = append(out, make([]byte, alignUp(size, fileAlign)-size)...)
		h := out[table+(count+i)*sectionSize:][:sectionSize]
		clear(h)
		copy(h, s.Name)
		le.PutUint32(h[8:], size)
		le.PutUint32(h[12:], address)
		le.PutUint32(h[16:], alignUp(size, fileAlign))
		le.PutUint32(h[20:], at)
		le.PutUint32(h[36:], initializedReadable)
		address += size
		added += alignUp(size, fileAlign)
	}
	le.PutUint16(out[pe+coffSections:], uint16(count+len(sections)))
	le.PutUint32(out[opt+optInitialized:], le.Uint32(out[opt+optInitialized:])+added)
	le.PutUint32(out[opt+optImageSize:], alignUp(address, memoryAlign))
	le.PutUint32(out[opt+optChecksum:], 0) // firmware does not look at it
	return out, nil
}

// ukiFits says no to what firmware could not load: it counts in 32 bits, some of it with a sign.
func ukiFits(size int64) error {
	if size > math.MaxInt32 {
		return fmt.Errorf("%d bytes, and an EFI program is smaller than 2 GiB; kernel+squashfs and kernel+ext4 have room", size)
	}
	return nil
}
