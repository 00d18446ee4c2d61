package notify

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const sendEnv = "NOTIFY_TEST_SEND"

// TestMain makes the test's binary a sender of what the environment says.
func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(sendEnv); ok {
		conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
		if err == nil {
			_, err = conn.Write([]byte(text))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fixture is a listener that believes the processes of a set, at first the test.
type fixture struct {
	*Listener
	t   *testing.T
	dir string

	mu     sync.Mutex
	pids   map[int]bool // guarded by mu
	warned []string     // guarded by mu
}

func listen(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: filepath.Join(t.TempDir(), "made", "by-it"), pids: map[int]bool{os.Getpid(): true}}
	f.again()
	return f
}

func (f *fixture) again() {
	f.t.Helper()
	l, err := Listen(f.dir, func(pid int) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.pids[pid]
	}, func(format string, a ...any) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.warned = append(f.warned, fmt.Sprintf(format, a...))
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.Listener = l
	f.t.Cleanup(l.Close)
}

func (f *fixture) path() string { return filepath.Join(f.dir, SocketName) }

func (f *fixture) trust(pid int, yes bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pids[pid] = yes
}

func (f *fixture) warnings() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.warned...)
}

// send sends a datagram from the test's own process, with descriptors.
func (f *fixture) send(text string, fds ...int) {
	f.t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	defer unix.Close(fd)
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(fd, []byte(text), oob, &unix.SockaddrUnix{Name: f.path()}, 0); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) get() Message {
	f.t.Helper()
	select {
	case m := <-f.C():
		return m
	case <-time.After(time.Minute):
		f.t.Fatalf("no message came; warnings: %q", f.warnings())
		return Message{}
	}
}

// status sends a message that is believed and returns the status of the next one
// that comes, which is its own unless one before it was believed as well.
func (f *fixture) status(text string) string {
	f.t.Helper()
	f.send("STATUS=" + text)
	return f.get().Status
}

// sender runs a process of its own that sends and ends.
func (f *fixture) sender(text string, uid int) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), sendEnv+"="+text, "NOTIFY_SOCKET="+f.path())
	cmd.Stderr = os.Stderr
	if uid >= 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	return cmd
}

func TestMessages(t *testing.T) {
	for text, want := range map[string]Message{
		"READY=1":                                 {Ready: true},
		"READY=1\n":                               {Ready: true},
		"READY=1\x00":                             {Ready: true},
		"READY=1\nSTATUS=serving\n":               {Ready: true, Status: "serving"},
		"STATUS=a=b, c":                           {Status: "a=b, c"},
		"STATUS= \x1b[31mred\u0007 ":              {Status: "[31mred"},
		"STATUS=" + strings.Repeat("ä", 300):      {Status: strings.Repeat("ä", 200) + "..."},
		"STOPPING=1":                              {Stopping: true},
		"RELOADING=1\nMONOTONIC_USEC=5":           {Reloading: true},
		"WATCHDOG=1":                              {Watchdog: true},
		"WATCHDOG=trigger":                        {WatchdogTrigger: true},
		"EXTEND_TIMEOUT_USEC=1500000":             {ExtendTimeout: 1500 * time.Millisecond},
		"EXTEND_TIMEOUT_USEC=9223372036854775807": {ExtendTimeout: time.Hour},
		"EXTEND_TIMEOUT_USEC=-1":                  {},
		"ERRNO=2\nSTOPPING=1":                     {Errno: 2, Stopping: true},
		"ERRNO=-2":                                {},
		"READY=0":                                 {},
		"MAINPID=1\nFDSTORE=1\nX_OWN=yes":         {},
		"BARRIER=1":                               {},
	} {
		if got, ok := parse([]byte(text)); got != want || !ok {
			t.Errorf("%.40q: got %+v, %v, want %+v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "\x00", "READY", "READY=1\nnonsense", "=1", "ready=1", "READY=1\x00READY=1", "\x01\x02="} {
		if got, ok := parse([]byte(text)); ok {
			t.Errorf("%q was read as %+v", text, got)
		}
	}
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte("READY=1\nSTATUS=x\nEXTEND_TIMEOUT_USEC=5"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, _ := parse(data)
		if len(m.Status) > 4*(statusLength+3) || strings.ContainsAny(m.Status, "\x00\n\x1b") || m.ExtendTimeout < 0 || m.ExtendTimeout > extendMax || m.Errno < 0 {
			t.Errorf("%q: %+v", data, m)
		}
	})
}

func TestOnlyTheContainersProcessesAreBelieved(t *testing.T) {
	f := listen(t)
	if got := f.status("ours"); got != "ours" {
		t.Errorf("got %q", got)
	}
	f.trust(os.Getpid(), false)
	f.send("STATUS=foreign")
	f.send("STATUS=foreign too")
	for len(f.warnings()) == 0 { // the first one has been judged
		runtime.Gosched()
	}
	f.trust(os.Getpid(), true)
	for f.status("ours again") != "ours again" { // the second one may be judged now
	}
	if got := f.warnings(); len(got) != 1 || !strings.Contains(got[0], fmt.Sprintf("process %d is ignored, which is not one of the container's", os.Getpid())) {
		t.Errorf("warned %q, want it once", got)
	}
}

// TestSendersThatHaveEnded holds the reader up, so that the sender is gone for
// sure when its message is read.
func TestSendersThatHaveEnded(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to have senders who are not")
	}
	f := listen(t)
	// For the sender who is not root; the machine's own folder is closed to it.
	for dir := filepath.Dir(f.dir); dir != filepath.Clean(os.TempDir()); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for uid, believed := range map[int]bool{0: false, 65534: true} {
		f.send("STATUS=first")
		f.send("STATUS=second") // the reader waits with the first in its hands, and so does the rest in the socket
		cmd := f.sender("STATUS=from the dead", uid)
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"first", "second"} {
			if got := f.get().Status; got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
		got := f.status("last")
		if believed != (got == "from the dead") {
			t.Errorf("uid %d: got %q", uid, got)
		}
		if believed {
			f.get()
		}
	}
	if got := f.warnings(); len(got) != 1 || !strings.Contains(got[0], "had ended before it could be told whose it was") {
		t.Errorf("warned %q", got)
	}
}

