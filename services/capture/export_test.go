package capture

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keelson/services/spool"

	"keelson/internal/nstest"
)

// crash is what the death of the supervisor comes to: nothing is closed in order,
// and whatever ran just stops. The stream must be idle.
func crash(s *Stream) {
	s.end()
	s.export.flush(time.Minute)
	s.export.mu.Lock()
	s.export.closed = true
	s.export.letGo()
	s.export.mu.Unlock()
	s.sys.cfg.Spool.Close()
}

func TestTheFileGoesOnWhereItWasAfterADeath(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	keep, err := os.OpenFile(s.Path(), os.O_RDWR, 0) // as the shim does
	if err != nil {
		t.Fatal(err)
	}
	defer keep.Close()
	r := rand.New(rand.NewPCG(1, 2))
	var want bytes.Buffer
	for i := range 400 {
		line := fmt.Sprintf("%d %s\n", i, strings.Repeat("x", r.IntN(40000)))
		want.WriteString(line)
		fmt.Fprint(keep, line)
		if i%10 != 9 {
			continue
		}
		crash(s)
		path := s.src.File
		if i%50 == 49 { // in the middle of a rotation
			for n := 8; n >= 0; n-- {
				from := numbered(path, n)
				if n == 0 {
					from = path
				}
				_ = os.Rename(from, numbered(path, n+1))
			}
		}
		s = open(t, dir, nil)
	}
	s.Close(true)
	var got bytes.Buffer
	for i := 50; i >= 0; i-- {
		path := s.src.File
		if i > 0 {
			path = numbered(path, i)
		}
		data, err := os.ReadFile(path)
		if err == nil {
			got.Write(data)
		}
	}
	if i := bytes.Index(want.Bytes(), got.Bytes()); i < 0 || i+got.Len() != want.Len() || got.Len() < want.Len()/4 {
		t.Errorf("the files hold %d bytes that are not the last of %d", got.Len(), want.Len())
	}
}

