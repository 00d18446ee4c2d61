package capture

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"keelson/services/spool"
)

const (
	spliceBytes = 64 << 10
	tailBytes   = 4 << 10
	// A stream is heavy, and has to keep to its share of the processors, with more
	// than heavyBytes in heavyTime, where each move counts for moveBytes on top.
	heavyBytes = 128 << 10
	heavyTime  = 100 * time.Millisecond
	moveBytes  = 512
	// What a heavy stream writes is left to gather for a moment, where it came in
	// small pieces.
	smallBytes = 32 << 10
	smallRest  = 500 * time.Microsecond
	// drainMoves bounds Drain: a pipe holds 64 KiB, and one that never gets
	// empty has a writer that outlives its task.
	drainMoves = 32
	// dropFor is how long output is dropped once it is too much.
	dropFor = 100 * time.Millisecond
	// dropWord is how often the console is told of it.
	dropWord = 10 * time.Second
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
	fifo   *os.File
	conn   syscall.RawConn
	spool  *spool.Stream
	export *exporter
	unheld bool          // it was there, and nobody had it open: what had been in it is gone
	done   chan struct{} // closed when run has returned

	mu       sync.Mutex
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
	fifo, err := os.OpenFile(src.Pipe, os.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the log pipe: %w", err)
	}
	conn, err := fifo.SyscallConn()
	if err != nil {
		_ = fifo.Close()
		return nil, fmt.Errorf("open the log pipe %s: %w", src.Pipe, err)
	}
	s := &Stream{sys: y, src: src, fifo: fifo, conn: conn, spool: kept, unheld: unheld, done: make(chan struct{})}
	if src.OnLine != nil {
		s.cursor = kept.CursorFrom(kept.End())
	}
	s.export = newExporter(y, kept, src.File, src.Warn)
	y.mu.Lock()
	y.streams[s] = true
	y.mu.Unlock()
	s.export.begin()
	go s.run()
	return s, nil
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

func (s *Stream) run() {
	defer close(s.done)
	var window time.Duration // when weight began to be counted
	weight := int64(0)
	for {
		var rest time.Duration
		var n int64
		heavy := weight > heavyBytes
		err := s.conn.Read(func(fd uintptr) (more bool) {
			move := func() { n, more = s.move(int(fd)) }
			if heavy {
				rest = s.sys.gate.spend(measured(move))
			} else {
				move()
			}
			weight += n + moveBytes
			return more
		})
		if now := s.sys.cfg.Now(); now-window > heavyTime {
			window, weight = now, 0
		}
		if err != nil {
			return // closed
		}
		if rest > 0 && s.src.Drop {
			if rest = 0; s.drop() { // even that has its price
				rest = gateLeast
			}
		}
		if heavy && n < smallBytes {
			rest = max(rest, smallRest)
		}
		if rest > 0 {
			time.Sleep(rest)
		}
		if !s.src.Drop {
			s.export.await()
		}
	}
}

// move takes what is in the FIFO to the spool, or to nowhere if that fails. It
// reports how much it was, and whether there may be more at once.
func (s *Stream) move(fifo int) (n int64, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if empty(fifo) {
		return 0, false
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
	s.export.came()
	return n, true
}

// empty reports whether there is nothing to read, so that nothing is done for it.
func empty(fifo int) bool {
	n, err := unix.IoctlGetInt(fifo, unix.TIOCINQ)
	return err == nil && n == 0
}

// splice moves bytes from the FIFO to the spool.
func (s *Stream) splice(fifo int) (int64, error) {
	if !s.noSplice {
		n, err := s.spool.Splice(fifo)
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

// drop drops what comes for a while. It reports whether it did so already.
func (s *Stream) drop() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
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
	_ = s.conn.Control(func(fd uintptr) {
		for range drainMoves {
			if _, more := s.move(int(fd)); !more {
				return
			}
		}
	})
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

// closeBound is how long the end of a stream waits for its file.
const closeBound = 2 * time.Second

// Close drains the pipe and ends the copying. The FIFO stays in its folder if keep
// is true.
func (s *Stream) Close(keep bool) {
	s.Drain()
	_ = s.fifo.Close()
	<-s.done
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
