package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/api"
	"keelson/internal/policy"
	"keelson/internal/steer"
	"keelson/services/events"
	"keelson/services/execstream"
)

// bound ends a test that hangs.
const bound = 20 * time.Second

// fakeServices are two services: web does what it is asked, never does not come up.
type fakeServices struct{ asked chan string }

func (f *fakeServices) Names() []string { return []string{"never", "web"} }
func (f *fakeServices) Info(name string) (api.Service, bool) {
	switch name {
	case "web":
		return api.Service{Name: name, State: "ready", PID: 7, Cgroup: "/services/web"}, true
	case "never":
		return api.Service{Name: name, State: "waiting"}, true
	}
	return api.Service{}, false
}
func (f *fakeServices) All() []api.Service {
	web, _ := f.Info("web")
	return []api.Service{web}
}
func (f *fakeServices) Start(ctx context.Context, name string) error {
	if name == "never" {
		<-ctx.Done()
		return errors.New("never is not ready yet: it is waiting")
	}
	f.asked <- "start " + name
	return nil
}
func (f *fakeServices) Stop(_ context.Context, name string) error {
	f.asked <- "stop " + name
	return nil
}
func (f *fakeServices) Restart(context.Context, string) error { return errors.New("web is failed: no") }
func (f *fakeServices) Kill(name string, sig unix.Signal) error {
	f.asked <- "kill " + name + " " + unix.SignalName(sig)
	return nil
}
func (f *fakeServices) Reload(_ context.Context, name string) error {
	f.asked <- "reload " + name
	return nil
}

type world struct {
	t        *testing.T
	server   *Server
	services *fakeServices
	hub      *events.Hub
	client   *http.Client
	socket   string
	process  *fakeProcess
}

func start(t *testing.T, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, services: &fakeServices{asked: make(chan string, 8)}, socket: filepath.Join(t.TempDir(), "run/control.sock")}
	w.hub = events.New(func() time.Duration { return 5 })
	w.process = newFakeProcess()
	cfg := Config{
		Socket:   w.socket,
		Services: func() Services { return w.services },
		Machine:  func() api.Machine { return api.Machine{State: "running"} },
		Boot:     func() api.Boot { return api.Boot{Complete: 9} },
		Figures:  func(cgroup string) (api.Figures, error) { return api.Figures{Memory: uint64(len(cgroup))}, nil },
		Tail:     func(name string, n int) []string { return []string{"the last of " + name} },
		Logs:     http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "logs "+r.URL.RawQuery) }),
		Events:   w.hub,
		Power:    func(action string) error { w.services.asked <- action; return nil },
		Audit: func(_ context.Context, svc api.Service) (api.Audit, error) {
			return api.Audit{Service: svc.Name, PID: svc.PID, Exposure: 2}, nil
		},
		Exec: func(_ context.Context, svc api.Service, r ExecRequest) (Process, error) {
			if r.Args[0] == "missing" {
				return nil, errors.New("no such program")
			}
			return w.process, nil
		},
		Warn:    func(format string, a ...any) { t.Errorf("warned: "+format, a...) },
		Allowed: func(unix.Ucred) error { return nil },
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if w.server, err = Listen(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.server.Close)
	w.client = &http.Client{Timeout: bound, Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", w.socket)
	}}}
	t.Cleanup(w.client.CloseIdleConnections)
	return w
}

// ask returns the status and the body.
func (w *world) ask(method, path string) (int, string) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, "http://keelson"+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	answer, err := w.client.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

func (w *world) dial() net.Conn {
	w.t.Helper()
	conn, err := net.Dial("unix", w.socket)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(bound)); err != nil {
		w.t.Fatal(err)
	}
	return conn
}

