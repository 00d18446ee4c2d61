package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/network"
	"keelson/internal/nstest"
	"keelson/internal/policy"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

// bound ends a test that hangs; nothing waits for it to pass.
const bound = time.Minute

func probes(t *testing.T, values ...string) []policy.Probe {
	t.Helper()
	var all []policy.Probe
	for _, v := range values {
		p, problems := policy.ParseService(map[string]string{"keelson.ready": v})
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		all = append(all, p.Ready)
	}
	return all
}

func check(t *testing.T, value string, target Target) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	return Check(ctx, probes(t, value)[0], target)
}

// inside calls f on a thread in the network namespace of a process.
func inside(t *testing.T, pid int, f func() error) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := openNamespace("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(here)
	there, err := openNamespace(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(there)
	if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	err = f()
	if err := errors.Join(err, unix.Setns(here, unix.CLONE_NEWNET)); err != nil {
		t.Fatal(err)
	}
}

// container is a process with a network of its own, and in it a listener.
func container(t *testing.T, addr string) (pid int, l net.Listener, port int) {
	t.Helper()
	nstest.Need(t)
	pid, _ = nstest.Process(t, unix.CLONE_NEWNET)
	inside(t, pid, func() (err error) {
		if err = network.Loopback(); err == nil {
			l, err = net.Listen("tcp", addr)
		}
		return err
	})
	t.Cleanup(func() { l.Close() })
	return pid, l, l.Addr().(*net.TCPAddr).Port
}

// leaks fails the test if descriptors or goroutines are left of what f does.
func leaks(t *testing.T, f func()) {
	t.Helper()
	count := func() (fds, goroutines int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries), runtime.NumGoroutine()
	}
	f() // the runtime opens its poller, and starts its threads
	fds, goroutines := count()
	for range 20 {
		f()
	}
	deadline := time.Now().Add(bound)
	for {
		fdsNow, goroutinesNow := count()
		if fdsNow <= fds && goroutinesNow <= goroutines {
			return
		}
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("descriptors %d -> %d, goroutines %d -> %d\n%s", fds, fdsNow, goroutines, goroutinesNow, buf[:runtime.Stack(buf, true)])
		}
		runtime.Gosched()
	}
}

