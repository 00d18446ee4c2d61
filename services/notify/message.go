package notify

import (
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Message is what a service said, of all that sd_notify(3) knows the part that
// means something here. A message that says nothing of this is not passed on.
type Message struct {
	Ready           bool          // READY=1: it is started up, or has reloaded
	Stopping        bool          // STOPPING=1: it is about to end
	Reloading       bool          // RELOADING=1: it is, until READY=1
	Watchdog        bool          // WATCHDOG=1: it is well
	WatchdogTrigger bool          // WATCHDOG=trigger: it is not
	Status          string        // STATUS=: how it is, in one line for people
	ExtendTimeout   time.Duration // EXTEND_TIMEOUT_USEC=: what it does takes as much longer, from now
	Errno           int           // ERRNO=: why it will end
}

// statusLength bounds STATUS=, in characters.
const statusLength = 200

// parse reads a datagram. It reports whether that is one at all: lines of
// KEY=VALUE. Keys that nobody knows and values that make no sense are passed
// over, as systemd does.
func parse(data []byte) (Message, bool) {
	text := strings.TrimSuffix(string(data), "\x00") // C programs like to send it along
	if text == "" || strings.ContainsRune(text, 0) {
		return Message{}, false
	}
	var m Message
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || !isKey(key) {
			return Message{}, false
		}
		switch key {
		case "READY":
			m.Ready = m.Ready || value == "1"
		case "STOPPING":
			m.Stopping = m.Stopping || value == "1"
		case "RELOADING":
			m.Reloading = m.Reloading || value == "1"
		case "WATCHDOG":
			m.Watchdog = m.Watchdog || value == "1"
			m.WatchdogTrigger = m.WatchdogTrigger || value == "trigger"
		case "STATUS":
			m.Status = clean(value)
		case "EXTEND_TIMEOUT_USEC":
			if n, err := strconv.ParseInt(value, 10, 64); err == nil && n > 0 {
				m.ExtendTimeout = time.Duration(min(n, int64(extendMax/time.Microsecond))) * time.Microsecond
			}
		case "ERRNO":
			if n, err := strconv.ParseUint(value, 10, 12); err == nil { // as many as the kernel has
				m.Errno = int(n)
			}
		}
	}
	return m, true
}

// extendMax bounds EXTEND_TIMEOUT_USEC=, which may be sent again and again.
const extendMax = time.Hour

func isKey(key string) bool {
	for _, r := range key {
		if r != '_' && (r < 'A' || r > 'Z') && (r < '0' || r > '9') {
			return false
		}
	}
	return key != ""
}

// clean makes a service's words fit for a console.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, strings.TrimSpace(text))
	if runes := []rune(text); len(runes) > statusLength {
		text = string(runes[:statusLength]) + "..."
	}
	return text
}
