package power

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func inputEvent(kind, code uint16, value uint32) []byte {
	b := make([]byte, eventSize)
	e := b[eventSize-8:]
	binary.NativeEndian.PutUint16(e, kind)
	binary.NativeEndian.PutUint16(e[2:], code)
	binary.NativeEndian.PutUint32(e[4:], value)
	return b
}

func TestPresses(t *testing.T) {
	syn, down, up, repeat, other := inputEvent(0, 0, 0), inputEvent(evKey, keyPower, 1), inputEvent(evKey, keyPower, 0), inputEvent(evKey, keyPower, 2), inputEvent(evKey, 30, 1)
	for _, c := range []struct {
		events [][]byte
		want   bool
	}{
		{[][]byte{down, syn, up, syn}, true},
		{[][]byte{other, syn, down}, true},
		{[][]byte{up, syn}, false},
		{[][]byte{repeat}, false},
		{[][]byte{other, syn}, false},
		{[][]byte{down[:eventSize-1]}, false},
		{nil, false},
	} {
		var all []byte
		for _, e := range c.events {
			all = append(all, e...)
		}
		if got := presses(all); got != c.want {
			t.Errorf("%v: %v", c.events, got)
		}
	}
}

// device makes a FIFO stand for an input device.
func device(t *testing.T, dir, name string) *os.File {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func wait(t *testing.T, b *Buttons) string {
	t.Helper()
	select {
	case name := <-b.Pressed:
		return name
	case <-time.After(time.Minute):
		t.Fatal("no press was told")
		return ""
	}
}

func TestButtons(t *testing.T) {
	dir := t.TempDir()
	button, mouse := device(t, dir, "event0"), device(t, dir, "event1")
	isPower := func(f *os.File) bool { return filepath.Base(f.Name()) != "event1" }
	b := listen(dir, isPower)
	if _, err := mouse.Write(inputEvent(evKey, keyPower, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := button.Write(append(inputEvent(evKey, keyPower, 1), inputEvent(evKey, keyPower, 0)...)); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, b); got != filepath.Join(dir, "event0") {
		t.Errorf("pressed %s", got)
	}
	late := device(t, dir, "event2")
	if n := b.Rescan(); n != 2 {
		t.Errorf("%d buttons, want 2", n)
	}
	if n := b.Rescan(); n != 2 {
		t.Errorf("%d buttons after another look, want 2", n)
	}
	if _, err := late.Write(inputEvent(evKey, keyPower, 1)); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, b); got != filepath.Join(dir, "event2") {
		t.Errorf("pressed %s", got)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if n := b.Rescan(); n != 0 {
		t.Errorf("%d buttons after the end", n)
	}
}
