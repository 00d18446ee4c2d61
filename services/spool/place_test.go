package spool

import (
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// written is how much of a stream a line is.
func written(l Line, records bool) (lines, bytes int64) {
	switch {
	case l.Gap:
		return l.Dropped, l.DroppedBytes
	case l.Continued || l.Partial:
		return 0, int64(len(l.Text))
	case records:
		return 1, int64(len(l.Text))
	}
	return 1, int64(len(l.Text)) + 1
}

// places writes whatever there is to be written, and keeps all lines in the order in which they came, as somebody has
// read them who lost none.
type places struct {
	t      *testing.T
	r      *rand.Rand
	dir    string
	cfg    Config
	times  *clock
	name   string
	s      *Spool
	st     *Stream
	reader *Cursor
	all    []Line
}

func newPlaces(t *testing.T, seed uint64, name string, cfg Config) *places {
	p := &places{t: t, r: rand.New(rand.NewPCG(seed, 0)), dir: t.TempDir(), times: &clock{}, name: name, cfg: cfg}
	p.cfg.Now = p.times.tick
	p.open()
	return p
}

// open opens the stream, where the reader is as far as it was.
func (p *places) open() {
	p.s = openSpool(p.t, p.dir, p.cfg)
	p.st = stream(p.t, p.s, "web", p.name)
	at := Place{}
	if len(p.all) > 0 {
		at = p.all[len(p.all)-1].End
	}
	p.reader = p.st.CursorAt(at)
}

func (p *places) text(most int) []byte {
	text := make([]byte, p.r.IntN(1<<p.r.IntN(most)))
	for i := range text {
		text[i] = byte('a' + p.r.IntN(26))
	}
	return text
}

// step does one of the things that can happen to a stream, and reads what came of it.
func (p *places) step() {
	p.t.Helper()
	var err error
	switch n := p.r.IntN(100); {
	case n < 3:
		err = p.st.Lost(int64(p.r.IntN(2000)), int64(p.r.IntN(3)), "of a test")
	case n < 5:
		p.s.Close()
		p.open()
	case n == 5 && p.r.IntN(5) == 0:
		p.times.add(time.Minute)
		p.s.coolAll()
	case p.st.records:
		err = p.st.Record(p.times.now(), int8(n%8), p.text(15))
	case n < 10:
		err = p.st.Cut()
	case n < 50:
		err = p.st.Write(p.times.now(), p.text(16))
	default:
		err = p.st.Write(p.times.now(), append(p.text(10), '\n'))
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.all = append(p.all, all(p.reader)...)
	if here := p.st.Here(); p.reader.done != here {
		p.t.Fatalf("who has read all is at %+v, the stream at %+v", p.reader.done, here)
	}
}

// check asserts that somebody who goes on behind the first lines is given all others, or what they were is counted.
func (p *places) check(done int) {
	p.t.Helper()
	at := Place{}
	if done > 0 {
		at = p.all[done-1].End
	}
	rest := p.all[done:]
	got := all(p.st.CursorAt(at))
	if len(got) == 0 || len(rest) == 0 || reflect.DeepEqual(got[0], rest[0]) {
		same(p.t, got, rest)
		return
	}
	gap := got[0]
	if kept := p.st.segments[0].place(); !gap.Gap || gap.End != kept {
		p.t.Fatalf("behind %+v comes %.100v, want a gap up to %+v", at, gap, kept)
	}
	var lines, bytes int64
	missing := 0
	for ; missing < len(rest) && !rest[missing].End.after(gap.End); missing++ {
		l, b := written(rest[missing], p.st.records)
		lines, bytes = lines+l, bytes+b
	}
	got, rest = got[1:], slices.Clone(rest[missing:])
	if len(got) > 0 && len(rest) > 0 && !got[0].Gap { // its begin may be missing
		whole := rest[0]
		cut := len(whole.Text) - len(got[0].Text)
		if cut < 0 {
			p.t.Fatalf("%d bytes are given of %d", len(got[0].Text), len(whole.Text))
		}
		rest[0].Text = whole.Text[cut:]
		bytes += int64(cut)
	}
	if gap.Dropped != lines || gap.DroppedBytes != bytes {
		p.t.Fatalf("%d lines and %d bytes are missing, of which %d and %d are counted", lines, bytes, gap.Dropped, gap.DroppedBytes)
	}
	same(p.t, got, rest)
}

func same(t *testing.T, got, want []Line) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d lines, want %d", len(got), len(want))
	}
	for i := range got {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Fatalf("line %d of %d is %.200s, want %.200s", i, len(got), fmt.Sprintf("%+v", got[i]), fmt.Sprintf("%+v", want[i]))
		}
	}
}

