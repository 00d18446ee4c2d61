package logs

import (
	"keelson/services/spool"
)

// head is a stream with its next record.
type head struct {
	id      StreamID
	records bool // it is made of records, not of lines
	cursor  *spool.Cursor
	done    Position // behind what was given to the reader, or need not be

	rec  Record // the next one
	has  bool
	over bool // it has nothing more that is wanted
}

// head is the beginning of a stream, or where a reading of it goes on.
func (r *reading) head(st *spool.Stream) *head {
	h := &head{id: StreamID{st.Source(), Stream(st.Name())}, records: st.Records()}
	after, resumed := r.q.After[h.id]
	switch {
	case resumed:
		h.cursor = st.CursorAt(spool.Place(after))
	case r.q.Last == NoLines && !r.begun:
		h.cursor = st.CursorAt(st.Here())
	case r.q.Since.Set():
		h.cursor = st.CursorSince(r.since)
	default:
		h.cursor = st.Cursor()
	}
	h.done = Position(h.cursor.From())
	return h
}

// next is the stream's next record.
func (h *head) next() (Record, bool) {
	line, ok := h.cursor.Next()
	return h.record(line), ok
}

// rest is the line under way.
func (h *head) rest() (Record, bool) {
	line, ok := h.cursor.Rest()
	return h.record(line), ok
}

func (h *head) record(line spool.Line) Record {
	r := Record{
		At: line.At, Source: h.id.Source, Stream: h.id.Stream, Text: line.Text, Continued: line.Continued, Partial: line.Partial,
		Gap: line.Gap, Dropped: line.Dropped, DroppedBytes: line.DroppedBytes, Priority: NoPriority, Position: Position(line.End),
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
