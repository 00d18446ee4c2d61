package spool

import (
	"cmp"
	"math"
	"time"
)

// Place is a place between two lines of a stream. It stays what it is as long as the
// stream goes on: also when what is before it or behind it has gone.
type Place struct {
	Offset int64 // in the stream, of the byte that follows
	Lines  int64 // how many ended before it or are said to be missing there
	Bytes  int64 // and bytes: of them the offset counts those that are kept, and the words that say what is missing
}

// after reports whether a place is behind another one. Two may have the same offset: a
// record may have no bytes.
func (p Place) after(o Place) bool {
	return cmp.Or(cmp.Compare(p.Offset, o.Offset), cmp.Compare(p.Lines, o.Lines), cmp.Compare(p.Bytes, o.Bytes)) > 0
}

// Here is where the stream ends, or where the line under way began: what comes is behind it.
func (st *Stream) Here() Place {
	st.mu.Lock()
	defer st.mu.Unlock()
	h := st.next
	if st.live != nil {
		h = st.after(st.live, st.live.data)
	}
	p := h.place()
	p.Offset -= h.piece()
	p.Bytes -= h.piece()
	return p
}

// Cursor makes a cursor at the oldest line. What is older than there is is its
// first gap.
func (st *Stream) Cursor() *Cursor { return &Cursor{st: st} }

// CursorAt makes one that gives what is behind a place, of which it may be that there is
// a gap first. A place that the stream has not come to is none of this stream, whose
// folder was lost since: the cursor is at the oldest line then.
func (st *Stream) CursorAt(p Place) *Cursor {
	st.mu.Lock()
	defer st.mu.Unlock()
	if p.Offset > st.end {
		p = Place{}
	}
	c := &Cursor{st: st, next: p, from: p, done: p}
	for i := len(st.segments) - 1; i >= 0; i-- {
		if g := st.segments[i]; !g.place().after(p) {
			c.enter(g)
			break
		}
	}
	return c
}

// CursorFrom makes one at the first line that ends behind an offset. How much is missing
// there, if it is, is not counted.
func (st *Stream) CursorFrom(off int64) *Cursor {
	return st.CursorAt(Place{off, math.MaxInt64, math.MaxInt64})
}

// CursorSince makes one that need not give what came before a time.
func (st *Stream) CursorSince(at time.Duration) *Cursor {
	c := st.Cursor()
	if st.records { // whose times may be anybody's
		return c
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for i, g := range st.segments {
		if g.closed >= at || i == len(st.segments)-1 {
			if i > 0 && g.piece() > 0 { // its first line began in the one before
				i, g = i-1, st.segments[i-1]
			}
			if i > 0 {
				c.next = g.place() // and no gap before it
				c.enter(g)
			}
			break
		}
	}
	return c
}