func TestAFullDisk(t *testing.T) {
	nstest.Need(t)
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	if err := os.Mkdir(log, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", log, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(log, unix.MNT_DETACH)
	l, m := newLines(), &messages{}
	src := source(dir)
	src.OnLine, src.Warn = l.add, m.add
	s := openSource(t, machine(t, dir, 1<<30), src)
	w := writer(t, s)
	var want strings.Builder
	say := func(n int) {
		for i := range n {
			line := fmt.Sprintf("%d %s\n", i, strings.Repeat("x", 1000))
			want.WriteString(line)
			fmt.Fprint(w, line)
		}
		l.wait(t, n)
	}
	say(200) // more than there is room for
	s.export.flush(time.Minute)
	if len(m.all) != 1 || !strings.Contains(m.all[0], "no space left") {
		t.Errorf("said of a full disk: %q", m.all)
	}
	if err := unix.Mount("tmpfs", log, "tmpfs", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	say(10)
	s.Close(false)
	data, err := os.ReadFile(src.File)
	if err != nil || string(data) != want.String() {
		t.Errorf("%d bytes of %d, %v", len(data), want.Len(), err)
	}
	if len(m.all) != 2 || !strings.Contains(m.all[1], "nothing is missing") {
		t.Errorf("said of room: %q", m.all)
	}
}

func TestAFullDiskForTooLong(t *testing.T) {
	nstest.Need(t)
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	if err := os.Mkdir(log, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", log, "tmpfs", unix.MS_RDONLY, "size=8m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(log, unix.MNT_DETACH)
	l, m := newLines(), &messages{}
	src := source(dir)
	src.OnLine, src.Warn = l.add, m.add
	s := openSource(t, machine(t, dir, 1<<30), src)
	w := writer(t, s)
	line := strings.Repeat("x", 1023) + "\n"
	for range 3 << 10 {
		fmt.Fprint(w, line)
	}
	l.wait(t, 3<<10)
	if err := unix.Mount("tmpfs", log, "tmpfs", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(w, "the last")
	s.Close(false)
	var text strings.Builder
	for i := 9; i >= 1; i-- {
		data, _ := os.ReadFile(numbered(src.File, i))
		text.Write(data)
	}
	data, _ := os.ReadFile(src.File)
	text.Write(data)
	note, rest, _ := strings.Cut(text.String(), "\n")
	var missing int
	if _, err := fmt.Sscanf(note, "[keelson: %d bytes are missing here", &missing); err != nil {
		t.Fatalf("%v: %q", err, note)
	}
	if missing+len(rest) != 3<<20+len("the last\n") || !strings.HasSuffix(rest, "the last\n") {
		t.Errorf("%d bytes are missing, %d are there", missing, len(rest))
	}
	if len(m.all) != 2 || !strings.Contains(m.all[0], "read-only") || !strings.Contains(m.all[1], fmt.Sprintf("%d bytes are missing", missing)) {
		t.Errorf("said: %q", m.all)
	}
}

func TestADiskMountedOverTheFolderGetsWhatWasThere(t *testing.T) {
	nstest.Need(t)
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	src := source(dir)
	l := newLines()
	src.OnLine, src.Warn = l.add, t.Errorf
	y := machine(t, dir, 1<<30)
	s := openSource(t, y, src)
	w := writer(t, s)
	fmt.Fprintln(w, "before")
	l.wait(t, 1)
	s.export.flush(time.Minute)
	if err := unix.Mount("tmpfs", log, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(log, unix.MNT_DETACH)
	y.Recheck()
	y.Flush(time.Minute)
	check := func(want string) {
		t.Helper()
		if data, err := os.ReadFile(src.File); err != nil || string(data) != want {
			t.Errorf("%q, %v", data, err)
		}
	}
	check("before\n")
	fmt.Fprintln(w, "after")
	l.wait(t, 1)
	crash(s)
	check("before\nafter\n")
	if err := unix.Unmount(log, 0); err != nil {
		t.Fatal(err)
	}
	y = machine(t, dir, 1<<30)
	s = openSource(t, y, src)
	s.Close(false)
	check("before\nafter\n")
}

func TestFilesInMemoryAreBounded(t *testing.T) {
	nstest.Need(t)
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	if err := os.Mkdir(log, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", log, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(log, unix.MNT_DETACH)
	const bound = 1 << 20
	y := machine(t, dir, bound)
	line := strings.Repeat("x", 1023) + "\n"
	for i := range 8 {
		src := source(dir)
		src.Name, src.Pipe, src.File, src.Warn = fmt.Sprint(i), filepath.Join(dir, fmt.Sprint(i)), filepath.Join(log, fmt.Sprint(i)), t.Errorf
		s := openSource(t, y, src)
		w := writer(t, s)
		for range 2 << 10 {
			fmt.Fprint(w, line)
		}
		w.Close()
		s.Close(false)
		size := int64(0)
		files, _ := filepath.Glob(filepath.Join(log, "*"))
		for _, f := range files {
			if fi, err := os.Stat(f); err == nil {
				size += fi.Size()
			}
		}
		if size > bound {
			t.Errorf("with %d logs the files take %d bytes: %q", i+1, size, files)
		}
		if !slices.Contains(files, src.File) {
			t.Errorf("there is no %s", src.File)
		}
	}
}

func TestAWriterThatMustNotWait(t *testing.T) {
	dir := t.TempDir()
	m := &messages{}
	src := source(dir)
	src.Drop, src.Warn = true, m.add
	base := time.Now()
	now := func() time.Duration { return time.Since(base) }
	sp, err := spool.Open(spool.Config{Dir: filepath.Join(dir, "spool"), PerSource: 1 << 30, Total: 1 << 30, Now: now, Warn: t.Errorf})
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	y := New(Config{Spool: sp, Now: now, Memory: 1 << 30})
	y.gate.share = 1e-3 // so that it is too much soon
	s := openSource(t, y, src)
	w := writer(t, s)
	const all = 64 << 20
	line := []byte(strings.Repeat("x", 1023) + "\n")
	began := time.Now()
	for range all / len(line) {
		if _, err := w.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d bytes in %v", all, time.Since(began))
	s.Close(false)
	kept, noted := int64(0), int64(0)
	for c := s.spool.Cursor(); ; {
		l, ok := c.Next()
		if !ok {
			break
		}
		if l.Gap {
			noted += l.DroppedBytes
		} else if kept += int64(len(l.Text)); !l.Partial {
			kept++
		}
	}
	if noted+kept != all || noted < all/10 || kept == 0 {
		t.Errorf("%d bytes are noted as missing, %d kept, of %d", noted, kept, all)
	}
	if len(m.all) == 0 || !strings.Contains(m.all[0], "were dropped (keelson.log: drop)") {
		t.Errorf("said: %q", m.all)
	}
}

// floods makes the test binary a process that writes for ever.
const floods = "KEELSON_FLOODS"

func TestMain(m *testing.M) {
	if dir := os.Getenv(captureDir); dir != "" {
		captureForEver(dir)
	}
	for os.Getenv(floods) != "" {
		if _, err := unix.Write(1, numberedLines(1000)); err != nil {
			os.Exit(1)
		}
	}
	os.Exit(nstest.Main(m))
}

func TestGate(t *testing.T) {
	now := time.Hour
	g := newGate(0.5, func() time.Duration { return now })
	if rest := g.spend(gateBurst / 4); rest != 0 {
		t.Errorf("a little work is followed by %v", rest)
	}
	worked, rested := time.Duration(0), time.Duration(0)
	for range 1000 {
		worked += time.Millisecond
		now += time.Millisecond
		rest := g.spend(time.Millisecond)
		rested += rest
		now += rest
	}
	if all := worked + rested; worked < all*45/100 || worked > all*55/100 {
		t.Errorf("worked %v of %v", worked, all)
	}
	// Two at once get half each.
	if a, b := g.spend(10*time.Millisecond), g.spend(10*time.Millisecond); b < a+15*time.Millisecond {
		t.Errorf("the first rests %v, the second %v", a, b)
	}

	// Many do not get more than few: each works when there is a processor for it and it has rested.
	now += time.Hour
	began, worked := now, time.Duration(0)
	var due [40]time.Duration
	for range 1000 {
		next := 0
		for i := range due {
			if due[i] < due[next] {
				next = i
			}
		}
		now = max(now, due[next]) + 10*time.Millisecond
		worked += 10 * time.Millisecond
		due[next] = now + g.spend(10*time.Millisecond)
	}
	if all := now - began; worked < all*45/100 || worked > all*55/100 {
		t.Errorf("%d worked %v of %v", len(due), worked, all)
	}
}

// Whoever is held up writes less for it, and has to keep to its share all the same; who writes little does not have to.
func TestWhoIsHeldUpHasItsShare(t *testing.T) {
	dir := t.TempDir()
	y := machine(t, dir, 1<<30)
	now := time.Hour
	y.cfg.Now = func() time.Duration { return now }
	y.gate.share = 1e9 // it rests for no time here
	s, err := y.prepare(source(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(false)
	defer close(s.done)
	file := writer(t, s)
	defer file.Close()
	write := func() {
		t.Helper()
		if _, err := file.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	w := weight{empty: true}
	for i := range 10 { // a line now and then
		write()
		for s.step(&w) {
			now += heavyTime/2 + 1
		}
		if now += time.Duration(i) * heavyTime / 3; w.held {
			t.Fatalf("line %d: %+v", i, w)
		}
	}
	for i := range 10 { // there is always more
		write()
		s.step(&w)
		if now += 2 * heavyTime; w.held != (i > 0) {
			t.Fatalf("move %d: %+v", i, w)
		}
	}
	for s.step(&w) {
	}
	now += 2 * heavyTime
	write()
	s.step(&w)
	if w.held {
		t.Errorf("its pipe was empty, and it has to wait still: %+v", w)
	}
}
