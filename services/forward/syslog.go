package forward

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"keelson/services/logs"
)

// Facilities and severities of RFC 5424.
const (
	facilityKernel = 0
	facilityDaemon = 3

	severityNotice = 5
	severityInfo   = 6
)

// What a message may have in all, header included. A receiver has to take 480
// bytes and should take 2048 (RFC 5424, 6.1); over UDP more than a packet of the
// network would be sent in pieces, of which all are lost with one.
const (
	maxStream   = 8 << 10
	maxDatagram = 2 << 10
)

// byteOrderMark says that what follows is UTF-8.
const byteOrderMark = "\ufeff"

// A formatter makes syslog messages of records.
type formatter struct {
	hostname string
	max      int
	sequence uint32 // of the last message: what a receiver sees missing was lost on the way
}

// format returns a record as a message of RFC 5424. Text that has to be cut is, and
// how much is missing is in the message.
func (f *formatter) format(r logs.Record, wall time.Time) []byte {
	f.sequence = f.sequence%(1<<31-1) + 1
	text := r.Text
	if r.Gap {
		text = []byte(missing(r))
	}
	mark := ""
	if utf8.Valid(text) && !ascii(text) {
		mark = byteOrderMark
	}
	head := func(cut int) string {
		return fmt.Sprintf("<%d>1 %s %s %s - %s %s %s", priority(r), wall.UTC().Format("2006-01-02T15:04:05.000000Z"),
			field(f.hostname, 255), field(r.Source, 48), field(string(r.Stream), 32), f.data(r, cut), mark)
	}
	h := head(0)
	if room := f.max - len(h); len(text) > room {
		h = head(len(text))
		room = max(f.max-len(h), 0)
		kept := text[:room]
		for mark != "" && len(kept) > 0 && !utf8.Valid(kept) {
			kept = kept[:len(kept)-1] // not in the middle of a character
		}
		h, text = head(len(text)-len(kept)), kept
	}
	return append([]byte(h), text...)
}

// data is the structured data: the meta element is the RFC's own; 32473 is the
// enterprise number that is nobody's.
func (f *formatter) data(r logs.Record, cut int) string {
	d := `[meta sequenceId="` + strconv.FormatUint(uint64(f.sequence), 10) + `"]`
	var own []string
	add := func(name string, n int64) {
		if n > 0 {
			own = append(own, name+`="`+strconv.FormatInt(n, 10)+`"`)
		}
	}
	add("missedLines", r.Dropped)
	add("missedBytes", r.DroppedBytes)
	add("cutBytes", int64(cut))
	if r.Continued {
		own = append(own, `continued="1"`)
	}
	if len(own) > 0 {
		d += "[keelson@32473 " + strings.Join(own, " ") + "]"
	}
	return d
}

// missing says in words what a gap is.
func missing(r logs.Record) string {
	if r.Dropped > 0 {
		return fmt.Sprintf("... %d lines are missing here", r.Dropped)
	}
	return fmt.Sprintf("... %d bytes are missing here", r.DroppedBytes)
}

func priority(r logs.Record) int {
	facility, severity := facilityDaemon, r.Priority
	if r.Stream == logs.Kernel {
		facility = facilityKernel
	}
	if severity < 0 || severity > 7 {
		// Much that is no error goes to standard error.
		if severity = severityInfo; r.Stream == logs.Stderr {
			severity = severityNotice
		}
	}
	return facility<<3 | severity
}

// field makes a header's field of a text: printable ASCII without blanks.
func field(text string, most int) string {
	var b strings.Builder
	for _, r := range text {
		if b.Len() == most {
			break
		}
		if r <= ' ' || r >= 0x7f {
			r = '_'
		}
		b.WriteRune(r)
	}
	if b.Len() == 0 {
		return "-"
	}
	return b.String()
}

func ascii(text []byte) bool {
	for _, c := range text {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
