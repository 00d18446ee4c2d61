package logs

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"
)

// Stream says what kind of text a record is.
type Stream string

// The streams there are.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
	Event  Stream = "event"  // a console line of the machine's own
	Kernel Stream = "kernel" // of the kernel's log
)

// Streams lists all streams.
var Streams = []Stream{Stdout, Stderr, Event, Kernel}

// Names of sources that are no containers.
const (
	Keelson   = "keelson"
	KernelLog = "kernel"
)

// NoPriority is the priority of what has none: a container's output.
const NoPriority = -1

// MaxLine is the most bytes of one record; a longer line is cut and goes on in
// the next one.
const MaxLine = 16 << 10

// Record is one line, or a piece of one.
type Record struct {
	At     time.Duration // since the machine's start, CLOCK_BOOTTIME
	Source string        // the container's ID, or keelson, kernel, or a name that a client of memlogd gave
	Stream Stream
	Text   []byte // without the newline, otherwise as it was written
	// Continued says that the line was cut here and goes on in the next record
	// of the same source and stream.
	Continued bool
	// Partial says that no newline followed.
	Partial bool
	// Dropped and DroppedBytes are the lines and bytes that are missing before
	// this record, of its source and stream; of bytes alone the lines are not known.
	Dropped, DroppedBytes int64
	// Gap says that this record has no text of its own: it only says what is missing.
	Gap      bool
	Priority int // as in syslog, 0 to 7, for events and the kernel; else NoPriority
	// Position is where a later reading goes on behind this record, for Query.After.
	Position Position
}

// recordJSON is a record on the wire. Text that is not UTF-8 is in Base64.
type recordJSON struct {
	At           time.Duration `json:"at"`
	Time         *time.Time    `json:"time,omitempty"`
	Source       string        `json:"source"`
	Stream       Stream        `json:"stream"`
	Priority     *int          `json:"priority,omitempty"`
	Text         *string       `json:"text,omitempty"`
	Base64       string        `json:"base64,omitempty"`
	Continued    bool          `json:"continued,omitempty"`
	Partial      bool          `json:"partial,omitempty"`
	Gap          bool          `json:"gap,omitempty"`
	Dropped      int64         `json:"dropped,omitempty"`
	DroppedBytes int64         `json:"dropped_bytes,omitempty"`
	Position     *Position     `json:"position,omitempty"`
}

// Encode returns the record as one line of JSON, with the wall clock's time
// unless it is zero.
func (r Record) Encode(wall time.Time) ([]byte, error) {
	j := recordJSON{
		At: r.At, Source: r.Source, Stream: r.Stream, Continued: r.Continued, Partial: r.Partial,
		Gap: r.Gap, Dropped: r.Dropped, DroppedBytes: r.DroppedBytes,
	}
	if !wall.IsZero() {
		j.Time = &wall
	}
	if r.Priority != NoPriority {
		j.Priority = &r.Priority
	}
	if r.Position != (Position{}) {
		j.Position = &r.Position
	}
	switch {
	case r.Gap:
	case utf8.Valid(r.Text):
		text := string(r.Text)
		j.Text = &text
	default:
		j.Base64 = base64.StdEncoding.EncodeToString(r.Text)
	}
	line, err := json.Marshal(j)
	if err != nil {
		return nil, fmt.Errorf("encode a log record: %w", err)
	}
	return append(line, '\n'), nil
}

// Decode is the reverse of Encode. The time is zero if the line has none.
func Decode(line []byte) (Record, time.Time, error) {
	var j recordJSON
	if err := json.Unmarshal(line, &j); err != nil {
		return Record{}, time.Time{}, fmt.Errorf("decode a log record: %w", err)
	}
	r := Record{
		At: j.At, Source: j.Source, Stream: j.Stream, Continued: j.Continued, Partial: j.Partial,
		Gap: j.Gap, Dropped: j.Dropped, DroppedBytes: j.DroppedBytes, Priority: NoPriority,
	}
	if j.Priority != nil {
		r.Priority = *j.Priority
	}
	if j.Position != nil {
		r.Position = *j.Position
	}
	switch {
	case j.Text != nil:
		r.Text = []byte(*j.Text)
	case j.Base64 != "":
		var err error
		if r.Text, err = base64.StdEncoding.DecodeString(j.Base64); err != nil {
			return Record{}, time.Time{}, fmt.Errorf("decode a log record: base64: %w", err)
		}
	}
	var wall time.Time
	if j.Time != nil {
		wall = *j.Time
	}
	return r, wall, nil
}
