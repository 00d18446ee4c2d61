package logs

import (
	"time"

	"keelson/services/spool"
)

// askew is how much earlier a record may be than one before it in its stream, where
// its time was taken before its turn to be written came.
const askew = time.Second

// head is a stream with its next record.
type head struct {
	st      *spool.Stream
	id      StreamID
	records bool // it is made of records, not of lines
	cursor  *spool.Cursor
	at      Position // behind what the cursor has given
	done    Position // behind what was given to the reader, or need not be

	rec  Record // the next one
	has  bool
	over bool // it has nothing more that is wanted

	after *Position // the end of an earlier reading, if that is still being looked for
	left  int       // so many records before it, once the first of its time was found
	lost  int64     // the lines before it, where what is missing is counted from the stream's beginning
}

func newHead(st *spool.Stream) *head {
	return &head{st: st, id: StreamID{st.Source(), Stream(st.Name())}, records: st.Records(), cursor: st.Cursor()}
}

// since need not give what is before a time.
func (h *head) since(at time.Duration) {
	_, lines := h.st.Kept()
	h.at = Position{lines: lines}
	h.cursor = h.st.CursorSince(at)
}

// passAll passes over what is there already.
func (h *head) passAll(now time.Duration) {
	from := now
	// A second time from the first record of the last one's time on, as positions count.
	for range 2 {
		h.since(from)
		for h.has = false; !h.has; {
			rec, ok := h.next()
			if !ok {
				break
			}
			if h.has = rec.At > now; h.has { // it came since: there may be no end of those
				h.rec = rec
				break
			}
			h.done = rec.Position
		}
		from = h.done.at
	}
}

// resume goes on behind a position.
func (h *head) resume(p Position) {
	h.done = p
	if p.count > 0 && h.holds(p) {
		h.since(p.at)
		h.after = &p
		return
	}
	// What was before it is not there any more, or never was: all that is there follows
	// it, but for a few records that may come twice.
	h.lost = p.lines
}

// holds reports whether the stream has the record from which a position counts, for
// certain: it may only be sure where there is an older one.
func (h *head) holds(p Position) bool {
	if offset, _ := h.st.Kept(); offset == 0 {
		return true
	}
	if h.records {
		p.at -= askew
	}
	for c := h.st.Cursor(); ; {
		line, ok := c.Next()
		if !ok {
			return false
		}
		if !line.Gap {
			return line.At < p.at
		}
	}
}

// next is the stream's next record.
func (h *head) next() (Record, bool) {
	line, ok := h.cursor.Next()
	if !ok {
		return Record{}, false
	}
	r := h.record(line)
	h.at = h.at.behind(r)
	if r.Gap { // it may be what had to go
		_, lines := h.st.Kept()
		h.at.lines = max(h.at.lines, lines)
	}
	r.Position = h.at
	return r, true
}

// rest is the line under way, which has no place of its own yet.
func (h *head) rest() (Record, bool) {
	line, ok := h.cursor.Rest()
	r := h.record(line)
	r.Position = h.at
	return r, ok
}

func (h *head) record(line spool.Line) Record {
	r := Record{
		At: line.At, Source: h.id.Source, Stream: h.id.Stream, Text: line.Text, Continued: line.Continued, Partial: line.Partial,
		Gap: line.Gap, Dropped: line.Dropped, DroppedBytes: line.DroppedBytes, Priority: NoPriority,
	}
	if h.records {
		r.Priority = int(line.Prio)
	}
	return r
}

// release gives the next record away.
func (h *head) release() Record {
	h.has, h.done = false, h.rec.Position
	return h.rec
}

// passed reports whether a record is before the position behind which the head goes
// on. Where the ring has lost what that counts from, what is missing since is put into
// the record: rather is something given twice than passed over.
func (h *head) passed(r *Record) bool {
	if lost := h.lost; lost > 0 {
		if h.lost = 0; r.Gap { // of all that the stream ever had
			r.Dropped, r.DroppedBytes = max(r.Dropped-lost, 0), 0
			return r.Dropped == 0
		}
	}
	p := h.after
	switch {
	case p == nil:
		return false
	case h.left > 0:
		h.left--
	case r.Gap || r.At < p.at:
		return true
	case r.At == p.at && h.holds(*p):
		h.left = p.count - 1
	default: // it has gone meanwhile
		h.after = nil
		_, lines := h.st.Kept()
		r.Dropped += max(lines-p.lines, 0)
		return false
	}
	if h.left == 0 {
		h.after, h.at.lines = nil, p.lines
	}
	return true
}