func TestTCPIsTriedInTheNetworkOfTheService(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		pid, l, port := container(t, addr)
		value := fmt.Sprintf("tcp:%d", port)
		if err := check(t, value, Target{PID: pid}); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
		other, _, _ := container(t, "127.0.0.1:0")
		if err := check(t, value, Target{PID: other}); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: another container's port %d: %v", addr, port, err)
		}
		here, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		leaks(t, func() {
			if err := check(t, value, Target{PID: pid}); err != nil {
				t.Error(err)
			}
		})
		// Whichever thread goes on is in our own namespace.
		for range 50 {
			done := make(chan string)
			go func() { link, _ := os.Readlink("/proc/thread-self/ns/net"); done <- link }()
			if link := <-done; link != here {
				t.Fatalf("a thread was left in %s", link)
			}
		}
		l.Close()
		err = check(t, value, Target{PID: pid})
		if want := fmt.Sprintf("connect 127.0.0.1:%d: connection refused", port); err == nil || err.Error() != want {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestAServiceInTheMachinesOwnNetwork(t *testing.T) {
	nstest.Need(t)
	if err := network.Loopback(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := check(t, fmt.Sprintf("tcp:%d", l.Addr().(*net.TCPAddr).Port), Target{PID: os.Getpid()}); err != nil {
		t.Error(err)
	}
}

// A client's port is chosen among those that services may have too. Where nobody
// listens, a connection to it may so reach itself.
func TestAConnectionToItselfIsNoService(t *testing.T) {
	pid, l, port := container(t, "127.0.0.1:0")
	l.Close()
	inside(t, pid, func() error {
		// /proc/sys/net is the opening thread's.
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", fmt.Appendf(nil, "%d %d", port, port), 0)
	})
	if err := check(t, fmt.Sprintf("tcp:%d", port), Target{PID: pid}); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestAProcessThatHasEnded(t *testing.T) {
	nstest.Need(t)
	pid, end := nstest.Process(t, unix.CLONE_NEWNET)
	end()
	for _, value := range []string{"tcp:80", "http:80/", "file:/etc"} {
		if err := check(t, value, Target{PID: pid}); !errors.Is(err, errGone) {
			t.Errorf("%s: %v", value, err)
		}
	}
}

func TestHTTPJudgesByTheStatus(t *testing.T) {
	pid, l, port := container(t, "127.0.0.1:0")
	var asked *http.Request
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "http://192.0.2.1/nowhere", http.StatusFound)
		case "/ill":
			http.Error(w, "no database\nand a stack trace", http.StatusServiceUnavailable)
		case "/early":
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusNoContent)
		case "/endless":
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}
	})}
	go server.Serve(l)
	defer server.Close()
	value := func(path string) string { return fmt.Sprintf("http:%d%s", port, path) }
	for _, path := range []string{"", "/ok?x=1", "/moved", "/early", "/endless"} {
		if err := check(t, value(path), Target{PID: pid}); err != nil {
			t.Errorf("%q: %v", path, err)
		}
	}
	err := check(t, value("/ill?deep=1"), Target{PID: pid})
	if want := fmt.Sprintf("GET http://localhost:%d/ill?deep=1: 503 Service Unavailable: no database", port); err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
	if asked.Method != http.MethodGet || asked.Host != fmt.Sprintf("localhost:%d", port) || asked.URL.RawQuery != "deep=1" || !asked.Close {
		t.Errorf("it was asked for %+v", asked)
	}
	leaks(t, func() { _ = check(t, value("/ok"), Target{PID: pid}) })
}

// answering is a server whose every connection is answered by f.
func answering(l net.Listener, f func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() { defer conn.Close(); f(conn) }()
	}
}

func TestHTTPAnswersThatAreNone(t *testing.T) {
	pid, l, port := container(t, "127.0.0.1:0")
	answers := make(chan string, 1)
	go answering(l, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, <-answers)
	})
	for answer, want := range map[string]string{
		"":                    "closed without an answer",
		"SSH-2.0-OpenSSH\r\n": "malformed HTTP",
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", answerBytes): "larger than",
		"HTTP/1.1 500 Oops\r\n\r\n\x1b[2J\x1b[31mred\x00 alert":     ": 500 Internal Server Error: [2J[31mred alert",
		// The chunk that is announced never comes, and is not waited for.
		"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n": ": 500 Internal Server Error",
	} {
		answers <- answer
		err := check(t, fmt.Sprintf("http:%d/", port), Target{PID: pid})
		if err == nil || !strings.Contains(err.Error(), want) || strings.ContainsAny(err.Error(), "\x00\x1b") {
			t.Errorf("%.40q: got %v, want %q", answer, err, want)
		}
	}
}

// TestWhatHangsIsCut has, for each kind of look, something that never answers.
func TestWhatHangsIsCut(t *testing.T) {
	pid, l, port := container(t, "127.0.0.1:0")
	go answering(l, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	target := Target{PID: pid, Exec: func(ctx context.Context, argv []string) (int, string, error) {
		<-ctx.Done()
		return 0, "", ctx.Err()
	}}
	for _, value := range []string{fmt.Sprintf("http:%d/", port), "exec:sleep 1000"} {
		p := probes(t, value)[0]
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		err := Check(ctx, p, target)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer within") {
			t.Errorf("%s: %v", value, err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		if err := Check(ctx, p, target); err != context.Canceled {
			t.Errorf("%s, cancelled: %v", value, err)
		}
		leaks(t, func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if err := Check(ctx, p, target); err == nil {
				t.Errorf("%s: it answered", value)
			}
		})
	}
	// A pipe without a writer is there, and is not opened for reading.
	if err := check(t, "file:"+fifo, Target{PID: pid}); err != nil {
		t.Error(err)
	}
}

func TestAFullBacklogIsNoAnswer(t *testing.T) {
	pid, l, port := container(t, "127.0.0.1:0")
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), 0) })
	if err != nil {
		t.Fatal(err)
	}
	// Nobody accepts: when the queue is full the kernel drops what more comes.
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		conn, err := connect(ctx, port, pid)
		cancel()
		if err != nil {
			break
		}
		defer conn.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err = Check(ctx, probes(t, fmt.Sprintf("tcp:%d", port))[0], Target{PID: pid})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), fmt.Sprintf("connect 127.0.0.1:%d: no answer within", port)) {
		t.Error(err)
	}
}

