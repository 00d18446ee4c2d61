package spool

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// flood writes numbered lines to a stream by way of a pipe.
type flood struct {
	t    *testing.T
	st   *Stream
	r, w *os.File
	n    int
}

func newFlood(t *testing.T, st *Stream) *flood {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	if err := unix.SetNonblock(int(r.Fd()), true); err != nil {
		t.Fatal(err)
	}
	return &flood{t: t, st: st, r: r, w: w}
}

func numberedLine(n int) string { return fmt.Sprintf("line %d %s\n", n, strings.Repeat("x", n%91)) }

// fill writes so many lines to the pipe.
func (f *flood) fill(lines int) {
	var b bytes.Buffer
	for range lines {
		f.n++
		b.WriteString(numberedLine(f.n))
	}
	if _, err := f.w.Write(b.Bytes()); err != nil {
		f.t.Error(err)
	}
}

// lines writes so many, in pieces of different sizes.
func (f *flood) lines(lines int) {
	for done := 0; done < lines; {
		n := min(1+f.n%400, lines-done)
		f.fill(n)
		done += n
		for {
			if _, err := f.st.Splice(int(f.r.Fd()), SegmentBytes, false); err == unix.EAGAIN {
				break
			} else if err != nil {
				f.t.Error(err)
				return
			}
		}
	}
}

// small is the smallest ring whose segments are written over.
func small() Config {
	return Config{PerSource: reuseLeast, Total: 8 * reuseLeast, Now: (&clock{}).tick}
}

// checkNumbered asserts that lines are the last ones of those written, one after the
// other, and that the rest is counted. It returns how many there are.
func checkNumbered(t *testing.T, got []Line, written int) (kept int) {
	t.Helper()
	next, at := 1, time.Duration(0)
	for i, l := range got {
		if l.At < at {
			t.Fatalf("%+v came at %v, and the one before it at %v", l, l.At, at)
		}
		at = l.At
		if l.Gap {
			next += int(l.Dropped)
			continue
		}
		want := numberedLine(next)
		if l.Partial && strings.HasPrefix(want, string(l.Text)) && i+1 < len(got) && got[i+1].Gap {
			continue // its end is what is missing first
		}
		whole := i == 0 || !got[i-1].Gap // else its begin may be missing
		if line := string(l.Text) + "\n"; line != want && (whole || !strings.HasSuffix(want, line)) {
			t.Fatalf("got %q, want %q", line, want)
		}
		next++
		kept++
	}
	if next != written+1 {
		t.Errorf("%d lines are there or counted, of %d", next-1, written)
	}
	return kept
}

// inodes are those of a stream's segments.
func inodes(t *testing.T, st *Stream) (all []uint64) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(st.dir, "????????????????????"))
	for _, f := range files {
		var s unix.Stat_t
		if err := unix.Stat(f, &s); err != nil {
			t.Fatal(err)
		}
		all = append(all, s.Ino)
	}
	slices.Sort(all)
	return all
}

// A stream that has filled its ring writes over the files that it has, in its bounds,
// and who opens them later finds what is in them and nothing that was.
func TestASegmentIsWrittenOver(t *testing.T) {
	dir, bounds := t.TempDir(), small()
	s := openSpool(t, dir, bounds)
	st := stream(t, s, "web", "stdout")
	f := newFlood(t, st)
	f.lines(30_000)
	files := inodes(t, st)
	for range 20 {
		f.lines(4_000)
		if used := s.Used(); used > bounds.PerSource {
			t.Fatalf("it takes %d bytes", used)
		}
	}
	if now := inodes(t, st); !slices.Equal(now, files) {
		t.Errorf("the files were %d, and are %d now", files, now)
	}
	if kept := checkNumbered(t, all(st.Cursor()), f.n); kept < 4*SegmentBytes/100 {
		t.Errorf("%d lines are kept", kept)
	}
	offset, lines := st.Kept()
	used := s.Used()

	// Another process, after the death of this one.
	s = openSpool(t, dir, bounds)
	st = stream(t, s, "web", "stdout")
	checkNumbered(t, all(st.Cursor()), f.n)
	if o, l := st.Kept(); o != offset || l != lines || s.Used() != used {
		t.Errorf("kept from %d, line %d, in %d bytes; it was %d, %d, %d", o, l, s.Used(), offset, lines, used)
	}
	f.st = st
	f.lines(30_000)
	checkNumbered(t, all(st.Cursor()), f.n)
	if used := s.Used(); used > bounds.PerSource {
		t.Errorf("it takes %d bytes", used)
	}
}

