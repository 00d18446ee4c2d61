package spool

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// header begins a segment's index: where it is in its stream, and what has to be
// known of the segments before it once they have gone.
type header struct {
	base  int64 // offset of its first byte in the stream
	lines int64 // before it, as Place counts them
	bytes int64 // likewise
	carry int64 // bytes before it of a line that had not ended
}

const (
	headerBytes = 48
	entryBytes  = 16
	magic       = 0x336c6b73 // "skl3"
)

// place is where the segment begins.
func (h header) place() Place { return Place{h.base, h.lines, h.bytes} }

// piece is how many bytes before it belong to the piece of a line with which it begins.
func (h header) piece() int64 {
	if h.carry == 0 {
		return 0
	}
	return (h.carry-1)%MaxLine + 1
}

// encode returns the index of a segment without entries.
func (h header) encode() []byte {
	b := make([]byte, headerBytes+entryBytes)
	binary.LittleEndian.PutUint32(b, magic)
	binary.LittleEndian.PutUint64(b[8:], uint64(h.lines))
	binary.LittleEndian.PutUint64(b[16:], uint64(h.carry))
	binary.LittleEndian.PutUint64(b[24:], uint64(h.base))
	binary.LittleEndian.PutUint64(b[32:], uint64(h.bytes))
	return b
}

func decodeHeader(b []byte) (header, error) {
	if len(b) < headerBytes || binary.LittleEndian.Uint32(b) != magic {
		return header{}, errors.New("not the index of a log")
	}
	return header{
		base:  int64(binary.LittleEndian.Uint64(b[24:])),
		lines: int64(binary.LittleEndian.Uint64(b[8:])),
		bytes: int64(binary.LittleEndian.Uint64(b[32:])),
		carry: int64(binary.LittleEndian.Uint64(b[16:])),
	}, nil
}

// entry says what is true from an offset of a segment on.
type entry struct {
	off  int64 // within the segment
	kind uint8
	prio int8
	at   int64 // a time since the machine's start, or a count
}

// Kinds of entries. Behind the last one is an end: whatever follows that was there
// before the segment. An entry is written before the bytes it is about, so that a
// death in between leaves no byte without a time; only that of a record is written
// behind it, and bytes without one are cut off again.
const (
	end       = iota // no entry
	timed            // the bytes that follow came at this time
	cut              // whoever wrote has ended: what has no newline by now gets none
	record           // the bytes before it are a record
	lostBytes        // so many bytes were dropped here; a note of it in words follows
	lostLines        // so many lines
	noteEnd          // the note in words is over
)

// encode returns the entry and an end behind it.
func (e entry) encode() []byte {
	b := make([]byte, 2*entryBytes)
	binary.LittleEndian.PutUint32(b, uint32(e.off))
	b[4], b[5] = e.kind, uint8(e.prio)
	binary.LittleEndian.PutUint64(b[8:], uint64(e.at))
	return b
}

func decodeEntry(b []byte) entry {
	return entry{int64(binary.LittleEndian.Uint32(b)), b[4], int8(b[5]), int64(binary.LittleEndian.Uint64(b[8:]))}
}

// segment is a piece of a stream. Its fields are guarded by the stream's mu.
type segment struct {
	header
	name    int64         // of its files: the base of the first segment that had them
	born    time.Duration // when its first byte came
	closed  time.Duration // when its last one had come
	size    int64         // of its bytes
	entries int64         // of its index
	// What is to be added to its newlines and its size to get the lines and bytes in it, as
	// Place counts them: records, and what its notes say, but not their words.
	moreLines, moreBytes int64
	// What its files had before and is still behind that: bytes, and entries.
	oldSize, oldEntries int64
	cold                bool
	memory              int64 // what it takes

	data, index *os.File // nil where they are not open
	mapped      []byte   // data as well, where it is written over again and again, else nil
	readers     int      // that must not find other bytes in data, nor it closed
	closing     bool     // to be closed by the last of them
	found       bool     // an earlier process made it: a thread of it may still read what is in it
	unwritten   bool     // the index is still that of the segment whose files it has: its header is written with its first entry
}

func (g *segment) end() int64 { return g.base + g.size }

// count takes note of an entry.
func (g *segment) count(e entry) {
	switch e.kind {
	case record:
		g.moreLines++
	case lostBytes:
		g.moreBytes += e.at
	case lostLines:
		g.moreLines += e.at
	}
}

// takes is the memory that its files take.
func (g *segment) takes() int64 {
	return pages(max(g.size, g.oldSize)) + pages(headerBytes+(max(g.entries, g.oldEntries)+1)*entryBytes)
}

func (g *segment) path(dir string) string { return filepath.Join(dir, fmt.Sprintf("%020d", g.name)) }

// open opens a segment's files, to be written. They are made or emptied where flags say so.
func (g *segment) open(dir string, flags int) (err error) {
	path := g.path(dir)
	if g.index, err = openFile(path+".i", os.O_RDWR|flags); err != nil {
		return err
	}
	if g.data, err = openFile(path, os.O_RDWR|flags); err != nil {
		g.close()
	}
	return err
}

// close closes its files, data not before nobody reads it any more.
func (g *segment) close() {
	if g.index != nil {
		_ = g.index.Close()
		g.index = nil
	}
	if g.closing = g.readers > 0; g.closing {
		return
	}
	if g.mapped != nil {
		_ = unix.Munmap(g.mapped)
		g.mapped = nil
	}
	if g.data != nil {
		_ = g.data.Close()
		g.data = nil
	}
}