func TestAnswers(t *testing.T) {
	w := start(t, nil)
	for _, tc := range []struct {
		method, path string
		status       int
		want         string // in the body
	}{
		{"GET", "/v1/machine", 200, `"state":"running"`},
		{"GET", "/v1/boot", 200, `"complete":9`},
		{"GET", "/v1/services", 200, `"figures":{"memory":13`},
		{"GET", "/v1/services/web", 200, `"log":["the last of web"]`},
		{"GET", "/v1/logs?last=3", 200, "logs last=3"},
		{"GET", "/v1/services/wbe", 404, `"want":"never, web"`},
		{"POST", "/v1/services/wbe/start", 404, `"want":"never, web"`},
		{"GET", "/v2/services", 404, `does not speak version v2`},
		{"GET", "/", 404, `"want":"GET /v1/machine`},
		{"GET", "/v1/nothing", 404, `"want":"GET /v1/machine`},
		{"GET", "/v1/services/web/start", 405, `"want":"POST /v1/services/web/start"`},
		{"DELETE", "/v1/services/web", 405, `"want":"GET /v1/services/web"`},
		{"POST", "/v1/services/web/start?tiemout=1s", 400, `"want":"timeout"`},
		{"POST", "/v1/services/web/start?timeout=soon", 400, `no duration`},
		{"POST", "/v1/services/web/kill?signal=HUPP", 400, `no signal`},
		{"POST", "/v1/services/web/kill?signal=65", 400, `no signal`},
		{"POST", "/v1/services/never/start?timeout=10ms", 504, `it is waiting`},
		{"POST", "/v1/services/web/restart", 409, `web is failed: no`},
		{"POST", "/v1/services/web/exec", 426, `Upgrade: keelson-exec`},
		{"GET", "/v1/events?follow=maybe", 400, `neither yes nor no`},
		{"GET", "/v1/events?last=-1", 400, `"last: \"-1\" is no number","want":"0 or more"`},
	} {
		status, body := w.ask(tc.method, tc.path)
		if status != tc.status || !strings.Contains(body, tc.want) {
			t.Errorf("%s %s: %d %s, want %d %s", tc.method, tc.path, status, body, tc.status, tc.want)
		}
		if status >= 400 {
			var e api.Error
			if err := json.Unmarshal([]byte(body), &e); err != nil || e.Error == "" {
				t.Errorf("%s %s: not an api.Error: %s", tc.method, tc.path, body)
			}
		}
	}
}

func TestAudit(t *testing.T) {
	w := start(t, nil)
	for _, tc := range []struct {
		path   string
		status int
		want   string
	}{
		{"web/audit", 200, `"service":"web","pid":7,"exposure":2,`}, {"never/audit", 409, "never does not run: it is waiting"},
		{"nobody/audit", 404, "there is no service"},
	} {
		if status, body := w.ask("GET", "/v1/services/"+tc.path); status != tc.status || !strings.Contains(body, tc.want) {
			t.Errorf("%s: %d %s", tc.path, status, body)
		}
	}
	if status, _ := w.ask("POST", "/v1/services/web/audit"); status != 405 {
		t.Errorf("POST: %d", status)
	}
	w.server.cfg.Audit = func(context.Context, api.Service) (api.Audit, error) {
		return api.Audit{}, errors.New("process 7: it has ended")
	}
	if status, body := w.ask("GET", "/v1/services/web/audit"); status != 409 || !strings.Contains(body, "it has ended") {
		t.Errorf("one that ends meanwhile: %d %s", status, body)
	}
}

func TestRequestsArePassedOn(t *testing.T) {
	w := start(t, nil)
	for path, want := range map[string]string{
		"/v1/services/web/start": "start web", "/v1/services/web/stop?timeout=1m": "stop web", "/v1/services/web/reload": "reload web",
		"/v1/services/web/kill": "kill web SIGTERM", "/v1/services/web/kill?signal=hup": "kill web SIGHUP",
		"/v1/services/web/kill?signal=10": "kill web SIGUSR1", "/v1/machine/reboot": "reboot",
	} {
		if status, body := w.ask("POST", path); status >= 300 {
			t.Errorf("%s: %d %s", path, status, body)
		}
		if got := <-w.services.asked; got != want {
			t.Errorf("%s: %q was asked for, want %q", path, got, want)
		}
	}
}

