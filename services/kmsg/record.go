package kmsg

import (
	"bytes"
	"errors"
	"strconv"
	"time"
)

// record is one message of the kernel's log.
type record struct {
	priority int    // as in syslog, without the facility
	seq      uint64 // of all messages since the kernel's start
	at       time.Duration
	text     []byte
}

var errMalformed = errors.New("not a record of the kernel's log")

// parse reads a record as /dev/kmsg gives it: "PRIORITY,SEQUENCE,MICROSECONDS,
// FLAGS[,...];TEXT", then lines of their own that begin with a space and say which
// device it is about.
func parse(b []byte) (record, error) {
	head, text, ok := bytes.Cut(b, []byte{';'})
	fields := bytes.Split(head, []byte{','})
	if !ok || len(fields) < 3 {
		return record{}, errMalformed
	}
	priority, err := strconv.ParseUint(string(fields[0]), 10, 32)
	seq, err2 := strconv.ParseUint(string(fields[1]), 10, 64)
	micros, err3 := strconv.ParseInt(string(fields[2]), 10, 64)
	const most = int64(1<<63-1) / int64(time.Microsecond)
	if err != nil || err2 != nil || err3 != nil || micros < 0 || micros > most {
		return record{}, errMalformed
	}
	text, _, _ = bytes.Cut(text, []byte{'\n'})
	return record{int(priority & 7), seq, time.Duration(micros) * time.Microsecond, unescape(text)}, nil
}

// unescape turns \x1b into the byte that it stands for.
func unescape(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		if len(text) >= 4 && text[0] == '\\' && text[1] == 'x' {
			if n, err := strconv.ParseUint(string(text[2:4]), 16, 8); err == nil {
				out, text = append(out, byte(n)), text[4:]
				continue
			}
		}
		out, text = append(out, text[0]), text[1:]
	}
	return out
}
