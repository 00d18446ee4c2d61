package memlog

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/hold"
	"keelson/services/logs"
)

// bound ends a test that hangs.
const bound = 2 * time.Minute

// bench is a server with its folder, its store and what it warned of.
type bench struct {
	*Server
	t     *testing.T
	dir   string
	store *logs.Store

	warning sync.Mutex
	warns   []string // guarded by warning
}

func start(t *testing.T, dir string, h *hold.Hold) *bench {
	t.Helper()
	return startWith(t, dir, h, func(*Config) {})
}

func startWith(t *testing.T, dir string, h *hold.Hold, change func(*Config)) *bench {
	t.Helper()
	began := time.Now()
	now := func() time.Duration { return time.Since(began) + time.Second }
	b := &bench{t: t, dir: dir, store: logs.New(logs.Config{Now: now, Wall: time.Now})}
	t.Cleanup(b.store.Close)
	cfg := Config{
		Dir: dir, Store: b.store, Hold: h,
		Warn: func(format string, a ...any) {
			b.warning.Lock()
			defer b.warning.Unlock()
			b.warns = append(b.warns, fmt.Sprintf(format, a...))
		},
		Wall: func(at time.Duration) time.Time { return time.Unix(1_000_000, 0).Add(at) },
	}
	change(&cfg)
	s, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.Server = s
	t.Cleanup(s.Close)
	return b
}

func (b *bench) warned() []string {
	b.warning.Lock()
	defer b.warning.Unlock()
	return append([]string(nil), b.warns...)
}

// give hands files over as a client does.
func (b *bench) give(name string, fds ...int) {
	b.t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer unix.Close(fd)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(fd, []byte(name), rights, &unix.SockaddrUnix{Name: filepath.Join(b.dir, WriteSocket)}, 0); err != nil {
		b.t.Fatal(err)
	}
}

// client is a program that writes through a pipe which it handed over.
func (b *bench) client(name string) *os.File {
	b.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		b.t.Fatal(err)
	}
	b.give(name, int(r.Fd()))
	r.Close()
	b.t.Cleanup(func() { w.Close() })
	return w
}

// ask opens the query socket.
func (b *bench) ask(want byte) *bufio.Reader {
	b.t.Helper()
	conn, err := net.Dial("unix", filepath.Join(b.dir, QuerySocket))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(bound))
	if _, err := conn.Write([]byte{want}); err != nil {
		b.t.Fatal(err)
	}
	return bufio.NewReader(conn)
}

func next(t *testing.T, r *bufio.Reader) entry {
	t.Helper()
	line, err := r.ReadBytes('\n')
	if err != nil {
		t.Fatalf("read an entry: %v", err)
	}
	var e entry
	if err := json.Unmarshal(line, &e); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return e
}

// await waits until something holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(bound); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestWhatAClientWritesIsReadBack(t *testing.T) {
	b := start(t, t.TempDir(), nil)
	followed := b.ask(dumpAndFollow)
	err, out := b.client("logwrite"), b.client("logwrite.out")
	fmt.Fprintln(err, "on stderr <&>")
	if e := next(t, followed); e.Source != "logwrite" || e.Msg != "on stderr <&>" || e.Time.Before(time.Unix(1_000_001, 0)) {
		t.Errorf("got %+v", e)
	}
	fmt.Fprint(out, "on stdout\nand the rest")
	if e := next(t, followed); e.Source != "logwrite.out" || e.Msg != "on stdout" {
		t.Errorf("got %+v", e)
	}
	out.Close()
	if e := next(t, followed); e.Msg != "and the rest" {
		t.Errorf("got %+v", e)
	}
	b.store.Append(logs.Record{Source: "onboot.000-dhcp", Stream: logs.Stdout, Text: []byte("lease"), Priority: logs.NoPriority})
	b.store.Append(logs.Record{Source: logs.KernelLog, Stream: logs.Kernel, Text: []byte("a container never wrote this")})
	dumped := b.ask(dump)
	var sources []string
	for range 4 {
		sources = append(sources, next(t, dumped).Source)
	}
	if want := "logwrite logwrite.out logwrite.out onboot.000-dhcp.out"; strings.Join(sources, " ") != want {
		t.Errorf("dumped %q", sources)
	}
	if _, err := dumped.ReadByte(); err != io.EOF {
		t.Errorf("a dump does not end: %v", err)
	}
}