func TestWhileTheBootGoesOn(t *testing.T) {
	w := start(t, func(c *Config) { c.Services = func() Services { return nil } })
	if status, body := w.ask("GET", "/v1/services"); status != 200 || strings.TrimSpace(body) != "[]" {
		t.Error(status, body)
	}
	if status, body := w.ask("POST", "/v1/services/web/start"); status != 503 || !strings.Contains(body, "has not come to the services yet") {
		t.Error(status, body)
	}
}

// The socket of a supervisor that died is no obstacle, and nobody but root may open it.
func TestSocketFile(t *testing.T) {
	w := start(t, nil)
	fi, err := os.Stat(w.socket)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatal(fi, err)
	}
	second, err := Listen(w.server.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	w.server.Close()
	if status, body := w.ask("GET", "/v1/machine"); status != 200 {
		t.Error(status, body)
	}
}

func TestOthersAreRefused(t *testing.T) {
	w := start(t, func(c *Config) { c.Allowed = func(u unix.Ucred) error { u.Uid = 1000; return machineRoot(u) } })
	if status, body := w.ask("GET", "/v1/machine"); status != 403 || !strings.Contains(body, "user 1000 may not") {
		t.Error(status, body)
	}
}

func TestMachineRoot(t *testing.T) {
	own := int32(os.Getpid())
	if err := machineRoot(unix.Ucred{Pid: own, Uid: 0}); err != nil {
		t.Errorf("root of the machine: %v", err)
	}
	if err := machineRoot(unix.Ucred{Pid: own, Uid: 1}); err == nil {
		t.Error("user 1 is let in")
	}
	// A process that is gone may have been anybody.
	if err := machineRoot(unix.Ucred{Pid: 1 << 30, Uid: 0}); err == nil {
		t.Error("a process nobody knows is let in")
	}
}

func TestEventsAreFollowed(t *testing.T) {
	w := start(t, nil)
	w.hub.Publish(api.Event{Kind: "state", Service: "web", To: "ready"})
	w.hub.Publish(api.Event{Kind: "state", Service: "db", To: "ready"})
	if _, body := w.ask("GET", "/v1/events"); strings.Count(body, "\n") != 2 {
		t.Errorf("without follow: %q", body)
	}
	for query, want := range map[string]string{"last=0": "", "last=1": "2", "last=2": "1 2", "last=9": "1 2", "last=1&service=web": "1", "last=1&backlog=0": ""} {
		_, body := w.ask("GET", "/v1/events?"+query)
		var got []string
		for line := range strings.Lines(body) {
			var e api.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil || e.Missed > 0 {
				t.Error(err, line)
			}
			got = append(got, fmt.Sprint(e.Seq))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: events %q, want %s", query, got, want)
		}
	}
	answer, err := w.client.Get("http://keelson/v1/events?follow=1&service=web")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	d := json.NewDecoder(answer.Body)
	var e api.Event
	if err := d.Decode(&e); err != nil || e.Service != "web" || e.Seq != 1 {
		t.Fatal(e, err)
	}
	w.hub.Publish(api.Event{Kind: "state", Service: "db", To: "failed"})
	w.hub.Publish(api.Event{Kind: "state", Service: "web", To: "failed"})
	if err := d.Decode(&e); err != nil || e.Seq != 4 || e.To != "failed" {
		t.Fatal(e, err)
	}
}

