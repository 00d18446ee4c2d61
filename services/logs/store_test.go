package logs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// machine is a store with a clock that a test moves.
type machine struct {
	*Store
	t   *testing.T
	dir string
	at  atomic.Int64
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, dir: t.TempDir()}
	m.open()
	return m
}

func (m *machine) open() {
	m.Store = New(Config{
		Now:  func() time.Duration { return time.Duration(m.at.Load()) },
		Wall: func() time.Time { return time.Unix(1e9, m.at.Load()) },
		Dir:  m.dir, PerSource: 600 << 10, Warn: m.t.Errorf,
	})
	m.t.Cleanup(m.Close)
}

// say appends a record, a second after the last one.
func (m *machine) say(source string, stream Stream, text string) {
	m.at.Add(int64(time.Second))
	m.Append(Record{Source: source, Stream: stream, Text: []byte(text), Priority: 5})
}

func (m *machine) read(q Query) []string {
	m.t.Helper()
	var all []string
	if err := m.Read(m.t.Context(), q, func(r Record) error {
		all = append(all, show(r))
		return nil
	}); err != nil {
		m.t.Fatal(err)
	}
	return all
}

func show(r Record) string {
	text := string(r.Text)
	if r.Gap {
		text = "gap"
	}
	if r.Priority != NoPriority {
		text = fmt.Sprintf("<%d>%s", r.Priority, text)
	}
	if r.Partial {
		text += "..."
	}
	return fmt.Sprintf("%v %s: %s", r.At.Seconds(), r.Source, text)
}

func moment(t *testing.T, text string) Moment {
	m, err := ParseMoment(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestRecordsOfAllSourcesInOrder(t *testing.T) {
	m := newMachine(t)
	m.say("web", Stdout, "one")
	m.say("db", Stderr, "two")
	m.say(KernelLog, Kernel, "three\nlines")
	m.say("web", Stderr, "four")
	m.say("web", Event, "running")
	m.say("onboot.000-dhcp", Stdout, "six")
	m.at.Add(int64(time.Second))
	m.Append(Record{Source: "web", Stream: Stdout, Text: []byte("half"), Partial: true, Priority: NoPriority})
	for restart := range 2 {
		for _, tc := range []struct {
			query Query
			want  []string
		}{
			{Query{}, []string{"1 web: one", "2 db: two", "4 web: four", "6 onboot.000-dhcp: six", "7 web: half..."}},
			{Query{Events: true}, []string{"1 web: one", "2 db: two", "4 web: four", "5 web: <5>running", "6 onboot.000-dhcp: six", "7 web: half..."}},
			{Query{Sources: []string{KernelLog}}, []string{"3 kernel: <5>three\nlines"}},
			{Query{Sources: []string{"dhcp", "db"}}, []string{"2 db: two", "6 onboot.000-dhcp: six"}},
			{Query{Streams: []Stream{Stderr}}, []string{"2 db: two", "4 web: four"}},
			{Query{Last: 2}, []string{"6 onboot.000-dhcp: six", "7 web: half..."}},
			{Query{Last: NoLines}, nil},
			{Query{Since: moment(t, "2"), Until: moment(t, "6")}, []string{"2 db: two", "4 web: four"}},
			{Query{Since: moment(t, "1s")}, []string{"6 onboot.000-dhcp: six", "7 web: half..."}},
			{Query{Since: moment(t, "2001-09-09T01:46:46Z")}, []string{"6 onboot.000-dhcp: six", "7 web: half..."}},
		} {
			if got := m.read(tc.query); !slices.Equal(got, tc.want) {
				t.Errorf("%+v, restarts %d: %q, want %q", tc.query, restart, got, tc.want)
			}
		}
		m.Close()
		m.open() // as a restarted supervisor does
	}
	var unknown UnknownSource
	if err := m.Read(t.Context(), Query{Sources: []string{"wbe"}}, nil); !errors.As(err, &unknown) || unknown.Name != "wbe" {
		t.Errorf("a name nobody has: %v", err)
	}
}

func TestFollow(t *testing.T) {
	m := newMachine(t)
	m.say("web", Stdout, "old")
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan string, 100)
	ended := make(chan error, 1)
	paused := make(chan struct{}, 100)
	go func() {
		ended <- m.Store.read(ctx, Query{Follow: true, Last: 1}, func(r Record) error {
			got <- show(r)
			return nil
		}, func(Begin) error { return nil }, func() { paused <- struct{}{} })
	}()
	await := func(want string) {
		t.Helper()
		select {
		case line := <-got:
			if line != want {
				t.Errorf("got %q, want %q", line, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("waited in vain for %q", want)
		}
	}
	await("1 web: old")
	<-paused
	m.say("web", Stdout, "new")
	await("2 web: new")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.OpenClient("somebody", "later", Stderr, r); err != nil { // a source that was not there
		t.Fatal(err)
	}
	fmt.Fprint(w, "by pipe\nhalf")
	await("2 later: by pipe")
	w.Close()
	await("2 later: half...")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestASlowReaderIsToldWhatItMissed(t *testing.T) {
	m := newMachine(t)
	long := strings.Repeat("x", 1000)
	m.say("web", Stdout, "first")
	last, missed, seen := -1, 0, 0
	enough := errors.New("enough")
	err := m.Read(t.Context(), Query{Follow: true}, func(r Record) error {
		if string(r.Text) == "first" { // and while it looks at that
			at := m.at.Load()
			for i := range 3000 {
				m.Append(Record{At: time.Duration(at), Source: "web", Stream: Stdout, Text: fmt.Appendf(nil, "%d %s", i, long), Priority: NoPriority})
			}
			return nil
		}
		if r.Gap {
			missed += int(r.Dropped)
			if r.DroppedBytes < r.Dropped*1000 {
				t.Errorf("%d lines and %d bytes are missing", r.Dropped, r.DroppedBytes)
			}
			return nil
		}
		n := 0
		if _, err := fmt.Sscan(string(r.Text), &n); err != nil {
			return err
		}
		if n <= last {
			t.Errorf("line %d after %d", n, last)
		}
		last = n
		if seen++; n == 2999 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	if last != 2999 || missed == 0 || missed+seen != 3000 {
		t.Errorf("the last line is %d; %d were seen and %d said to be missing", last, seen, missed)
	}
	if used := m.Spool().Used(); used > 600<<10 {
		t.Errorf("it takes %d bytes", used)
	}
	// The last ones of many.
	lines := m.read(Query{Last: 3})
	if len(lines) != 3 || !strings.Contains(lines[0], ": 2997 ") {
		t.Errorf("the last three: %.200q", lines)
	}
}

func TestAStoreWithoutAFolder(t *testing.T) {
	s := New(Config{Now: func() time.Duration { return 1 }, Wall: time.Now})
	s.Append(Record{Source: "web", Stream: Stdout, Text: []byte("kept")})
	found := 0
	if err := s.Read(t.Context(), Query{}, func(Record) error { found++; return nil }); err != nil || found != 1 {
		t.Errorf("%d records, %v", found, err)
	}
	s.Close()
	if _, err := os.Stat(s.own); !os.IsNotExist(err) {
		t.Errorf("its folder is left: %v", err)
	}
}
