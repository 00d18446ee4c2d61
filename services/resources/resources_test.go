package resources

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"keelson/internal/api"
)

// cgroup makes a folder with files, as a cgroup of cgroup2 has them.
func cgroup(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, map[string]string{"cgroup.events": "populated 1\nfrozen 0\n"})
	write(t, dir, files)
	return dir
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRead(t *testing.T) {
	dir := cgroup(t, map[string]string{
		"memory.current": "4096\n", "memory.peak": "8192\n", "memory.max": "67108864\n",
		"cpu.stat":     "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 0\nnr_throttled 0\nthrottled_usec 7\n",
		"io.stat":      "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n254:0 rbytes=1 wbytes=2 rios=1 wios=1 dbytes=0 dios=0\n",
		"pids.current": "3\n", "pids.max": "max\n",
	})
	want := api.Figures{
		Memory: 4096, MemoryPeak: 8192, MemoryMax: 64 << 20, CPU: 1500 * time.Microsecond, Throttled: 7 * time.Microsecond,
		ReadBytes: 11, WriteBytes: 22, Pids: 3,
	}
	if got, err := Read(dir); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	// Controllers that are not there are nothing to complain of; a cgroup that is
	// not there is.
	if got, err := Read(cgroup(t, nil)); err != nil || got != (api.Figures{}) {
		t.Errorf("without controllers: %+v, %v", got, err)
	}
	if _, err := Read(filepath.Join(dir, "gone")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a cgroup that is not there: %v", err)
	}
}

func TestReadV1(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"memory/services/web/memory.usage_in_bytes":          "4096\n",
		"memory/services/web/memory.max_usage_in_bytes":      "8192\n",
		"memory/services/web/memory.limit_in_bytes":          "9223372036854771712\n",
		"cpuacct/services/web/cpuacct.usage":                 "1500000\n",
		"cpu/services/web/cpu.stat":                          "nr_periods 1\nnr_throttled 1\nthrottled_time 7000\n",
		"blkio/services/web/blkio.throttle.io_service_bytes": "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\n9:0 Read 1\nTotal 31\n",
		"pids/services/web/pids.current":                     "3\n",
		"pids/services/web/pids.max":                         "32\n",
	})
	want := api.Figures{
		Memory: 4096, MemoryPeak: 8192, CPU: 1500 * time.Microsecond, Throttled: 7 * time.Microsecond,
		ReadBytes: 11, WriteBytes: 20, Pids: 3, PidsMax: 32,
	}
	if got := (hierarchies{root, filepath.Join(root, "services/web")}).read(); got != want {
		t.Errorf("%+v", got)
	}
}

func TestWords(t *testing.T) {
	for _, c := range []struct {
		hit  Hit
		want string
	}{
		{Hit{Kind: OOM, Count: 1, Limit: 64 << 20, Peak: 64 << 20}, "the kernel killed 1 process of it: out of memory (limit 64 MiB, peak 64.0 MiB)"},
		{Hit{Kind: OOM, Count: 3, Limit: 1536 << 20}, "the kernel killed 3 processes of it: out of memory (limit 1536 MiB)"},
		{Hit{Kind: OOM, Count: 1, Peak: 100 << 10}, "the kernel killed 1 process of it: the machine is out of memory (peak 100.0 KiB)"},
		{Hit{Kind: OOM, Count: 1, Above: "/tenants/a"}, "the kernel killed 1 process of it: out of memory (limit of the cgroup /tenants/a above it)"},
		{Hit{Kind: OOM, Count: 1, Above: "/services", AboveLimit: 220 << 20, Peak: 64 << 20}, "the kernel killed 1 process of it: out of memory (all services together: limit 220 MiB, peak 64.0 MiB)"},
		{Hit{Kind: OOM, Count: 2, Above: "/services", AboveLimit: 220 << 20, Peak: 99 << 20, Chosen: true}, "the supervisor killed 2 processes of it: out of memory (all services together: limit 220 MiB, this one had most, peak 99.0 MiB)"},
		{Hit{Kind: Pids, Count: 1, Above: "/services", AboveLimit: 900}, "at the limit of 900 processes and threads of all services together: 1 more refused"},
		{Hit{Kind: Pids, Count: 12, Limit: 32}, "at its limit of 32 processes and threads: 12 more refused"},
		{Hit{Kind: Pids, Count: 1, Above: "/tenants"}, "at the limit of processes and threads of the cgroup /tenants above it: 1 more refused"},
	} {
		if got := c.hit.String(); got != c.want {
			t.Errorf("%+v: %q", c.hit, got)
		}
	}
}