// Who goes on behind a line gets those that follow it, each as somebody got it who had read on; or is told how many
// and how much it was where they have gone.
func TestGoingOnBehindALine(t *testing.T) {
	for _, name := range []string{"stdout", Events} {
		for _, ring := range []int64{1 << 30, 6 * SegmentBytes, reuseLeast} {
			t.Run(fmt.Sprintf("%s, %d KiB", name, ring>>10), func(t *testing.T) {
				for seed := range uint64(2) {
					p := newPlaces(t, seed, name, Config{PerSource: ring, Total: 1 << 40})
					for gone := int64(0); p.st.End() < 9*SegmentBytes || ring < 1<<30 && gone == 0; gone, _ = p.st.Kept() {
						p.step()
					}
					for done := 0; done <= len(p.all); done += 1 + p.r.IntN(len(p.all)/20) {
						p.check(done)
					}
					p.check(len(p.all))
				}
			})
		}
	}
}

// A folder that was lost with all that was in it is noticed: nobody waits until the stream comes to where it was.
func TestAPlaceThatTheStreamHasNotComeTo(t *testing.T) {
	dir := t.TempDir()
	s := openSpool(t, dir, Config{})
	st := stream(t, s, "web", "stdout")
	for range 10 {
		if err := st.Write(s.cfg.Now(), []byte("before\n")); err != nil {
			t.Fatal(err)
		}
	}
	here := st.Here()
	s.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s = openSpool(t, dir, Config{})
	st = stream(t, s, "web", "stdout")
	c := st.CursorAt(here)
	if c.From() != (Place{}) {
		t.Errorf("it goes on at %+v", c.From())
	}
	if err := st.Write(s.cfg.Now(), []byte("after\n")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Cursor{c, st.CursorAt(here)} {
		if got := all(c); len(got) != 1 || string(got[0].Text) != "after" {
			t.Errorf("got %+v", got)
		}
	}
}

// A death in the midst of a note leaves what it says, once, and nothing that comes is taken for more of it.
func TestADeathWithinANote(t *testing.T) {
	for _, name := range []string{"stdout", Events} {
		for after := range 3 { // so many of its parts are there
			dir, times := t.TempDir(), &clock{}
			s := openSpool(t, dir, Config{Now: times.now})
			st := stream(t, s, "web", name)
			say := func(text string) {
				t.Helper()
				write := func() error { return st.Write(times.now(), []byte(text+"\n")) }
				if st.records {
					write = func() error { return st.Record(times.now(), 1, []byte(text)) }
				}
				if err := write(); err != nil {
					t.Fatal(err)
				}
			}
			say("before")
			g := st.live
			for i, do := range []func() error{
				func() error { return st.put(g, lostBytes, 0, 500) },
				func() error { return st.put(g, lostLines, 0, 7) },
				func() error { return st.add(g, []byte("[keelson: 500 bytes are")) },
			} {
				if i > after {
					break
				}
				if err := do(); err != nil {
					t.Fatal(err)
				}
			}
			s.Close()
			s = openSpool(t, dir, Config{Now: times.now})
			st = stream(t, s, "web", name)
			say("after")
			var texts []string
			got := all(st.Cursor())
			for _, l := range got {
				texts = append(texts, string(l.Text))
			}
			if strings.Join(texts, ",") != "before,,after" || !got[1].Gap || got[1].DroppedBytes != 500 || (got[1].Dropped == 7) != (after > 0) {
				t.Errorf("%s, %d: got %+v", name, after, got)
			} else if here := st.Here(); got[2].End != here {
				t.Errorf("%s, %d: the last line ends at %+v, the stream at %+v", name, after, got[2].End, here)
			}
		}
	}
}

// What is missing counts once, however often there was no room to say it.
func TestANoteThatFindsNoRoom(t *testing.T) {
	for _, name := range []string{"stdout", Events} {
		dir, times := t.TempDir(), &clock{}
		s := openSpool(t, dir, Config{Now: times.now})
		st := stream(t, s, "web", name)
		lost := func() error { return st.Lost(500, 7, "of a test") }
		if err := lost(); err != nil {
			t.Fatal(err)
		}
		ours := st.live.data
		theirs, err := os.Open(ours.Name()) // to which nothing can be written
		if err != nil {
			t.Fatal(err)
		}
		st.live.data = theirs
		for range 3 {
			if lost() == nil {
				t.Fatal("it was written")
			}
		}
		_ = theirs.Close()
		st.live.data = ours
		if got := all(st.Cursor()); len(got) != 1 {
			t.Errorf("%s: got %+v", name, got)
		}
		for range 2 {
			if err := lost(); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			got, here := all(st.Cursor()), st.Here()
			if len(got) != 3 || got[2].Dropped != 7 || got[2].DroppedBytes != 500 || here.Lines != 21 || here.Bytes != 1500 || got[2].End != here {
				t.Errorf("%s: got %+v; the end is %+v", name, got, here)
			}
			s.Close()
			s = openSpool(t, dir, Config{Now: times.now})
			st = stream(t, s, "web", name)
		}
	}
}

// A reader that stops within a segment for as long as it takes for that to be compressed, or to go, goes on with what
// follows: all of it, or a gap.
func TestAReaderThatStopsWithinASegment(t *testing.T) {
	for _, tc := range []struct {
		name    string
		stream  string
		goes    bool
		atFirst int
	}{
		{"records, compressed", Kernel, false, 1},
		{"lines, compressed", "stdout", false, 1},
		{"lines, compressed, from further on", "stdout", false, 200},
		{"records that go", Kernel, true, 1},
		{"lines that go", "stdout", true, 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			times := &clock{}
			s := openSpool(t, t.TempDir(), Config{PerSource: 1 << 30, Total: 1 << 30, Now: times.now})
			st := stream(t, s, "web", tc.stream)
			write := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			for n := 0; len(st.segments) < 3; n++ {
				times.add(2 * time.Millisecond) // each has a time of its own
				text := fmt.Appendf(nil, "line %06d", n)
				if tc.stream == Kernel {
					write(st.Record(times.now(), 6, text))
					continue
				}
				write(st.Write(times.now(), append(text, '\n')))
				switch {
				case n == 150:
					write(st.Lost(1000, 10, "of a test"))
				case n%10 == 0:
					write(st.Write(times.now(), []byte("x")))
					write(st.Cut())
				}
			}
			want := all(st.Cursor())
			reader := st.Cursor()
			var got []Line
			for range tc.atFirst {
				l, _ := reader.Next()
				got = append(got, l)
			}
			times.add(time.Minute)
			if tc.goes {
				if !st.drop(true) {
					t.Fatal("it does not go")
				}
			} else {
				s.coolAll()
			}
			if first := st.segments[0]; tc.goes == (first.base == 0) || !tc.goes && !first.cold {
				t.Fatalf("the first segment: %+v", first)
			}
			var lines, size int64
			gaps := 0
			for _, l := range append(got, all(reader)...) {
				n, b := written(l, tc.stream == Kernel)
				lines, size = lines+n, size+b
				if !l.Gap {
					if i := slices.IndexFunc(want, func(w Line) bool { return w.End == l.End }); i < 0 || !reflect.DeepEqual(l, want[i]) {
						t.Fatalf("a line that nobody wrote: %.100q, %+v", l.Text, l)
					}
				} else if l.DroppedBytes != 1000 {
					gaps++
				}
				if l.End.Lines != lines || l.End.Bytes != size {
					t.Fatalf("%.50q ends at %+v, after %d lines, %d bytes", l.Text, l.End, lines, size)
				}
			}
			if end := want[len(want)-1].End; lines != end.Lines || size != end.Bytes || tc.goes != (gaps == 1) {
				t.Errorf("%d lines, %d bytes, %d gaps; the end is %+v", lines, size, gaps, end)
			}
		})
	}
}

// What need not be given begins with a whole line.
func TestALineOfTwoSegmentsSinceItsEnd(t *testing.T) {
	times := &clock{}
	s := openSpool(t, t.TempDir(), Config{PerSource: 1 << 30, Total: 1 << 30, Now: times.now})
	st := stream(t, s, "web", "stdout")
	write := func(text string) {
		t.Helper()
		if err := st.Write(times.now(), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	old := strings.Repeat("z", 1023) + "\n"
	for range SegmentBytes/len(old) - 1 {
		write(old)
	}
	for len(st.segments) < 2 {
		write(strings.Repeat("y", 200)) // one line, into the next segment
	}
	times.add(time.Minute)
	since := times.now()
	write("the end\n")
	var ended []Line
	for _, l := range all(st.CursorSince(since)) {
		if l.At >= since {
			ended = append(ended, l)
		}
	}
	if len(ended) != 1 || !strings.HasPrefix(string(ended[0].Text), "yyyy") || len(ended[0].Text)%200 != len("the end") || st.segments[1].piece() == 0 ||
		int64(len(ended[0].Text)) <= st.segments[1].size {
		t.Errorf("%d lines: %+v; in the last segment are %d bytes", len(ended), ended, st.segments[1].size)
	}
}