func TestASenderOfAnotherProcess(t *testing.T) {
	f := listen(t)
	// It is believed by its number, as long as it has not been collected.
	cmd := f.sender("READY=1", -1)
	f.mu.Lock()
	err := cmd.Start()
	if err == nil {
		f.pids[cmd.Process.Pid] = true
	}
	f.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if m := f.get(); !m.Ready {
		t.Errorf("got %+v", m)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestGarbageIsIgnoredWithOneWarning(t *testing.T) {
	f := listen(t)
	for range 3 {
		f.send("STATUS=" + strings.Repeat("x", messageBytes))
		f.send("\x00\x01\x02")
		f.send("")
		f.send("no equals sign")
		f.send("UNKNOWN=key") // is none
	}
	if got := f.status("still here"); got != "still here" {
		t.Errorf("got %.40q", got)
	}
	got := f.warnings()
	if len(got) != 2 || !strings.Contains(got[0], "more than 4096 bytes") || !strings.Contains(got[1], "not KEY=VALUE") {
		t.Errorf("warned %q, want each kind once", got)
	}
	longest := "STATUS=x\n" + strings.Repeat("X=12345\n", messageBytes/8-2)
	f.send(longest)
	if got := f.get().Status; got != "x" {
		t.Errorf("a message of %d bytes: %q", len(longest), got)
	}
}

func TestDescriptorsAreClosed(t *testing.T) {
	f := listen(t)
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	f.status("the runtime has opened what it needs")
	before := open()
	for _, text := range []string{"BARRIER=1", "garbage", "READY=1\nFDSTORE=1", "STATUS=" + strings.Repeat("x", messageBytes)} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		many := make([]int, maxFDs)
		for i := range many {
			many[i] = int(w.Fd())
		}
		f.send(text, many...)
		w.Close()
		if strings.HasPrefix(text, "READY") {
			f.get()
		}
		// systemd-notify waits for exactly this.
		if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%.20q: read %d, %v", text, n, err)
		}
		r.Close()
	}
	if after := open(); after != before {
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
}

// A socket that lingers when it is closed holds up nothing.
func TestALingeringSocketIsClosedAtOnce(t *testing.T) {
	f := listen(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close() // which reads nothing
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600}); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = unix.SendmsgN(fd, make([]byte, 64<<10), nil, nil, unix.MSG_DONTWAIT)
	}
	// What is not taken yet keeps the listener from the third, so that its descriptor is the last one.
	f.send("STATUS=1")
	f.send("STATUS=2")
	f.send("STATUS=3", fd)
	unix.Close(fd)
	for _, want := range []string{"1", "2", "3", "after it"} {
		if want == "after it" {
			f.send("STATUS=after it")
		}
		if m := f.get(); m.Status != want {
			t.Errorf("got %+v, want %s", m, want)
		}
	}
}