func TestAbove(t *testing.T) {
	root := cgroup(t, map[string]string{"memory.max": "1", "a/memory.max": "4096\n", "a/b/memory.max": "max\n", "a/b/c/memory.max": "max\n"})
	if got, limit := above(root, filepath.Join(root, "a/b/c"), "memory.max"); got != "/a" || limit != 4096 {
		t.Errorf("%q, %d", got, limit)
	}
	if got, _ := above(root, filepath.Join(root, "a"), "memory.max"); got != "" {
		t.Errorf("the root has no limit, but %q was found", got)
	}
}

// watched is a watch and the hits it told.
func watched(t *testing.T, w *Watcher, dir string) (*Watch, <-chan Hit) {
	t.Helper()
	told := make(chan Hit, 100)
	x, err := w.Watch(dir, func(h Hit) { told <- h })
	if err != nil {
		t.Fatal(err)
	}
	return x, told
}

func next(t *testing.T, told <-chan Hit) Hit {
	t.Helper()
	select {
	case h := <-told:
		return h
	case <-time.After(time.Minute):
		t.Fatal("no hit was told")
		return Hit{}
	}
}

func TestWatch(t *testing.T) {
	w := NewWatcher()
	defer w.Close()
	// What was hit before the watch is somebody else's.
	dir := cgroup(t, map[string]string{
		"memory.events": "oom 1\noom_kill 1\n", "pids.events": "max 5\n",
		"memory.max": "67108864", "memory.peak": "67100000", "pids.max": "32",
	})
	other := cgroup(t, map[string]string{"memory.events": "oom 0\noom_kill 0\n"})
	x, told := watched(t, w, dir)
	y, none := watched(t, w, other)
	write(t, dir, map[string]string{"memory.events": "oom 2\noom_kill 3\n"})
	if got, want := next(t, told), (Hit{Kind: OOM, Count: 2, Limit: 64 << 20, Peak: 67100000}); got != want {
		t.Errorf("%+v", got)
	}
	write(t, dir, map[string]string{"pids.events": "max 9\n"})
	if got, want := next(t, told), (Hit{Kind: Pids, Count: 4, Limit: 32}); got != want {
		t.Errorf("%+v", got)
	}
	e := x.End()
	if e.Figures == nil || e.Figures.MemoryMax != 64<<20 {
		t.Errorf("figures at the end: %+v", e.Figures)
	}
	if e.OOM == nil || e.OOM.Count != 2 {
		t.Errorf("the end was at a kill: %+v", e.OOM)
	}
	write(t, dir, map[string]string{"pids.events": "max 10\n"}) // nobody's any more
	if e := y.End(); e.OOM != nil || e.Figures == nil {
		t.Errorf("the other's end: %+v", e)
	}
	if e := x.End(); e != (Ending{}) {
		t.Errorf("a second end: %+v", e)
	}
	if len(told)+len(none) > 0 {
		t.Errorf("told too much: %d, %d", len(told), len(none))
	}
}

// TestEndTells is the case of an end that comes before the kernel's word does.
func TestEndTells(t *testing.T) {
	w := NewWatcher()
	w.Close() // nothing is told by itself
	dir := cgroup(t, map[string]string{"memory.events": "oom 0\noom_kill 0\n", "memory.max": "4096"})
	var told []Hit
	x, err := w.Watch(dir, func(h Hit) { told = append(told, h) })
	if !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a closed watcher: %v", err)
	}
	write(t, dir, map[string]string{"memory.events": "oom 1\noom_kill 1\n"})
	if e := x.End(); e.OOM == nil || e.OOM.Limit != 4096 {
		t.Errorf("%+v", e)
	}
	if len(told) != 1 {
		t.Errorf("told %v", told)
	}
}

// TestChosen: what the supervisor ended is told as the cause of the end.
func TestChosen(t *testing.T) {
	w := NewWatcher()
	defer w.Close()
	dir := cgroup(t, map[string]string{"memory.events": "oom 0\noom_kill 0\n"})
	x, told := watched(t, w, dir)
	want := Hit{Kind: OOM, Count: 3, Above: "/services", AboveLimit: 1 << 20, Chosen: true}
	w.Chosen(dir+"/other", want)
	w.Chosen(dir, want)
	if got := next(t, told); got != want {
		t.Errorf("%+v", got)
	}
	if e := x.End(); e.OOM == nil || *e.OOM != want {
		t.Errorf("%+v", e.OOM)
	}
}

// TestOldKill: a process that was killed long before the end is not its cause.
func TestOldKill(t *testing.T) {
	w := NewWatcher()
	w.Close()
	now := time.Unix(1000, 0)
	w.now = func() time.Time { return now }
	dir := cgroup(t, map[string]string{"memory.events": "oom 0\noom_kill 0\n"})
	x, _ := w.Watch(dir, nil)
	write(t, dir, map[string]string{"memory.events": "oom 1\noom_kill 1\n"})
	x.look()
	now = now.Add(near + 1)
	if e := x.End(); e.OOM != nil {
		t.Errorf("%+v", e.OOM)
	}
}

