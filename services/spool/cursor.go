package spool

import (
	"bytes"
	"cmp"
	"os"
	"slices"
	"time"
)

// MaxLine is the most bytes a line has; a longer one is cut and goes on in the next.
const MaxLine = 16 << 10

// Line is a line, a record, a piece of one, or a word about what is missing.
type Line struct {
	At   time.Duration
	Text []byte
	Prio int8
	// Continued says that it was cut here and goes on in the next one; Partial that
	// no newline followed.
	Continued, Partial bool
	// Gap says that there is no text: so many lines and bytes are missing here, of
	// which the lines may not be known.
	Gap                   bool
	Dropped, DroppedBytes int64
	// End is where the next one begins; of one that Rest gave, where that itself does.
	End Place
}

const (
	chunkBytes   = 16 << 10
	chunkEntries = 128
)

// Cursor reads the lines of a stream from the oldest on, while it is written. It
// holds no file open, so what has to go goes, and is told as a gap. It is for one
// goroutine.
type Cursor struct {
	st    *Stream
	seg   segment // as it was when last looked at
	begun bool
	out   []Line // to be given before anything else

	next  Place // of the next byte
	done  Place // where the last line ended
	from  Place // what ends no later is not given
	entry int64 // the next one

	at   time.Duration
	line []byte // under way
	skip int64  // bytes of the piece under way that went with an earlier segment

	note      bool // the bytes are a note of what is missing
	lostBytes int64
	lostLines int64

	data    []byte // read ahead, from next on
	entries []byte // read ahead, from entry on
	cold    []byte // the whole of a cold segment, from its first byte on
	coldIx  []byte
}

// From is the place behind which it gives lines: what the cursor was made at, or the
// stream's beginning.
func (c *Cursor) From() Place { return c.from }

// Next returns the next line, false if there is none yet.
func (c *Cursor) Next() (Line, bool) {
	for {
		if len(c.out) > 0 {
			l := c.out[0]
			c.out = c.out[1:]
			return l, true
		}
		limit := c.seg.end()
		if e, ok := c.peek(); ok {
			if c.seg.base+e.off <= c.next.Offset {
				c.entry++
				c.entries = c.entries[min(entryBytes, len(c.entries)):]
				c.apply(e)
				continue
			}
			limit = min(limit, c.seg.base+e.off)
		} else if c.begun && c.entry < c.seg.entries {
			limit = c.next.Offset // what the bytes are is in entries that are elsewhere by now
		}
		if b := c.bytes(limit); len(b) > 0 {
			c.take(b)
			continue
		}
		if !c.refresh() {
			return Line{}, false
		}
	}
}

// Rest returns the line under way, if there is one, for whoever will not wait.
func (c *Cursor) Rest() (Line, bool) {
	if len(c.line) == 0 || c.st.records || c.note {
		return Line{}, false
	}
	return Line{At: c.at, Text: bytes.Clone(c.line), Partial: true, End: c.done}, true
}

// peek returns the next entry.
func (c *Cursor) peek() (entry, bool) {
	if !c.begun || c.entry >= c.seg.entries {
		return entry{}, false
	}
	if len(c.entries) < entryBytes {
		pos := headerBytes + c.entry*entryBytes
		end := headerBytes + min(c.entry+chunkEntries, c.seg.entries)*entryBytes
		if c.seg.cold {
			if !c.thaw() {
				return entry{}, false
			}
			c.entries = c.coldIx[min(pos, int64(len(c.coldIx))):min(end, int64(len(c.coldIx)))]
		} else {
			c.entries = c.st.read(&c.seg, ".i", pos, end-pos)
		}
	}
	if len(c.entries) < entryBytes {
		return entry{}, false
	}
	return decodeEntry(c.entries), true
}

// bytes returns bytes from next on, up to limit, as many as are at hand.
func (c *Cursor) bytes(limit int64) []byte {
	if !c.begun || c.next.Offset >= limit {
		return nil
	}
	if len(c.data) == 0 {
		pos := c.next.Offset - c.seg.base
		if c.seg.cold {
			if !c.thaw() {
				return nil
			}
			c.data = c.cold[min(pos, int64(len(c.cold))):]
		} else {
			c.data = c.st.read(&c.seg, "", pos, min(chunkBytes, c.seg.size-pos))
		}
	}
	return c.data[:min(int64(len(c.data)), limit-c.next.Offset)]
}

// thaw reads a cold segment.
func (c *Cursor) thaw() bool {
	if c.cold == nil {
		var err error
		if c.coldIx, c.cold, err = c.seg.load(c.st.dir); err != nil {
			c.coldIx, c.cold = nil, nil
			return false
		}
	}
	return true
}

// advance goes over bytes, which whoever writes has written unless they are the words of
// a note.
func (c *Cursor) advance(n int64) {
	c.next.Offset += n
	if !c.note {
		c.next.Bytes += n
	}
	c.data = c.data[n:]
}

// take goes through bytes that came at one time.
func (c *Cursor) take(b []byte) {
	if c.note || c.st.records {
		if !c.note {
			c.line = append(c.line, b...)
		}
		c.advance(int64(len(b)))
		return
	}
	room := MaxLine - c.skip - int64(len(c.line))
	if room <= 0 && b[0] != '\n' {
		if len(c.line) > 0 {
			c.give(Line{At: c.at, Text: c.line, Continued: true})
		}
		c.line, c.skip = nil, 0
		return
	}
	n := int64(len(b))
	i := int64(bytes.IndexByte(b, '\n'))
	if i >= 0 {
		n = i
	}
	if n > room {
		c.line = append(c.line, b[:room]...)
		c.advance(room)
		return
	}
	c.line = append(c.line, b[:n]...)
	if i < 0 {
		c.advance(n)
		return
	}
	c.advance(n + 1)
	c.next.Lines++
	c.give(Line{At: c.at, Text: c.line})
	c.line, c.skip = nil, 0
}

