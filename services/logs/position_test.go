package logs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var errCut = errors.New("cut")

// readBroken reads like somebody whose connection is cut after some records, again and again, until there is nothing
// more; between two connections it has between called.
func (m *machine) readBroken(q Query, most func() int, between func()) (all []Record) {
	m.t.Helper()
	q.Follow = true
	for {
		ctx, cancel := context.WithCancel(m.t.Context())
		var shown Begin
		left := most()
		err := m.Store.read(ctx, q, func(r Record) error {
			if left == 0 {
				return errCut
			}
			left--
			all = append(all, r)
			shown.Positions[StreamID{r.Source, r.Stream}] = r.Position
			return nil
		}, func(begin Begin) error {
			shown = begin
			return nil
		}, cancel)
		cancel()
		if !errors.Is(err, errCut) {
			if err != nil {
				m.t.Fatal(err)
			}
			return all
		}
		// On the wire and back.
		q.Behind(shown)
		v, err := url.ParseQuery(q.Values().Encode())
		if err != nil {
			m.t.Fatal(err)
		}
		if q, err = ParseQuery(v); err != nil {
			m.t.Fatal(err)
		}
		between()
	}
}

// Whatever the streams, wherever the reading is cut and whoever answers afterwards: each record is given once, in the
// same order as to somebody whom nothing cuts.
func TestAReadingGoesOnBehindAnother(t *testing.T) {
	for seed := range uint64(5) {
		r := rand.New(rand.NewPCG(seed, 0))
		m := newMachine(t)
		m.at.Store(int64(time.Second))
		names := []string{"a", "b/c@1.2.3", "d", Keelson, KernelLog}
		for i := range 3000 {
			if r.IntN(3) == 0 { // or else at the same time as the one before
				m.at.Add(int64(time.Duration(r.IntN(3)) * time.Millisecond))
			}
			rec := Record{At: time.Duration(m.at.Load()), Source: names[r.IntN(len(names))], Stream: Stdout, Text: fmt.Appendf(nil, "%d %s", i, strings.Repeat("x", r.IntN(100)))}
			switch {
			case rec.Source == Keelson:
				rec.Stream = Event
				rec.At -= time.Duration(r.IntN(5)) * time.Millisecond // they may be late
			case rec.Source == KernelLog:
				rec.Stream = Kernel
				rec.At = rec.At / 2 // much later than said, as in a boot
			case r.IntN(2) == 0:
				rec.Stream = Stderr
			}
			rec.Partial = r.IntN(20) == 0
			rec.Gap = r.IntN(50) == 0
			rec.Dropped = int64(r.IntN(20) / 19)
			if r.IntN(200) == 0 {
				rec.Text = []byte(strings.Repeat("y", 40<<10))
			}
			m.Append(rec)
		}
		all := []string{KernelLog, Keelson, "a", "b/c@1.2.3", "d"}
		for _, q := range []Query{
			{Sources: all}, {Sources: all, Last: 1000}, {Sources: all, Since: At(time.Duration(m.at.Load()) / 2)}, {Streams: []Stream{Stderr}}, {Events: true, Last: 1},
		} {
			want := m.readBroken(q, func() int { return -1 }, nil)
			got := m.readBroken(q, func() int { return r.IntN(200) }, func() {
				if r.IntN(3) == 0 { // the supervisor dies
					m.Close()
					m.open()
				}
			})
			texts := func(all []Record) (texts []string) {
				for _, r := range all {
					texts = append(texts, fmt.Sprintf("%s %s %v %d", r.Stream, show(r), r.Continued, r.Dropped))
				}
				return texts
			}
			if w, g := texts(want), texts(got); len(w) == 0 || !slices.Equal(w, g) {
				i := 0
				for i < min(len(w), len(g)) && w[i] == g[i] {
					i++
				}
				t.Fatalf("seed %d, %+v: %d records, want %d; the first other one is\n%.100q, want\n%.100q", seed, q, len(g), len(w), g[i:min(i+3, len(g))], w[i:min(i+3, len(w))])
			}
		}
	}
}

