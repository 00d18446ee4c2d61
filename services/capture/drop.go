package capture

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// dropFor is how long output is dropped once it is too much.
	dropFor = 100 * time.Millisecond
	// dropWord is how often the console is told of it.
	dropWord = 10 * time.Second
)

// discard lets go of what is in the FIFO and counts it.
func (s *Stream) discard(fifo int, count *int64) (int64, bool) {
	if s.null == nil {
		s.null, _ = os.OpenFile("/dev/null", os.O_WRONLY, 0)
	}
	n := int64(-1)
	err := error(unix.EINVAL)
	if s.null != nil {
		n, err = unix.Splice(fifo, nil, int(s.null.Fd()), nil, 1<<20, unix.SPLICE_F_NONBLOCK)
	}
	if n < 0 && errors.Is(err, unix.EINVAL) {
		var got int
		got, err = unix.Read(fifo, make([]byte, spliceBytes))
		n = int64(got)
	}
	*count += max(n, 0)
	return max(n, 0), n > 0 || errors.Is(err, unix.EINTR)
}

// drop drops what comes for a while. It reports whether it did so already. The caller
// holds mu.
func (s *Stream) drop() bool {
	if s.dropping {
		return true
	}
	s.dropping = true
	if s.resume == nil {
		s.resume = time.AfterFunc(dropFor, s.dropOver)
	} else {
		s.resume.Reset(dropFor)
	}
	return false
}

// dropOver ends that, and notes how much it was.
func (s *Stream) dropOver() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropping = false
	s.noteDropped(false)
}

// noteDropped writes down what was dropped, in the log at once and on the console
// now and then. The caller holds mu.
func (s *Stream) noteDropped(last bool) {
	if s.dropped > 0 && s.spool.Lost(s.dropped, 0, "keelson.log is drop, and it was too much") == nil {
		s.dropAll += s.dropped
		s.dropped = 0
		s.export.came()
	}
	now := s.sys.cfg.Now()
	if s.dropAll > 0 && (last || s.dropSaid == 0 || now-s.dropSaid >= dropWord) {
		s.src.Warn("%d bytes of its %s were dropped (keelson.log: drop)", s.dropAll, s.src.Stream)
		s.dropAll, s.dropSaid = 0, now
	}
}
