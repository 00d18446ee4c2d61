package capture

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"keelson/services/spool"
)

const (
	spliceBytes = 64 << 10
	tailBytes   = 4 << 10
	// drainMoves bounds Drain: one that never gets empty has a writer that outlives
	// its task.
	drainMoves = 32
	// drainBound is how long it waits for a slow disk, in all.
	drainBound = 10 * time.Second
)

// Source is what a stream is of, and where it goes.
type Source struct {
	Name   string // of the source in the spool
	Stream string // and its stream there
	Pipe   string // the FIFO, which is made if there is none
	File   string // what is written is appended to it; its folder is made
	// Drop says that a writer must not be held up: what is too much is dropped.
	Drop bool
	// OnLine, if not nil, is called with each line, from one goroutine at a time.
	OnLine func(line string)
	// Warn is told of what is lost.
	Warn func(format string, a ...any)
}

// Stream is one FIFO being copied to the spool, and from there to a file.
type Stream struct {
	sys    *System
	src    Source
	fifo   int   // the descriptor
	number int32 // the poller's
	spool  *spool.Stream
	export *exporter
	unheld bool          // it was there, and nobody had it open: what had been in it is gone
	ready  chan struct{} // told that there is something in the FIFO
	quit   chan struct{} // closed to end run
	done   chan struct{} // closed when run has returned

	mu       sync.Mutex
	closed   bool          // fifo is, guarded by mu
	cursor   *spool.Cursor // of what OnLine has seen, guarded by mu
	noSplice bool          // the spool's file system does not know splice, guarded by mu
	lost     int64         // bytes that the spool could not take, guarded by mu
	failing  bool          // that it cannot was said, guarded by mu
	dropping bool          // guarded by mu
	dropped  int64         // bytes not yet noted, guarded by mu
	dropAll  int64         // bytes not yet said on the console, guarded by mu
	dropSaid time.Duration // when it was said last, guarded by mu
	resume   *time.Timer   // ends dropping, guarded by mu
	null     *os.File      // where to, guarded by mu
}

