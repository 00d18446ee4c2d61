package parts

import (
	"strings"
	"testing"
	"time"
)

// The intervals of a life, by a letter each.
var letters = map[rune]Event{
	'a': Answered{},
	'-': Unanswered{Evidence{Interval: interval, Took: interval}},                        // did nothing
	'w': Unanswered{Evidence{Interval: interval, Took: interval, Worked: true}},          // slow
	'l': Unanswered{Evidence{Interval: interval, Took: 2 * interval}},                    // seen late
	'P': Unanswered{Evidence{Interval: interval, Took: time.Hour}},                       // the machine was paused
	'b': Unanswered{Evidence{Interval: interval, Took: interval * 3 / 2, Worked: false}}, // just too late
	'x': Exited{},
}

// live plays a life and returns its states, one letter for each event, upper case where
// there was an order: a, s, A(borted), K(illed), g.
func live(m *Machine, life string) string {
	var states strings.Builder
	now := time.Duration(0)
	for _, letter := range life {
		now += interval
		order := m.Next(letters[letter], now)
		state, _ := m.State()
		is := string(state)[:1]
		switch {
		case state == Aborted && order == Nothing:
			is = "…"
		case state == Aborted && order == Abort:
			is = "A"
		case state == Killed && order == Kill:
			is = "K"
		case order != Nothing:
			is = "?"
		}
		states.WriteString(is)
	}
	return states.String()
}

func TestLives(t *testing.T) {
	for _, tc := range []struct {
		name       string
		limits     Limits
		life, want string
	}{
		{"answers", Containerd, "aaaa", "aaaa"},
		{"hangs and ends by SIGABRT", Containerd, "a----x", "asssAg"},
		{"hangs and needs SIGKILL", Containerd, "a-------x", "asssA…Kkg"},
		{"answers just in time", Containerd, "---a---a----", "sssasssasssA"},
		{"is slow for long, then answers", Containerd, strings.Repeat("w", 59) + "a", strings.Repeat("s", 59) + "a"},
		{"works without an end", Containerd, strings.Repeat("w", 60), strings.Repeat("s", 59) + "A"},
		{"works now and then", Containerd, "---w---w---w---a", strings.Repeat("s", 15) + "a"},
		{"nobody is on time", Containerd, strings.Repeat("l", 200) + "a", strings.Repeat("s", 200) + "a"},
		{"nobody is quite on time", Containerd, strings.Repeat("b", 200), strings.Repeat("s", 200)},
		{"the machine was paused", Containerd, "---PPP-x", "ssssssAg"},
		{"a shim hangs", Shim, strings.Repeat("-", 14), strings.Repeat("s", 11) + "A…K"},
		{"a shim works without an end", Shim, strings.Repeat("w", 10000), strings.Repeat("s", 10000)},
		{"an answer comes with its SIGABRT", Containerd, "----a--", "sssA……K"},
		{"exits while it is silent", Containerd, "--xa----", "ssgggggg"},
		{"late looks give it time for its stacks", Containerd, "----lll--", "sssA……" + "……K"},
	} {
		if got := live(NewMachine(tc.limits, 0), tc.life); got != tc.want {
			t.Errorf("%s: %s\ngot  %s\nwant %s", tc.name, tc.life, got, tc.want)
		}
	}
}

func TestDoubtful(t *testing.T) {
	for life, want := range map[string]bool{
		"": false, "a": false, "w": false, "l": false, "-": true, "-w": false, "-a": false, "----": true, "------": true, "----x": false,
	} {
		m := NewMachine(Containerd, 0)
		live(m, life)
		if m.Doubtful() != want {
			t.Errorf("%q: doubtful is %v", life, m.Doubtful())
		}
	}
}
