package capture

import (
	"bytes"
	"sync"
)

// watchLines is how many lines may wait for a watcher. One that is further behind
// misses lines: it must not hold up the stream.
const watchLines = 1024

// watcher is somebody who looks at the lines of a stream for a while.
type watcher struct {
	lines chan []byte
	done  chan struct{}
}

// Watch calls see with the lines written since Mark, of both streams, and with
// those that come, one at a time, until cancel is called, which does not wait for
// a call under way. A watcher that is slow misses lines rather than hold anybody up.
func (o *Output) Watch(see func(line []byte)) (cancel func()) {
	w := &watcher{lines: make(chan []byte, watchLines), done: make(chan struct{})}
	o.stdout.addWatcher(w, o.outMark)
	o.stderr.addWatcher(w, o.errMark)
	go func() {
		for {
			select {
			case <-w.done:
				return
			case line := <-w.lines:
				select {
				case <-w.done:
					return
				default:
					see(line)
				}
			}
		}
	}()
	var once sync.Once
	return func() {
		once.Do(func() {
			close(w.done)
			o.stdout.removeWatcher(w)
			o.stderr.removeWatcher(w)
		})
	}
}

// addWatcher gives a watcher what came since a mark, as far as it is in the newest
// file, and makes it one of those that show tells.
func (s *Stream) addWatcher(w *watcher, since int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if written := min(s.total-since, s.offset); s.file != nil && written > 0 {
		buf := make([]byte, min(written, watchLines*tailBytes/16))
		n, _ := s.file.ReadAt(buf, s.offset-int64(len(buf)))
		text := buf[:n]
		last := bytes.LastIndexByte(text, '\n') + 1
		for line := range bytes.Lines(text[:last]) {
			w.give(bytes.TrimSuffix(line, []byte("\n")))
		}
		if !s.wantsLines() { // else it is there already
			s.partial = bytes.Clone(text[last:])
		}
	}
	if s.watchers == nil {
		s.watchers = map[*watcher]bool{}
	}
	s.watchers[w] = true
}

func (s *Stream) removeWatcher(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers, w)
	if !s.wantsLines() {
		s.partial = nil
	}
}

// give passes a line on, or not where the watcher is too far behind.
func (w *watcher) give(line []byte) {
	select {
	case w.lines <- bytes.Clone(line):
	default:
	}
}

// wantsLines reports whether anybody looks at the lines. The caller holds mu.
func (s *Stream) wantsLines() bool { return s.onLine != nil || len(s.watchers) > 0 }

// tell hands one line to all who look. The caller holds mu.
func (s *Stream) tell(line []byte) {
	if s.onLine != nil {
		s.onLine(string(line))
	}
	for w := range s.watchers {
		w.give(line)
	}
}
