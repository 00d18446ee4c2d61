package kmsg

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keelson/services/logs"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want string
	}{
		{"6,339,5140900,-;NET: Registered protocol family 10\n", "6 339 5.1409s NET: Registered protocol family 10"},
		{"30,340,5690716,-,caller=T1;udevd[80]: starting\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP\n", "6 340 5.690716s udevd[80]: starting"},
		{"4,1,0,c;a\\x0ab\\x1b\\xff\\xzz\\", "4 1 0s a\nb\x1b\xff\\xzz\\"},
		{"3,1,7,-;", "3 1 7µs "},
	} {
		r, err := parse([]byte(tc.in))
		if got := fmt.Sprint(r.priority, " ", r.seq, " ", r.at, " ", string(r.text)); err != nil || got != tc.want {
			t.Errorf("parse(%q) = %q, %v", tc.in, got, err)
		}
	}
	for _, in := range []string{"", "6,1,2", "x,1,2,-;a", "6,-1,2,-;a", "6,1,-2,-;a", "6,1,99999999999999999999,-;a", "6,1;a", "6,1,9223372036854775807,-;a"} {
		if r, err := parse([]byte(in)); err == nil {
			t.Errorf("parse(%q) = %+v", in, r)
		}
	}
}

// machine is a kernel's log and console level, and what became of the messages.
type machine struct {
	t     *testing.T
	dir   string
	log   []string // nil entries: thrown away by the kernel
	store *logs.Store
	shown []string
	warns []string
}

func newMachine(t *testing.T, level string) *machine {
	m := &machine{t: t, dir: t.TempDir(), store: newStore(t)}
	m.write("printk", level+"\t4\t1\t7\n")
	m.write("kmsg", "")
	return m
}

func newStore(t *testing.T) *logs.Store {
	s := logs.New(logs.Config{Now: func() time.Duration { return time.Hour }, Wall: time.Now})
	t.Cleanup(s.Close)
	return s
}

func (m *machine) write(name, text string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) level() string {
	data, _ := os.ReadFile(filepath.Join(m.dir, "printk"))
	return strings.Fields(string(data))[0]
}

// open makes a reader that is driven by hand: of an empty file, which run leaves
// at once.
func (m *machine) open() *Reader {
	m.t.Helper()
	r, err := Open(Config{
		Device: filepath.Join(m.dir, "kmsg"), Printk: filepath.Join(m.dir, "printk"), File: FileIn(m.dir), Store: m.store,
		Show: func(at time.Duration, text string) { m.shown = append(m.shown, text) },
		Warn: func(format string, a ...any) { m.warns = append(m.warns, fmt.Sprintf(format, a...)) },
	})
	if err != nil {
		m.t.Fatal(err)
	}
	<-r.done
	m.warns = slices.DeleteFunc(m.warns, func(w string) bool { return strings.Contains(w, "not logged any more") })
	return r
}

// read is a device that has the log from one message on.
func (m *machine) read(from int) func([]byte) (int, error) {
	return func(b []byte) (int, error) {
		if from >= len(m.log) {
			return 0, unix.EAGAIN
		}
		from++
		if m.log[from-1] == "" {
			return 0, unix.EPIPE
		}
		return copy(b, m.log[from-1]), nil
	}
}

func (m *machine) say(priority int, text string) {
	// Two messages each have the same time.
	m.log = append(m.log, fmt.Sprintf("%d,%d,%d,-;%s\n", priority, len(m.log), len(m.log)/2*10, text))
}

func (m *machine) stored() []string {
	var got []string
	_ = m.store.Read(context.Background(), logs.Query{Sources: []string{logs.KernelLog}, Streams: []logs.Stream{logs.Kernel}}, func(r logs.Record) error {
		text := string(r.Text)
		if r.Gap {
			text = fmt.Sprintf("[%d]", r.Dropped)
		}
		got = append(got, text)
		return nil
	})
	return got
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestSupervisorComesBack(t *testing.T) {
	for _, keeps := range []bool{true, false} { // whether the store outlives the supervisor
		m := newMachine(t, "5")
		r := m.open()
		if m.level() != "3" {
			t.Fatalf("the kernel writes to the console itself still, level %s", m.level())
		}
		for i := range 5 {
			m.say(4, fmt.Sprint("m", i))
		}
		r.drain(m.read(0))
		m.say(5, "quiet")
		m.say(6, "quieter")
		m.say(2, "critical")
		if !keeps {
			m.store = newStore(t)
		}
		r = m.open()
		r.drain(m.read(0))
		all := []string{"m0", "m1", "m2", "m3", "m4", "quiet", "quieter", "critical"}
		equal(t, "stored", m.stored(), all)
		equal(t, "shown", m.shown, all[:5])
		if len(m.warns) > 0 {
			t.Errorf("warned: %q", m.warns)
		}
		m.write("printk", "8 4 1 7") // dmesg -n 8: the kernel does it itself
		m.say(4, "direct")
		r.drain(m.read(8))
		equal(t, "shown after dmesg -n", m.shown, all[:5])
		m.write("printk", "3 4 1 7")
		r.Close()
		if m.level() != "5" {
			t.Errorf("the console's level is %s at the end", m.level())
		}
	}
}

func TestMessagesThrownAwayAreCounted(t *testing.T) {
	m := newMachine(t, "7")
	r := m.open()
	for i := range 10 {
		m.say(6, fmt.Sprint("m", i))
	}
	m.log[3], m.log[4], m.log[5] = "", "", ""
	r.drain(m.read(2)) // m0 and m1 were gone before we began
	equal(t, "stored", m.stored(), []string{"[2]", "m2", "[3]", "m6", "m7", "m8", "m9"})
}

// Each message is told of once, whoever reads it and whenever that began.
func TestMessagesAreToldOfOnce(t *testing.T) {
	m := newMachine(t, "7")
	var told []string
	open := func() *Reader {
		r := m.open()
		r.cfg.Message = func(text string) { told = append(told, text) }
		return r
	}
	m.say(6, "early")
	r := open()
	m.say(6, "late")
	r.drain(m.read(0))
	r.Close()
	m.say(6, "later")
	open().drain(m.read(0))
	equal(t, "told", told, []string{"early", "late", "later"})
}

func TestAConsoleThatShowsNothingIsLeftAlone(t *testing.T) {
	m := newMachine(t, "1")
	r := m.open()
	m.say(4, "warning")
	m.say(0, "panic")
	r.drain(m.read(0))
	r.Close()
	equal(t, "shown", m.shown, nil)
	if m.level() != "1" {
		t.Errorf("level %s", m.level())
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("30,340,5690716,-,caller=T1;udevd[80]\\x0a: starting\n SUBSYSTEM=acpi\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := parse(in)
		if err == nil && (r.priority < 0 || r.priority > 7 || r.at < 0 || len(r.text) > len(in)) {
			t.Errorf("parse(%q) = %+v", in, r)
		}
	})
}
