package capture

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keelson/services/spool"
)

// inMemory makes a folder on a file system in memory.
func inMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "keelson-capture-")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil || fs.Type != unix.TMPFS_MAGIC {
		t.Skip("/dev/shm is no tmpfs")
	}
	return dir
}

// numberOf checks that a text is lines of numberedLines without a gap, the last of which may not be whole, and returns
// the numbers of the first and of the last whole one. The first may lack its beginning.
func numberOf(t *testing.T, text []byte) (first, last int) {
	t.Helper()
	cut := bytes.IndexByte(text, '\n') + 1
	if cut == lineBytes {
		cut = 0
	}
	first, err := strconv.Atoi(string(text[cut : cut+lineBytes-1]))
	if err != nil {
		t.Fatal(err)
	}
	n := first
	for at := cut; at < len(text); n++ {
		want := fmt.Appendf(nil, "%0*d\n", lineBytes-1, n)
		if got := text[at:min(at+lineBytes, len(text))]; !bytes.HasPrefix(want, got) {
			t.Fatalf("%q follows line %d, want %q", got, n-1, want)
		}
		at += lineBytes
	}
	return first, n - 1 - min(1, (len(text)-cut)%lineBytes)
}

const lineBytes = 100 // of numberedLines

// A stream that is written fast is written to its file by whoever moves it, in files of the right size, whatever others
// do with them meanwhile.
func TestAFastStreamIsWrittenAtOnce(t *testing.T) {
	dir := inMemory(t)
	y := machine(t, dir, 1<<30)
	o, err := y.OpenOutput(OutputConfig{Source: "web", Pipes: filepath.Join(dir, "io"), Base: filepath.Join(dir, "log", "web"), Warn: t.Errorf})
	if err != nil {
		t.Fatal(err)
	}
	s := o.stdout
	var there atomic.Int64
	s.export.mu.Lock()
	appendTo := s.export.appendTo
	s.export.appendTo = func(f *os.File, from, most int64) int64 {
		n := appendTo(f, from, most)
		there.Add(n)
		return n
	}
	s.export.mu.Unlock()
	w := writer(t, s)
	defer w.Close()
	const all = 240_000
	text := numberedLines(all)
	path := filepath.Join(dir, "log", "web.out.log")
	for i, part := range [][]byte{text[:6_000_000], text[6_000_000:12_000_000], text[12_000_000:]} {
		switch i {
		case 1:
			if err := os.Rename(path, filepath.Join(dir, "moved")); err != nil {
				t.Fatal(err)
			}
		case 2:
			if err := os.Remove(numbered(path, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	o.Close(false)
	if n := there.Load(); n < int64(len(text))/4 {
		t.Errorf("%d bytes of %d were written by whoever moved them", n, len(text))
	}
	first, last := numberOf(t, written(path))
	if last != all-1 || first > all-9*rotateBytes/lineBytes {
		t.Errorf("the files have lines %d to %d", first, last)
	}
	for i := 1; i < rotateKeep; i++ {
		if fi, err := os.Stat(numbered(path, i)); err != nil || fi.Size() != rotateBytes {
			t.Errorf("%v, %v: want a file of %d bytes", fi, err, rotateBytes)
		}
	}
	if _, err := os.Stat(numbered(path, rotateKeep)); err == nil {
		t.Errorf("there are more than %d files", rotateKeep)
	}
}

// Whoever captures is killed while a stream is written as fast as it is taken: file and ring have each byte, once and in order.
func TestKilledWhileItIsFast(t *testing.T) {
	const kills = 40
	const each = 5 << 20 // bytes between two of them; less than the files hold
	dir := inMemory(t)
	if err := os.Mkdir(filepath.Join(dir, "io"), 0o700); err != nil {
		t.Fatal(err)
	}
	fd := heldPipe(t, filepath.Join(dir, "io"), "stdout")
	var wrote atomic.Int64
	more := make(chan bool, each/(64<<10)) // a token for each write
	ended := make(chan error, 1)
	const lines = kills * each / lineBytes
	go func() {
		defer unix.Close(fd)
		var b bytes.Buffer
		for n := range lines {
			fmt.Fprintf(&b, "%0*d\n", lineBytes-1, n)
			for b.Len() >= 64<<10 || b.Len() > 0 && n == lines-1 {
				<-more
				for piece := b.Next(64 << 10); len(piece) > 0; {
					done, err := unix.Write(fd, piece) // which may be a part, where Go sends its thread a signal
					if err != nil {
						ended <- err
						return
					}
					wrote.Add(int64(done))
					piece = piece[done:]
				}
			}
		}
		ended <- nil
		<-t.Context().Done()
	}()
	path := filepath.Join(dir, "log", "web.out.log")
	seen := -1 // the last line that was found in the file
	for k := range kills {
		cmd := startCapture(t, dir, spool.DefaultPerSource)
		for range cap(more) {
			more <- true
		}
		want := int64(k*each + each/2 + k*7919*lineBytes%(each/2-1<<20))
		for deadline := time.Now().Add(time.Minute); wrote.Load() < want && time.Now().Before(deadline); {
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if first, last := numberOf(t, written(path)); last < seen || first > seen+1 {
			t.Fatalf("after %d deaths the file has lines %d to %d, and had %d", k+1, first, last, seen)
		} else {
			seen = last
		}
	}
	close(more)
	cmd := startCapture(t, dir, spool.DefaultPerSource)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	end := fmt.Appendf(nil, "%0*d\n", lineBytes-1, lines-1)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if data, err := os.ReadFile(path); err == nil && bytes.HasSuffix(data, end) {
			break
		}
	}
	if first, last := numberOf(t, written(path)); first > seen+1 || last != lines-1 {
		t.Errorf("the file has lines %d to %d in the end, and had %d; want %d", first, last, seen, lines-1)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	sp, err := spool.Open(spool.Config{Dir: filepath.Join(dir, "spool"), Now: func() time.Duration { return 0 }, Warn: t.Errorf})
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	st, err := sp.Stream("web", "stdout")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for c := st.Cursor(); ; n++ {
		l, ok := c.Next()
		if !ok {
			break
		}
		if l.Gap {
			n += int(l.Dropped) - 1
			continue
		}
		if want := fmt.Sprintf("%0*d", lineBytes-1, n); n > 0 && string(l.Text) != want && !bytes.HasSuffix([]byte(want), l.Text) {
			t.Fatalf("%q in the ring, want %q", l.Text, want)
		}
	}
	if n != lines {
		t.Errorf("the ring has or counts %d lines, want %d", n, lines)
	}
}

// fastOutput is an output whose ring has been written over, so that what comes is to be had in memory, and its stdout.
func fastOutput(t *testing.T, y *System, dir, name string) *Stream {
	t.Helper()
	o, err := y.OpenOutput(OutputConfig{Source: name, Pipes: filepath.Join(dir, "io-"+name), Base: filepath.Join(dir, "log", name), Warn: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close(false) })
	for range 30 {
		bring(t, o.stdout, 100_000)
	}
	return o.stdout
}

// bring writes to a stream's ring, and to its file by copyAll.
func bring(t *testing.T, s *Stream, n int) {
	t.Helper()
	if err := s.spool.Write(s.sys.cfg.Now(), make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	s.export.flush(time.Minute)
	settle(t, s.export)
}

// settle waits until nobody copies to a file, nor will.
func settle(t *testing.T, e *exporter) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		e.mu.Lock()
		busy := e.busy || e.armed
		e.mu.Unlock()
		if !busy {
			return
		}
		if time.Now().After(end) {
			t.Fatal("there is no end to it")
		}
	}
}

// brings is what a fast stream does: n bytes come, and are written by whoever has moved them.
func brings(t *testing.T, s *Stream, n int64) {
	t.Helper()
	e := s.export
	if err := s.spool.Write(s.sys.cfg.Now(), make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	e.mu.Lock()
	e.looked = s.sys.cfg.Now() // it is not time to look again
	e.mu.Unlock()
	e.direct()
	e.leave()
	settle(t, e)
}

func TestAFileThatSomebodyMakesTooLarge(t *testing.T) {
	dir := inMemory(t)
	s := fastOutput(t, machine(t, dir, 1<<30), dir, "web")
	e := s.export
	if err := os.Truncate(e.path, 3<<20); err != nil {
		t.Fatal(err)
	}
	e.mu.Lock()
	e.here = true // it is looked at while somebody moves
	e.mu.Unlock()
	if err := s.spool.Write(s.sys.cfg.Now(), make([]byte, 70_000)); err != nil {
		t.Fatal(err)
	}
	e.kick()
	settle(t, e)
	appendTo := e.appendTo
	e.appendTo = func(f *os.File, from, most int64) int64 {
		if most <= 0 {
			t.Errorf("%d bytes are to be written", most)
		}
		return appendTo(f, from, most)
	}
	brings(t, s, 70_000)
	if old, err := os.Stat(numbered(e.path, 1)); err != nil || old.Size() != 3<<20 {
		t.Errorf("the large one was not moved aside: %v, %v", old, err)
	}
	if now, err := os.Stat(e.path); err != nil || now.Size() != 140_000 {
		t.Errorf("the file: %v, %v", now, err)
	}
}

func TestAFileThatSomebodyMovesAwayIsNotMovedAside(t *testing.T) {
	dir := inMemory(t)
	s := fastOutput(t, machine(t, dir, 1<<30), dir, "web")
	e := s.export
	for e.size <= e.limit-130_000 {
		bring(t, s, 60_000)
	}
	before, err := os.Stat(numbered(e.path, 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(e.path, e.path+"-moved"); err != nil {
		t.Fatal(err)
	}
	brings(t, s, 130_000)
	e.flush(time.Minute)
	settle(t, e)
	if after, err := os.Stat(numbered(e.path, 1)); err != nil || !os.SameFile(before, after) {
		t.Errorf("the newest old file is another one: %v, %v", after, err)
	}
	moved, err := os.Stat(e.path + "-moved")
	if err != nil {
		t.Fatal(err)
	}
	if now, err := os.Stat(e.path); err != nil || moved.Size() != e.limit || now.Size() == 0 {
		t.Errorf("moved away with %d bytes of %d; now %v, %v", moved.Size(), e.limit, now, err)
	}
}

// Others' old files go although nothing more comes from the stream that needs their room.
func TestRoomIsMadeAfterTheLastPiece(t *testing.T) {
	dir := inMemory(t)
	y := machine(t, dir, 16<<20)
	total := func() (n int64) {
		y.mu.Lock()
		defer y.mu.Unlock()
		for _, h := range y.held {
			n += h.total()
		}
		return n
	}
	web, db := fastOutput(t, y, dir, "web"), fastOutput(t, y, dir, "db")
	for range 160 {
		bring(t, web, 64<<10)
	}
	e := db.export
	for range 200 {
		if total()+e.limit > y.cfg.Memory {
			break
		}
		bring(t, db, 64<<10)
	}
	for e.limit-e.size > 64<<10 {
		bring(t, db, 60<<10)
	}
	brings(t, db, e.limit-e.size)
	if total() > y.cfg.Memory {
		t.Errorf("all files together have %d bytes of %d", total(), y.cfg.Memory)
	}
}