// there is how large the file of its bytes is and how many names it has, as somebody may
// have cut it off or removed it. The file is open, else it is nothing.
func (g *segment) there() (size int64, links uint64) {
	var st unix.Stat_t
	if g.data == nil || unix.Fstat(int(g.data.Fd()), &st) != nil {
		return -1, 0
	}
	return st.Size, st.Nlink
}

// write writes an entry to the index, and an end behind it.
func (g *segment) write(e entry, slot int64) error {
	at, both := headerBytes+slot*entryBytes, e.encode()
	if g.unwritten {
		_, err := g.index.WriteAt(append(g.header.encode()[:headerBytes], both...), 0)
		g.unwritten = err != nil
		return err
	}
	if (at+entryBytes)%pageBytes == 0 && slot < g.oldEntries {
		// A death may come between the pages: no old entry must follow then.
		if _, err := g.index.WriteAt(both[entryBytes:], at+entryBytes); err != nil {
			return err
		}
	}
	_, err := g.index.WriteAt(both, at)
	return err
}

// remove removes a segment's files.
func (g *segment) remove(dir string) {
	g.close()
	path := g.path(dir)
	if g.cold {
		_ = unix.Unlink(path + ".z")
		return
	}
	_ = unix.Unlink(path)
	_ = unix.Unlink(path + ".i") // a death before this leaves an index of nothing
}

// load reads a whole segment, cold or not.
func (g *segment) load(dir string) (index, data []byte, err error) {
	path := g.path(dir)
	if g.cold {
		return readCold(path + ".z")
	}
	if index, err = readUpTo(path+".i", headerBytes+g.entries*entryBytes); err != nil {
		return nil, nil, err
	}
	if data, err = readUpTo(path, g.size); err != nil {
		return nil, nil, err
	}
	return index, data, nil
}

// readUpTo reads the first n bytes of a file.
func readUpTo(path string, n int64) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, n)
	got, err := io.ReadFull(f, buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return buf[:got], nil
}

// find lists the segments in a stream's folder, in order, and removes what a
// death left half done. How far the last one was written done says, if it does.
func find(dir string, done *progress) ([]*segment, error) {
	files, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	have := map[string]bool{}
	for _, f := range files {
		have[f.Name()] = true
	}
	var all []*segment
	for _, f := range files {
		name, suffix, _ := strings.Cut(f.Name(), ".")
		number, err := strconv.ParseInt(name, 10, 64)
		if err != nil || len(name) != 20 {
			continue
		}
		g := &segment{name: number}
		path := g.path(dir)
		switch suffix {
		case "z":
			if err = g.findCold(path); err != nil {
				_ = os.Remove(path + ".z")
				if have[name+".i"] { // the segment itself is still there
					err = g.findWarm(path, done)
				}
			}
		case "i":
			if have[name+".z"] {
				continue
			}
			err = g.findWarm(path, done)
		case "z.new":
			_ = os.Remove(path + ".z.new")
			continue
		case "":
			if !have[name+".i"] && !have[name+".z"] { // died as it was removed
				_ = os.Remove(path)
			}
			continue
		default:
			continue
		}
		if errors.Is(err, errUnmade) {
			g.remove(dir)
			continue
		}
		if err != nil {
			return all, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, g)
	}
	slices.SortFunc(all, func(a, b *segment) int { return cmp.Compare(a.base, b.base) })
	last := max(len(all)-1, 0)
	kept := slices.DeleteFunc(all[:last], func(g *segment) bool {
		if g.size == 0 { // died as it was removed
			g.remove(dir)
		}
		return g.size == 0
	})
	return append(kept, all[last:]...), nil
}

// errUnmade is the error of a segment whose maker died: nothing is in it.
var errUnmade = errors.New("not made")

// findCold fills in what is known of a compressed segment, and removes what it was made of.
func (g *segment) findCold(path string) error {
	index, data, err := readCold(path + ".z")
	if err == nil {
		err = g.know(index, int64(len(data)))
	}
	if err != nil {
		return err
	}
	_, _ = os.Remove(path), os.Remove(path+".i")
	g.cold = true
	if fi, err := os.Stat(path + ".z"); err == nil {
		g.memory = pages(fi.Size())
	}
	return nil
}

// findWarm fills in what is known of one that is not; if it is the last one, how far it
// was written done may say.
func (g *segment) findWarm(path string, done *progress) error {
	index, err := os.ReadFile(path + ".i")
	if err != nil {
		return err
	}
	if len(index) < headerBytes {
		return errUnmade
	}
	size := int64(0)
	if fi, err := os.Stat(path); err == nil {
		size = fi.Size()
	}
	if err := g.know(index, size); err != nil {
		return err
	}
	if n, ok := done.of(g.base); ok && n < size {
		g.size, g.oldSize = n, size
	}
	g.memory = g.takes()
	return nil
}

// know fills in what a segment's index says.
func (g *segment) know(index []byte, size int64) (err error) {
	if g.header, err = decodeHeader(index); err != nil {
		return err
	}
	g.size = size
	room := int64(len(index)-headerBytes) / entryBytes
	g.oldEntries = max(room-1, 0) // one is the end
	for g.entries < room {
		e := decodeEntry(index[headerBytes+g.entries*entryBytes:])
		if e.kind == end {
			break
		}
		g.entries++
		if e.kind == timed || e.kind == record || e.kind == cut || e.kind == noteEnd {
			if g.born == 0 {
				g.born = time.Duration(e.at)
			}
			g.closed = time.Duration(e.at)
		}
	}
	return nil
}