func TestFollowShowsOnlyWhatComes(t *testing.T) {
	b := start(t, t.TempDir(), nil)
	w := b.client("c")
	fmt.Fprintln(w, "before")
	if e := next(t, b.ask(dumpAndFollow)); e.Msg != "before" {
		t.Fatalf("got %+v", e)
	}
	r := b.ask(follow)
	lines := make(chan entry)
	go func() {
		defer close(lines)
		if line, err := r.ReadBytes('\n'); err == nil {
			var e entry
			_ = json.Unmarshal(line, &e)
			lines <- e
		}
	}()
	for i := 0; ; i++ { // when the reader is there is not to be seen
		fmt.Fprintln(w, "after", i)
		select {
		case e := <-lines:
			if !strings.HasPrefix(e.Msg, "after") {
				t.Errorf("got %+v", e)
			}
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestGapsAreLines(t *testing.T) {
	b := start(t, t.TempDir(), nil)
	got := b.entries(logs.Record{Source: "web", Stream: logs.Stdout, Text: []byte("x"), Dropped: 12})
	if len(got) != 2 || got[0].Msg != "... 12 lines are missing here" || got[1].Msg != "x" || got[0].Source != "web.out" {
		t.Errorf("got %+v", got)
	}
	if got := b.entries(logs.Record{Source: "web", Stream: logs.Stderr, Gap: true, DroppedBytes: 9}); len(got) != 1 || got[0].Msg != "... 9 bytes are missing here" {
		t.Errorf("got %+v", got)
	}
}

// closed reports whether nobody reads a pipe any more.
func closed(w *os.File) bool {
	p := []unix.PollFd{{Fd: int32(w.Fd())}}
	_, err := unix.Poll(p, 0)
	return err == nil && p[0].Revents&unix.POLLERR != 0
}

func TestWhatIsNotTakenIsClosedAndSaidOnce(t *testing.T) {
	b := start(t, t.TempDir(), nil)
	b.give("nothing with it")
	for range 3 {
		if w := b.client(strings.Repeat("n", maxName+1)); true {
			await(t, "the file of an overlong name is closed", func() bool { return closed(w) })
		}
	}
	regular, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	b.give("regular", int(regular.Fd()))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	b.give("wrong end", int(w.Fd()))
	r.Close()
	w.Close()
	await(t, "two warnings", func() bool { return len(b.warned()) == 2 })
	if got := b.warned(); !strings.Contains(got[0], "it brought no file") || !strings.Contains(got[1], "neither a pipe nor a socket") {
		t.Errorf("got %q", got)
	}
	// It works still.
	fmt.Fprintln(b.client("good"), "fine")
	if e := next(t, b.ask(dumpAndFollow)); e.Msg != "fine" {
		t.Errorf("got %+v", e)
	}
	if n := len(b.warned()); n != 2 {
		t.Errorf("%d warnings: %q", n, b.warned())
	}
}

func TestFilesAreBoundedAndGivenBack(t *testing.T) {
	b := start(t, t.TempDir(), nil)
	var clients []*os.File
	for i := range maxMachineFiles {
		clients = append(clients, b.client(fmt.Sprint("c", i)))
	}
	await(t, "all are open", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.Server.files) == maxMachineFiles })
	tooMany := b.client("more")
	await(t, "the one too many is closed", func() bool { return closed(tooMany) })
	for _, c := range clients {
		c.Close()
	}
	await(t, "they are given back", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.Server.files) == 0 })
	fmt.Fprintln(b.client("again"), "room")
	if e := next(t, b.ask(dumpAndFollow)); e.Msg != "room" {
		t.Errorf("got %+v", e)
	}
}

