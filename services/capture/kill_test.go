package capture

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keelson/services/spool"
)

// captureDir makes the test binary a process that captures in a folder until it is killed.
const captureDir = "KEELSON_CAPTURE_DIR"

func captureForEver(dir string) {
	now := func() time.Duration {
		var ts unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
		return time.Duration(ts.Nano())
	}
	warn := func(format string, a ...any) { fmt.Fprintf(os.Stderr, format+"\n", a...) }
	sp, err := spool.Open(spool.Config{Dir: filepath.Join(dir, "spool"), PerSource: 1 << 30, Total: 1 << 30, Now: now, Warn: warn})
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
// file and in the spool, once and in order.
func TestKilledAHundredTimes(t *testing.T) {
	const kills, lines = 100, 100_000
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "io"), 0o700); err != nil {
		t.Fatal(err)
	}
	gates := map[string]chan int{}
	ended := make(chan error, 2)
	for _, stream := range []string{"stdout", "stderr"} {
		path := filepath.Join(dir, "io", stream)
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0) // both ends, as the shim has it
		if err != nil {
			t.Fatal(err)
		}
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
	start := func() *exec.Cmd {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), captureDir+"="+dir)
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
	for k := range kills {
		cmd := start()
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
	last := start()
	for range gates {
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	for stream, name := range map[string]string{"stdout": "web.out.log", "stderr": "web.log"} {
		path := filepath.Join(dir, "log", name)
		var text []byte
		for deadline := time.Now().Add(time.Minute); ; {
			text = nil
			for i := 9; i >= 1; i-- {
				data, _ := os.ReadFile(numbered(path, i))
				text = append(text, data...)
			}
			data, _ := os.ReadFile(path)
			text = append(text, data...)
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
	sp, err := spool.Open(spool.Config{Dir: filepath.Join(dir, "spool"), PerSource: 1 << 30, Total: 1 << 30, Now: func() time.Duration { return 0 }, Warn: t.Errorf})
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	for _, stream := range []string{"stdout", "stderr"} {
		st, err := sp.Stream("web", stream)
		if err != nil {
			t.Fatal(err)
		}
		n, at := 0, time.Duration(0)
		for c := st.Cursor(); ; {
			l, ok := c.Next()
			if !ok {
				break
			}
			n++
			if want := fmt.Sprintf("%d %s %s", n, stream, strings.Repeat("x", n%97)); string(l.Text) != want || l.Gap || l.At < at {
				t.Fatalf("line %d of %s in the spool is %+v %q, want %q", n, stream, l, l.Text, want)
			}
			at = l.At
		}
		if n != lines {
			t.Errorf("the spool has %d lines of %s", n, stream)
		}
	}
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