func TestFileIsLookedForInTheContainer(t *testing.T) {
	nstest.Need(t)
	root := nstest.Tmpfs(t, "size=1m")
	outside := filepath.Join(t.TempDir(), "secret")
	for _, dir := range []string{"etc", "run"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"inside": "/etc", "up": "../../../../../../../../" + outside, "absolute": outside,
		"magic": "/proc/1/root/etc", "loop": "/loop",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{outside, filepath.Join(root, "run/ready")} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	target := Target{PID: chrooted(t, root)}
	for path, want := range map[string]string{
		"/run/ready": "", "/inside": "", "/etc": "", "/run/../../etc": "",
		"/run/absent":      "/run/absent does not exist",
		"/run/ready/below": "does not exist",
		"/up":              "does not exist",
		"/absolute":        "does not exist",
		"/magic":           "does not exist",
		"/loop":            "too many levels",
	} {
		err := check(t, "file:"+path, target)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
	if err := check(t, "file:"+outside, Target{PID: os.Getpid()}); err != nil {
		t.Errorf("it is there for those outside: %v", err)
	}
	leaks(t, func() { _ = check(t, "file:/run/ready", target) })
}

func TestCommands(t *testing.T) {
	for _, tc := range []struct {
		code   int
		output string
		err    error
		want   string
	}{
		{0, "fine\n", nil, ""},
		{1, "line\nno such table: \x1b[1musers\n\n", nil, "psql: exited with code 1: no such table: [1musers"},
		{137, "", nil, "psql: killed by SIGKILL"},
		{255, strings.Repeat("x", 500), nil, "psql: exited with code 255: " + strings.Repeat("x", lineLength) + "..."},
		{0, "", errors.New("not in the image"), "psql: not in the image"},
	} {
		var ran []string
		err := check(t, `exec:psql -c "select 1"`, Target{Exec: func(_ context.Context, argv []string) (int, string, error) {
			ran = argv
			return tc.code, tc.output, tc.err
		}})
		if got := fmt.Sprint(err); got != tc.want && (tc.want != "" || err != nil) {
			t.Errorf("got %q, want %q", got, tc.want)
		}
		if len(ran) != 3 || ran[2] != "select 1" {
			t.Errorf("ran %q", ran)
		}
	}
}

func TestOthersAreNoLooks(t *testing.T) {
	for _, p := range probes(t, "started", "notify", "log:up") {
		if err := Check(t.Context(), p, Target{}); err == nil {
			t.Errorf("%s was looked at", p)
		}
	}
}

// chrooted starts a process whose root directory is root.
func chrooted(t *testing.T, root string) int {
	t.Helper()
	// The test's own binary cannot be run in there, but a thread can: its folder of
	// /proc has a root directory of its own.
	tid, done := make(chan int), make(chan struct{})
	t.Cleanup(func() { close(done) })
	var live func()
	live = func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == os.Getpid() {
			taken := make(chan struct{}) // the first thread is the whole process to others
			go func() { defer close(taken); live() }()
			<-taken
			runtime.UnlockOSThread()
			return
		}
		if err := errors.Join(unix.Unshare(unix.CLONE_FS), unix.Chroot(root)); err != nil {
			t.Error(err)
		}
		tid <- unix.Gettid()
		<-done
	}
	go live()
	return <-tid
}