// A socketpair is what LinuxKit's logwrite hands over.
func TestSupervisorDiesAndComesBack(t *testing.T) {
	in, out, err := hold.Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(in); unix.Close(out) })
	h, err := hold.New(in, out)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	first := start(t, dir, h)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	first.give("logwrite.out", pair[1])
	unix.Close(pair[1])
	w := os.NewFile(uintptr(pair[0]), "")
	defer w.Close()
	fmt.Fprintln(w, "to the first")
	if e := next(t, first.ask(dumpAndFollow)); e.Msg != "to the first" {
		t.Fatalf("got %+v", e)
	}
	gone := first.client("gone")
	await(t, "both are open", func() bool { first.mu.Lock(); defer first.mu.Unlock(); return len(first.Server.files) == 2 })
	gone.Close()
	await(t, "one is given back", func() bool { first.mu.Lock(); defer first.mu.Unlock(); return len(first.Server.files) == 1 })
	inode := func() os.FileInfo {
		fi, err := os.Stat(filepath.Join(dir, WriteSocket))
		if err != nil {
			t.Fatal(err)
		}
		return fi
	}
	before := inode()
	first.Close() // as far as its sockets go; what the store reads stays open in this process

	// Nobody is there now, and nobody notices.
	late := first.client("late")
	fmt.Fprintln(late, "while nobody was there")
	waiting := first.ask(dumpAndFollow)

	second := start(t, dir, h)
	if !os.SameFile(before, inode()) {
		t.Error("the socket is another one: a container that has bound it is cut off")
	}
	if e := next(t, waiting); e.Source != "late" || e.Msg != "while nobody was there" {
		t.Errorf("got %+v", e)
	}
	second.Server.mu.Lock()
	got := len(second.Server.files)
	second.Server.mu.Unlock()
	if got != 2 {
		t.Errorf("%d files are open", got)
	}
	if w := second.warned(); len(w) > 0 {
		t.Errorf("warned: %q", w)
	}
}

func TestAReaderThatIsGoneIsLetGo(t *testing.T) {
	b := start(t, t.TempDir(), nil)
	if c, err := b.ask('?').ReadByte(); err == nil {
		t.Errorf("a wrong request is answered: %q", c)
	}
	await(t, "it is said", func() bool { return strings.Contains(strings.Join(b.warned(), "\n"), "none of 0, 1, 2") })
	for range maxReaders + 8 {
		conn, err := net.Dial("unix", filepath.Join(b.dir, QuerySocket))
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte{follow})
		conn.Close()
	}
	await(t, "none is left", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.readers == 0 })
}

// stalled is a store that gives no end of records.
type stalled struct{ *logs.Store }

func (stalled) Read(ctx context.Context, _ logs.Query, give func(logs.Record) error) error {
	text := []byte(strings.Repeat("x", 1000))
	for ctx.Err() == nil {
		if err := give(logs.Record{Source: "flood", Stream: logs.Stdout, Text: text}); err != nil {
			return err
		}
	}
	return nil
}

// A reader that does not read is alone with it, and does not hold up the end.
func TestAReaderThatDoesNotReadHoldsUpNobody(t *testing.T) {
	dir := t.TempDir()
	store := logs.New(logs.Config{Now: func() time.Duration { return 1 }, Wall: time.Now})
	t.Cleanup(store.Close)
	s, err := Listen(Config{Dir: dir, Store: stalled{store},
		Warn: t.Logf, Wall: func(time.Duration) time.Time { return time.Time{} }})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		conn, err := net.Dial("unix", filepath.Join(dir, QuerySocket))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Write([]byte{dumpAndFollow})
	}
	await(t, "they are served", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.readers == 3 })
	ended := make(chan struct{})
	go func() { s.Close(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(bound / 2):
		t.Fatal("the server does not end")
	}
}

func TestSource(t *testing.T) {
	for _, tc := range []struct {
		message, name string
		stream        logs.Stream
	}{
		{"web", "web", logs.Stderr},
		{"web.out", "web", logs.Stdout},
		{"onboot.000-dhcp.out\x00", "onboot.000-dhcp", logs.Stdout},
		{"", unnamed, logs.Stderr},
		{".out", unnamed, logs.Stdout},
		{"../../etc/passwd", "memlogd._.._etc_passwd", logs.Stderr},
		{"a\x1b[2Jb\xff", "a_[2Jb_", logs.Stderr},
		{"kernel", "kernel", logs.Stderr}, // who may use it is for mayUse to say
		{"naïve", "naïve", logs.Stderr},
	} {
		name, stream, err := source([]byte(tc.message))
		if err != nil || name != tc.name || stream != tc.stream {
			t.Errorf("source(%q) = %q, %q, %v", tc.message, name, stream, err)
		}
	}
}

