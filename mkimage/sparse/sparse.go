// Package sparse knows the holes of files: what of a large file is data, and how a tar
// archive holds only that.
//
//   - A file is sparse if zeros of a megabyte and more at a time come to MinHoles in all;
//     whether the file system of the machine keeps them as holes makes no difference, so
//     that the same files give the same archive everywhere.
//   - What is left out is zeros, always.
package sparse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// Block is what the bounds of data are multiples of, but for the end of a file.
	Block = 4096
	// MinHoles is what a file's holes come to at least.
	MinHoles = 64 << 20
	// MaxExtents is how many pieces of data a file has at most. One block of ext4 lists 340, of
	// at most 128 MiB each.
	MaxExtents = 240

	minHole = 1 << 20
)

// Extent is a piece of a file.
type Extent struct{ Off, Len int64 }

// Map is the data of a sparse file, in order. Nil is a file without holes.
type Map []Extent

// Data is how many bytes the data is.
func (m Map) Data() int64 {
	var n int64
	for _, e := range m {
		n += e.Len
	}
	return n
}

// Scanner finds the data of what is written to it.
type Scanner struct {
	size int64 // written so far
	data Map
	part []byte // of a block
}

var zeros [1 << 16]byte

func zero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// Write implements io.Writer.
func (s *Scanner) Write(b []byte) (int, error) {
	n := len(b)
	if len(s.part) > 0 {
		take := min(Block-len(s.part), len(b))
		s.part = append(s.part, b[:take]...)
		if b = b[take:]; len(s.part) < Block {
			return n, nil
		}
		s.block(s.part)
		s.part = s.part[:0]
	}
	for len(b) >= Block {
		if len(b) >= len(zeros) && zero(b[:len(zeros)]) {
			s.size += int64(len(zeros))
			b = b[len(zeros):]
			continue
		}
		s.block(b[:Block])
		b = b[Block:]
	}
	s.part = append(s.part, b...)
	return n, nil
}

// Skip is a hole of n bytes, which begins and ends where blocks do.
func (s *Scanner) Skip(n int64) { s.size += n }

func (s *Scanner) block(b []byte) {
	if !zero(b) {
		s.add(Extent{s.size, int64(len(b))})
	}
	s.size += int64(len(b))
}

// add appends data, and takes what is nearer than a hole's least size to what is before.
func (s *Scanner) add(e Extent) {
	if n := len(s.data); n > 0 && e.Off-s.data[n-1].end() < minHole {
		s.data[n-1].Len = e.end() - s.data[n-1].Off
		return
	}
	s.data = append(s.data, e)
}

func (e Extent) end() int64 { return e.Off + e.Len }

// Map returns the data, nil if the file is not sparse.
func (s *Scanner) Map() Map {
	if len(s.part) > 0 {
		s.block(s.part)
		s.part = nil
	}
	return s.data.tidy(s.size)
}

// tidy closes the smallest holes until few enough pieces are left.
func (m Map) tidy(size int64) Map {
	for hole := int64(2 * minHole); len(m) > MaxExtents; hole *= 2 {
		var s Scanner
		for _, e := range m {
			if n := len(s.data); n > 0 && e.Off-s.data[n-1].end() < hole {
				s.data[n-1].Len = e.end() - s.data[n-1].Off
			} else {
				s.data = append(s.data, e)
			}
		}
		m = s.data
	}
	if size-m.Data() < MinHoles {
		return nil
	}
	if m == nil {
		m = Map{} // nothing but a hole
	}
	// squashfs-tools cannot read a hole at the end of a file that ends within a block, nor
	// one piece of data that ends there: the last whole block is data too, and in a tar a
	// piece of its own.
	if from := size/Block*Block - Block; size%Block != 0 {
		if n := len(m); n == 0 || m[n-1].end() <= from {
			m = append(m, Extent{from, 0})
		}
		last := &m[len(m)-1]
		last.Off = min(last.Off, from)
		last.Len = size - last.Off
	}
	return m
}

// Of finds the data of a file of size bytes. Holes that its file system knows are not
// read.
func Of(f *os.File, size int64) (Map, error) {
	if size < MinHoles {
		return nil, nil
	}
	var s Scanner
	for s.at() < size {
		data, err := unix.Seek(int(f.Fd()), s.at(), unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO): // a hole to the end
			s.Skip((size - s.at()) / Block * Block)
			data = size
		case err != nil:
			data = s.at() // it knows of none
		}
		data = min(data, size) / Block * Block
		if data > s.at() {
			s.Skip(data - s.at())
		}
		end, err := unix.Seek(int(f.Fd()), s.at(), unix.SEEK_HOLE)
		if err != nil || end <= s.at() {
			end = size
		}
		if end = min((end+Block-1)/Block*Block, size); end == s.at() {
			break
		}
		if _, err := io.Copy(&s, io.NewSectionReader(f, s.at(), end-s.at())); err != nil {
			return nil, err
		}
	}
	return s.Map(), nil
}

// at is how far the scanner has come.
func (s *Scanner) at() int64 { return s.size + int64(len(s.part)) }

// DataOf returns the data that m has of a file.
func DataOf(r io.ReaderAt, m Map) io.Reader {
	var list []io.Reader
	for _, e := range m {
		list = append(list, io.NewSectionReader(r, e.Off, e.Len))
	}
	return io.MultiReader(list...)
}

// Packed returns the data that m has of the file r, which is read from front to back.
func Packed(r io.Reader, m Map) io.Reader { return &packed{r: r, rest: m} }

type packed struct {
	r    io.Reader
	at   int64
	rest Map
	skip []byte
}

// Read implements io.Reader.
func (p *packed) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	if p.skip == nil {
		p.skip = make([]byte, 1<<20)
	}
	e := &p.rest[0]
	for p.at < e.Off {
		n, err := p.r.Read(p.skip[:min(int64(len(p.skip)), e.Off-p.at)])
		p.at += int64(n)
		if err != nil && p.at < e.Off {
			return 0, short(err)
		}
	}
	n, err := p.r.Read(b[:min(int64(len(b)), e.end()-p.at)])
	p.at += int64(n)
	if p.at == e.end() {
		p.rest, err = p.rest[1:], nil
	}
	return n, short(err)
}

func short(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// parse reads the list of a PAX record, GNU.sparse.map: offset, length, offset ...
func parse(text string, size int64) (Map, error) {
	m := Map{}
	fields := strings.Split(text, ",")
	at := int64(0)
	for i := 0; i+1 < len(fields); i += 2 {
		off, err1 := strconv.ParseInt(fields[i], 10, 64)
		n, err2 := strconv.ParseInt(fields[i+1], 10, 64)
		if err1 != nil || err2 != nil || off < at || n < 0 || n > size-off {
			return nil, fmt.Errorf("sparse file with the data %q", fields[i]+","+fields[i+1])
		}
		if at = off + n; n > 0 {
			m = append(m, Extent{off, n})
		}
	}
	return m, nil
}