// What a dying process did last is found: the kernel has noted how far the bytes came
// in the call that moved them.
func TestADeathInTheMidstOfWritingOver(t *testing.T) {
	dir, bounds := t.TempDir(), small()
	f := newFlood(t, stream(t, openSpool(t, dir, bounds), "web", "stdout"))
	f.lines(30_000)
	reopen := func() {
		t.Helper()
		f.st = stream(t, openSpool(t, dir, bounds), "web", "stdout")
		checkNumbered(t, all(f.st.Cursor()), f.n)
	}
	for range 30 {
		f.fill(10)
		st := f.st
		if st.live.oldSize == 0 || st.live.size > SegmentBytes/2 {
			f.lines(700)
			continue
		}
		// It dies in the splice.
		if n, err := unix.Splice(int(f.r.Fd()), nil, int(st.live.data.Fd()), st.progress.size(), SegmentBytes, unix.SPLICE_F_NONBLOCK); err != nil || n == 0 {
			t.Fatalf("%d, %v", n, err)
		}
		reopen()
	}
	// It dies when a segment has ended, and when the next one is to begin in the oldest one's file.
	f.st.finish()
	reopen()
	f.st.finish()
	h := f.st.next
	h.base = f.st.end
	f.st.progress.begin(h.base, 0)
	reopen()
	f.lines(30_000)
	old := f.st.segments[0]
	f.st.finish()
	h = f.st.next
	h.base = f.st.end
	f.st.progress.begin(h.base, 0)
	if _, err := old.index.WriteAt(h.encode(), 0); err != nil {
		t.Fatal(err)
	}
	reopen()
	f.lines(500)
	reopen()
	f.lines(30_000)
	reopen()
}

// Who reads while files are written over gets lines, once and in order, or a count of
// those that went before they could be read.
func TestReadersOfWhatIsWrittenOver(t *testing.T) {
	s := openSpool(t, t.TempDir(), Config{PerSource: 8 * SegmentBytes, Total: 64 * SegmentBytes})
	st := stream(t, s, "web", "stdout")
	f := newFlood(t, st)
	const lines = 100_000
	over := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		c := st.Cursor()
		readers.Go(func() {
			var got []Line
			for done := false; !done; {
				select {
				case <-over:
					done = true
				default:
				}
				got = append(got, all(c)...)
			}
			checkNumbered(t, got, lines)
		})
	}
	// The bytes that a file has yet to get stay.
	copied := filepath.Join(t.TempDir(), "copy")
	file, err := os.Create(copied)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	at := int64(0)
	st.Need(0)
	for f.n < lines {
		f.lines(1_000)
		n, err := st.CopyTo(file, at, SegmentBytes)
		if err != nil {
			t.Fatal(err)
		}
		at += n
		st.Need(at)
	}
	close(over)
	readers.Wait()
	text, err := os.ReadFile(copied)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if n++; strings.HasSuffix(line, "\n") && line != numberedLine(n) {
			t.Fatalf("line %d of the copy is %q", n, line)
		}
	}
	if int64(len(text)) != at || n < lines/2 {
		t.Errorf("the copy has %d lines, %d bytes of %d", n, len(text), at)
	}
}

// What another stream of the source has longer goes first, and what somebody needs or
// reads is not written over.
func TestWhatIsNotWrittenOver(t *testing.T) {
	s := openSpool(t, t.TempDir(), Config{PerSource: 8 * SegmentBytes, Total: 64 * SegmentBytes})
	st, sibling := stream(t, s, "web", "stdout"), stream(t, s, "web", "stderr")
	if err := sibling.Write(s.cfg.Now(), []byte("the oldest\n")); err != nil {
		t.Fatal(err)
	}
	f := newFlood(t, st)
	f.lines(60_000)
	if offset, _ := sibling.Kept(); offset == 0 {
		t.Error("the other stream's line is still there")
	}
	g, now, err := st.hold(st.segments[0].base)
	if err != nil {
		t.Fatal(err)
	}
	text := make([]byte, now.size)
	if _, err := now.data.ReadAt(text, 0); err != nil {
		t.Fatal(err)
	}
	f.lines(20_000)
	if offset, _ := st.Kept(); offset <= now.base {
		t.Error("what is read does not go")
	}
	again := make([]byte, now.size)
	if _, err := now.data.ReadAt(again, 0); err != nil || !bytes.Equal(text, again) {
		t.Errorf("what is read has changed: %v", err)
	}
	st.release(g)
	if g.data != nil {
		t.Error("it is open for ever")
	}
	checkNumbered(t, all(st.Cursor()), f.n)
}

