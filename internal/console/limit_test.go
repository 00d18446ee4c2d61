package console

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// clock is a console's time, which a test moves.
type clock struct {
	at     time.Duration
	timers []timer
}

type timer struct {
	at time.Duration
	f  func()
}

// pass lets time go by, with what falls due.
func (k *clock) pass(d time.Duration) {
	k.at += d
	due := k.timers
	k.timers = nil
	for _, t := range due {
		if t.at <= k.at {
			t.f()
		} else {
			k.timers = append(k.timers, t)
		}
	}
}

// shown makes a console whose one device is never written to, and a function that
// takes the lines that are queued for it.
func shown() (c *Console, k *clock, take func() []string) {
	k = &clock{at: time.Second}
	c = newConsole()
	c.now = func() time.Duration { return k.at }
	c.after = func(d time.Duration, f func()) { k.timers = append(k.timers, timer{k.at + d, f}) }
	d := newDevice("/dev/ttyX")
	d.ops.now = c.now
	c.devices = []*device{d}
	return c, k, func() []string {
		var lines []string
		for {
			line, _, ok := d.next(false)
			if !ok {
				return lines
			}
			lines = append(lines, strings.TrimSuffix(string(line.line), "\n"))
		}
	}
}

func TestFloodIsShownInPartAndSaid(t *testing.T) {
	c, k, take := shown()
	line := strings.Repeat("x", 100-len("    1.000  web           | \n"))
	for range 1000 { // 100 bytes each on the console
		c.Output("web", line)
	}
	c.Line("web", "exited")
	c.Output("quiet", "hears nothing of it")
	burst := outputBurst / 100
	got := take()
	if n := len(got); n != burst+2 || got[n-2] != "    1.000  web           exited" || got[n-1] != "    1.000  quiet         | hears nothing of it" {
		t.Fatalf("%d lines, the last %q", len(got), got[max(0, len(got)-2):])
	}
	k.pass(window)
	if got, want := take(), fmt.Sprintf("    2.000  web           ... %d lines dropped", 1000-burst); len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %q", got, want)
	}
	// From now on a second's worth in a second, and what is over is said each time.
	for second := range 3 {
		for range 1204 + outputRate/100 {
			c.Output("web", line)
		}
		if n := len(take()); n < outputRate/100 || n > outputRate/100+1 {
			t.Errorf("second %d: %d lines", second, n)
		}
		k.pass(window)
		if got := take(); len(got) != 1 || !strings.HasSuffix(got[0], " lines dropped") || !strings.Contains(got[0], "... 1,20") {
			t.Errorf("second %d: %q", second, got)
		}
	}
	// After a rest there is room again.
	k.pass(time.Hour)
	for range burst {
		c.Output("web", line)
	}
	if n := len(take()); n != burst {
		t.Errorf("%d lines of %d after a rest", n, burst)
	}
	if len(k.timers) > 0 {
		t.Error("a timer is armed for nothing")
	}
}

func TestFlushSaysWhatWasDropped(t *testing.T) {
	c, _, _ := shown()
	line := strings.Repeat("x", 1000)
	for range 20 {
		c.Output("web", line)
	}
	c.Flush(0)
	d := c.devices[0]
	if last := string(d.queue[len(d.queue)-1].line); !strings.Contains(last, "lines dropped") {
		t.Errorf("the last line is %q", last)
	}
}

// Many containers that flood together fill what output may have of a queue, and
// leave the rest to the machine's own lines.
func TestOutputLeavesRoomForEvents(t *testing.T) {
	c, _, take := shown()
	line := strings.Repeat("x", 1000)
	for i := range 50 {
		for range 10 {
			c.Output(fmt.Sprint("flood", i), line)
		}
	}
	for i := range 100 {
		c.Error("web", "failed %d", i)
	}
	got := take()
	var output, events int
	for _, l := range got {
		if strings.Contains(l, "| x") {
			output += len(l) + 1
		} else if strings.Contains(l, "ERROR: failed") {
			events++
		}
	}
	if output > outputBytes || output < outputBytes/2 || events != 100 {
		t.Errorf("%d bytes of output and %d events", output, events)
	}
	if last := got[len(got)-1]; !strings.Contains(last, "warning: 469 lines dropped: /dev/ttyX was too slow or away") {
		t.Errorf("the last line is %q", last)
	}
}

// A device that is never idle says every now and then what it drops.
func TestDropsOfABusyDeviceAreSaid(t *testing.T) {
	c, k, _ := shown()
	d := c.devices[0]
	for range 300 {
		c.Line("web", "%s", strings.Repeat("x", 1000))
	}
	k.pass(sayEvery)
	line, drops, ok := d.next(false)
	if !ok || drops == 0 || !strings.Contains(string(line.line), "lines dropped") {
		t.Errorf("got %q, %d, %v", line.line, drops, ok)
	}
	if line, drops, ok = d.next(false); !ok || drops != 0 || strings.Contains(string(line.line), "dropped") {
		t.Errorf("then got %q, %d, %v", line.line, drops, ok)
	}
}

func TestLevels(t *testing.T) {
	say := func(c *Console) {
		c.Debug("web", "a detail")
		c.Line("web", "running")
		c.Output("web", "hello")
		c.Warn("web", "slow")
		c.Error("web", "gone")
		c.Line("web", "| last words")
		c.Kernel(1500*time.Millisecond, "EXT4-fs error")
	}
	texts := []string{"web           debug: a detail", "web           running", "web           | hello", "web           warning: slow",
		"web           ERROR: gone", "web           | last words", "kernel        EXT4-fs error"}
	for _, tc := range []struct {
		cmdline string
		want    []string
	}{
		{"console=ttyS0", texts[1:]},
		{"keelson.log=info", texts[1:]},
		{"keelson.log=debug", texts},
		{"keelson.log=debug keelson.log=warn", texts[3:]},
	} {
		c, _, take := shown()
		level, err := LevelOf(tc.cmdline)
		if err != nil {
			t.Error(err)
		}
		c.SetLevel(level)
		say(c)
		var got []string
		for _, l := range take() {
			got = append(got, l[len("    1.000  "):])
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, want %q", tc.cmdline, got, tc.want)
		}
	}
	level, err := LevelOf("keelson.log=warn keelson.log=loud quiet")
	if level != Warn || err == nil || !strings.Contains(err.Error(), "keelson.log=loud is none of keelson.log=debug, keelson.log=info, keelson.log=warn") {
		t.Errorf("got %v, %v", level, err)
	}
}

// Whoever listens hears every event whatever is shown, and no output.
func TestTap(t *testing.T) {
	c, k, _ := shown()
	c.SetLevel(Warn)
	var got []string
	c.Tap(func(at time.Duration, name string, priority int, text string) {
		got = append(got, fmt.Sprint(at, " ", name, " ", priority, " ", text))
	})
	c.Debug("web", "d")
	k.pass(time.Second)
	c.Line("web", "running\n")
	c.Warn("web", "w")
	c.Error("web", "e")
	c.Line("web", "| %s", "tail")
	c.Output("web", "o")
	c.Kernel(1, "k")
	if want := []string{"1s web 7 d", "2s web 6 running", "2s web 4 w", "2s web 3 e"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestGrouped(t *testing.T) {
	for n, want := range map[int]string{0: "0 lines", 1: "1 line", 999: "999 lines", 1204: "1,204 lines", 1234567: "1,234,567 lines"} {
		if got := lines(n); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
