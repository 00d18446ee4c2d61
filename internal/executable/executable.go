// Package executable reads what a file that is to be executed needs: the interpreter of a
// script, the dynamic loader of a binary, and the machine that it is for.
//
//   - It reads what the kernel reads, as the kernel does (execve(2), elf(5)), and believes no
//     number that it finds.
//   - It judges nothing, and must never open a file: who calls has read the beginning.
package executable

import (
	"bytes"
	"encoding/binary"
	"strings"
)

const (
	// scriptSize is how much of a script the kernel looks at for its first line.
	scriptSize = 256
	// maxName bounds the name of a loader (PATH_MAX).
	maxName = 4096
)

// HeadSize is how much of a file's beginning holds the headers that linkers write.
const HeadSize = 64 << 10

// Program is what a file's beginning tells.
type Program struct {
	// Script is the words of a script's first line, behind #!; nil where it is none.
	Script []string
	// ELF says that it is a binary, and Cut that it ends within its header.
	ELF, Cut bool
	// Machine is the e_machine of a binary, and BigEndian its byte order.
	Machine   uint16
	BigEndian bool
	// Loader is the dynamic loader of a little-endian binary, "" for none or where linkers
	// would not name it.
	Loader string
}

// Parse reads the beginning of a file, which the caller need not have whole: a shorter one
// than HeadSize tells less. at returns a part of the file that may lie behind it, nil for one
// that cannot be read.
func Parse(head []byte, at func(start, length uint64) []byte) Program {
	if line, ok := bytes.CutPrefix(head[:min(len(head), scriptSize)], []byte("#!")); ok {
		return Program{Script: words(string(line))}
	}
	if !bytes.HasPrefix(head, []byte("\x7fELF")) {
		return Program{}
	}
	p := Program{ELF: true, Cut: len(head) < 52 || head[4] == 2 && len(head) < 64}
	if len(head) >= 20 {
		p.BigEndian = head[5] != 1
		p.Machine = binary.LittleEndian.Uint16(head[18:])
		if p.BigEndian {
			p.Machine = binary.BigEndian.Uint16(head[18:])
		}
	}
	if !p.Cut && !p.BigEndian {
		p.Loader = loader(head, at)
	}
	return p
}

// words are those of a script's first line. Blanks part them, and a carriage return is a
// letter as any other.
func words(text string) []string {
	line, _, _ := strings.Cut(text, "\n")
	return strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
}

// loader finds the name in the program headers (PT_INTERP).
func loader(head []byte, at func(start, length uint64) []byte) string {
	const ptInterp = 3
	le := binary.LittleEndian
	wide := head[4] == 2 // 64 bits
	table, entry, count := uint64(le.Uint32(head[28:])), uint64(le.Uint16(head[42:])), int(le.Uint16(head[44:]))
	offset, size := 4, 16
	if wide {
		table, entry, count = le.Uint64(head[32:]), uint64(le.Uint16(head[54:])), int(le.Uint16(head[56:]))
		offset, size = 8, 32
	}
	if table > uint64(len(head)) {
		return "" // not where linkers put it
	}
	for i := range count {
		from := table + uint64(i)*entry
		if from+uint64(size+8) > uint64(len(head)) {
			return ""
		}
		h := head[from:]
		if le.Uint32(h) != ptInterp {
			continue
		}
		start, length := uint64(le.Uint32(h[offset:])), uint64(le.Uint32(h[size:]))
		if wide {
			start, length = le.Uint64(h[offset:]), le.Uint64(h[size:])
		}
		if length > maxName {
			return ""
		}
		return strings.TrimRight(string(at(start, length)), "\x00")
	}
	return ""
}
