package executable

import (
	"encoding/binary"
	"reflect"
	"strings"
	"testing"
)

// elf is a binary of 64 or 32 bits with one program header, that of a loader's name.
func elf(wide bool, machine uint16, loader string) []byte {
	le := binary.LittleEndian
	b := make([]byte, 120)
	copy(b, "\x7fELF\x01\x01\x01")
	le.PutUint16(b[18:], machine)
	start := uint32(len(b))
	if wide {
		b[4] = 2
		le.PutUint64(b[32:], 64)
		le.PutUint16(b[54:], 56)
		le.PutUint16(b[56:], 1)
		le.PutUint32(b[64:], 3)
		le.PutUint64(b[64+8:], uint64(start))
		le.PutUint64(b[64+32:], uint64(len(loader)+1))
	} else {
		le.PutUint32(b[28:], 52)
		le.PutUint16(b[42:], 32)
		le.PutUint16(b[44:], 1)
		le.PutUint32(b[52:], 3)
		le.PutUint32(b[52+4:], start)
		le.PutUint32(b[52+16:], uint32(len(loader)+1))
	}
	return append(append(b, loader...), 0)
}

// of parses a file of which all is there.
func of(file []byte) Program {
	return Parse(file, func(start, length uint64) []byte {
		if start > uint64(len(file)) || length > uint64(len(file))-start {
			return nil
		}
		return file[start : start+length]
	})
}

func TestParse(t *testing.T) {
	big := elf(true, 0, "")
	big[5] = 2
	binary.BigEndian.PutUint16(big[18:], 22)
	for name, tc := range map[string]struct {
		file []byte
		want Program
	}{
		"script":           {[]byte("#! /usr/bin/env\t-S sh\nrest"), Program{Script: []string{"/usr/bin/env", "-S", "sh"}}},
		"carriage return":  {[]byte("#!/bin/sh\r\n"), Program{Script: []string{"/bin/sh\r"}}},
		"no words":         {[]byte("#!  \nrest"), Program{Script: []string{}}},
		"a long line":      {[]byte("#!/" + strings.Repeat("a", 300)), Program{Script: []string{"/" + strings.Repeat("a", 253)}}},
		"neither":          {[]byte("echo"), Program{}},
		"empty":            {nil, Program{}},
		"64 bits":          {elf(true, 62, "/lib/ld.so"), Program{ELF: true, Machine: 62, Loader: "/lib/ld.so"}},
		"32 bits":          {elf(false, 3, "/lib/ld.so"), Program{ELF: true, Machine: 3, Loader: "/lib/ld.so"}},
		"big-endian":       {big, Program{ELF: true, Machine: 22, BigEndian: true}},
		"cut":              {elf(true, 183, "")[:20], Program{ELF: true, Cut: true, Machine: 183}},
		"cut before":       {[]byte("\x7fELF\x02"), Program{ELF: true, Cut: true}},
		"cut in the table": {elf(true, 62, "/lib/ld.so")[:80], Program{ELF: true, Machine: 62}},
	} {
		if got := of(tc.file); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}

// A table or a name at the end of what a number can hold is not looked for.
func TestNumbersAreNotBelieved(t *testing.T) {
	le := binary.LittleEndian
	for name, change := range map[string]func(b []byte){
		"table":   func(b []byte) { le.PutUint64(b[32:], 1<<64-10) },
		"entries": func(b []byte) { le.PutUint32(b[64:], 0); le.PutUint16(b[54:], 0xffff); le.PutUint16(b[56:], 0xffff) },
		"start":   func(b []byte) { le.PutUint64(b[64+8:], 1<<64-1) },
		"length":  func(b []byte) { le.PutUint64(b[64+32:], 1<<63) },
	} {
		file := elf(true, 62, "/lib/ld.so")
		change(file)
		if got, want := of(file), (Program{ELF: true, Machine: 62}); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(elf(true, 62, "/lib/ld.so"))
	f.Add(elf(false, 3, "/lib/ld.so"))
	f.Add([]byte("#!/bin/sh -e\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		if p := of(file); len(p.Loader) > maxName {
			t.Errorf("a name of %d bytes", len(p.Loader))
		}
	})
}
