package console

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFormat(t *testing.T) {
	got := string(Format(1234567*time.Microsecond, "web", "running\nand \x1b[2Jwell\tso\r\n"))
	if got, want := string(Format(0, "web", "naïve → \x9b2J \u009b2J\x7f \xff")), "    0.000  web           naïve → \\x9b2J \\xc2\\x9b2J\\x7f \\xff\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := string(Format(0, "w\u202eb", "gnp.\u202e.exe\u2069")), "    0.000  w\\u202eb      gnp.\\u202e.exe\\u2069\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	want := "    1.235  web           running\n    1.235  web           and \\x1b[2Jwell\tso\n"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// fakeTTY is a terminal whose behaviour a test sets.
type fakeTTY struct {
	mu      sync.Mutex
	out     bytes.Buffer
	failing error         // what write returns
	gate    chan struct{} // write waits for it, if set
	writes  chan struct{} // told of every attempt, if set
}

func (f *fakeTTY) ops() deviceOps {
	return deviceOps{
		open: func(string) (int, error) { return 3, nil },
		write: func(_ int, b []byte) (int, error) {
			f.mu.Lock()
			gate, writes := f.gate, f.writes
			f.mu.Unlock()
			if writes != nil {
				writes <- struct{}{}
			}
			if gate != nil {
				<-gate
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.failing != nil {
				return 0, f.failing
			}
			return f.out.Write(b)
		},
		wait:  func(int, time.Duration) bool { return true },
		close: func(int) {},
		pause: func(time.Duration) {},
		now:   Now,
	}
}

func (f *fakeTTY) set(err error) { f.mu.Lock(); f.failing = err; f.mu.Unlock() }

func start(f *fakeTTY) *Console {
	d := newDevice("/dev/ttyX")
	d.ops = f.ops()
	go d.run()
	c := newConsole()
	c.devices = []*device{d}
	return c
}

func TestHungTerminalBlocksNobodyAndDropsAreSaid(t *testing.T) {
	f := &fakeTTY{gate: make(chan struct{})}
	c := start(f)
	long := strings.Repeat("x", 1000)
	for range 1000 { // 1 MB into a queue of 256 KiB
		c.Line("web", "%s", long)
	}
	close(f.gate)
	if !c.Flush(30 * time.Second) {
		t.Fatal("the queue did not drain")
	}
	f.mu.Lock()
	out := f.out.String()
	f.mu.Unlock()
	kept := strings.Count(out, long)
	if kept >= 1000 || kept < 200 {
		t.Errorf("kept %d lines of 1000", kept)
	}
	var said int
	if i := strings.Index(out, "warning: "); i < 0 {
		t.Fatal("nothing said of the dropped lines")
	} else if _, err := fmt.Sscanf(out[i:], "warning: %d lines dropped", &said); err != nil {
		t.Fatal(err)
	}
	if said+kept != 1000 {
		t.Errorf("kept %d, said %d dropped: %d lines are unaccounted for", kept, said, 1000-kept-said)
	}
}

func TestHungUpTerminalComesBack(t *testing.T) {
	f := &fakeTTY{writes: make(chan struct{}, 1000)}
	f.set(unix.EIO)
	c := start(f)
	c.Line("a", "lost")
	for range 4 { // the tries a line gets
		<-f.writes
	}
	if !c.Flush(30 * time.Second) {
		t.Fatal("a dead terminal kept the queue busy")
	}
	f.set(nil)
	c.Line("a", "kept")
	if !c.Flush(30 * time.Second) {
		t.Fatal("the queue did not drain")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.out.String()
	if strings.Contains(out, "lost\n") || !strings.Contains(out, "kept\n") || !strings.Contains(out, "1 line dropped") {
		t.Errorf("got %q", out)
	}
}

func TestFlushIsBounded(t *testing.T) {
	f := &fakeTTY{gate: make(chan struct{})}
	c := start(f)
	c.Line("a", "stuck")
	if c.Flush(time.Millisecond) {
		t.Error("Flush said a stuck line was written")
	}
	close(f.gate)
	if !c.Flush(30 * time.Second) {
		t.Error("Flush did not see the line go")
	}
}