// TestGone: a cgroup that went before its end was seen is no hit and no error.
func TestGone(t *testing.T) {
	w := NewWatcher()
	defer w.Close()
	dir := cgroup(t, map[string]string{"memory.events": "oom 0\noom_kill 0\n"})
	x, told := watched(t, w, dir)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if e := x.End(); !reflect.DeepEqual(e, Ending{}) {
		t.Errorf("%+v", e)
	}
	if len(told) > 0 {
		t.Error("told a hit")
	}
	if e := Last(dir); e != (Ending{}) {
		t.Errorf("%+v", e)
	}
}

// TestWatchesGo: a watcher keeps nothing of watches that have ended.
func TestWatchesGo(t *testing.T) {
	w := NewWatcher()
	defer w.Close()
	for range 50 {
		x, _ := watched(t, w, cgroup(t, map[string]string{"memory.events": "oom_kill 0\n", "pids.events": "max 0\n"}))
		x.End()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.byWatch) > 0 {
		t.Errorf("%d watches are left", len(w.byWatch))
	}
}

func TestLast(t *testing.T) {
	dir := cgroup(t, map[string]string{"memory.events": "oom 1\noom_kill 2\n", "memory.max": "4096", "pids.events": "max 3\n"})
	write(t, dir, map[string]string{"memory.events": "oom 1\noom_kill 3\noom_group_kill 1\n"})
	e := Last(dir)
	if e.OOM == nil || e.OOM.Count != 2 || e.Figures.MemoryMax != 4096 {
		t.Errorf("%+v", e)
	}
}

// desk is a Reports on a clock that the test turns.
type desk struct {
	*Reports
	said   []string
	timers []*timer
	now    time.Duration
}

type timer struct {
	at time.Duration
	do func()
}

func newDesk() *desk {
	d := &desk{}
	d.Reports = newReports(func(name, text string) { d.said = append(d.said, name+": "+text) },
		func(wait time.Duration, f func()) func() bool {
			x := &timer{d.now + wait, f}
			d.timers = append(d.timers, x)
			return func() bool { was := x.do != nil; x.do = nil; return was }
		})
	return d
}

// pass lets time go by.
func (d *desk) pass(t time.Duration) {
	for end := d.now + t; ; {
		var first *timer
		for _, x := range d.timers {
			if x.do != nil && x.at <= end && (first == nil || x.at < first.at) {
				first = x
			}
		}
		if first == nil {
			d.now = end
			return
		}
		d.now = first.at
		f := first.do
		first.do = nil
		f()
	}
}

func (d *desk) expect(t *testing.T, lines ...string) {
	t.Helper()
	if got, want := strings.Join(d.said, "\n"), strings.Join(lines, "\n"); got != want {
		t.Errorf("said:\n%s\nwant:\n%s", got, want)
	}
	d.said = nil
}

func TestReports(t *testing.T) {
	d := newDesk()
	pids := Hit{Kind: Pids, Count: 1, Limit: 8}
	d.Hit("web", pids)
	d.expect(t, "web: at its limit of 8 processes and threads: 1 more refused")
	for range 600 {
		d.Hit("web", Hit{Kind: Pids, Count: 10, Limit: 8})
		d.pass(100 * time.Millisecond)
	}
	d.expect(t, "web: at its limit of 8 processes and threads: 6000 more refused in the last 1m0s")
	d.pass(quiet) // nothing more comes: the next is news
	d.expect(t)
	d.Hit("web", pids)
	d.expect(t, "web: at its limit of 8 processes and threads: 1 more refused")
}

func TestReportsOnce(t *testing.T) {
	oom := Hit{Kind: OOM, Count: 1, Limit: 4096}
	d := newDesk()
	// The container ends of it, which says why.
	d.Hit("web", oom)
	d.Ended("web", true)
	d.pass(time.Hour)
	d.expect(t)
	// It ends, and not of it.
	d.Hit("web", oom)
	d.Ended("web", false)
	d.expect(t, "web: the kernel killed 1 process of it: out of memory (limit 4 KiB)")
	d.pass(time.Hour)
	// It lives on.
	d.Hit("web", oom)
	d.pass(settle)
	d.expect(t, "web: the kernel killed 1 process of it: out of memory (limit 4 KiB)")
	// Once more, and then it ends of it.
	d.Hit("web", oom)
	d.pass(time.Second)
	d.Ended("web", true)
	d.pass(time.Hour)
	d.expect(t)
	if len(d.lines) > 0 {
		t.Errorf("%d lines are kept", len(d.lines))
	}
}