// One that follows events and reads nothing is dropped, and until then holds up
// neither the others nor who publishes.
func TestClientThatTakesNothingIsDropped(t *testing.T) {
	w := start(t, func(c *Config) { c.stall = 200 * time.Millisecond })
	conn := w.dial()
	fmt.Fprint(conn, "GET /v1/events?follow=1 HTTP/1.1\r\nHost: k\r\n\r\n")
	if _, err := bufio.NewReader(io.LimitReader(conn, 1)).ReadByte(); err != nil { // the answer has begun
		t.Fatal(err)
	}
	cause := strings.Repeat("x", 64<<10)
	deadline := time.Now().Add(bound)
	for len(w.server.listen.slots) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the client was not dropped")
		}
		w.hub.Publish(api.Event{Kind: "state", Service: "web", Cause: cause})
		if status, _ := w.ask("GET", "/v1/machine"); status != 200 {
			t.Fatal("others are not answered")
		}
		w.client.CloseIdleConnections()
	}
}

func TestTooManyConnections(t *testing.T) {
	w := start(t, nil)
	for range maxConns {
		w.dial()
	}
	deadline := time.Now().Add(bound)
	for len(w.server.listen.slots) < maxConns {
		if time.Now().After(deadline) {
			t.Fatal("the connections are not taken")
		}
	}
	if status, body := w.ask("GET", "/v1/machine"); status != 503 || !strings.Contains(body, "64 connections are open") {
		t.Error(status, body)
	}
}

// fakeProcess is a cat that ends when its input does, with code 3.
type fakeProcess struct {
	in     *io.PipeWriter
	out    *io.PipeReader
	ended  chan struct{}
	told   chan string
	closed chan struct{}
}

func newFakeProcess() *fakeProcess {
	p := &fakeProcess{ended: make(chan struct{}), told: make(chan string, 8), closed: make(chan struct{}, 8)}
	var inR *io.PipeReader
	var outW *io.PipeWriter
	inR, p.in = io.Pipe()
	p.out, outW = io.Pipe()
	go func() {
		_, _ = io.Copy(outW, inR)
		outW.Close()
		close(p.ended)
	}()
	return p
}
func (p *fakeProcess) Stdin() io.Writer                 { return p.in }
func (p *fakeProcess) Stdout() io.Reader                { return p.out }
func (p *fakeProcess) Stderr() io.Reader                { return nil }
func (p *fakeProcess) CloseStdin(context.Context) error { return p.in.Close() }
func (p *fakeProcess) Resize(_ context.Context, rows, cols uint16) error {
	p.told <- fmt.Sprintf("%dx%d", cols, rows)
	return nil
}
func (p *fakeProcess) Signal(_ context.Context, sig unix.Signal) error {
	p.told <- unix.SignalName(sig)
	return nil
}
func (p *fakeProcess) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.ended:
		return 3, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}
func (p *fakeProcess) Close() {
	p.in.Close()
	p.out.Close()
	select {
	case p.closed <- struct{}{}:
	default:
	}
}

// upgrade asks for a process and returns the connection behind the answer.
func (w *world) upgrade(body string) (net.Conn, *bufio.Reader, *http.Response) {
	w.t.Helper()
	conn := w.dial()
	fmt.Fprintf(conn, "POST /v1/services/web/exec HTTP/1.1\r\nHost: k\r\nConnection: Upgrade\r\nUpgrade: %s\r\nContent-Length: %d\r\n\r\n%s",
		execstream.Protocol, len(body), body)
	r := bufio.NewReader(conn)
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return conn, r, answer
}

func TestExec(t *testing.T) {
	w := start(t, nil)
	conn, r, answer := w.upgrade(`{"args":["cat"],"stdin":true,"tty":true}`)
	if answer.StatusCode != 101 {
		t.Fatal(answer.Status)
	}
	out := execstream.NewWriter(conn)
	if err := errors.Join(out.Size(24, 80), out.Frame(execstream.Signal, []byte{1}), out.Frame(execstream.Stdin, []byte("hello"))); err != nil {
		t.Fatal(err)
	}
	if k, data, err := execstream.Read(r); k != execstream.Stdout || string(data) != "hello" || err != nil {
		t.Fatal(k, data, err)
	}
	if got := []string{<-w.process.told, <-w.process.told}; got[0] != "80x24" || got[1] != "SIGHUP" {
		t.Errorf("the process was told %q", got)
	}
	if err := out.Frame(execstream.Stdin, nil); err != nil {
		t.Fatal(err)
	}
	k, data, err := execstream.Read(r)
	code, cerr := execstream.CodeOf(data)
	if k != execstream.Exit || code != 3 || err != nil || cerr != nil {
		t.Error(k, code, err, cerr)
	}
	if _, _, err := execstream.Read(r); err != io.EOF {
		t.Errorf("behind the end comes %v", err)
	}
}

