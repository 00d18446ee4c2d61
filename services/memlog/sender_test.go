package memlog

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keelson/services/logs"
)

// machine is a bench of which a test says whose process sends.
type machine struct {
	*bench
	cgroups string

	mu   sync.Mutex
	from Sender // guarded by mu
}

func startAs(t *testing.T, from Sender) *machine {
	t.Helper()
	m := &machine{cgroups: t.TempDir(), from: from}
	m.bench = startWith(t, t.TempDir(), nil, func(c *Config) {
		c.Cgroups = m.cgroups
		c.Owners = func(name string) []string {
			switch name {
			case "web", "db", "kernel":
				return []string{name}
			case "dhcp", "onboot.000-dhcp":
				return []string{"onboot.000-dhcp"}
			}
			return nil
		}
		c.Sender = func(pid int) Sender {
			if pid != os.Getpid() {
				t.Errorf("the kernel says that process %d sends", pid)
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.from
		}
	})
	return m
}

func (m *machine) become(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.from.ID = id
}

// sources waits until there are so many lines, and returns whose they are.
func (m *machine) sources(lines int) []string {
	m.t.Helper()
	r := m.ask(dumpAndFollow)
	var all []string
	for range lines {
		all = append(all, next(m.t, r).Source)
	}
	slices.Sort(all)
	return all
}

func TestNobodySpeaksForAnother(t *testing.T) {
	m := startAs(t, Sender{ID: "evil"})
	for _, name := range []string{"web", "web.out", "dhcp", "onboot.000-dhcp.out", "onboot.007-later", "kernel", "keelson", "containerd", "memlogd:x", "web:x", "mine", "evil.out"} {
		fmt.Fprintln(m.client(name), "x")
	}
	want := []string{"evil.out", "evil:containerd", "evil:dhcp", "evil:keelson", "evil:kernel", "evil:memlogd:x", "evil:onboot.000-dhcp.out",
		"evil:onboot.007-later", "evil:web", "evil:web.out", "evil:web:x", "mine"}
	if got := m.sources(len(want)); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := strings.Join(m.warned(), "\n"); !strings.Contains(got, "of evil: it may not speak as web: that is logged as evil:web (reported once") || len(m.warned()) != 1 {
		t.Errorf("warned %q", got)
	}
	for id, names := range map[string][]string{"web": {"web", "web:x", "mine"}, "onboot.000-dhcp": {"dhcp"}, "": {"web"}, Unknown: {"kernel"}, "a+db": {"db"}} {
		m.become(id)
		for _, name := range names {
			fmt.Fprintln(m.client(name), "x")
			m.sources(len(want) + 1)
			want = append(want, "")
		}
	}
	for _, source := range []string{"web", "web:x", "web:mine", "dhcp", "memlogd:web", "unknown:kernel", "db"} {
		if got := m.sources(len(want)); !slices.Contains(got, source) {
			t.Errorf("%s is not among %q", source, got)
		}
	}
}

func (m *machine) open(id string) int {
	m.Server.mu.Lock()
	defer m.Server.mu.Unlock()
	return m.sender(id).open
}

func TestNoSenderTakesAnothersRoom(t *testing.T) {
	m := startAs(t, Sender{ID: "evil"})
	var given []*os.File
	for i := range 4 * maxFiles {
		given = append(given, m.client(fmt.Sprint("made-up-", i)))
	}
	for _, w := range given[maxFiles:] {
		await(t, "what is too much is closed", func() bool { return closed(w) })
	}
	if n := m.open("evil"); n != maxFiles {
		t.Errorf("%d files are open", n)
	}
	m.become("good")
	fmt.Fprintln(m.client("good-one"), "heard")
	if e := next(t, m.ask(dumpAndFollow)); e.Source != "good-one" {
		t.Errorf("got %+v", e)
	}
	// Names, one after the other.
	m.become("evil")
	for _, w := range given {
		w.Close()
	}
	await(t, "the slots are free", func() bool { return m.open("evil") == 0 })
	for i := range 100 {
		w := m.client(fmt.Sprint("more-", i))
		fmt.Fprintln(w, "x")
		w.Close()
		await(t, "it is over", func() bool { return m.open("evil") == 0 })
	}
	made := 0
	for _, st := range m.store.Spool().Streams() {
		if st.Client() && strings.Contains(st.Source(), "-") && st.Source() != "good-one" {
			made++
		}
	}
	if made != 64 {
		t.Errorf("%d names", made)
	}
	if got := strings.Join(m.warned(), "\n"); !strings.Contains(got, "of evil: a file of made-up-32 was not taken: 32 are open already") ||
		!strings.Contains(got, "it has 64 streams already") || len(m.warned()) != 2 {
		t.Errorf("warned %q", got)
	}
	m.become("good")
	fmt.Fprintln(m.client("good-two"), "heard")
	for lines := m.ask(dumpAndFollow); next(t, lines).Source != "good-two"; {
	}
}

// What has been refused is counted on.
func TestRefusalsAreCounted(t *testing.T) {
	m := startAs(t, Sender{ID: "evil"})
	for range 100 {
		m.give("nothing with it")
	}
	await(t, "the hundredth is reported", func() bool { return len(m.warned()) == 2 })
	if got := m.warned()[1]; !strings.Contains(got, "of evil: refused 100 times by now: a message was thrown away: it brought no file") {
		t.Errorf("got %q", got)
	}
}

func TestWhatIsTaken(t *testing.T) {
	socket := func(domain, kind int) int {
		fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	pair := func(kind int) [2]int {
		p, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tcp, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	connected, err := tcp.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer connected.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	// What is opened is closed by its number, which must be in no file's hands.
	own := func(f *os.File) int {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	for what, fd := range map[string]int{
		"udp": socket(unix.AF_INET, unix.SOCK_DGRAM), "tcp": socket(unix.AF_INET, unix.SOCK_STREAM), "connected tcp": own(connected),
		"unconnected": socket(unix.AF_UNIX, unix.SOCK_STREAM), "datagrams": pair(unix.SOCK_DGRAM)[0], "packets": pair(unix.SOCK_SEQPACKET)[0],
		"device": own(null),
	} {
		if h, err := open(fd); err == nil {
			h.close()
			t.Errorf("%s is taken", what)
		} else if !strings.Contains(err.Error(), "hand over a pipe or a connected stream socket") {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			t.Errorf("%s is still open", what)
		}
	}
	h, err := open(pair(unix.SOCK_STREAM)[0])
	if err != nil {
		t.Fatal(err)
	}
	h.close()
}

// A sender sets no flag of what is read here, and none of its is set.
func TestFlagsAreEachOnesOwn(t *testing.T) {
	m := startAs(t, Sender{ID: "evil"})
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for fd, other := range map[int]int{pipe[0]: pipe[1], pair[0]: pair[1]} {
		m.give("blocking", fd)
		await(t, "it is read", func() bool { return m.open("evil") == 1 })
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
			t.Errorf("its flags are %#x, %v", flags, err)
		}
		m.Server.mu.Lock()
		for h := range m.files {
			n := -1
			if err := h.control(func(fd int) (err error) { n, err = h.receive(fd, make([]byte, 1)); return err }); err != unix.EAGAIN && !strings.Contains(err.Error(), "temporarily unavailable") {
				t.Errorf("a read of nothing: %d, %v", n, err)
			}
		}
		m.Server.mu.Unlock()
		unix.Close(other)
		unix.Close(fd)
		await(t, "it is over", func() bool { return m.open("evil") == 0 })
	}
}

// A socket that lingers when it is closed does not hold up the others' messages.
func TestALingeringSocketHoldsUpNobody(t *testing.T) {
	m := startAs(t, Sender{ID: "evil"})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 4 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().(*net.TCPAddr)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			t.Fatal(err)
		}
		peer, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close() // which reads nothing
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 60}); err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := unix.SendmsgN(fd, make([]byte, 64<<10), nil, nil, unix.MSG_DONTWAIT); err != nil {
				break
			}
		}
		m.give("lingers", fd)
		unix.SetNonblock(fd, false)
		unix.Close(fd) // the server has the last one
	}
	began := time.Now()
	fmt.Fprintln(m.client("mine"), "heard")
	if e := next(t, m.ask(dumpAndFollow)); e.Msg != "heard" {
		t.Errorf("got %+v", e)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
}

