package supervise

import (
	"os"
	"strings"
	"time"

	"keelson/internal/console"
	"keelson/internal/hold"
	"keelson/services/logs"
	"keelson/services/memlog"
)

// socketDir is where LinuxKit's programs look for memlogd's sockets.
const socketDir = "/run"

// ownMemlogd is what an image has that brings a memlogd of its own.
const ownMemlogd = "/etc/init.d/002-logging"

// logging lets others write to and read from the machine's logs. It is there
// before the first container runs.
func (s *Supervisor) logging() {
	var wrong []error
	s.words, wrong = readWords(s.cfg.Cmdline)
	s.con.SetLevel(s.words.level)
	s.openLogs()
	s.con.Tap(func(at time.Duration, name string, priority int, text string) {
		for line := range strings.SplitSeq(text, "\n") {
			s.logs.Append(logs.Record{At: at, Source: name, Stream: logs.Event, Text: []byte(line), Priority: priority})
		}
	})
	if !s.resumed {
		for _, err := range wrong {
			s.con.Warn("keelson", "%v", err)
		}
	}
	if imageHasMemlogd() {
		return // its sockets, not ours
	}
	_, err := memlog.Listen(memlog.Config{
		Dir: socketDir, Store: s.logs, Hold: hold.FromEnv(), Wall: wallAt,
		Warn: func(format string, a ...any) { s.con.Warn("memlogd", format, a...) },
	})
	if err != nil {
		s.con.Warn("memlogd", "%v", err)
	}
}

// imageHasMemlogd reports whether the image starts a memlogd of its own.
func imageHasMemlogd() bool {
	fi, err := os.Stat(ownMemlogd)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

// wallAt is what the wall clock would have shown at a time since the machine's
// start, as it goes now.
func wallAt(at time.Duration) time.Time { return time.Now().Add(at - console.Now()) }