// Open makes the FIFO if there is none and begins to copy.
func (y *System) Open(src Source) (*Stream, error) {
	all, err := y.OpenAll(src)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// OpenAll is Open for several that share the room of one name, all of them or none: what
// the file of each still needs is known before any is read, so that none pushes it out.
func (y *System) OpenAll(srcs ...Source) ([]*Stream, error) {
	var all []*Stream
	var failed error
	for _, src := range srcs {
		s, err := y.prepare(src)
		if failed = err; err != nil {
			break
		}
		all = append(all, s)
	}
	for _, s := range all {
		s.begin()
	}
	if failed != nil {
		for _, s := range all {
			s.Close(true)
		}
		return nil, failed
	}
	return all, nil
}

// prepare is Open but for the copying from the FIFO.
func (y *System) prepare(src Source) (*Stream, error) {
	if err := os.MkdirAll(filepath.Dir(src.Pipe), 0o700); err != nil {
		return nil, fmt.Errorf("make a log pipe: %w", err)
	}
	found := false
	if err := unix.Mkfifo(src.Pipe, 0o600); errors.Is(err, unix.EEXIST) {
		found = true
	} else if err != nil {
		return nil, fmt.Errorf("make the log pipe %s: %w", src.Pipe, err)
	}
	unheld := found && !held(src.Pipe)
	kept, err := y.cfg.Spool.Stream(src.Name, src.Stream)
	if err != nil {
		return nil, err
	}
	// Read and write: opening does not wait for a writer, and a writer's end is
	// not the end of the stream.
	fifo, err := unix.Open(src.Pipe, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the log pipe %s: %w", src.Pipe, err)
	}
	s := &Stream{
		sys: y, src: src, fifo: fifo, spool: kept, unheld: unheld,
		ready: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	if s.number, err = y.poller.add(s, fifo); err != nil {
		_ = unix.Close(fifo)
		return nil, err
	}
	if src.OnLine != nil {
		s.cursor = kept.CursorAt(kept.Here())
	}
	s.export = newExporter(y, kept, src.File, src.Warn)
	y.mu.Lock()
	y.streams[s] = true
	y.mu.Unlock()
	s.export.begin()
	return s, nil
}

// begin begins to copy from the FIFO.
func (s *Stream) begin() {
	s.ready <- struct{}{} // for what an earlier process has left in it
	go s.run()
}

// held reports whether somebody has a FIFO open to read from, as a shim does whose task may write to it.
func held(fifo string) bool {
	fd, err := unix.Open(fifo, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return !errors.Is(err, unix.ENXIO)
}

// Path is the FIFO a task is to write to.
func (s *Stream) Path() string { return s.src.Pipe }

// intact reports whether the FIFO that is read is still at its path.
func (s *Stream) intact() bool {
	var there, ours unix.Stat_t
	if unix.Stat(s.src.Pipe, &there) != nil || unix.Fstat(s.fifo, &ours) != nil {
		return false
	}
	return there.Dev == ours.Dev && there.Ino == ours.Ino
}

// move takes what is in the FIFO to the spool, or to nowhere if that fails. It
// reports how much it was, and whether there may be more at once. Where it is likely
// that there is something, that is not asked first.
func (s *Stream) move(likely bool) (n int64, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fifo := s.fifo
	if s.closed || !likely && queued(fifo) == 0 {
		return 0, false
	}
	if s.src.Drop && s.export.behind() {
		s.drop()
	}
	if s.dropping {
		return s.discard(fifo, &s.dropped)
	}
	if s.lost > 0 && s.spool.Lost(s.lost, 0, "there was no room for it") == nil {
		s.src.Warn("output is kept again; %d bytes were lost", s.lost)
		s.lost, s.failing = 0, false
	}
	n, err := s.splice(fifo)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return 0, false
	case errors.Is(err, unix.EINTR):
		return 0, true
	case err != nil: // no room in memory: the writer must not wait for it
		if !s.failing {
			s.src.Warn("its output is lost: %v", err)
			s.failing = true
		}
		return s.discard(fifo, &s.lost)
	case n == 0:
		return 0, false
	}
	s.show()
	return n, true
}

// queued is how many bytes there are to read, so that nothing is done for none; 1 where
// that is not known.
func queued(fifo int) int {
	n, err := unix.IoctlGetInt(fifo, unix.TIOCINQ)
	if err != nil {
		return 1
	}
	return n
}

// splice moves bytes from the FIFO to the spool.
func (s *Stream) splice(fifo int) (int64, error) {
	if !s.noSplice {
		n, err := s.spool.Splice(fifo, s.sys.most(), s.sys.tight())
		if !errors.Is(err, unix.EINVAL) {
			return n, err
		}
		s.noSplice = true
	}
	buf := make([]byte, spliceBytes)
	n, err := unix.Read(fifo, buf)
	if err != nil || n <= 0 {
		return 0, err
	}
	if err := s.spool.Write(s.sys.cfg.Now(), buf[:n]); err != nil {
		s.lost += int64(n)
		return 0, err
	}
	return int64(n), nil
}

// show hands the lines that have come on to OnLine. The caller holds mu.
func (s *Stream) show() {
	if s.cursor == nil {
		return
	}
	for {
		l, ok := s.cursor.Next()
		if !ok {
			return
		}
		if l.Gap {
			s.src.OnLine(fmt.Sprintf("[%d bytes are missing here]", l.DroppedBytes))
			continue
		}
		s.src.OnLine(string(l.Text))
	}
}

// Drain takes over what is still in the pipe: after a task's end, whose shim
// has copied its last bytes, nothing more will come. A last line without a newline
// is over.
func (s *Stream) Drain() {
	long := make(chan struct{})
	t := time.AfterFunc(drainBound, func() { close(long) })
	defer t.Stop()
	for range drainMoves {
		s.export.await(long) // the file is to have it as well
		_, more := s.move(false)
		if !more {
			break
		}
		s.export.came()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noteDropped(true)
	_ = s.spool.Cut() // without room for it the next one's first line is longer
	s.show()
}

// Mark is a place in a stream's output, to see later what came after it.
func (s *Stream) Mark() int64 { return s.spool.End() }

// Tail returns the last lines written since a mark, at most so many.
func (s *Stream) Tail(since int64, lines int) []string {
	data := s.spool.Tail(since, tailBytes+1)
	whole := int64(len(data)) <= tailBytes
	text := bytes.TrimRight(data, "\n")
	if len(text) == 0 {
		return nil
	}
	all := bytes.Split(text, []byte("\n"))
	if !whole && len(all) > 1 {
		all = all[1:] // cut in the middle of a line
	}
	var out []string
	for _, l := range all[max(len(all)-lines, 0):] {
		out = append(out, string(l))
	}
	return out
}

// Close drains the pipe and ends the copying. The FIFO stays in its folder if keep
// is true.
func (s *Stream) Close(keep bool) {
	s.Drain()
	s.end()
	s.mu.Lock()
	if s.resume != nil {
		s.resume.Stop()
	}
	s.noteDropped(true)
	if s.null != nil {
		_ = s.null.Close()
		s.null = nil
	}
	s.mu.Unlock()
	s.export.close(closeBound)
	s.sys.mu.Lock()
	delete(s.sys.streams, s)
	s.sys.mu.Unlock()
	if !keep {
		_ = os.Remove(s.src.Pipe)
	}
}

// end ends run, and closes the FIFO.
func (s *Stream) end() {
	close(s.quit)
	<-s.done
	s.sys.poller.remove(s.number, s.fifo)
	s.mu.Lock()
	s.closed = true
	_ = unix.Close(s.fifo)
	s.mu.Unlock()
}
