package capture

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keelson/services/spool"
)

// captureDir makes the test binary a process that captures in a folder until it is killed, with a ring of so many bytes.
const (
	captureDir  = "KEELSON_CAPTURE_DIR"
	captureRing = "KEELSON_CAPTURE_RING"
)

func captureForEver(dir string) {
	now := func() time.Duration {
		var ts unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
		return time.Duration(ts.Nano())
	}
	warn := func(format string, a ...any) { fmt.Fprintf(os.Stderr, format+"\n", a...) }
	ring, err := strconv.ParseInt(os.Getenv(captureRing), 10, 64)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	sp, err := spool.Open(spool.Config{Dir: filepath.Join(dir, "spool"), PerSource: ring, Total: 1 << 30, Now: now, Warn: warn})
	if err == nil {
		_, err = New(Config{Spool: sp, Now: now, Memory: 1 << 30}).OpenOutput(OutputConfig{
			Source: "web", Pipes: filepath.Join(dir, "io"), Base: filepath.Join(dir, "log", "web"), Warn: warn})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("reading")
	select {}
}

// Whoever captures is killed a hundred times while a hundred thousand lines are written to each pipe: each is in its
// file and in the spool, once and in order: in one that holds them all, and as far as it holds them in one whose
// segments are written over.
func TestKilledAHundredTimes(t *testing.T) {
	for _, ring := range []int64{1 << 30, 1 << 20} {
		t.Run(fmt.Sprintf("%d KiB", ring>>10), func(t *testing.T) { testKilled(t, ring) })
	}
}

func testKilled(t *testing.T, ring int64) {
	const kills, lines = 100, 100_000
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "io"), 0o700); err != nil {
		t.Fatal(err)
	}
	gates := map[string]chan int{}
	ended := make(chan error, 2)
	for _, stream := range []string{"stdout", "stderr"} {
		fd := heldPipe(t, filepath.Join(dir, "io"), stream)
		gate := make(chan int, kills)
		gates[stream] = gate
		go func() {
			defer unix.Close(fd)
			n := 0
			for range gate {
				var b bytes.Buffer
				for range lines / kills {
					n++
					fmt.Fprintf(&b, "%d %s %s\n", n, stream, strings.Repeat("x", n%97))
				}
				for p := b.Bytes(); len(p) > 0; {
					done, err := unix.Write(fd, p[:min(len(p), 1+n%5000)])
					if err != nil {
						ended <- err
						return
					}
					p = p[done:]
				}
			}
			ended <- nil
			<-t.Context().Done()
		}()
	}
	for k := range kills {
		cmd := startCapture(t, dir, ring)
		for _, gate := range gates {
			gate <- k
		}
		// Killed in the midst of it, at another point each time.
		base := filepath.Join(dir, "spool", "_web", "stdout")
		want := k * 500 * 97 / 10 % 30000
		for began := time.Now(); size(base) < int64(want) && time.Since(began) < 100*time.Millisecond; {
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	for _, gate := range gates {
		close(gate)
	}
	last := startCapture(t, dir, ring)
	for range gates {
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	for stream, name := range map[string]string{"stdout": "web.out.log", "stderr": "web.log"} {
		path := filepath.Join(dir, "log", name)
		var text []byte
		for deadline := time.Now().Add(time.Minute); ; {
			text = written(path)
			if bytes.Contains(text, fmt.Appendf(nil, "\n%d %s", lines, stream)) && bytes.HasSuffix(text, []byte("\n")) || time.Now().After(deadline) {
				break
			}
		}
		n := 0
		for line := range bytes.Lines(text) {
			n++
			if want := fmt.Sprintf("%d %s %s\n", n, stream, strings.Repeat("x", n%97)); string(line) != want {
				t.Fatalf("line %d of %s is %q, want %q", n, name, line, want)
			}
		}
		if n != lines {
			t.Errorf("%s has %d lines", name, n)
		}
	}
	_ = last.Process.Kill()
	_ = last.Wait()
	sp, err := spool.Open(spool.Config{Dir: filepath.Join(dir, "spool"), PerSource: ring, Total: 1 << 30, Now: func() time.Duration { return 0 }, Warn: t.Errorf})
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	all := 0
	for _, stream := range []string{"stdout", "stderr"} {
		st, err := sp.Stream("web", stream)
		if err != nil {
			t.Fatal(err)
		}
		n, kept, at, first := 0, 0, time.Duration(0), false // the first line there is may lack its begin
		for c := st.Cursor(); ; {
			l, ok := c.Next()
			if !ok {
				break
			}
			if first = first || l.Gap; l.Gap && n == 0 && ring < 1<<30 {
				n = int(l.Dropped)
				continue
			}
			n++
			want := fmt.Sprintf("%d %s %s", n, stream, strings.Repeat("x", n%97))
			if cut := first && strings.HasSuffix(want, string(l.Text)); string(l.Text) != want && !cut || l.Gap || l.At < at {
				t.Fatalf("line %d of %s in the spool is %+v %q, want %q", n, stream, l, l.Text, want)
			}
			at, first, kept = l.At, false, kept+1
		}
		if n != lines {
			t.Errorf("the spool has or counts %d lines of %s", n, stream)
		}
		if all += kept; ring < 1<<30 && kept == lines {
			t.Errorf("the spool has all lines of %s", stream)
		}
	}
	if all < lines/20 {
		t.Errorf("the spool has %d lines", all)
	}
}

// startCapture starts a process that captures what is written in a folder.
func startCapture(t *testing.T, dir string, ring int64) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), captureDir+"="+dir, fmt.Sprintf("%s=%d", captureRing, ring))
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

// heldPipe makes a FIFO in a folder and opens both of its ends, as the shim has it.
func heldPipe(t *testing.T, dir, name string) (fd int) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// size is what the files of a folder hold.
func size(dir string) (sum int64) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if fi, err := e.Info(); err == nil {
			sum += fi.Size()
		}
	}
	return sum
}