func TestTheNextListenerTakesTheSameFolder(t *testing.T) {
	f := listen(t)
	fi, err := os.Stat(f.path())
	if err != nil || fi.Mode().Perm() != 0o666 {
		t.Errorf("the socket: %v, %v", fi, err)
	}
	first := f.Listener
	f.again() // the first supervisor need not have closed it
	if got := f.status("to the second"); got != "to the second" {
		t.Errorf("got %q", got)
	}
	first.Close()
	if got := f.status("and again"); got != "and again" {
		t.Errorf("got %q", got)
	}
	if entries, err := os.ReadDir(f.dir); err != nil || len(entries) != 1 {
		t.Errorf("in the folder: %v, %v", entries, err)
	}
}

// TestNoLinkIsFollowed: whoever comes to write in the directory gains nothing by a link there.
func TestNoLinkIsFollowed(t *testing.T) {
	belongs, warn := func(int) bool { return true }, func(string, ...any) {}
	dir, victim := filepath.Join(t.TempDir(), "web"), filepath.Join(t.TempDir(), "victim")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(victim, []byte("v"), 0o600), os.Symlink(victim, filepath.Join(dir, SocketName+".new")), os.Symlink(victim, filepath.Join(dir, SocketName))); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(dir, belongs, warn)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if fi, err := os.Stat(victim); err != nil || fi.Mode() != 0o600 || fi.Size() != 1 {
		t.Errorf("%v %v", fi, err)
	}
	if fi, err := os.Lstat(filepath.Join(dir, SocketName)); err != nil || fi.Mode().Type() != os.ModeSocket {
		t.Errorf("%v %v", fi, err)
	}
	if err := errors.Join(os.RemoveAll(dir), os.Symlink(filepath.Dir(victim), dir)); err != nil {
		t.Fatal(err)
	}
	if l, err := Listen(dir, belongs, warn); err == nil {
		l.Close()
		t.Error("the socket is made through a link")
	}
}

func TestCloseEndsWhateverItDoes(t *testing.T) {
	before := runtime.NumGoroutine()
	idle := listen(t)
	idle.Close()
	idle.Close()
	busy := listen(t)
	busy.send("READY=1") // nobody takes it
	busy.Close()
	for runtime.NumGoroutine() > before {
		runtime.Gosched()
	}
}

func TestOneMayNotSendTooMuch(t *testing.T) {
	at := time.Unix(1000, 0)
	b := newBucket(at)
	for i := range perSecond {
		if wait := b.take(at); wait != 0 {
			t.Fatalf("message %d waits for %v", i, wait)
		}
	}
	if wait := b.take(at); wait != time.Second/perSecond {
		t.Errorf("one more waits for %v", wait)
	}
	// Whoever waits as told sends perSecond messages a second.
	began, sent := at, 0
	for at.Sub(began) < 10*time.Second {
		at = at.Add(b.take(at))
		sent++
	}
	if sent < 10*perSecond-2 || sent > 10*perSecond+2 {
		t.Errorf("%d messages in 10 s", sent)
	}
	at = at.Add(time.Hour)
	for i := range perSecond {
		if wait := b.take(at); wait != 0 {
			t.Fatalf("after an hour's silence message %d waits for %v", i, wait)
		}
	}
}

func TestAFloodIsSaidOnceAndLosesNothing(t *testing.T) {
	f := listen(t)
	const count = perSecond + 10
	go func() {
		conn, err := net.Dial("unixgram", f.path())
		if err != nil {
			return
		}
		defer conn.Close()
		for range count {
			_, _ = conn.Write([]byte("WATCHDOG=1"))
		}
	}()
	for range count {
		f.get()
	}
	if got := f.warnings(); len(got) != 1 || !strings.Contains(got[0], "more than 100 notify messages a second") {
		t.Errorf("warned %q", got)
	}
}
