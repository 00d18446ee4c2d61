package spool

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// clock is a time that a test moves.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Duration  { return time.Duration(c.at.Load()) }
func (c *clock) add(d time.Duration) { c.at.Add(int64(d)) }
func (c *clock) tick() time.Duration { c.add(10 * time.Millisecond); return c.now() }

func openSpool(t *testing.T, dir string, cfg Config) *Spool {
	t.Helper()
	cfg.Dir = dir
	if cfg.Now == nil {
		cfg.Now = (&clock{}).tick
	}
	cfg.Warn = t.Errorf
	cfg.After = func(time.Duration) <-chan time.Time { return nil } // a test compresses when it wants to
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func stream(t *testing.T, s *Spool, source, name string) *Stream {
	t.Helper()
	st, err := s.Stream(source, name)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func all(c *Cursor) (lines []Line) {
	for {
		l, ok := c.Next()
		if !ok {
			return lines
		}
		lines = append(lines, l)
	}
}

// rebuild puts lines together as they were written.
func rebuild(lines []Line) []byte {
	var b bytes.Buffer
	for _, l := range lines {
		b.Write(l.Text)
		if !l.Continued && !l.Partial && !l.Gap {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func TestLinesAndTheirTimes(t *testing.T) {
	ticks := &clock{}
	s := openSpool(t, t.TempDir(), Config{Now: ticks.now})
	st := stream(t, s, "web", "stdout")
	for _, p := range []string{"one\ntw", "o\n\n\x00\xff\r\n", "last"} {
		if err := st.Write(ticks.tick(), []byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	c := st.Cursor()
	var texts, times []string
	for _, l := range all(c) {
		texts, times = append(texts, string(l.Text)), append(times, l.At.String())
	}
	if g := fmt.Sprintf("%q %q", texts, times); g != `["one" "two" "" "\x00\xff\r"] ["10ms" "20ms" "20ms" "20ms"]` {
		t.Errorf("got %s", g)
	}
	if l, ok := c.Rest(); !ok || string(l.Text) != "last" || !l.Partial {
		t.Errorf("under way: %+v", l)
	}
	if err := st.Cut(); err != nil {
		t.Fatal(err)
	}
	if l, ok := c.Next(); !ok || string(l.Text) != "last" || !l.Partial {
		t.Errorf("cut off: %+v, %v", l, ok)
	}
	if err := st.Write(s.cfg.Now(), []byte("next\n")); err != nil {
		t.Fatal(err)
	}
	if l, ok := c.Next(); !ok || string(l.Text) != "next" || l.Partial {
		t.Errorf("the next one's: %+v, %v", l, ok)
	}
}

// What was written comes back as it was, wherever it was cut, whatever was
// compressed, and however often the process died in between.
func FuzzLines(f *testing.F) {
	f.Add([]byte("one\ntwo\n\nthree"), uint64(1))
	f.Add(bytes.Repeat([]byte("x"), MaxLine), uint64(2))
	f.Add(append(bytes.Repeat([]byte("x"), MaxLine), '\n', 'y', '\n'), uint64(3))
	f.Add(bytes.Repeat([]byte{0, 255, '\n', '\r'}, 4096), uint64(4))
	f.Fuzz(func(t *testing.T, text []byte, seed uint64) { checkLines(t, text, seed) })
}

func checkLines(t *testing.T, text []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	times := &clock{}
	cfg := Config{Now: times.now, PerSource: 1 << 40, Total: 1 << 40}
	s := openSpool(t, dir, cfg)
	st := stream(t, s, "web", "stdout")
	follower, rest := st.Cursor(), text
	var followed []Line
	restarts := 0
	for len(rest) > 0 {
		n := 1 + r.IntN(min(len(rest), 1<<r.IntN(18)))
		at := times.tick()
		if err := st.Write(at, rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
		switch r.IntN(6) {
		case 0:
			followed = append(followed, all(follower)...)
		case 1:
			if restarts++; restarts > 20 {
				continue
			}
			followed = append(followed, all(follower)...)
			under := len(followed)
			s.Close()
			s = openSpool(t, dir, cfg)
			st = stream(t, s, "web", "stdout")
			// A new follower finds the same lines.
			follower = st.Cursor()
			if again := all(follower); !bytes.Equal(rebuild(again), rebuild(followed[:under])) {
				t.Fatalf("after a restart %d lines are others", under)
			} else {
				followed = again
			}
		case 2:
			times.add(time.Minute)
			s.coolAll()
		}
	}
	if err := st.Cut(); err != nil {
		t.Fatal(err)
	}
	followed = append(followed, all(follower)...)
	for who, lines := range map[string][]Line{"follower": followed, "reader": all(st.Cursor())} {
		if got := rebuild(lines); !bytes.Equal(got, text) {
			t.Fatalf("%s: %d bytes are not the %d that were written", who, len(got), len(text))
		}
		at := time.Duration(0)
		for i, l := range lines {
			if len(l.Text) > MaxLine || l.Gap {
				t.Fatalf("%s: line %d has %d bytes, gap %v", who, i, len(l.Text), l.Gap)
			}
			if l.Continued && len(l.Text) != MaxLine {
				t.Fatalf("%s: line %d goes on after %d bytes", who, i, len(l.Text))
			}
			if bytes.IndexByte(l.Text, '\n') >= 0 || l.Partial && i < len(lines)-1 {
				t.Fatalf("%s: line %d is not one: %+v", who, i, l)
			}
			if l.At < at {
				t.Fatalf("%s: line %d goes back in time", who, i)
			}
			at = l.At
		}
	}
	var copied bytes.Buffer
	out, err := os.Create(filepath.Join(dir, "copy"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for off := int64(0); off < st.End(); {
		n, err := st.CopyTo(out, off, 1<<30)
		if err != nil || n == 0 {
			t.Fatalf("copied %d: %v", n, err)
		}
		off += n
	}
	data, _ := os.ReadFile(out.Name())
	copied.Write(data)
	if !bytes.Equal(copied.Bytes(), text) {
		t.Fatalf("the copy has %d bytes that are not the %d", copied.Len(), len(text))
	}
}

func TestLinesOverManySegments(t *testing.T) {
	var b bytes.Buffer
	r := rand.New(rand.NewPCG(7, 7))
	for b.Len() < 3*SegmentBytes {
		b.Write(bytes.Repeat([]byte{byte(r.IntN(256))}, r.IntN(1<<r.IntN(16))))
		b.WriteByte('\n')
	}
	for seed := range uint64(20) {
		checkLines(t, b.Bytes(), seed)
	}
}

func TestBoundsAndCounts(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, Config{PerSource: 4 * SegmentBytes, Total: 6 * SegmentBytes})
	a, b := stream(t, s, "a", "stdout"), stream(t, s, "b", "stderr")
	line := func(i int) []byte { return fmt.Appendf(nil, "line %d %s\n", i, strings.Repeat("x", 100)) }
	written := 0
	slow := a.Cursor()
	for i := range 20000 {
		p := line(i)
		written += len(p)
		if err := a.Write(s.cfg.Now(), p); err != nil {
			t.Fatal(err)
		}
		if i == 10 {
			slow.Next()
		}
		if used := s.Used(); used > 5*SegmentBytes+4*pageBytes {
			t.Fatalf("after %d lines it takes %d bytes", i, used)
		}
	}
	check := func(c *Cursor, first int) {
		t.Helper()
		got := all(c)
		for !got[0].Gap { // read ahead
			got, first = got[1:], first+1
		}
		gap := got[0]
		n := len(got) - 1
		if int(gap.Dropped)+n+first != 20000 {
			t.Errorf("%d lines are missing, %d are there, %d were read", gap.Dropped, n, first)
		}
		if want := string(line(20000 - n)); string(got[1].Text)+"\n" != want {
			t.Errorf("the first line there is %q, want %q", got[1].Text, want)
		}
	}
	check(a.Cursor(), 0)
	check(slow, 1)
	offset, _ := a.Kept()
	if all(a.Cursor())[0].DroppedBytes != offset {
		t.Error("the missing bytes are not counted")
	}

	// The oldest of all goes where the total is reached.
	for i := range 20000 {
		if err := b.Write(s.cfg.Now(), line(i)); err != nil {
			t.Fatal(err)
		}
		if used := s.Used(); used > 7*SegmentBytes {
			t.Fatalf("after %d lines it takes %d bytes", i, used)
		}
	}
	if n := len(all(a.Cursor())); n > 3000 {
		t.Errorf("a has kept %d lines", n)
	}
	size := int64(0)
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if fi, err := d.Info(); err == nil && !d.IsDir() {
			size += pages(fi.Size())
		}
		return nil
	})
	if size != s.Used() {
		t.Errorf("it says that it takes %d, and takes %d", s.Used(), size)
	}
	s.Close()
	again := openSpool(t, dir, Config{PerSource: 4 * SegmentBytes, Total: 6 * SegmentBytes})
	if again.Used() != size {
		t.Errorf("opened again it says %d, was %d", again.Used(), size)
	}
}

func TestWhatIsDroppedIsNoted(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, Config{})
	st := stream(t, s, "web", "stdout")
	for _, do := range []func() error{
		func() error { return st.Write(s.cfg.Now(), []byte("before\nhalf")) },
		func() error { return st.Lost(1234, 0, "too fast") },
		func() error { return st.Lost(5, 2, "too fast") },
		func() error { return st.Write(s.cfg.Now(), []byte("a line\n")) },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	got := all(st.Cursor())
	if len(got) != 5 || string(got[1].Text) != "half" || !got[1].Partial || !got[2].Gap || got[2].DroppedBytes != 1234 || got[3].Dropped != 2 || string(got[4].Text) != "a line" {
		t.Errorf("got %+v", got)
	}
	if text := st.Tail(0, 1<<20); string(text) != "before\nhalf\n[keelson: 1234 bytes are missing here: too fast]\n[keelson: 5 bytes are missing here: too fast]\na line\n" {
		t.Errorf("in words: %q", text)
	}
}

func TestRecords(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, Config{})
	st := stream(t, s, "kernel", Kernel)
	for i, text := range []string{"one", "two\nlines", "", "four"} {
		if err := st.Record(time.Duration(i), int8(i), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := st.live.data.WriteAt([]byte("half a rec"), st.segments[0].size); err != nil { // and died
		t.Fatal(err)
	}
	s.Close()
	s = openSpool(t, dir, Config{})
	st = stream(t, s, "kernel", Kernel)
	if err := st.Record(9, 7, []byte("five")); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range all(st.Cursor()) {
		got = append(got, fmt.Sprintf("%d %d %s", l.At, l.Prio, l.Text))
	}
	if g := fmt.Sprintf("%q", got); g != `["0 0 one" "1 1 two\nlines" "2 2 " "3 3 four" "9 7 five"]` {
		t.Errorf("got %s", g)
	}
}

func TestSpliceTakesAllOfAPipe(t *testing.T) {
	s := openSpool(t, t.TempDir(), Config{})
	st := stream(t, s, "web", "stdout")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := unix.SetNonblock(int(r.Fd()), true); err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	for i := range 20000 {
		p := fmt.Sprintf("line %d\n", i)
		want.WriteString(p)
		if _, err := w.WriteString(p); err != nil {
			t.Fatal(err)
		}
		if i%500 == 499 {
			for {
				if _, err := st.Splice(int(r.Fd()), 64<<10, false); err == unix.EAGAIN {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if got := rebuild(all(st.Cursor())); !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%d bytes of %d", len(got), want.Len())
	}
}

func TestAColdSegmentTakesLess(t *testing.T) {
	dir := t.TempDir()
	times := &clock{}
	s := openSpool(t, dir, Config{Now: times.now, PerSource: 1 << 30, Total: 1 << 30})
	st := stream(t, s, "web", "stdout")
	for i := range 10000 {
		if err := st.Write(times.tick(), fmt.Appendf(nil, "GET /index.html 200 %d ms\n", i)); err != nil {
			t.Fatal(err)
		}
	}
	before := s.Used()
	c := st.Cursor()
	c.Next() // it stands in what will be cold
	times.add(time.Minute)
	s.coolAll()
	if s.Used() > before/2 {
		t.Errorf("%d bytes of %d", s.Used(), before)
	}
	if n := len(all(c)); n != 9999 {
		t.Errorf("a cursor found %d lines more", n)
	}
	// The death of the compressor at its worst moments.
	path := st.segments[0].path(st.dir)
	if err := os.WriteFile(path+".i", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".z.new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = openSpool(t, dir, Config{Now: times.now, PerSource: 1 << 30, Total: 1 << 30})
	if n := len(all(stream(t, s, "web", "stdout").Cursor())); n != 10000 {
		t.Errorf("opened again there are %d lines", n)
	}
}

// A compressed segment that cannot be read is of no use, but what it was made of may still be there.
func TestABadColdSegmentBesideWhatItWasMadeOf(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{PerSource: 1 << 30, Total: 1 << 30}
	s := openSpool(t, dir, cfg)
	st := stream(t, s, "web", "stdout")
	for i := range 10000 {
		if err := st.Write(s.cfg.Now(), fmt.Appendf(nil, "GET /index.html 200 %d ms\n", i)); err != nil {
			t.Fatal(err)
		}
	}
	path, used := st.segments[0].path(st.dir), s.Used()
	s.Close()
	for _, bad := range []string{"", "bad", string(make([]byte, 100))} {
		if err := os.WriteFile(path+".z", []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		s = openSpool(t, dir, cfg)
		if n := len(all(stream(t, s, "web", "stdout").Cursor())); n != 10000 {
			t.Errorf("beside %.10q there are %d lines", bad, n)
		}
		if _, err := os.Stat(path + ".z"); !os.IsNotExist(err) || s.Used() != used {
			t.Errorf("%.10q is kept: %v; it takes %d bytes, was %d", bad, err, s.Used(), used)
		}
		s.Close()
	}
}

func TestNamesAreFoundAgain(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, Config{})
	for _, name := range []string{"web", "..", ".", "a/b", "ä%2f", "_x"} {
		if err := stream(t, s, name, "stdout").Write(1, []byte(name+"\n")); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	s = openSpool(t, dir, Config{})
	if n := len(s.Streams()); n != 6 {
		t.Errorf("%d streams", n)
	}
	for _, st := range s.Streams() {
		if l, ok := st.Cursor().Next(); !ok || string(l.Text) != st.Source() {
			t.Errorf("%q has %q", st.Source(), l.Text)
		}
	}
	if _, err := s.Stream(strings.Repeat("x", 500), "stdout"); err == nil {
		t.Error("a name that no folder can have")
	}
}
