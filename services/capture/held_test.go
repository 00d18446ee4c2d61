package capture

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keelson/services/spool"
)

// numberedLines are so many lines of 100 bytes.
func numberedLines(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "%099d\n", i)
	}
	return b.Bytes()
}

// written reads a file with those it was before.
func written(path string) (text []byte) {
	for i := rotateKeep; i >= 0; i-- {
		name := path
		if i > 0 {
			name = numbered(path, i)
		}
		data, _ := os.ReadFile(name)
		text = append(text, data...)
	}
	return text
}

// isOpen reports whether this process has a file open.
func isOpen(path string) bool {
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if name, err := os.Readlink(fd); err == nil && name == path {
			return true
		}
	}
	return false
}

// copyWith has a stream's file written by copyTo only, as one on a disk is. The caller holds the exporter's mu.
func copyWith(s *Stream, copyTo func(f *os.File, from, most int64) (int64, error)) {
	s.export.copyTo = copyTo
	s.export.appendTo = func(*os.File, int64, int64) int64 { return 0 }
}

// stuckDisk makes a copy to a stream's file hang in the kernel until answer is called.
func stuckDisk(t *testing.T, s *Stream) (answer func()) {
	t.Helper()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(pipe[0]) })
	s.export.mu.Lock()
	defer s.export.mu.Unlock()
	s.export.bound = 50 * time.Millisecond
	copyWith(s, func(f *os.File, from, most int64) (int64, error) {
		_, _ = unix.Read(pipe[0], make([]byte, 1))
		return s.spool.CopyTo(f, from, most)
	})
	return func() { _ = unix.Close(pipe[1]) }
}

// A disk that takes longer than its writers is waited for: sources that together write much more than there is memory
// for lose nothing, nor does one with both of its streams.
func TestASlowDiskIsWaitedFor(t *testing.T) {
	t.Run("for all", func(t *testing.T) { testSlowDisk(t, 8, 2<<20) })
	t.Run("for one", func(t *testing.T) { testSlowDisk(t, 1, 64<<20) })
}

func testSlowDisk(t *testing.T, sources int, total int64) {
	dir := t.TempDir()
	began := time.Now()
	now := func() time.Duration { return time.Since(began) + time.Hour }
	sp, err := spool.Open(spool.Config{Dir: filepath.Join(dir, "spool"), PerSource: 1 << 20, Total: total, Now: now, Warn: t.Errorf})
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	y := New(Config{Spool: sp, Now: now, Memory: 1 << 30})
	text := numberedLines(min(160_000/sources, 80_000))
	var all sync.WaitGroup
	for i := range sources {
		name := fmt.Sprint("s", i)
		o, err := y.OpenOutput(OutputConfig{Source: name, Pipes: filepath.Join(dir, name), Base: filepath.Join(dir, "log", name), Warn: t.Errorf})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []*Stream{o.stdout, o.stderr} {
			s.export.mu.Lock()
			copyWith(s, func(f *os.File, from, most int64) (int64, error) {
				time.Sleep(5 * time.Millisecond)
				return s.spool.CopyTo(f, from, min(most, 64<<10))
			})
			s.export.mu.Unlock()
			all.Go(func() {
				w := writer(t, s)
				defer w.Close()
				if _, err := w.Write(text); err != nil {
					t.Error(err)
				}
			})
		}
		defer func() {
			o.Close(false)
			for _, s := range []*Stream{o.stdout, o.stderr} {
				if got := written(s.src.File); !bytes.Equal(got, text) {
					t.Errorf("%s has %d bytes of %d", s.src.File, len(got), len(text))
				}
			}
		}()
	}
	all.Wait()
}

// A disk that does nothing is not waited for for ever: its writer goes on, that is said, and the file gets what there
// still is when the disk answers.
func TestAStuckDiskIsGivenUp(t *testing.T) {
	dir := t.TempDir()
	m := &messages{}
	src := source(dir)
	src.Warn = m.add
	s := openSource(t, machine(t, dir, 1<<30), src)
	answer := stuckDisk(t, s)
	w := writer(t, s)
	text := numberedLines(40_000)
	if _, err := w.Write(text); err != nil { // four times what the ring holds
		t.Fatal(err)
	}
	answer()
	w.Close()
	s.Close(false)
	got := written(src.File)
	at := bytes.Index(got, []byte("[keelson: "))
	var missing int
	if at < 0 {
		t.Fatalf("there is no note in %d bytes", len(got))
	}
	if _, err := fmt.Sscanf(string(got[at:]), "[keelson: %d bytes are missing here", &missing); err != nil {
		t.Fatal(err)
	}
	note := bytes.IndexByte(got[at:], '\n') + 1
	if have := len(got) - note; have+missing != len(text) || !bytes.HasSuffix(text, got[at+note:]) {
		t.Errorf("%d bytes are missing and %d there of %d", missing, have, len(text))
	}
	if len(m.all) != 2 || !strings.Contains(m.all[0], "has not answered for 50ms") || !strings.Contains(m.all[1], fmt.Sprintf("is written again; %d bytes are missing", missing)) {
		t.Errorf("said: %q", m.all)
	}
}

