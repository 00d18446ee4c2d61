// Package execstream owns what goes over the connection of a process that was
// started in a container for somebody: its input, its output, the size of its
// terminal, its end.
//
// A frame is one byte of kind, four bytes of length, most significant first, and
// so many bytes. The client sends Stdin (an empty one is the end of the input),
// Resize and Signal; the server Stdout, Stderr, and as the last frame Exit or
// Error. It promises that a frame is never longer than MaxFrame, so that neither
// side can make the other one allocate more. It must never interpret the bytes.
package execstream

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// Protocol is the name in the Upgrade header.
const Protocol = "keelson-exec"

// Kind says what a frame is.
type Kind byte

// The kinds of frames.
const (
	Stdin  Kind = 0
	Stdout Kind = 1
	Stderr Kind = 2
	Resize Kind = 3 // four bytes: rows and columns
	Exit   Kind = 4 // four bytes: the exit code
	Error  Kind = 5 // JSON of api.Error
	Signal Kind = 6 // one byte: its number
)

// MaxFrame bounds the bytes of one frame.
const MaxFrame = 32 << 10

// Writer writes frames; several goroutines may use one.
type Writer struct {
	mu sync.Mutex
	w  io.Writer // guarded by mu
}

// NewWriter makes a writer of frames.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Frame writes one frame. Data beyond MaxFrame is an error of the program.
func (w *Writer) Frame(k Kind, data []byte) error {
	if len(data) > MaxFrame {
		return fmt.Errorf("a frame of %d bytes is too long: %d at most", len(data), MaxFrame)
	}
	buf := make([]byte, 5+len(data))
	buf[0] = byte(k)
	binary.BigEndian.PutUint32(buf[1:], uint32(len(data)))
	copy(buf[5:], data)
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.w.Write(buf)
	return err
}

// Size writes the size of a terminal.
func (w *Writer) Size(rows, cols uint16) error {
	return w.Frame(Resize, binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, rows), cols))
}

// ExitCode writes how the process ended.
func (w *Writer) ExitCode(code int) error {
	return w.Frame(Exit, binary.BigEndian.AppendUint32(nil, uint32(int32(code))))
}

// Read reads one frame. It returns io.EOF where the stream ends between two.
func Read(r io.Reader) (Kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes is too long: %d at most", n, MaxFrame)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return 0, nil, fmt.Errorf("read a frame of %d bytes: %w", n, io.ErrUnexpectedEOF)
	}
	return Kind(head[0]), data, nil
}

// SizeOf decodes a Resize frame.
func SizeOf(data []byte) (rows, cols uint16, err error) {
	if len(data) != 4 {
		return 0, 0, fmt.Errorf("a size has 4 bytes, not %d", len(data))
	}
	return binary.BigEndian.Uint16(data), binary.BigEndian.Uint16(data[2:]), nil
}

// CodeOf decodes an Exit frame.
func CodeOf(data []byte) (int, error) {
	if len(data) != 4 {
		return 0, fmt.Errorf("an exit code has 4 bytes, not %d", len(data))
	}
	return int(int32(binary.BigEndian.Uint32(data))), nil
}

// Stream is a Writer's frames of one kind as an io.Writer.
type Stream struct {
	W *Writer
	K Kind
}

// Write writes p as one or more frames.
func (s Stream) Write(p []byte) (int, error) {
	done := 0
	for len(p) > 0 {
		n := min(len(p), MaxFrame)
		if err := s.W.Frame(s.K, p[:n]); err != nil {
			return done, err
		}
		done += n
		p = p[n:]
	}
	return done, nil
}