// apply takes in an entry.
func (c *Cursor) apply(e entry) {
	if c.note && e.kind != lostBytes && e.kind != lostLines {
		if e.kind == noteEnd {
			c.at = time.Duration(e.at)
		}
		c.endNote()
	}
	switch e.kind {
	case timed:
		c.at = time.Duration(e.at)
	case cut:
		c.at = time.Duration(e.at)
		c.partial()
	case record:
		c.at = time.Duration(e.at)
		c.next.Lines++
		c.give(Line{At: c.at, Text: c.line, Prio: e.prio})
		c.line = nil
	case lostBytes:
		c.partial()
		c.note = true
		c.lostBytes += e.at
	case lostLines:
		c.note = true
		c.lostLines += e.at
	}
}

// partial gives the line under way, which nothing will follow.
func (c *Cursor) partial() {
	if len(c.line) > 0 {
		c.give(Line{At: c.at, Text: c.line, Partial: true})
	}
	c.line, c.skip = nil, 0
}

// endNote gives what a note says.
func (c *Cursor) endNote() {
	c.next.Lines += c.lostLines
	c.next.Bytes += c.lostBytes
	c.give(Line{At: c.at, Gap: true, Dropped: c.lostLines, DroppedBytes: c.lostBytes})
	c.note, c.lostBytes, c.lostLines = false, 0, 0
}

// give queues a line that has ended, unless it is before what was asked for.
func (c *Cursor) give(l Line) {
	c.done = c.next
	if !c.next.after(c.from) {
		return
	}
	if l.Text == nil && !l.Gap {
		l.Text = []byte{}
	}
	l.End = c.next
	c.out = append(c.out, l)
}

// refresh looks again at what there is. It reports whether there may be more.
func (c *Cursor) refresh() bool {
	c.st.mu.Lock()
	defer c.st.mu.Unlock()
	all := c.st.segments
	if len(all) == 0 {
		if c.next.Offset < c.st.end { // it has all gone
			c.gap(c.st.next.place())
			return true
		}
		return false
	}
	i := slices.IndexFunc(all, func(g *segment) bool { return g.base == c.seg.base })
	switch {
	case !c.begun || i < 0:
		c.enter(all[0])
		return true
	case all[i].size > c.seg.size || all[i].entries > c.seg.entries || all[i].cold != c.seg.cold:
		if all[i].cold != c.seg.cold {
			c.data, c.entries, c.cold, c.coldIx = nil, nil, nil, nil
		}
		c.seg = *all[i]
		return true
	case i+1 < len(all): // to its end it has been read, or cannot be
		c.enter(all[i+1])
		return true
	case c.next.Offset < c.seg.end():
		c.gap(Place{c.seg.end(), c.next.Lines, c.next.Bytes + c.seg.end() - c.next.Offset})
		c.entry = c.seg.entries
		c.data, c.entries = nil, nil
		return true
	}
	return false
}

// enter goes to a segment. What lies between is missing.
func (c *Cursor) enter(g *segment) {
	if c.begun && c.next.Offset == g.base && c.note {
		c.endNote()
	}
	if place := g.place(); place.after(c.next) {
		c.partial() // of its own time
		c.at = max(c.at, g.born)
		c.gap(place)
	} else if !c.begun || c.next.Offset != g.base {
		c.line, c.done = nil, place
	}
	if len(c.line) == 0 {
		c.skip = g.piece()
	}
	c.seg, c.begun = *g, true
	c.next, c.entry = g.place(), 0
	c.data, c.entries, c.cold, c.coldIx = nil, nil, nil, nil
}

// gap says that everything up to a place is missing, as far as it was asked for.
func (c *Cursor) gap(to Place) {
	c.partial()
	was := c.next
	if c.from.after(was) {
		was = c.from
	}
	c.next, c.note, c.lostBytes, c.lostLines = to, false, 0, 0
	c.give(Line{At: c.at, Gap: true, Dropped: max(to.Lines-was.Lines, 0), DroppedBytes: max(to.Bytes-was.Bytes, 0)})
}

// read reads n bytes of a segment's data, or of its index, which is ".i", from an offset
// of the file on, or none if the segment has gone: others may have been written over them
// meanwhile.
func (st *Stream) read(g *segment, suffix string, off, n int64) []byte {
	b := readAt(g.path(st.dir)+suffix, off, n)
	st.mu.Lock()
	defer st.mu.Unlock()
	if _, kept := slices.BinarySearchFunc(st.segments, g.base, func(have *segment, base int64) int { return cmp.Compare(have.base, base) }); !kept {
		return nil
	}
	return b
}

// readAt reads n bytes of a file from an offset on, or as many as there are.
func readAt(path string, off, n int64) []byte {
	f, err := openFile(path, os.O_RDONLY)
	if err != nil {
		return nil
	}
	defer f.Close()
	buf := make([]byte, n)
	got, _ := f.ReadAt(buf, off)
	return buf[:got]
}
