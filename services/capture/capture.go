// Package capture owns the way of a container's output from its pipe to its file.
//
// Each stream is a FIFO that the supervisor and the shim both hold open, so a
// writer gets no SIGPIPE and a reader's death loses nothing: what is in the
// pipe stays there. Bytes go from FIFO to file by splice(2), in one step that
// cannot be cut in two by a kill; whoever wants to see lines reads them back
// from the file. It must never hold up the supervisor or a writer: a stream that
// cannot be written is drained and its bytes are counted.
package capture

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	spliceBytes = 64 << 10
	lineBytes   = 16 << 10 // a longer line is shown in pieces
	tailBytes   = 4 << 10
	rotateBytes = 1 << 20
	rotateKeep  = 10
	// drainMoves bounds Drain: a pipe holds 64 KiB, and one that never gets
	// empty has a writer that outlives its task.
	drainMoves = 32
)

// Stream is one FIFO being copied to one file.
type Stream struct {
	fifoPath string
	filePath string
	fifo     *os.File
	conn     syscall.RawConn
	onLine   func(line string) // nil if nobody wants lines
	warn     func(format string, a ...any)
	done     chan struct{} // closed when run has returned

	mu       sync.Mutex
	file     *os.File          // nil where it could not be opened; guarded by mu
	offset   int64             // the end of file after the last write, guarded by mu
	total    int64             // bytes written since Open, whatever file they are in; guarded by mu
	partial  []byte            // the line under way, guarded by mu
	lost     int64             // bytes dropped since the last success, guarded by mu
	failing  bool              // that the file cannot be written was said, guarded by mu
	stuck    bool              // that the file cannot be rotated was said, guarded by mu
	watchers map[*watcher]bool // guarded by mu
	noSplice bool              // the file's file system does not know splice, guarded by mu
}

// Open makes the FIFO if there is none, opens the file for appending, making
// its folder, and begins to copy. onLine, if not nil, is called from the
// stream's goroutine with each complete line, and at Drain with the last one.
// warn is told of what is lost.
func Open(fifoPath, filePath string, onLine func(string), warn func(string, ...any)) (*Stream, error) {
	if err := os.MkdirAll(filepath.Dir(fifoPath), 0o700); err != nil {
		return nil, fmt.Errorf("make a log pipe: %w", err)
	}
	if err := unix.Mkfifo(fifoPath, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("make the log pipe %s: %w", fifoPath, err)
	}
	// Read and write: opening does not wait for a writer, and a writer's end is
	// not the end of the stream.
	fifo, err := os.OpenFile(fifoPath, os.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the log pipe: %w", err)
	}
	conn, err := fifo.SyscallConn()
	if err != nil {
		_ = fifo.Close()
		return nil, fmt.Errorf("open the log pipe %s: %w", fifoPath, err)
	}
	s := &Stream{fifoPath: fifoPath, filePath: filePath, fifo: fifo, conn: conn, onLine: onLine, warn: warn, done: make(chan struct{})}
	s.mu.Lock()
	if err := s.ensure(); err != nil { // it is tried again with the first bytes
		s.fail(err)
	}
	s.mu.Unlock()
	go s.run()
	return s, nil
}

// Path is the FIFO a task is to write to.
func (s *Stream) Path() string { return s.fifoPath }

func (s *Stream) run() {
	defer close(s.done)
	for {
		err := s.conn.Read(func(fd uintptr) bool {
			return s.move(int(fd))
		})
		if err != nil {
			return // closed
		}
	}
}

// move takes what is in the FIFO to the file, or to nowhere if that fails. It
// reports whether there was anything, or may be at once.
func (s *Stream) move(fifo int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if empty(fifo) {
		return false
	}
	if err := s.ensure(); err != nil {
		return s.drop(fifo, err)
	}
	n, err := s.copy(fifo)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return false
	case errors.Is(err, unix.EINTR):
		return true
	case err != nil: // a full or broken disk: the writer must not wait for it
		return s.drop(fifo, fmt.Errorf("write %s: %w", s.filePath, err))
	case n == 0:
		return false
	}
	from := s.offset
	s.offset += n
	s.total += n
	if s.failing {
		if s.lost > 0 {
			s.warn("the log is written again; %d bytes were lost", s.lost)
		}
		s.lost, s.failing = 0, false
	}
	s.show(from)
	if s.offset >= rotateBytes {
		s.rotate()
	}
	return true
}

// empty reports whether there is nothing to read, so that nothing is done for it.
func empty(fifo int) bool {
	n, err := unix.IoctlGetInt(fifo, unix.TIOCINQ)
	return err == nil && n == 0
}