// The process of a client that has gone is hung up and closed.
func TestExecOfAClientThatHasGone(t *testing.T) {
	w := start(t, nil)
	conn, _, _ := w.upgrade(`{"args":["cat"],"stdin":true}`)
	conn.Close()
	select {
	case got := <-w.process.told:
		if got != "SIGHUP" {
			t.Errorf("it was told %s", got)
		}
	case <-time.After(bound):
		t.Fatal("nothing became of the process")
	}
	select {
	case <-w.process.closed:
	case <-time.After(bound):
		t.Fatal("the process was not closed")
	}
}

func TestExecRefusals(t *testing.T) {
	w := start(t, nil)
	for body, want := range map[string]string{
		`{}`: "no program to start", `{"args":["sh"],"ttty":true}`: "unknown field", `{"args":["missing"]}`: "web: no such program", `nonsense`: "cannot be used",
	} {
		_, _, answer := w.upgrade(body)
		text, _ := io.ReadAll(answer.Body)
		if answer.StatusCode == 101 || !strings.Contains(string(text), want) {
			t.Errorf("%s: %s %s, want %s", body, answer.Status, text, want)
		}
	}
}

// A container's process may ask what its container may.
func TestWhatAContainerMayAsk(t *testing.T) {
	for _, tc := range []struct {
		right                  policy.Control
		look, change, upgraded int
	}{
		{policy.ControlAll, 200, 200, 426},
		{policy.ControlRead, 200, 403, 403},
		{policy.ControlNone, 403, 403, 403},
	} {
		var reported []string
		w := start(t, func(c *Config) {
			c.Client = func(pid int) (steer.Client, error) {
				if pid != os.Getpid() {
					t.Errorf("asked for process %d", pid)
				}
				return steer.Client{Name: "guest", Control: tc.right}, nil
			}
			c.Refused = func(container, text string) { reported = append(reported, container+": "+text) }
		})
		for _, path := range []string{"/v1/machine", "/v1/boot", "/v1/services", "/v1/services/web", "/v1/events", "/v1/logs"} {
			if code, body := w.ask("GET", path); code != tc.look {
				t.Errorf("%s: GET %s: %d %s", tc.right, path, code, body)
			}
		}
		for path, want := range map[string]int{
			"/v1/services/web/start": tc.change, "/v1/services/web/stop": tc.change, "/v1/services/web/kill": tc.change,
			"/v1/services/web/reload": tc.change, "/v1/services/web/exec": tc.upgraded,
		} {
			code, body := w.ask("POST", path)
			if code != want || code == 403 && !strings.Contains(body, `"want":"keelson.control: `) {
				t.Errorf("%s: POST %s: %d %s, want %d", tc.right, path, code, body, want)
			}
		}
		if code, _ := w.ask("POST", "/v1/machine/poweroff"); (code == 202) != (tc.right == policy.ControlAll) {
			t.Errorf("%s: poweroff: %d", tc.right, code)
		}
		if did := len(w.services.asked); (did > 0) != (tc.right == policy.ControlAll) {
			t.Errorf("%s: %d things were done", tc.right, did)
		}
		if want := map[bool]int{true: 0, false: 1}[tc.right == policy.ControlAll]; len(reported) != want {
			t.Errorf("%s: reported %q", tc.right, reported)
		}
		w.server.Close()
	}
}