// That nothing moves because we get no processor is not the disk's doing: it is waited for.
func TestWhoIsStarvedIsWaitedFor(t *testing.T) {
	dir := t.TempDir()
	src := source(dir)
	src.Warn = t.Errorf
	s := openSource(t, machine(t, dir, 1<<30), src)
	s.export.mu.Lock()
	s.export.bound = 200 * time.Millisecond
	busy := 2 * time.Second // runs, or would
	copyWith(s, func(f *os.File, from, most int64) (int64, error) {
		for began := time.Now(); time.Since(began) < busy; {
		}
		busy = 0
		return s.spool.CopyTo(f, from, most)
	})
	s.export.mu.Unlock()
	w := writer(t, s)
	text := numberedLines(40_000)
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	w.Close()
	s.Close(false)
	if got := written(src.File); !bytes.Equal(got, text) {
		t.Errorf("the file has %d bytes of %d", len(got), len(text))
	}
}

// One that must not wait drops what its file is too slow for, and nothing else is missing there.
func TestDroppingForASlowDisk(t *testing.T) {
	dir := t.TempDir()
	m := &messages{}
	src := source(dir)
	src.Drop, src.Warn = true, m.add
	s := openSource(t, machine(t, dir, 1<<30), src)
	answers := make(chan struct{})
	s.export.mu.Lock()
	copyWith(s, func(f *os.File, from, most int64) (int64, error) {
		<-answers
		return s.spool.CopyTo(f, from, most)
	})
	s.export.mu.Unlock()
	w := writer(t, s)
	if _, err := w.Write(numberedLines(40_000)); err != nil {
		t.Fatal(err)
	}
	close(answers)
	w.Close()
	s.Close(false)
	got := written(src.File)
	if bytes.Contains(got, []byte("could not be written in time")) || !bytes.Contains(got, []byte("keelson.log is drop")) {
		t.Errorf("the file has %d bytes; said: %q", len(got), m.all)
	}
}

// Where its disk does nothing at all, what comes is kept in memory again, as with any other.
func TestDroppingForAStuckDisk(t *testing.T) {
	dir := t.TempDir()
	m := &messages{}
	src := source(dir)
	src.Drop, src.Warn = true, m.add
	s := openSource(t, machine(t, dir, 1<<30), src)
	answer := stuckDisk(t, s)
	w := writer(t, s)
	for deadline := time.Now().Add(time.Minute); ; {
		if _, err := w.Write(numberedLines(1000)); err != nil {
			t.Fatal(err)
		}
		m.mu.Lock()
		said := slices.ContainsFunc(m.all, func(line string) bool { return strings.Contains(line, "has not answered for") })
		m.mu.Unlock()
		if said {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it is dropped for ever; said: %q", m.all)
		}
	}
	answer()
	w.Close()
	s.Close(false)
}

// A file that nothing is written to is not kept open, and is found again; so whoever wants to unmount its disk can.
func TestAnIdleFileIsClosed(t *testing.T) {
	dir := t.TempDir()
	l := newLines()
	src := source(dir)
	src.OnLine, src.Warn = l.add, t.Errorf
	y := machine(t, dir, 1<<30)
	s := openSource(t, y, src)
	w := writer(t, s)
	for i := range 3 {
		fmt.Fprintln(w, i)
		l.wait(t, 1)
		s.export.flush(time.Minute)
		if i == 1 {
			y.Flush(time.Minute)
			if isOpen(src.File) {
				t.Error("it is open after a flush")
			}
		}
		for deadline := time.Now().Add(time.Minute); isOpen(src.File); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("an idle file stays open")
			}
		}
	}
	if err := os.Truncate(src.File, 2); err != nil { // somebody did, meanwhile
		t.Fatal(err)
	}
	fmt.Fprintln(w, 3)
	s.Close(false)
	if data, err := os.ReadFile(src.File); err != nil || string(data) != "0\n3\n" {
		t.Errorf("%q, %v", data, err)
	}
}

// A writer that waits for a file holds no end of a stream up, nor does it wait where there is a signal: its write is
// the kernel's, and can be interrupted.
func TestAHeldBackWriterDiesOfASignal(t *testing.T) {
	dir := t.TempDir()
	src := source(dir)
	src.Warn = t.Logf
	s := openSource(t, machine(t, dir, 1<<30), src)
	answers := make(chan struct{})
	s.export.mu.Lock()
	copyWith(s, func(f *os.File, from, most int64) (int64, error) {
		<-answers
		return s.spool.CopyTo(f, from, most)
	})
	s.export.bound = time.Hour
	s.export.mu.Unlock()
	w := writer(t, s)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Stdout = append(os.Environ(), floods+"=1"), w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	for deadline := time.Now().Add(time.Minute); !s.export.behind(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is never held back")
		}
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	state, err := cmd.Process.Wait()
	if err != nil || state.Success() {
		t.Errorf("%v, %v", state, err)
	}
	close(answers)
	s.Close(false)
}