// What is needed stays as long as the source has something else.
func TestWhatIsNeededIsNotWrittenOver(t *testing.T) {
	s := openSpool(t, t.TempDir(), Config{PerSource: 8 * SegmentBytes, Total: 64 * SegmentBytes})
	st, sibling := stream(t, s, "web", "stdout"), stream(t, s, "web", "stderr")
	ours, theirs := newFlood(t, st), newFlood(t, sibling)
	st.Need(0)
	ours.lines(4_000)
	theirs.lines(60_000) // more than there is room for
	if offset, _ := st.Kept(); offset != 0 {
		t.Errorf("the other stream has taken %d bytes", offset)
	}
	ours.lines(4_000) // what the other one has goes for it
	if offset, _ := st.Kept(); offset != 0 {
		t.Errorf("%d bytes of its own have gone", offset)
	}
	checkNumbered(t, all(st.Cursor()), ours.n)
	checkNumbered(t, all(sibling.Cursor()), theirs.n)
}

// What an earlier process has left is needed until it is said what is, or nobody has
// said it for a while.
func TestWhatIsLeftIsNeededAtFirst(t *testing.T) {
	dir := t.TempDir()
	times := &clock{}
	bounds := Config{PerSource: 8 * SegmentBytes, Total: 64 * SegmentBytes, Now: times.now}
	s := openSpool(t, dir, bounds)
	times.add(time.Second)
	newFlood(t, stream(t, s, "web", "stdout")).lines(4_000)
	times.add(time.Second)
	newFlood(t, stream(t, s, "web", "stderr")).lines(4_000)
	s = openSpool(t, dir, bounds)
	st, sibling := stream(t, s, "web", "stdout"), stream(t, s, "web", "stderr")
	sibling.Need(NeedNothing)
	f := newFlood(t, sibling)
	f.lines(60_000)
	if offset, _ := st.Kept(); offset != 0 {
		t.Errorf("%d bytes have gone that may have been needed", offset)
	}
	times.add(2 * unsaidBound)
	f.lines(60_000)
	if offset, _ := st.Kept(); offset == 0 {
		t.Error("it is there for ever")
	}
}

// A death between the removal of a segment's bytes and that of its index leaves nothing that would never go.
func TestADeathAsASegmentIsRemoved(t *testing.T) {
	dir, bounds := t.TempDir(), small()
	f := newFlood(t, stream(t, openSpool(t, dir, bounds), "web", "stdout"))
	f.lines(30_000)
	if err := os.Remove(f.st.segments[0].path(f.st.dir)); err != nil {
		t.Fatal(err)
	}
	s := openSpool(t, dir, bounds)
	f.st = stream(t, s, "web", "stdout")
	f.lines(30_000)
	checkNumbered(t, all(f.st.Cursor()), f.n)
	if used := s.Used(); used > bounds.PerSource {
		t.Errorf("it takes %d bytes", used)
	}
}

// A segment that bytes are being moved to does not go.
func TestTheLiveSegmentStays(t *testing.T) {
	s := openSpool(t, t.TempDir(), Config{})
	st := stream(t, s, "web", "stdout")
	if err := st.Write(s.cfg.Now(), []byte("a line\n")); err != nil {
		t.Fatal(err)
	}
	st.moving = true
	if st.drop(true) {
		t.Error("it has gone while it was written to")
	}
	st.moving = false
	if !st.drop(true) {
		t.Error("it does not go")
	}
}

// Files that somebody has removed are not written over, but made again.
func TestARemovedSegmentIsNotWrittenOver(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, Config{PerSource: 8 * SegmentBytes, Total: 64 * SegmentBytes})
	st := stream(t, s, "web", "stdout")
	f := newFlood(t, st)
	f.lines(30_000)
	if err := os.RemoveAll(st.dir); err != nil {
		t.Fatal(err)
	}
	f.lines(60_000)
	if kept := checkNumbered(t, all(st.Cursor()), f.n); kept < 4*SegmentBytes/100 {
		t.Errorf("%d lines are kept", kept)
	}
}

// An idle stream gives back what its last segment's files have behind what is written.
func TestSlackIsGivenBack(t *testing.T) {
	times := &clock{}
	s := openSpool(t, t.TempDir(), Config{PerSource: 8 * SegmentBytes, Total: 64 * SegmentBytes, Now: times.tick})
	st := stream(t, s, "web", "stdout")
	f := newFlood(t, st)
	f.lines(30_000)
	for st.live.size > SegmentBytes/2 {
		f.lines(100)
	}
	if !s.anyWarm() {
		t.Error("there is nothing to do")
	}
	times.add(time.Minute)
	s.coolAll()
	if s.anyWarm() || st.live.memory > pages(st.live.size)+pages(headerBytes+(st.live.entries+1)*entryBytes) {
		t.Errorf("the last segment of %d bytes takes %d", st.live.size, st.live.memory)
	}
	for _, g := range st.segments {
		if g != st.live && (g.data != nil || g.mapped != nil) {
			t.Error("a cold segment is open")
		}
	}
	f.lines(30_000)
	checkNumbered(t, all(st.Cursor()), f.n)
}
