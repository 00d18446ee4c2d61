package capture

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
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
	fifo := filepath.Join(dir, "io", "stdout")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(fifo, unix.O_RDWR|unix.O_CLOEXEC, 0) // both ends, as the shim has it
	if err != nil {
		t.Fatal(err)
	}
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
	start := func() *exec.Cmd {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), captureDir+"="+dir, fmt.Sprintf("%s=%d", captureRing, spool.DefaultPerSource))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "reading\n" {
			t.Fatalf("%q, %v", line, err)
		}
		return cmd
	}
	seen := -1 // the last line that was found in the file
	for k := range kills {
		cmd := start()
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
	cmd := start()
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
