package capture

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"keelson/internal/beneath"
)

// Somebody who can write where the log files are can put something else under a file's
// name. It is never followed, opened or removed: it gets another name, and the log a new
// file. Where that cannot be done, the file waits until it is gone.

// openTries is how often opening a file is tried that is in somebody's hands.
const openTries = 4

// aside is what was in a file's place and has been reported.
type aside struct {
	at   time.Duration // when it was reported last
	more int           // since then
}

// openLog opens the file to be written on, without O_APPEND: sendfile refuses that.
func (e *exporter) openLog(dir *beneath.Dir) (*os.File, error) {
	name := filepath.Base(e.path)
	for try := 1; ; try++ {
		f, err := dir.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
		if !beneath.IsRefused(err) {
			return f, err
		}
		if try == openTries {
			return nil, fmt.Errorf("%w: somebody makes it again and again", err)
		}
		to, failed := dir.PutAside(name)
		if failed != nil {
			return nil, fmt.Errorf("%w, and is not written to: remove it (%w)", err, failed)
		}
		if to != "" {
			e.reportAside(err, to)
		}
	}
}

// reportAside reports what was moved aside, now and then.
func (e *exporter) reportAside(reason error, to string) {
	now := e.sys.cfg.Now()
	if e.aside.at != 0 && now-e.aside.at < dropWord {
		e.aside.more++
		return
	}
	more := ""
	if e.aside.more > 0 {
		more = fmt.Sprintf(" (and %d times before)", e.aside.more)
	}
	e.aside = aside{at: now}
	e.warn("%v, and is not written to: it is %s now, and the log has a new file; find out which container made it, and remove it%s", reason, to, more)
}

// inTheWay says what to do about what is on the way to the file.
func (e *exporter) inTheWay(err error) error {
	if !beneath.IsRefused(err) {
		return err
	}
	return fmt.Errorf("write %s: %w; logs follow no links of others: make or mount a directory there", e.path, err)
}
