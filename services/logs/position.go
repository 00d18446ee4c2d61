package logs

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"keelson/services/spool"
)

// StreamID names a stream of a source.
type StreamID struct {
	Source string
	Stream Stream
}

// String is SOURCE/STREAM; only a source may have a slash in it.
func (id StreamID) String() string { return id.Source + "/" + string(id.Stream) }

// MarshalText is String: it makes a StreamID the name of a field in JSON.
func (id StreamID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is the reverse of MarshalText.
func (id *StreamID) UnmarshalText(text []byte) error {
	i := bytes.LastIndexByte(text, '/')
	if i <= 0 || i == len(text)-1 {
		return fmt.Errorf("%q is no stream: SOURCE/STREAM", text)
	}
	*id = StreamID{string(text[:i]), Stream(text[i+1:])}
	return nil
}

// Position is a place between two records of one stream, where a later process goes on.
// The zero Position is before everything.
type Position spool.Place

// String is how a Position is written: OFFSET.LINES.BYTES.
func (p Position) String() string { return fmt.Sprintf("%d.%d.%d", p.Offset, p.Lines, p.Bytes) }

// MarshalText is String.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is the reverse of MarshalText.
func (p *Position) UnmarshalText(text []byte) error {
	parts := strings.Split(string(text), ".")
	n := make([]int64, len(parts))
	for i, part := range parts {
		var err error
		if n[i], err = strconv.ParseInt(part, 10, 64); err != nil || n[i] < 0 || len(parts) != 3 {
			return fmt.Errorf("%q is no position: want one as a record of a log has it", text)
		}
	}
	*p = Position{n[0], n[1], n[2]}
	return nil
}

// Positions is how far somebody has come who reads several streams. What is not in it
// is before its first record.
type Positions map[StreamID]Position

// errNoPositions is the error of a text that is none.
var errNoPositions = errors.New("want SOURCE/STREAM@POSITION")

// parse adds what somebody wrote.
func (p Positions) parse(text string) error {
	i := strings.LastIndexByte(text, '@')
	if i < 0 {
		return fmt.Errorf("%.64q: %w", text, errNoPositions)
	}
	var id StreamID
	var at Position
	if id.UnmarshalText([]byte(text[:i])) != nil || at.UnmarshalText([]byte(text[i+1:])) != nil {
		return fmt.Errorf("%.64q: %w", text, errNoPositions)
	}
	p[id] = at
	return nil
}

// Begin is what is said before the first record to those who ask for positions: what a
// later reading has to ask for to get the same records.
type Begin struct {
	Positions Positions     `json:"positions"`       // the first records are behind these
	Since     time.Duration `json:"since,omitempty"` // since the machine's start, 0 if it was not asked for
}

// encode returns it as one line of JSON.
func (b Begin) encode() ([]byte, error) {
	line, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("encode the positions in a log: %w", err)
	}
	return append(line, '\n'), nil
}

// DecodeBegin returns what the line before the first record says; ok is false for a
// line that is a record.
func DecodeBegin(line []byte) (b Begin, ok bool, err error) {
	if !bytes.HasPrefix(line, []byte(`{"positions":`)) {
		return Begin{}, false, nil
	}
	if err := json.Unmarshal(line, &b); err != nil || b.Positions == nil {
		return Begin{}, false, fmt.Errorf("decode the positions in a log: %w", cmp.Or(err, errNoPositions))
	}
	return b, true, nil
}

// Behind asks a query for what follows: after the positions that are known by now, as
// Begin had them and each record since.
func (q *Query) Behind(b Begin) {
	q.After, q.Last, q.Since = b.Positions, 0, Moment{}
	if b.Since > 0 {
		q.Since = At(b.Since)
	}
}