// Where the ring had to let go of what was not read yet, each line is given or counted, once, and so is each byte.
func TestAReadingGoesOnWhereLinesHaveGone(t *testing.T) {
	m := newMachine(t)
	r := rand.New(rand.NewPCG(1, 2))
	written, bytes := 0, map[Stream]int64{}
	write := func(n int) {
		for range n {
			if written%10 == 0 {
				m.at.Add(int64(100 * time.Millisecond))
			}
			for _, stream := range []Stream{Stdout, Event} {
				rec := Record{At: time.Duration(m.at.Load()), Source: "web", Stream: stream}
				if written%50 == 49 { // or else it is one that whoever sent it has lost
					rec.Gap, rec.Dropped, rec.DroppedBytes = true, 1, 100
					bytes[stream] += 100
				} else {
					text := make([]byte, 300)
					for i := range text {
						text[i] = byte('a' + r.IntN(26))
					}
					rec.Text = fmt.Appendf(nil, "%d %s", written, text)
					bytes[stream] += int64(len(rec.Text))
					if stream == Stdout {
						bytes[stream]++ // its newline
					}
				}
				m.Append(rec)
			}
			written++
		}
	}
	m.at.Store(int64(time.Hour))
	write(100)
	rounds := 0
	all := m.readBroken(Query{Streams: []Stream{Stdout, Event}}, func() int {
		if rounds++; rounds == 30 {
			return -1
		}
		return r.IntN(300)
	}, func() {
		write(r.IntN(1500))
		m.Close()
		m.open()
	})
	for _, stream := range []Stream{Stdout, Event} {
		next, missed, got := 0, 0, int64(0)
		for _, rec := range all {
			if rec.Stream != stream {
				continue
			}
			missed += int(rec.Dropped)
			next += int(rec.Dropped)
			got += int64(len(rec.Text)) + rec.DroppedBytes
			if rec.Gap {
				continue
			}
			if stream == Stdout {
				got++
			}
			n := 0
			if _, err := fmt.Sscanf(string(rec.Text), "%d ", &n); err != nil || n != next {
				t.Fatalf("%s: %d comes where %d is due, %v", stream, n, next, err)
			}
			next++
		}
		if next != written || got != bytes[stream] || missed <= written/50 {
			t.Errorf("%s: %d of %d lines and %d of %d bytes were given or counted, %d of the lines counted", stream, next, written, got, bytes[stream], missed)
		}
	}
}

