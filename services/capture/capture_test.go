package capture

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/beneath"
	"keelson/services/spool"
)

type lines struct {
	mu  sync.Mutex
	all []string
	got chan struct{}
}

func newLines() *lines { return &lines{got: make(chan struct{}, 100000)} }

func (l *lines) add(s string) {
	l.mu.Lock()
	l.all = append(l.all, s)
	l.mu.Unlock()
	l.got <- struct{}{}
}

func (l *lines) wait(t *testing.T, n int) []string {
	t.Helper()
	for range n {
		select {
		case <-l.got:
		case <-time.After(time.Minute):
			t.Fatalf("waited for %d lines, have %q", n, l.all)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

// machine makes a system in a folder, with what an earlier one left there.
func machine(t *testing.T, dir string, memory int64) *System {
	t.Helper()
	began := time.Now()
	now := func() time.Duration { return time.Since(began) + time.Hour }
	sp, err := spool.Open(spool.Config{Dir: filepath.Join(dir, "spool"), Now: now, Warn: t.Errorf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sp.Close)
	y := New(Config{Spool: sp, Now: now, Memory: memory})
	y.room = func(*beneath.Dir) (free, all int64, err error) { return 1 << 40, 1 << 40, nil } // whatever the disk of the tests has
	return y
}

func source(dir string) Source {
	return Source{Name: "web", Stream: "stdout", Pipe: filepath.Join(dir, "io", "stdout"), File: filepath.Join(dir, "log", "web.log")}
}

func open(t *testing.T, dir string, onLine func(string)) *Stream {
	t.Helper()
	src := source(dir)
	src.OnLine, src.Warn = onLine, t.Logf
	return openSource(t, machine(t, dir, 1<<30), src)
}

func openSource(t *testing.T, y *System, src Source) *Stream {
	t.Helper()
	s, err := y.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func writer(t *testing.T, s *Stream) *os.File {
	t.Helper()
	f, err := os.OpenFile(s.Path(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestLinesReachFileAndReader(t *testing.T) {
	dir := t.TempDir()
	l := newLines()
	s := open(t, dir, l.add)
	w := writer(t, s)
	fmt.Fprint(w, "one\ntw")
	l.wait(t, 1)
	fmt.Fprint(w, "o\nlast")
	got := l.wait(t, 1)
	if !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("got %q", got)
	}
	if tail := s.Tail(4, 10); len(tail) == 0 || tail[0] != "two" {
		t.Errorf("tail %q", tail)
	}
	w.Close()
	s.Close(false)
	if got := l.wait(t, 1); !slices.Equal(got, []string{"one", "two", "last"}) {
		t.Errorf("a last line without an end was lost: %q", got)
	}
	data, err := os.ReadFile(filepath.Join(dir, "log", "web.log"))
	if err != nil || string(data) != "one\ntwo\nlast" {
		t.Errorf("file %q, %v", data, err)
	}
	if _, err := os.Stat(s.Path()); !os.IsNotExist(err) {
		t.Errorf("the pipe is still there: %v", err)
	}
}

func TestNothingIsLostOrRepeatedAcrossReaders(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir, nil)
	w := writer(t, first) // the shim keeps it open, as a writer and a reader
	keep, err := os.OpenFile(first.Path(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer keep.Close()
	var want strings.Builder
	for i := range 200 {
		line := fmt.Sprintf("line %d\n", i)
		want.WriteString(line)
		fmt.Fprint(w, line)
		if i%20 == 19 {
			first.Close(true)
			line := "while nobody reads\n"
			want.WriteString(line)
			fmt.Fprint(w, line)
			first = open(t, dir, nil)
		}
	}
	first.Close(false)
	data, err := os.ReadFile(filepath.Join(dir, "log", "web.log"))
	if err != nil || string(data) != want.String() {
		t.Errorf("%d bytes of %d, %v", len(data), want.Len(), err)
	}
}

func TestTailIsBoundedAndSinceTheMark(t *testing.T) {
	dir := t.TempDir()
	l := newLines()
	s := open(t, dir, l.add)
	defer s.Close(false)
	w := writer(t, s)
	defer w.Close()
	fmt.Fprint(w, "old\n")
	l.wait(t, 1)
	mark := s.Mark()
	if tail := s.Tail(mark, 5); tail != nil {
		t.Errorf("tail of nothing: %q", tail)
	}
	for i := range 20 {
		fmt.Fprintf(w, "new %d\n", i)
	}
	l.wait(t, 20)
	if tail := s.Tail(mark, 2); !slices.Equal(tail, []string{"new 18", "new 19"}) {
		t.Errorf("got %q", tail)
	}
	if tail := s.Tail(mark, 100); len(tail) != 20 || tail[0] != "new 0" {
		t.Errorf("got %q", tail)
	}
}

func TestRotationKeepsTen(t *testing.T) {
	dir := t.TempDir()
	l := newLines()
	s := open(t, dir, l.add)
	w := writer(t, s)
	line := strings.Repeat("x", 1023) + "\n"
	for range 13 << 10 { // 13 MiB
		fmt.Fprint(w, line)
	}
	l.wait(t, 13<<10)
	w.Close()
	s.Close(false)
	files, err := filepath.Glob(filepath.Join(dir, "log", "*"))
	if err != nil || len(files) != rotateKeep {
		t.Errorf("got %q, %v", files, err)
	}
	for _, f := range files {
		if fi, err := os.Stat(f); err != nil || fi.Size() > rotateBytes+spliceBytes {
			t.Errorf("%s: %v, %v", f, fi, err)
		}
	}
}

func TestALogThatCannotBeWrittenDoesNotHoldUpItsWriter(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "log"), nil, 0o644); err != nil { // a file where the folder should be
		t.Fatal(err)
	}
	s := open(t, dir, nil)
	w := writer(t, s)
	for range 100 {
		fmt.Fprint(w, strings.Repeat("x", 4096)) // more than a pipe holds
	}
	if err := os.Remove(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, "kept\n")
	w.Close()
	s.Close(false)
	data, err := os.ReadFile(filepath.Join(dir, "log", "web.log"))
	if err != nil || !strings.HasSuffix(string(data), "kept\n") {
		t.Errorf("got %q, %v", data, err)
	}
}

// messages collects what a stream warns of.
type messages struct {
	mu  sync.Mutex
	all []string
}

func (m *messages) add(format string, a ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = append(m.all, fmt.Sprintf(format, a...))
}

func TestAFileThatSomebodyTouchedIsWrittenOn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log", "web.log")
	l, m := newLines(), &messages{}
	src := source(dir)
	src.OnLine, src.Warn = l.add, m.add
	s := openSource(t, machine(t, dir, 1<<30), src)
	w := writer(t, s)
	say := func(text, want string) {
		t.Helper()
		fmt.Fprintln(w, text)
		l.wait(t, 1)
		s.export.flush(time.Minute)
		if data, err := os.ReadFile(path); err != nil || string(data) != want {
			t.Errorf("after %q the file is %q, %v", text, data, err)
		}
	}
	say("one", "one\n")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	say("two", "two\n")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	say("three", "three\n")
	if err := os.Rename(filepath.Join(dir, "log"), filepath.Join(dir, "moved")); err != nil { // as a disk mounted over it
		t.Fatal(err)
	}
	say("four", "four\n")
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, "a stranger's\n")
	f.Close()
	say("five", "four\na stranger's\nfive\n")
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, []byte("other\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	say("six", "other\nsix\n")
	w.Close()
	s.Close(false)
	if got := l.wait(t, 0); !slices.Equal(got, []string{"one", "two", "three", "four", "five", "six"}) {
		t.Errorf("shown: %q", got)
	}
	if len(m.all) > 0 {
		t.Errorf("warned of %q", m.all)
	}
}

func TestAFileThatIsRemovedIsNotRotatedForEver(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log", "web.log")
	l, m := newLines(), &messages{}
	src := source(dir)
	src.OnLine, src.Warn = l.add, m.add
	s := openSource(t, machine(t, dir, 1<<30), src)
	w := writer(t, s)
	line := strings.Repeat("x", 1023) + "\n"
	for i := range 3 << 10 {
		fmt.Fprint(w, line)
		l.wait(t, 1)
		if i%700 == 0 {
			s.export.flush(time.Minute)
			_ = os.Remove(path)
		}
	}
	w.Close()
	s.Close(false)
	if len(m.all) > 0 {
		t.Errorf("warned of %q", m.all)
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() >= rotateBytes {
		t.Errorf("%v, %v", fi, err)
	}
}

func TestALongLineIsShownInPieces(t *testing.T) {
	dir := t.TempDir()
	l := newLines()
	s := open(t, dir, l.add)
	w := writer(t, s)
	text := strings.Repeat("0123456789abcdef", 40<<10/16) // 40 KiB
	fmt.Fprint(w, text+"\nshort\n")
	got := l.wait(t, 4)
	w.Close()
	s.Close(false)
	if len(got) != 4 || strings.Join(got[:3], "") != text || got[3] != "short" {
		t.Errorf("%d lines, the last %q", len(got), got[len(got)-1])
	}
	for _, line := range got {
		if len(line) > spool.MaxLine {
			t.Errorf("a piece of %d bytes", len(line))
		}
	}
}

func TestDrainEndsWhateverIsWritten(t *testing.T) {
	dir := t.TempDir()
	var w *os.File
	started := make(chan struct{})
	more := func(string) { // a process that has outlived its task: the pipe is never empty
		<-started
		fmt.Fprintln(w, "more")
	}
	s := open(t, dir, more)
	w = writer(t, s)
	defer w.Close()
	fmt.Fprintln(w, "first")
	close(started)
	done := make(chan struct{})
	go func() { s.Drain(); s.Close(false); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("Drain waits for a writer that never ends")
	}
}

func TestWithoutSplice(t *testing.T) {
	dir := t.TempDir()
	l := newLines()
	s := open(t, dir, l.add)
	s.mu.Lock()
	s.noSplice = true // as after EINVAL
	s.mu.Unlock()
	w := writer(t, s)
	for i := range 100 {
		fmt.Fprintf(w, "line %d\n", i)
	}
	got := l.wait(t, 100)
	w.Close()
	s.Close(false)
	data, err := os.ReadFile(filepath.Join(dir, "log", "web.log"))
	if err != nil || string(data) != strings.Join(got, "\n")+"\n" {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

func TestOutputIsOneTail(t *testing.T) {
	dir := t.TempDir()
	l := newLines()
	o, err := machine(t, dir, 1<<30).OpenOutput(OutputConfig{Source: "web", Pipes: filepath.Join(dir, "io"), Base: filepath.Join(dir, "log", "web"), OnLine: l.add, Warn: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	say := func(path, text string) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(f, text)
		f.Close()
		l.wait(t, 1)
	}
	stdout, stderr := o.Paths()
	say(stderr, "before")
	o.Mark()
	say(stderr, "of stderr")
	say(stdout, "of stdout")
	if got := o.Tail(5); !slices.Equal(got, []string{"of stdout", "of stderr"}) {
		t.Errorf("got %q", got)
	}
	o.Close(false)
	for name, want := range map[string]string{"web.log": "before\nof stderr\n", "web.out.log": "of stdout\n"} {
		if data, err := os.ReadFile(filepath.Join(dir, "log", name)); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
}

// Pipes that somebody has removed, or put others in their place, are not what is read.
func TestIntact(t *testing.T) {
	dir := t.TempDir()
	o, err := machine(t, dir, 1<<30).OpenOutput(OutputConfig{Source: "web", Pipes: filepath.Join(dir, "io"), Base: filepath.Join(dir, "log", "web"), Warn: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	_, stderr := o.Paths()
	if !o.Intact() {
		t.Error("new pipes are not intact")
	}
	if err := os.Remove(stderr); err != nil || o.Intact() {
		t.Errorf("a pipe is gone and nobody notices (%v)", err)
	}
	if err := unix.Mkfifo(stderr, 0o600); err != nil || o.Intact() {
		t.Errorf("a pipe is another and nobody notices (%v)", err)
	}
	o.Close(false)
}

// A mark is still where it was for the next supervisor, unless what was kept has gone.
func TestAMarkOutlivesItsProcess(t *testing.T) {
	dir := t.TempDir()
	open := func() *Output {
		o, err := machine(t, dir, 1<<30).OpenOutput(OutputConfig{Source: "web", Pipes: filepath.Join(dir, "io"), Base: filepath.Join(dir, "log", "web"), Warn: t.Logf})
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := open()
	stdout, _ := o.Paths()
	say := func(text string) {
		f, err := os.OpenFile(stdout, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(f, text)
		f.Close()
		o.Drain()
	}
	say("of the run before\n")
	o.Mark()
	marked := o.Marked()
	say("of this run\n")
	o.Close(true)

	o = open()
	o.MarkAt(marked)
	l := newLines()
	cancel := o.Watch(func(line []byte) { l.add(string(line)) })
	say("more of it\n")
	if got, want := l.wait(t, 2), []string{"of this run", "more of it"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	cancel()
	o.MarkAt([2]int64{1 << 40, 1 << 40})
	l = newLines()
	cancel = o.Watch(func(line []byte) { l.add(string(line)) })
	if got := l.wait(t, 3); len(got) != 3 || got[2] != "more of it" {
		t.Errorf("got %q", got)
	}
	cancel()
	o.Close(false)
}

func TestWatchSeesLinesSinceTheMark(t *testing.T) {
	dir := t.TempDir()
	o, err := machine(t, dir, 1<<30).OpenOutput(OutputConfig{Source: "web", Pipes: filepath.Join(dir, "io"), Base: filepath.Join(dir, "log", "web"), Warn: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr := o.Paths()
	say := func(path, text string) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(f, text)
		f.Close()
	}
	say(stderr, "before\n")
	o.Drain()
	o.Mark()
	say(stdout, "since\n")
	say(stderr, "rea")
	l := newLines()
	held := make(chan struct{})
	stuckCancel := o.Watch(func([]byte) { <-held }) // one that never comes back holds nobody up
	cancel := o.Watch(func(line []byte) { l.add(string(line)) })
	say(stderr, "dy\n")
	got := l.wait(t, 2)
	slices.Sort(got) // they come through two pipes
	if !slices.Equal(got, []string{"ready", "since"}) {
		t.Errorf("got %q", got)
	}
	for range 3000 {
		say(stdout, "more\n")
	}
	o.Drain()
	cancel()
	stuckCancel()
	close(held)
	o.Close(false)
}
