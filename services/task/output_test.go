package task

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"
)

// newOutput is an output and what a process writes to.
func newOutput(t *testing.T, idle time.Duration) (*output, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return &output{file: r, exited: make(chan struct{}), idle: idle}, w
}

// A reader that comes long after the exit gets all that was written.
func TestOutputOfSlowReader(t *testing.T) {
	o, w := newOutput(t, time.Millisecond)
	if _, err := w.Write(make([]byte, 60000)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	o.processExited()
	time.Sleep(20 * time.Millisecond) // much more than the bound of silence
	got := 0
	for buf := make([]byte, 1000); ; {
		n, err := o.Read(buf)
		got += n
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if got%10000 == 0 {
			time.Sleep(2 * time.Millisecond)
		}
	}
	if got != 60000 {
		t.Errorf("%d of 60000 bytes", got)
	}
}

// While something has the pipe open, silence is the end, after the shim has moved on
// what it had.
func TestOutputHeldOpen(t *testing.T) {
	o, w := newOutput(t, 20*time.Millisecond)
	o.settle = func() <-chan struct{} {
		_, _ = w.WriteString(" and the shim's")
		done := make(chan struct{})
		close(done)
		return done
	}
	_, _ = w.WriteString("its own")
	o.processExited()
	if got, err := io.ReadAll(o); string(got) != "its own and the shim's" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// What a process has left running does not keep the output open by writing.
func TestOutputOfWriterLeft(t *testing.T) {
	o, w := newOutput(t, 20*time.Millisecond)
	go func() {
		for buf := make([]byte, 32<<10); ; {
			if _, err := w.Write(buf); err != nil {
				return
			}
		}
	}()
	o.processExited()
	n, err := io.Copy(io.Discard, struct{ io.Reader }{o})
	if err != nil || n < restOutput {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// The end of a terminal's output that does not come is an error.
func TestOutputOfTerminalThatHangs(t *testing.T) {
	o, w := newOutput(t, 20*time.Millisecond)
	_, _ = w.WriteString("hello")
	o.processExited()
	if got, err := io.ReadAll(o); string(got) != "hello" || !errors.Is(err, errOutputCut) {
		t.Errorf("%q, %v", got, err)
	}
}

// A reader that waits when the process exits is woken, and a late end is no error.
func TestOutputReaderWoken(t *testing.T) {
	o, w := newOutput(t, 50*time.Millisecond)
	read := make(chan error, 1)
	go func() {
		_, err := io.ReadAll(o)
		read <- err
	}()
	time.Sleep(time.Millisecond)
	o.processExited()
	w.Close()
	if err := <-read; err != nil {
		t.Error(err)
	}
}
