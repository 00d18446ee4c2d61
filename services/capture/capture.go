// Package capture owns the way of a container's output from its pipe to its file.
//
// Each stream is a FIFO that the supervisor and the shim both hold open, so a
// writer gets no SIGPIPE and a reader's death loses nothing: what is in the
// pipe stays there. Bytes go from FIFO to file by splice(2), in one step that
// cannot be cut in two by a kill; whoever wants to see lines reads them back
// from the file. It must never hold up the supervisor: a stream that cannot be
// written is drained and its bytes are counted.
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
	rotateBytes = 1 << 20
	rotateKeep  = 10
)

// Stream is one FIFO being copied to one file.
type Stream struct {
	fifoPath string
	filePath string
	fifo     *os.File
	conn     syscall.RawConn
	onLine   func(line string) // nil if nobody wants lines
	warn     func(format string, a ...any)

	mu      sync.Mutex
	file    *os.File // nil where it could not be opened; guarded by mu
	offset  int64    // where the next byte goes, guarded by mu
	seen    int64    // up to where lines were shown, guarded by mu
	partial []byte   // the line under way, guarded by mu
	lost    int64    // bytes dropped since the last success, guarded by mu
	done    chan struct{}
}

// Open makes the FIFO if there is none, opens the file for appending, making
// its folder, and begins to copy. onLine, if not nil, is called from the
// stream's goroutine with each complete line, and at Close with the last one.
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
	s.reopen()
	s.mu.Unlock()
	go s.run()
	return s, nil
}

// Path is the FIFO a task is to write to.
func (s *Stream) Path() string { return s.fifoPath }

// reopen opens the log file at its end. Its failure is said once and tried
// again with the next bytes.
func (s *Stream) reopen() {
	if s.file != nil {
		return
	}
	err := os.MkdirAll(filepath.Dir(s.filePath), 0o755)
	var f *os.File
	if err == nil {
		// Without O_APPEND: splice refuses it.
		f, err = os.OpenFile(s.filePath, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o644)
	}
	if err == nil {
		if s.offset, err = f.Seek(0, 2); err != nil {
			_ = f.Close()
		}
	}
	if err != nil {
		if s.lost == 0 {
			s.warn("the log goes nowhere: %v", err)
		}
		return
	}
	s.file, s.seen = f, s.offset
}

func (s *Stream) run() {
	defer close(s.done)
	for {
		var n int64
		var err error
		rerr := s.conn.Read(func(fd uintptr) bool {
			n, err = s.move(int(fd))
			return !errors.Is(err, unix.EAGAIN)
		})
		if rerr != nil {
			return // closed
		}
		_ = n
		if err != nil && !errors.Is(err, unix.EINTR) {
			s.warn("the log of %s: %v", filepath.Base(s.filePath), err)
			return
		}
	}
}

// move takes what is in the FIFO to the file, or to nowhere if that fails.
func (s *Stream) move(fifo int) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reopen()
	if s.file == nil {
		return s.drop(fifo)
	}
	off := s.offset
	n, err := unix.Splice(fifo, nil, int(s.file.Fd()), &off, spliceBytes, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	switch {
	case err == nil && n == 0:
		return 0, unix.EAGAIN
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return 0, err
	case err != nil: // a full or broken disk: the writer must not wait for it
		if s.lost == 0 {
			s.warn("the log goes nowhere: write %s: %v", s.filePath, err)
		}
		return s.drop(fifo)
	}
	s.offset += int64(n)
	if s.lost > 0 {
		s.warn("the log is written again; %d bytes were lost", s.lost)
		s.lost = 0
	}
	s.show()
	if s.offset >= rotateBytes {
		s.rotate()
	}
	return int64(n), nil
}

// drop reads bytes away and counts them.
func (s *Stream) drop(fifo int) (int64, error) {
	buf := make([]byte, 4096)
	n, err := unix.Read(fifo, buf)
	if n > 0 {
		s.lost += int64(n)
	}
	return int64(max(n, 0)), err
}

// show hands complete lines to onLine, reading them back from the file.
func (s *Stream) show() {
	if s.onLine == nil {
		return
	}
	buf := make([]byte, min(s.offset-s.seen, spliceBytes))
	for s.seen < s.offset {
		n, err := s.file.ReadAt(buf[:min(int64(len(buf)), s.offset-s.seen)], s.seen)
		if n == 0 {
			if err != nil {
				s.warn("read back %s: %v", s.filePath, err)
			}
			s.seen = s.offset
			return
		}
		s.seen += int64(n)
		s.partial = append(s.partial, buf[:n]...)
		for {
			i := bytes.IndexByte(s.partial, '\n')
			if i < 0 {
				if len(s.partial) < lineBytes {
					break
				}
				i = len(s.partial) - 1
			}
			s.onLine(string(bytes.TrimSuffix(s.partial[:i+1], []byte("\n"))))
			s.partial = s.partial[i+1:]
		}
	}
	s.partial = append([]byte(nil), s.partial...)
}

// rotate moves the full file aside: NAME.log.1 is the newest of the old ones.
func (s *Stream) rotate() {
	_ = os.Remove(fmt.Sprintf("%s.%d", s.filePath, rotateKeep-1))
	for i := rotateKeep - 2; i >= 1; i-- {
		_ = os.Rename(fmt.Sprintf("%s.%d", s.filePath, i), fmt.Sprintf("%s.%d", s.filePath, i+1))
	}
	if err := os.Rename(s.filePath, s.filePath+".1"); err != nil {
		s.warn("rotate: %v", err)
		return
	}
	_ = s.file.Close()
	s.file = nil
	s.reopen()
}

// Drain takes over what is still in the pipe: after a task's end, whose shim
// has copied its last bytes, nothing more will come.
func (s *Stream) Drain() {
	_ = s.conn.Control(func(fd uintptr) {
		for {
			if n, err := s.move(int(fd)); n == 0 || err != nil {
				return
			}
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.onLine != nil && len(s.partial) > 0 {
		s.onLine(string(s.partial))
		s.partial = nil
	}
}

// Mark is a place in a stream's output, to see later what came after it.
func (s *Stream) Mark() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.offset
}

// Tail returns the last lines written since a mark, at most so many.
func (s *Stream) Tail(since int64, lines int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	if since > s.offset { // rotated in between
		since = 0
	}
	start := max(since, s.offset-4096)
	buf := make([]byte, s.offset-start)
	n, _ := s.file.ReadAt(buf, start)
	text := bytes.TrimRight(buf[:n], "\n")
	if len(text) == 0 {
		return nil
	}
	all := bytes.Split(text, []byte("\n"))
	if start > since && len(all) > 1 {
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