// A process of which it cannot be told whose it is is nobody's.
func TestWhoCannotBeKnownIsRefused(t *testing.T) {
	w := start(t, func(c *Config) {
		c.Client = func(int) (steer.Client, error) {
			return steer.Client{Control: policy.ControlAll}, errors.New("no cgroup")
		}
	})
	if code, body := w.ask("GET", "/v1/machine"); code != 403 || !strings.Contains(body, "no cgroup") {
		t.Errorf("%d %s", code, body)
	}
}

// Whoever exits before it is known whose it is may leave its number to somebody else.
func TestAClientThatExitsIsRefused(t *testing.T) {
	var exits atomic.Pointer[chan struct{}]
	w := start(t, func(c *Config) {
		c.Client = func(int) (steer.Client, error) {
			if c := exits.Load(); c != nil {
				<-*c // the number is anybody's now
			}
			return steer.Client{Control: policy.ControlAll}, nil
		}
	})
	if code, _ := w.ask("GET", "/v1/machine"); code != 200 {
		t.Fatalf("a client that stays: %d", code)
	}
	gone := make(chan struct{})
	exits.Store(&gone)
	sockets, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sockets[0])
	defer unix.Close(sockets[1])
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), connectEnv+"="+w.socket)
	passed := os.NewFile(uintptr(sockets[1]), "passed")
	child.ExtraFiles = []*os.File{passed}
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	close(gone)
	conn := receiveConn(t, sockets[0])
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /v1/machine HTTP/1.1\r\nHost: k\r\n\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if body, _ := io.ReadAll(answer.Body); answer.StatusCode != 403 || !strings.Contains(string(body), "exited before it was known whose it is") {
		t.Errorf("%d %s", answer.StatusCode, body)
	}
}

// connectEnv makes the test's binary one that connects and passes its end on.
const connectEnv = "CONTROL_TEST_CONNECT"

func TestMain(m *testing.M) {
	if socket, ok := os.LookupEnv(connectEnv); ok {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			var f *os.File
			if f, err = conn.(*net.UnixConn).File(); err == nil {
				err = unix.Sendmsg(3, []byte("x"), unix.UnixRights(int(f.Fd())), nil, 0)
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func receiveConn(t *testing.T, from int) net.Conn {
	t.Helper()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(from, make([]byte, 1), oob, 0)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%v, %d messages", err, len(messages))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "conn")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// The socket has a second name where nothing else is, also after a restart.
func TestTheSocketHasADirectoryOfItsOwn(t *testing.T) {
	w := start(t, nil)
	for range 2 {
		alone := filepath.Join(filepath.Dir(w.socket), "control", "control.sock")
		one, err1 := os.Lstat(w.socket)
		two, err2 := os.Lstat(alone)
		if err1 != nil || err2 != nil || !os.SameFile(one, two) || one.Mode().Perm() != 0o600 {
			t.Fatalf("%v %v %v %v", one, two, err1, err2)
		}
		for dir, want := range map[string]int{filepath.Dir(alone): 1, filepath.Dir(w.socket): 2} {
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != want {
				t.Errorf("%s: %v %v", dir, entries, err)
			}
		}
		conn, err := net.Dial("unix", alone)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		w.server.Close()
		if w.server, err = Listen(w.server.cfg); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.server.Close)
	}
}

func TestRefusalsAreReportedNowAndThen(t *testing.T) {
	now := time.Unix(0, 0)
	var got []string
	r := newRefusals(func(c, text string) { got = append(got, c+": "+text) }, func() time.Time { return now })
	for range 100 {
		r.add("web", "no")
		r.add("db", "no")
	}
	now = now.Add(refusalPause)
	r.add("web", "no")
	if want := "[web: no db: no web: no (and 99 more since the last report)]"; fmt.Sprint(got) != want {
		t.Errorf("reported %v, want %s", got, want)
	}
	for i := range 2 * maxRefused {
		r.add(fmt.Sprint("a process in cgroup /x/", i), "no")
	}
	if len(r.last) > maxRefused || len(got) > maxRefused+1 {
		t.Errorf("%d remembered, %d reported", len(r.last), len(got))
	}
}
