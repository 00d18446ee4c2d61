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

	off   int64 // of the next byte
	entry int64 // the next one
	lines int64 // that ended before off
	from  int64 // what ends no later is not given

	at   time.Duration
	line []byte // under way
	skip int64  // bytes of the piece under way that went with an earlier segment

	note      bool // the bytes are a note of what is missing
	lostBytes int64
	lostLines int64

	data    []byte // read ahead, from off on
	entries []byte // read ahead, from entry on
	cold    []byte // the whole of a cold segment, from its first byte on
	coldIx  []byte
}

// Cursor makes a cursor at the oldest line. What is older than there is is its
// first gap.
func (st *Stream) Cursor() *Cursor { return &Cursor{st: st} }

// CursorFrom makes one at the first line that ends behind an offset.
func (st *Stream) CursorFrom(off int64) *Cursor {
	return st.skipTo(off, func(g *segment) bool { return g.end() > off })
}

// CursorSince makes one that need not give what came before a time.
func (st *Stream) CursorSince(at time.Duration) *Cursor {
	if st.records { // whose times may be anybody's
		return st.Cursor()
	}
	return st.skipTo(0, func(g *segment) bool { return g.closed >= at })
}

// skipTo begins at the first segment that is wanted, else at the last one.
func (st *Stream) skipTo(from int64, wanted func(*segment) bool) *Cursor {
	c := &Cursor{st: st, from: from}
	st.mu.Lock()
	defer st.mu.Unlock()
	i := slices.IndexFunc(st.segments, wanted)
	if i < 0 {
		i = len(st.segments) - 1
	}
	if i > 0 {
		c.enter(st.segments[i], true)
	} else if i == 0 && from > 0 {
		c.enter(st.segments[0], true)
	}
	return c
}

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
			if c.seg.base+e.off <= c.off {
				c.entry++
				c.entries = c.entries[min(entryBytes, len(c.entries)):]
				c.apply(e)
				continue
			}
			limit = min(limit, c.seg.base+e.off)
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
	return Line{At: c.at, Text: bytes.Clone(c.line), Partial: true}, true
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

// bytes returns bytes from off on, up to limit, as many as are at hand.
func (c *Cursor) bytes(limit int64) []byte {
	if !c.begun || c.off >= limit {
		return nil
	}
	if len(c.data) == 0 {
		pos := c.off - c.seg.base
		if c.seg.cold {
			if !c.thaw() {
				return nil
			}
			c.data = c.cold[min(pos, int64(len(c.cold))):]
		} else {
			c.data = c.st.read(&c.seg, "", pos, min(chunkBytes, c.seg.size-pos))
		}
	}
	return c.data[:min(int64(len(c.data)), limit-c.off)]
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

func (c *Cursor) advance(n int64) {
	c.off += n
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
		c.give(Line{At: c.at, Text: c.line, Continued: true})
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
	c.lines++
	c.give(Line{At: c.at, Text: c.line})
	c.line, c.skip = nil, 0
}

// apply takes in an entry.
func (c *Cursor) apply(e entry) {
	if c.note && e.kind != lostBytes && e.kind != lostLines {
		if e.kind == noteEnd {
			c.at = time.Duration(e.at)
		}
		c.give(Line{At: c.at, Gap: true, Dropped: c.lostLines, DroppedBytes: c.lostBytes})
		c.note, c.lostBytes, c.lostLines = false, 0, 0
	}
	switch e.kind {
	case timed:
		c.at = time.Duration(e.at)
	case cut:
		c.at = time.Duration(e.at)
		c.partial()
	case record:
		c.at = time.Duration(e.at)
		c.lines++
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

// give queues a line, unless it is before what was asked for.
func (c *Cursor) give(l Line) {
	if c.off > c.from || c.from == 0 {
		if l.Text == nil && !l.Gap {
			l.Text = []byte{}
		}
		c.out = append(c.out, l)
	}
}

// refresh looks again at what there is. It reports whether there may be more.
func (c *Cursor) refresh() bool {
	c.st.mu.Lock()
	defer c.st.mu.Unlock()
	all := c.st.segments
	if len(all) == 0 {
		if c.begun && c.off < c.st.end { // it has all gone
			c.gap(c.st.end, c.st.next.lines)
			c.off, c.lines = c.st.end, c.st.next.lines
			return true
		}
		return false
	}
	i := slices.IndexFunc(all, func(g *segment) bool { return g.base == c.seg.base })
	switch {
	case !c.begun || i < 0:
		c.enter(all[0], false)
		return true
	case all[i].size > c.seg.size || all[i].entries > c.seg.entries || all[i].cold != c.seg.cold:
		if all[i].cold != c.seg.cold {
			c.data, c.entries, c.cold, c.coldIx = nil, nil, nil, nil
		}
		c.seg = *all[i]
		return true
	case c.off < c.seg.end(): // it cannot be read
		c.gap(c.seg.end(), c.lines)
		c.off, c.entry = c.seg.end(), c.seg.entries
		c.data, c.entries = nil, nil
		return true
	case i+1 < len(all):
		c.enter(all[i+1], false)
		return true
	}
	return false
}

// enter goes to a segment. What lies between is missing, unless the cursor is
// where its reader wants it.
func (c *Cursor) enter(g *segment, wanted bool) {
	if jump := !c.begun || c.off != g.base; jump {
		if !wanted && g.base > c.off {
			at := c.at
			c.at = max(at, g.born)
			c.gap(g.base, g.header.lines)
		}
		c.line, c.skip = nil, 0
		if carry := g.header.carry; carry > 0 {
			c.skip = (carry-1)%MaxLine + 1
		}
	}
	c.seg, c.begun = *g, true
	c.off, c.entry, c.lines = g.base, 0, g.header.lines
	c.data, c.entries, c.cold, c.coldIx = nil, nil, nil, nil
}

// gap says that everything up to an offset is missing.
func (c *Cursor) gap(to, lines int64) {
	c.partial()
	was := c.off
	c.off = to
	c.give(Line{At: c.at, Gap: true, Dropped: max(lines-c.lines, 0), DroppedBytes: to - was})
	c.off = was
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