// A sender's slots are free when it has exited, even where somebody still has the other end.
func TestSlotsEndWithTheirSender(t *testing.T) {
	m := startAs(t, Sender{ID: "evil", Cgroup: "/services/evil"})
	dir := filepath.Join(m.cgroups, "services/evil")
	populate := func(n int) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.events"), fmt.Appendf(nil, "populated %d\nfrozen 0\n", n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(m.cgroups, "cgroup.controllers"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	populate(1)
	lost := m.client("one")
	fmt.Fprintln(lost, "before")
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	m.give("two", pair[1])
	unix.Close(pair[1])
	await(t, "both are open", func() bool { return m.open("evil") == 2 })
	time.Sleep(2 * endLook) // as long as it is there it is read
	fmt.Fprintln(lost, "still there")
	if got := m.sources(2); !slices.Equal(got, []string{"one", "one"}) {
		t.Errorf("got %q", got)
	}
	populate(0)
	await(t, "the slots are free", func() bool { return m.open("evil") == 0 })
	if !closed(lost) {
		t.Error("its pipe is still open")
	}
	// What one that has exited already sent is read to its end.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	fmt.Fprintln(w, "last words")
	m.give("three", int(r.Fd()))
	r.Close()
	if got := m.sources(3); !slices.Contains(got, "three") {
		t.Errorf("got %q", got)
	}
	await(t, "the slot is free", func() bool { return m.open("evil") == 0 })
	// And the next run has its own.
	populate(1)
	m.client("four")
	await(t, "it is open", func() bool { return m.open("evil") == 1 })
	m.Server.mu.Lock()
	watching := m.watching
	m.Server.mu.Unlock()
	if !watching {
		t.Error("nobody looks whether it has exited")
	}
}

// One of whom a descriptor holds us up has no room any more, and the others have theirs.
func TestAStuckSenderHoldsUpNobody(t *testing.T) {
	m := startAs(t, Sender{ID: "evil"})
	m.Server.mu.Lock()
	f := m.sender("evil")
	f.working = true // by somebody who does not come back
	m.Server.mu.Unlock()
	for range maxWaiting + 10 {
		m.give("nothing with it")
	}
	await(t, "what there is no room for is refused", func() bool { return len(m.warned()) > 0 })
	m.become("good")
	fmt.Fprintln(m.client("mine"), "heard")
	if e := next(t, m.ask(dumpAndFollow)); e.Msg != "heard" {
		t.Errorf("got %+v", e)
	}
	if got := m.warned()[0]; !strings.Contains(got, "of evil: a message was thrown away: it sends more than can be looked at") {
		t.Errorf("warned %q", got)
	}
}

func TestHeldKey(t *testing.T) {
	got := heldKey(7, Sender{ID: "web", Cgroup: "/services/web"}, "app", logs.Stdout)
	if got != "memlogd.file.7/web/app.out/services/web" {
		t.Errorf("got %q", got)
	}
}