// ensure sees to it that file is the one that filePath names, and that offset is
// its end. Somebody may have moved it away, removed or truncated it, or mounted
// a disk over its folder.
func (s *Stream) ensure() error {
	if s.file != nil {
		var open, named unix.Stat_t
		if err := unix.Fstat(int(s.file.Fd()), &open); err == nil {
			err = unix.Stat(s.filePath, &named)
			if err == nil && open.Dev == named.Dev && open.Ino == named.Ino || err != nil && !errors.Is(err, unix.ENOENT) {
				s.offset = open.Size
				return nil
			}
		}
		_ = s.file.Close()
		s.file = nil
	}
	if err := os.MkdirAll(filepath.Dir(s.filePath), 0o755); err != nil {
		return err
	}
	// Without O_APPEND: splice refuses it.
	f, err := os.OpenFile(s.filePath, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	if s.offset, err = f.Seek(0, 2); err != nil {
		_ = f.Close()
		return err
	}
	s.file, s.noSplice = f, false
	return nil
}

// copy moves bytes from the FIFO to the end of the file.
func (s *Stream) copy(fifo int) (int64, error) {
	if !s.noSplice {
		off := s.offset
		n, err := unix.Splice(fifo, nil, int(s.file.Fd()), &off, spliceBytes, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
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
	done, err := s.file.WriteAt(buf[:n], s.offset)
	if err != nil {
		s.lost += int64(n - done) // read already: drop does not see them
	}
	if done > 0 {
		return int64(done), nil
	}
	return 0, err
}

// drop reads bytes away and counts them; the reason is said once.
func (s *Stream) drop(fifo int, reason error) bool {
	s.fail(reason)
	n, err := unix.Read(fifo, make([]byte, spliceBytes))
	if n > 0 {
		s.lost += int64(n)
	}
	return n > 0 || errors.Is(err, unix.EINTR)
}

// fail says once why the file cannot be written.
func (s *Stream) fail(reason error) {
	if !s.failing {
		s.warn("the log goes nowhere: %v", reason)
		s.failing = true
	}
}

// show hands the lines that end in what was written from an offset on to onLine,
// reading them back from the file.
func (s *Stream) show(from int64) {
	if !s.wantsLines() {
		return
	}
	buf := make([]byte, s.offset-from)
	n, err := s.file.ReadAt(buf, from)
	if n < len(buf) && err != nil {
		s.warn("read back %s: %v", s.filePath, err)
	}
	text := append(s.partial, buf[:n]...)
	for {
		i := bytes.IndexByte(text[:min(len(text), lineBytes)], '\n')
		switch {
		case i >= 0:
			s.tell(text[:i])
			text = text[i+1:]
		case len(text) >= lineBytes:
			s.tell(text[:lineBytes])
			text = text[lineBytes:]
		default:
			s.partial = bytes.Clone(text) // not a slice of something larger
			return
		}
	}
}

// rotate moves the full file aside: NAME.log.1 is the newest of the old ones.
func (s *Stream) rotate() {
	_ = os.Remove(fmt.Sprintf("%s.%d", s.filePath, rotateKeep-1))
	for i := rotateKeep - 2; i >= 1; i-- {
		_ = os.Rename(fmt.Sprintf("%s.%d", s.filePath, i), fmt.Sprintf("%s.%d", s.filePath, i+1))
	}
	if err := os.Rename(s.filePath, s.filePath+".1"); err != nil {
		if !s.stuck {
			s.warn("the log grows on: %v", err)
			s.stuck = true
		}
		return
	}
	s.stuck = false
	_ = s.file.Close()
	s.file, s.offset = nil, 0
}

// Drain takes over what is still in the pipe: after a task's end, whose shim
// has copied its last bytes, nothing more will come.
func (s *Stream) Drain() {
	_ = s.conn.Control(func(fd uintptr) {
		for range drainMoves {
			if !s.move(int(fd)) {
				return
			}
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wantsLines() && len(s.partial) > 0 {
		s.tell(s.partial)
		s.partial = nil
	}
}

// Mark is a place in a stream's output, to see later what came after it.
func (s *Stream) Mark() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

// Tail returns the last lines written since a mark, at most so many, as far as
// they are in the newest file.
func (s *Stream) Tail(since int64, lines int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	written := min(s.total-since, s.offset)
	if s.file == nil || written <= 0 {
		return nil
	}
	start := s.offset - min(written, tailBytes)
	buf := make([]byte, s.offset-start)
	n, _ := s.file.ReadAt(buf, start)
	text := bytes.TrimRight(buf[:n], "\n")
	if len(text) == 0 {
		return nil
	}
	all := bytes.Split(text, []byte("\n"))
	if start > s.offset-written && len(all) > 1 {
		all = all[1:] // cut in the middle of a line
	}
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	var out []string
	for _, l := range all {
		out = append(out, string(l))
	}
	return out
}

// Close drains the pipe, ends the copying and closes file and FIFO. The FIFO
// stays in its folder if keep is true.
func (s *Stream) Close(keep bool) {
	s.Drain()
	_ = s.fifo.Close()
	<-s.done
	s.mu.Lock()
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
	s.mu.Unlock()
	if !keep {
		_ = os.Remove(s.fifoPath)
	}
}
