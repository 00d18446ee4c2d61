package queue

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const s = time.Second

// step is one thing that happens to a line, and who is admitted by it.
type step struct {
	at   time.Duration
	do   string // "+name class awaited index", "-name", "-name!" for one that was cut, "" for the timer
	want string
}

func TestLines(t *testing.T) {
	for name, tc := range map[string]struct {
		width int
		steps []step
	}{
		"as many as there is room for": {2, []step{
			{0, "+a 1 0 0", "a"}, {0, "+b 1 0 1", "b"}, {0, "+c 1 0 2", ""}, {0, "+d 1 0 3", ""},
			{1 * s, "-b", "c"}, {2 * s, "-a", "d"}, {2 * s, "-c", ""}, {3 * s, "-d", ""}, {4 * s, "+e 1 0 0", "e"},
		}},
		"width of none is one": {0, []step{{0, "+a 1 0 0", "a"}, {0, "+b 1 0 0", ""}, {0, "-a", "b"}}},
		"a person's wish, first starts, those awaited, the image's order, who came first": {1, []step{
			{0, "+x 1 0 0", "x"},
			{0, "+restart 2 9 0", ""}, {0, "+late 1 0 7", ""}, {0, "+later 1 0 7", ""}, {0, "+early 1 0 3", ""},
			{0, "+awaited 1 2 9", ""}, {0, "+asked 0 0 9", ""},
			{0, "-x", "asked"}, {0, "-asked", "awaited"}, {0, "-awaited", "early"}, {0, "-early", "late"}, {0, "-late", "later"}, {0, "-later", "restart"},
		}},
		"who asks twice has one turn, and the better class": {1, []step{
			{0, "+x 1 0 0", "x"}, {0, "+x 1 0 0", ""}, {0, "+a 1 0 0", ""}, {0, "+b 2 0 1", ""}, {0, "+b 0 0 1", ""}, {0, "+b 2 0 1", ""},
			{0, "-x", "b"}, {0, "-b", "a"}, {0, "-a", ""},
		}},
		"who waits may go": {1, []step{{0, "+x 1 0 0", "x"}, {0, "+a 1 0 0", ""}, {0, "+b 1 0 1", ""}, {0, "-a", ""}, {0, "-x", "b"}}},
		"what hangs does not stop the others": {2, []step{
			{0, "+disk1 1 0 0", "disk1"}, {0, "+disk2 1 0 1", "disk2"}, {1 * s, "+a 1 0 2", ""}, {1 * s, "+b 1 0 3", ""}, {1 * s, "+c 1 0 4", ""},
			{10 * s, "", "a,b"}, {11 * s, "-a", "c"}, {20 * s, "-disk1!", ""}, {21 * s, "+d 1 0 5", "d"},
		}},
		"on a slow machine nothing is taken for hung that is slow as well": {1, []step{
			{0, "+a 1 0 0", "a"}, {9 * s, "-a", ""}, {9 * s, "+b 1 0 0", "b"}, {10 * s, "+c 1 0 1", ""},
			{10*s + 10*s, "", ""}, {9*s + 35*s, "", ""}, {9*s + 36*s, "", "c"}, // four times nine
		}},
		"a turn that was cut short says nothing of how long they take": {1, []step{
			{0, "+a 1 0 0", "a"}, {9 * s, "-a!", ""}, {9 * s, "+b 1 0 0", "b"}, {10 * s, "+c 1 0 1", ""}, {19 * s, "", "c"},
		}},
		"nor is patience without an end": {1, []step{
			{0, "+a 1 0 0", "a"}, {300 * s, "-a", ""}, {300 * s, "+b 1 0 0", "b"}, {300 * s, "+c 1 0 1", ""}, {359 * s, "", ""}, {360 * s, "", "c"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l := Line{Width: tc.width}
			for i, st := range tc.steps {
				var e Entry
				switch {
				case strings.HasPrefix(st.do, "+"):
					if _, err := fmt.Sscanf(st.do, "+%s %d %d %d", &e.Name, &e.Class, &e.Awaited, &e.Index); err != nil {
						t.Fatal(err)
					}
					l.Enter(e)
				case strings.HasPrefix(st.do, "-"):
					name, cut := strings.CutSuffix(st.do[1:], "!")
					l.Leave(name, st.at, !cut)
				}
				if got := strings.Join(l.Admit(st.at), ","); got != st.want {
					t.Errorf("step %d, %q: admitted %q, want %q", i, st.do, got, st.want)
				}
			}
		})
	}
}

func TestNextIsWhenATurnIsOverdue(t *testing.T) {
	l := Line{Width: 1}
	l.Enter(Entry{Name: "a"})
	l.Admit(3 * s)
	if at, ok := l.Next(); ok {
		t.Errorf("nobody waits, and it is to be looked at %v", at)
	}
	l.Enter(Entry{Name: "b"})
	l.Admit(4 * s)
	if at, ok := l.Next(); !ok || at != 13*s {
		t.Errorf("%v %v, want 13s", at, ok)
	}
	l.Admit(13 * s)
	if at, ok := l.Next(); ok {
		t.Errorf("nobody waits any more, and it is to be looked at %v", at)
	}
}

// Hundreds want a turn side by side; each has one, and never more than the width do.
func TestQueueSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		q := New(3, func() time.Duration { return time.Since(begin) }, After)
		order := make(chan string, 500)
		var busy, most int
		lock := make(chan struct{}, 1)
		count := func(n int) {
			lock <- struct{}{}
			busy += n
			most = max(most, busy)
			<-lock
		}
		for i := range 300 {
			go func() {
				name := fmt.Sprintf("s%03d", i)
				if err := q.Wait(t.Context(), Entry{Name: name, Class: First, Index: i}); err != nil {
					t.Error(err)
				}
				count(1)
				order <- name
				time.Sleep(time.Second)
				count(-1)
				q.Leave(name, true)
			}()
		}
		time.Sleep(1000 * time.Second)
		synctest.Wait()
		if len(order) != 300 || most != 3 || time.Since(begin) < 100*time.Second {
			t.Errorf("%d had a turn, %d at a time", len(order), most)
		}
		if q.Waiting() != 0 {
			t.Errorf("%d still wait", q.Waiting())
		}
	})
}

func TestAWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		q := New(1, func() time.Duration { return time.Since(begin) }, After)
		if !q.Enter(Entry{Name: "hangs"}, func() { t.Error("told of the turn it has") }) {
			t.Fatal("no turn")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := q.Wait(ctx, Entry{Name: "a"}); err == nil {
			t.Error("a turn beside another one")
		}
		if q.Waiting() != 0 {
			t.Error("it still waits")
		}
		// The timer gives the next one its turn.
		if err := q.Wait(t.Context(), Entry{Name: "b"}); err != nil || time.Since(begin) != patienceMin {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

// Of those who enter together the first in line are first, not the first who ask.
func TestEnterAll(t *testing.T) {
	q := New(2, func() time.Duration { return 0 }, After)
	var woken []string
	var all []Admission
	for i, name := range []string{"last", "b", "a"} {
		all = append(all, Admission{Entry{Name: name, Class: First, Index: 2 - i}, func() { woken = append(woken, name) }})
	}
	q.EnterAll(all)
	slices.Sort(woken)
	if !slices.Equal(woken, []string{"a", "b"}) || q.Enter(all[0].Entry, func() {}) || !q.Enter(all[1].Entry, func() {}) {
		t.Errorf("woken: %v", woken)
	}
}

func TestNoQueueGivesEveryTurn(t *testing.T) {
	var q *Queue
	q.EnterAll(nil)
	if !q.Enter(Entry{Name: "a"}, nil) || q.Wait(t.Context(), Entry{Name: "b"}) != nil || q.Waiting() != 0 {
		t.Error("a queue that is none keeps somebody waiting")
	}
	q.Leave("a", true)
}