// Who wants to see only what comes has the line that is under way as a whole, also if cut off meanwhile; one that was
// cut off by a piece of a line that is longer than records are has the rest of it.
func TestOnlyWhatComes(t *testing.T) {
	m := newMachine(t)
	long := strings.Repeat("l", 40<<10)
	write := func(stream Stream, text string) {
		t.Helper()
		st, err := m.Spool().Stream("web", string(stream))
		if err == nil {
			err = st.Write(time.Duration(m.at.Add(int64(time.Second))), []byte(text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(Stdout, "old\nhal")
	write(Stderr, long)
	m.say("db", Stdout, "old as well")
	q := Query{Follow: true, Last: NoLines}
	ctx, cancel := context.WithCancel(t.Context())
	if err := m.Store.read(ctx, q, func(r Record) error {
		t.Errorf("it is shown %q", r.Text)
		return nil
	}, func(begin Begin) error {
		q.Behind(begin)
		return nil
	}, cancel); err != nil {
		t.Fatal(err)
	}
	m.Close()
	m.open()
	write(Stdout, "f\n")
	write(Stderr, "ong\n")
	m.say("new", Stdout, "new")
	var got []string
	for _, r := range m.readBroken(q, func() int { return -1 }, nil) {
		got = append(got, fmt.Sprint(r.Stream, " ", r.Source, " ", strings.ReplaceAll(string(r.Text), strings.Repeat("l", 1000), "L")))
	}
	if want := []string{"stdout web half", "stderr web " + strings.ReplaceAll(long[2*MaxLine:]+"ong", strings.Repeat("l", 1000), "L"), "stdout new new"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The folder of the ring was lost with the supervisor: what a stream has since is shown, though somebody was further.
func TestAReadingOfAStreamThatBeganAgain(t *testing.T) {
	m := newMachine(t)
	for i := range 5 {
		m.say("web", Stdout, fmt.Sprint("before ", i))
	}
	rounds := 0
	got := m.readBroken(Query{}, func() int {
		rounds++
		return []int{0, 3, 0, 0, -1}[rounds] // the second time it sees nothing, and goes on at the same place again
	}, func() {
		switch rounds {
		case 1:
			m.Close()
			if err := os.RemoveAll(m.dir); err != nil {
				t.Fatal(err)
			}
			m.open()
			m.say("other", Stdout, "other")
		case 3:
			for i := range 5 {
				m.say("web", Stdout, fmt.Sprint("after ", i))
			}
		}
	})
	var texts []string
	for _, r := range got {
		texts = append(texts, string(r.Text))
	}
	if want := []string{"before 0", "before 1", "before 2", "other", "after 0", "after 1", "after 2", "after 3", "after 4"}; !slices.Equal(texts, want) {
		t.Errorf("got %q, want %q", texts, want)
	}
}

// A reading that is not followed is told what the ring lets go while it reads, although all that is left came after it began.
func TestWhatGoesWhileItIsReadIsCounted(t *testing.T) {
	m := newMachine(t)
	fill := strings.Repeat("z", 1000)
	say := func(from, to int) {
		for i := from; i < to; i++ {
			m.say("web", Stdout, fmt.Sprint(i, " ", fill))
		}
	}
	say(0, 400)
	var given, dropped int64
	if err := m.Read(t.Context(), Query{}, func(r Record) error {
		if given+dropped == 0 {
			say(400, 2400)
		}
		if !r.Gap {
			given++
		}
		dropped += r.Dropped
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if given == 400 || given+dropped < 400 {
		t.Errorf("of 400 lines that were there %d were given, %d counted as missing", given, dropped)
	}
}

// A stream of which nothing is left is not said to lack what was read.
func TestNothingIsMissingWhereAllWasRead(t *testing.T) {
	m := newMachine(t)
	m.say("web", Stdout, "one")
	m.say("web", Stdout, "two")
	var at Positions
	q := Query{Sources: []string{"web"}, Streams: []Stream{Stdout}}
	if err := m.Read(t.Context(), q, func(r Record) error {
		at = Positions{{r.Source, r.Stream}: r.Position}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		m.say("web", Stderr, fmt.Sprint(i, strings.Repeat("z", 1000)))
	}
	m.say("web", Stdout, "three")
	q.After = at
	if got := m.read(q); !slices.Equal(got, []string{"1003 web: three"}) {
		t.Errorf("got %q", got)
	}
}

// The parameters may be in the body as well, as there may be many positions.
func TestManyPositions(t *testing.T) {
	m := newMachine(t)
	q := Query{After: Positions{}, Positions: true}
	for i := range 700 {
		source := fmt.Sprintf("%s%d", strings.Repeat("n", 100), i)
		m.say(source, Stdout, "one")
		q.After[StreamID{source, Stdout}] = Position{4, int64(i + 1), 4}
	}
	m.say(KernelLog, Stdout, "two")
	w := httptest.NewRecorder()
	Handler(m.Store).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", strings.NewReader(q.Values().Encode())))
	lines := strings.Split(strings.TrimSuffix(w.Body.String(), "\n"), "\n")
	if len(lines) != 2 || !strings.Contains(lines[1], `"text":"two"`) || !strings.Contains(lines[1], `"position":"4.1.4"`) {
		t.Fatalf("%d lines, %d: %.300s", len(lines), w.Code, lines[len(lines)-1])
	}
	begin, _, err := DecodeBegin([]byte(lines[0]))
	if at := begin.Positions; err != nil || len(at) != 700 || at[StreamID{strings.Repeat("n", 100) + "7", Stdout}] != (Position{4, 8, 4}) {
		t.Errorf("%d positions, %v", len(at), err)
	}
	if _, ok, err := DecodeBegin([]byte(lines[1])); ok || err != nil {
		t.Errorf("a record is taken for positions: %v", err)
	}
}
