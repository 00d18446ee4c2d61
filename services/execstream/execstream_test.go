package execstream

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestFramesComeBack(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	long := strings.Repeat("x", MaxFrame+10)
	if n, err := (Stream{w, Stdout}).Write([]byte(long)); n != len(long) || err != nil {
		t.Fatal(n, err)
	}
	if err := errors.Join(w.Size(24, 80), w.Frame(Stdin, nil), w.ExitCode(137)); err != nil {
		t.Fatal(err)
	}
	var text string
	for range 2 {
		k, data, err := Read(&b)
		if k != Stdout || err != nil {
			t.Fatal(k, err)
		}
		text += string(data)
	}
	if text != long {
		t.Error("a long text does not come back")
	}
	k, data, err := Read(&b)
	rows, cols, serr := SizeOf(data)
	if k != Resize || err != nil || serr != nil || rows != 24 || cols != 80 {
		t.Error(k, rows, cols, err, serr)
	}
	if k, data, err := Read(&b); k != Stdin || len(data) != 0 || err != nil {
		t.Error(k, data, err)
	}
	k, data, err = Read(&b)
	code, cerr := CodeOf(data)
	if k != Exit || err != nil || cerr != nil || code != 137 {
		t.Error(k, code, err, cerr)
	}
	if _, _, err := Read(&b); err != io.EOF {
		t.Errorf("the end is %v", err)
	}
}

func TestBadFrames(t *testing.T) {
	if err := NewWriter(io.Discard).Frame(Stdout, make([]byte, MaxFrame+1)); err == nil {
		t.Error("a frame that is too long was written")
	}
	if _, _, err := Read(strings.NewReader("\x01\x7f\xff\xff\xff")); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a frame that is too long: %v", err)
	}
	if _, _, err := Read(strings.NewReader("\x01\x00\x00\x00\x05abc")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a frame: %v", err)
	}
	if _, _, err := SizeOf([]byte{1}); err == nil {
		t.Error("a size of one byte")
	}
	if _, err := CodeOf(nil); err == nil {
		t.Error("an exit code of no bytes")
	}
}