// FuzzProtocol sends what no client would to both sockets of a server.
func FuzzProtocol(f *testing.F) {
	f.Add([]byte("web.out"), []byte{dump}, true)
	f.Add([]byte{}, []byte{follow}, false)
	f.Add([]byte(strings.Repeat("../", 300)), []byte{dumpAndFollow, 1, 2}, true)
	f.Add([]byte("\x00\xff.out.out"), []byte{}, true)
	dir := f.TempDir()
	// Small, as all of it is read again and again.
	store := logs.New(logs.Config{Now: func() time.Duration { return time.Second }, Wall: time.Now, PerSource: 128 << 10, Total: 512 << 10})
	f.Cleanup(store.Close)
	s, err := Listen(Config{Dir: dir, Store: store, Warn: func(string, ...any) {}, Wall: func(time.Duration) time.Time { return time.Time{} }})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.Close)
	runs := 0
	f.Fuzz(func(t *testing.T, message, request []byte, withFile bool) {
		runs++
		b := &bench{Server: s, t: t, dir: dir, store: store}
		if name, stream, err := source(message); err == nil {
			if name == "" || len(name) > 3*maxName+len("memlogd.") || strings.ContainsAny(name, "/\x00\n\x1b") || name[0] == '.' {
				t.Fatalf("source(%q) = %q", message, name)
			}
			again, same, err := source([]byte(sourceName(logs.Record{Source: name, Stream: stream})))
			if len(name) <= maxName-len(outSuffix) && (err != nil || again != name || same != stream) {
				t.Fatalf("source(%q) = %q, %q and as a client sees it %q, %q, %v", message, name, stream, again, same, err)
			}
		}
		if len(message) > 60_000 {
			message = message[:60_000]
		}
		if withFile {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			b.give(string(message), int(r.Fd()))
			r.Close()
			w.Write(request)
			w.Close()
		} else {
			b.give(string(message))
		}
		conn, err := net.Dial("unix", filepath.Join(dir, QuerySocket))
		if err != nil {
			t.Fatal(err)
		}
		conn.Write(request)
		conn.Close()
		// A good client is served all the same, now and then, once it is not one too many.
		if runs%100 != 1 {
			return
		}
		for deadline := time.Now().Add(bound); ; {
			err := b.dump()
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	})
}

// dump reads all there is, which is an error where it does not come or is no JSON.
func (b *bench) dump() error {
	conn, err := net.Dial("unix", filepath.Join(b.dir, QuerySocket))
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(bound))
	if _, err := conn.Write([]byte{dump}); err != nil {
		return err
	}
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadBytes('\n')
		if err == io.EOF && len(line) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		if !json.Valid(line) {
			b.t.Fatalf("not JSON: %q", line)
		}
	}
}

// What a container has put in the place of a socket does not keep the next supervisor from
// making it, and is not followed.
func TestSomethingInThePlaceOfASocket(t *testing.T) {
	for _, make := range []func(path, outside string) error{
		func(path, outside string) error { return os.Symlink(outside, path) },
		func(path, _ string) error { return os.MkdirAll(filepath.Join(path, "full"), 0o755) },
		func(path, _ string) error { return unix.Mkfifo(path, 0o666) },
	} {
		dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
		if err := os.WriteFile(outside, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{WriteSocket, QuerySocket} {
			if err := make(filepath.Join(dir, name), outside); err != nil {
				t.Fatal(err)
			}
		}
		start(t, dir, nil)
		for _, name := range []string{WriteSocket, QuerySocket} {
			if fi, err := os.Lstat(filepath.Join(dir, name)); err != nil || fi.Mode()&os.ModeSocket == 0 {
				t.Errorf("%s is %v, %v", name, fi, err)
			}
		}
		if fi, err := os.Lstat(outside); err != nil || !fi.Mode().IsRegular() {
			t.Errorf("outside is %v, %v", fi, err)
		}
	}
}
