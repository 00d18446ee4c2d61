package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/api"
	"keelson/internal/audit"
	"keelson/services/control"
	"keelson/services/events"
	"keelson/services/logs"
)

// machine answers as a supervisor does.
type machine struct {
	mu       sync.Mutex
	services map[string]api.Service // guarded by mu
	asked    []string               // guarded by mu
	hub      *events.Hub
	store    *logs.Store
	clock    atomic.Int64 // what the store takes for the time
	boot     api.Boot
	socket   string
	server   *control.Server
	terminal bool
	served   func() // called when a part of the logs was sent, if not nil
}

func (m *machine) note(format string, a ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, fmt.Sprintf(format, a...))
}
func (m *machine) set(s api.Service) {
	m.mu.Lock()
	m.services[s.Name] = s
	m.mu.Unlock()
	m.hub.Publish(api.Event{Kind: "state", Service: s.Name, To: s.State})
}
func (m *machine) Names() []string {
	var names []string
	for _, s := range m.All() {
		names = append(names, s.Name)
	}
	return names
}
func (m *machine) Info(name string) (api.Service, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.services[name]
	return s, ok
}
func (m *machine) All() []api.Service {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []api.Service
	for _, s := range m.services {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b api.Service) int { return strings.Compare(a.Name, b.Name) })
	return all
}
func (m *machine) Start(ctx context.Context, name string) error {
	m.note("start %s", name)
	if name == "db" {
		return errors.New("db is failed: its image has no such program")
	}
	if name == "slow" {
		<-ctx.Done()
		return errors.New("slow is not ready yet: it is starting")
	}
	return nil
}
func (m *machine) Stop(_ context.Context, name string) error { m.note("stop %s", name); return nil }
func (m *machine) Restart(_ context.Context, name string) error {
	m.note("restart %s", name)
	return nil
}
func (m *machine) Reload(_ context.Context, name string) error { m.note("reload %s", name); return nil }
func (m *machine) Kill(name string, sig unix.Signal) error {
	m.note("kill %s %s", name, unix.SignalName(sig))
	return nil
}

const now = 100 * time.Second

func start(t *testing.T) *machine {
	t.Helper()
	m := &machine{services: map[string]api.Service{}, socket: filepath.Join(t.TempDir(), "run/control.sock")}
	m.hub = events.New(func() time.Duration { return now })
	m.clock.Store(int64(now))
	m.store = logs.New(logs.Config{Now: func() time.Duration { return time.Duration(m.clock.Load()) }, Wall: func() time.Time { return time.Unix(1000, 0) }})
	t.Cleanup(m.store.Close)
	for _, s := range []api.Service{
		{Name: "web", State: "ready", Since: 40 * time.Second, PID: 42, Restarts: 2, StartedAt: 39 * time.Second, ReadyAt: 40 * time.Second, Cgroup: "/services/web",
			Ready: "tcp:80", Health: &api.Health{Check: "http:80/", State: "healthy"}, Requires: []string{"db"},
			LastExit: &api.Exit{Reason: "killed by SIGKILL", At: 38 * time.Second, Ran: 30 * time.Second},
			Image:    "/containers/services/web", Namespace: "services.linuxkit", Problems: []string{"config.json: keelson.helth: no such key"},
			Moves: []api.Move{{From: "running", To: "ready", Event: "became ready", At: 40 * time.Second}}},
		{Name: "db", State: "failed", Since: 90 * time.Second, Cause: "restarted 5 times in 1m"},
		{Name: "proxy", State: "waiting", Since: 95 * time.Second, WaitingFor: []string{"db (failed)"}},
		{Name: "slow", State: "starting", Since: 99 * time.Second},
	} {
		m.services[s.Name] = s
	}
	m.listen(t)
	return m
}

func (m *machine) listen(t *testing.T) {
	t.Helper()
	var err error
	m.server, err = control.Listen(control.Config{
		Socket: m.socket, Services: func() control.Services { return m },
		Machine: func() api.Machine {
			return api.Machine{State: "running", Now: now, Services: 4, Ready: 1, Failed: 1, Version: "v1.2.3", Containers: &api.Ceiling{Memory: 220 << 20, MemoryUsed: 12<<20 + 5, Pids: 900, PidsUsed: 7}}
		},
		Boot:    func() api.Boot { return m.boot },
		Figures: func(string) (api.Figures, error) { return api.Figures{Memory: 3 << 20, CPU: time.Second, Pids: 4}, nil },
		Tail:    func(string, int) []string { return []string{"hello \x1b[2J\u202e"} },
		Logs:    m.logs(), Events: m.hub,
		Power: func(action string) error { m.note("%s", action); return nil },
		Audit: func(_ context.Context, s api.Service) (api.Audit, error) {
			return api.Audit{
				Service: s.Name, PID: s.PID, Exposure: 9, Level: "UNSAFE", Facts: []audit.Fact{{Name: "user", Declared: "0", Live: "0"}, {Name: "umask", Declared: "0022", Live: "0000"}},
				Findings: []audit.Finding{
					{ID: "WritableRoot", Gate: true, State: audit.Failed, What: "is walled in", Note: "bind of /", Fix: "bind less"},
					{ID: "UMask", State: audit.Failed, Weight: 100, What: "shares nothing", Fix: "umask", Declared: audit.Passed},
					{ID: "User", State: audit.Accepted, Weight: 2000, What: "is not root", Reason: "it \x1b[2Jhas to"},
					{ID: "Delegate", State: audit.Passed, Weight: 100, What: "delegates nothing", Declared: audit.Failed},
					{ID: "PrivateTmp", State: audit.Passed, Weight: 1000, What: "is not shown"},
				},
			}, nil
		},
		Exec: func(context.Context, api.Service, control.ExecRequest) (control.Process, error) {
			return nil, errors.New("no such program: \"sh\"")
		},
		Warn:    func(format string, a ...any) { t.Errorf("warned: "+format, a...) },
		Allowed: func(unix.Ucred) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.server.Close)
}

// logs answers as the store does, and tells of it.
func (m *machine) logs() http.Handler {
	h, served := logs.Handler(m.store), m.served
	if served == nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(flushed{w, served}, r) })
}

// flushed is an answer that tells when a part of it was sent.
type flushed struct {
	http.ResponseWriter
	tell func()
}

func (f flushed) Flush() {
	f.ResponseWriter.(http.Flusher).Flush()
	f.tell()
}

// run returns the exit code and what was written.
func (m *machine) run(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var stdout, stderr bytes.Buffer
	in, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	a := &app{ctx: ctx, in: in, out: &stdout, err: &stderr, client: &client{socket: m.socket}, terminal: m.terminal,
		size: func() (int, int) { return 14, 3 }}
	code = a.main(args)
	return code, stdout.String(), stderr.String()
}

// follow runs a command that goes on until it is interrupted. Its lines must be these; then is told of each as it comes.
func (m *machine) follow(t *testing.T, command string, want []string, then func(line string)) {
	t.Helper()
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	a := &app{ctx: ctx, out: w, err: io.Discard, client: &client{socket: m.socket}}
	ended := make(chan int, 1)
	go func() { ended <- a.main(strings.Fields(command)) }()
	lines := bufio.NewScanner(r)
	for _, line := range want {
		if !lines.Scan() || lines.Text() != line {
			t.Fatalf("got %q, want %q: %v", lines.Text(), line, lines.Err())
		}
		then(line)
	}
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("interrupted, it ends with %d", code)
	}
}

func TestList(t *testing.T) {
	m := start(t)
	code, out, _ := m.run(t, "list")
	want := `NAME   STATE     SINCE  RESTARTS  PID  MEMORY   HEALTH   WAITING FOR / CAUSE
db     failed    10s    0         -    -        -        restarted 5 times in 1m
proxy  waiting   5.0s   0         -    -        -        db (failed)
slow   starting  1.0s   0         -    -        -
web    ready     1m00s  2         42   3.0 MiB  healthy
warning: web: config.json: keelson.helth: no such key
`
	if code != 0 || out != want {
		t.Errorf("%d\n%s\nwant\n%s", code, out, want)
	}
	if code, out, _ := m.run(t, "list", "-o", "name"); code != 0 || out != "db\nproxy\nslow\nweb\n" {
		t.Errorf("%d %s", code, out)
	}
	code, out, _ = m.run(t, "list", "-o", "json")
	var all []api.Service
	if err := json.Unmarshal([]byte(out), &all); code != 0 || err != nil || len(all) != 4 || all[3].Figures.Memory != 3<<20 {
		t.Errorf("%d %v %s", code, err, out)
	}
	m.terminal = true
	if _, out, _ := m.run(t, "list"); !strings.Contains(out, red+"failed"+plainText) {
		t.Errorf("no colours: %q", out)
	}
}

func TestStatus(t *testing.T) {
	m := start(t)
	code, out, _ := m.run(t, "status", "web")
	for _, want := range []string{"● web: ready\n", "Process: 42, started 39.000, ready 1.000s later\n", "Health: healthy by http:80/\n",
		"Restarts: 2; last exit: killed by SIGKILL at 38.000, after 30s\n", "Requires: db\n", "Memory: 3.0 MiB\n", "CPU: 1.000s\n",
		"Problem: config.json", "running -> ready: became ready\n", "| hello \\x1b[2J\\u202e\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if code != 0 {
		t.Error(code)
	}
	if code, _, _ := m.run(t, "status", "db", "web"); code != codeNotThere {
		t.Errorf("of one that does not run: %d", code)
	}
	if code, out, _ := m.run(t, "status"); code != 0 || !strings.Contains(out, "Services: 4, 1 ready, 1 failed") {
		t.Errorf("%d %s", code, out)
	}
}

func TestExitCodesAndHints(t *testing.T) {
	m := start(t)
	for _, tc := range []struct {
		args string
		code int
		err  string
	}{
		{"lsit", 2, `there is no command "lsit"; did you mean "list"?`},
		{"", 2, "usage: service COMMAND"},
		{"list web", 2, "service status web"},
		{"list -x", 2, "there is no option -x"},
		{"-o json list", 2, "there is no option -o before the command; the options of list stand behind it: service list -o json\n"},
		{"-q -n=5 --since 5m logs -f web", 2, "service -q logs -n=5 --since 5m -f web\n"},
		{"-f", 2, "a command's own options stand behind it: service COMMAND -f\n"},
		{"-containerd-namespace", 2, "service: --containerd-namespace wants a value behind it\n"},
		{"list -o yaml", 2, "there is -o json, -o name"},
		{"status wbe", 3, `there is no service "wbe"; did you mean "web"?`},
		{"status we/b", 3, `there is no service "we/b"; did you mean "web"?`},
		{"start ../web", 3, `there is no service "../web"`},
		{"stop web?timeout=1s", 3, `there is no service "web?timeout=1s"`},
		{"exec web/ sh", 3, `there is no service "web/"; did you mean "web"?`},
		{"start nothing-like-it", 3, "Right would be: db, proxy, slow, web"},
		{"start", 2, "which service?"},
		{"start db", 1, "db is failed: its image has no such program"},
		{"start slow --timeout 20ms", 124, "slow is not ready yet: it is starting"},
		{"start web --timeout soon", 2, "no duration"},
		{"kill web -s HUPP", 2, "no signal"},
		{"wait web --for=raedy", 2, `did you mean "ready"?`},
		{"wait proxy --timeout=30ms", 124, "proxy is not ready after 30ms: it is waiting, waiting for db (failed)"},
		{"wait db", 1, "db has failed and will not become ready by itself: restarted 5 times"},
		{"wait nobody", 3, "there is no service"},
		{"logs --since=yesterday", 2, "--since: "},
		{"logs --stream=out", 2, "--stream: "},
		{"events -n -1", 2, `-n: "-1" is no number of events: 0 or more`},
		{"events -n", 2, "events: -n wants a value behind it"},
		{"events -n=", 2, "-n is empty: leave it out"},
		{"logs --since=", 2, "--since is empty: leave it out"},
		{"logs --since 10 --until 5", 2, "--until: 5 is no later than since, 10"},
		{"logs -f=maybe", 2, `-f: "maybe" is wrong: it wants true or false`},
		{"logs --since", 2, "--since wants a value"},
		{"wait web --timeout=soon", 2, `--timeout: "soon" is wrong: it wants a duration such as 10s`},
		{"wait web --timeout=-1s", 2, "--timeout: -1s is no time to wait"},
		{"top -n many", 2, `-n: "many" is wrong: it wants a number`},
		{"top -d 1", 2, `-d: "1" is wrong: it wants a duration`},
		{"kill web -s -1", 2, "-s: -1 is no signal\nRight would be: a name such as HUP"},
		{"exec web -- sh", 127, "web: no such program"},
		{"exec web", 2, "needs the name of a service and a command"},
		{"audit db", 3, "db does not run: it is failed"},
		{"audit wbe", 3, `there is no service "wbe"; did you mean "web"?`},
		{"audit -o name web", 2, "-o"},
		{"exec db sh", 125, "db does not run: it is failed: restarted 5 times in 1m"},
		{"exec nobody sh", 3, "there is no service"},
		{"analyze nobody", 3, "there is no service"},
		{"analyze proxy", 1, "has not begun"},
		{"completion ash", 2, "bash, zsh and fish"},
		{"help lsit", 2, `did you mean "list"?`},
		{"poweroff now", 2, "no arguments"},
		{"-containerd-namespace other start web", 1, "lives in containerd's namespace services.linuxkit"},
		{"stop -path /elsewhere web", 1, "keeps /containers/services/web, not /elsewhere/web"},
		{"start -dump-spec /dev/null web db", 2, "-dump-spec is for one service"},
		{"restart -dump-spec /dev/null web", 1, "/containers/services/web"},
		{"system-init web", 2, "no arguments"},
		{"start -path /elsewhere web", 1, "keeps /containers/services/web, not /elsewhere/web"},
	} {
		code, out, errs := m.run(t, strings.Fields(tc.args)...)
		if code != tc.code || !strings.Contains(errs, tc.err) || out != "" {
			t.Errorf("service %s: %d, %q %q, want %d %q", tc.args, code, out, errs, tc.code, tc.err)
		}
	}
}

func TestAudit(t *testing.T) {
	m := start(t)
	code, out, errs := m.run(t, "audit", "web")
	want := `web: exposure 9.0 UNSAFE (process 42)
   CHECK         WEIGHT    A SERVICE THAT PASSES  THIS ONE                    TO PASS
✗  WritableRoot  gate      is walled in           bind of /                   bind less
✗  UMask         100       shares nothing         declared: no, live: yes     umask
~  User          accepted  is not root            -                           (it \x1b[2Jhas to)
✓  Delegate      100       delegates nothing      declared: yes, live: no     -

OTHER THAN DECLARED  DECLARED  LIVE
umask                0022      0000
`
	blanks := regexp.MustCompile(` +`)
	if code != 0 || errs != "" || blanks.ReplaceAllString(out, " ") != blanks.ReplaceAllString(want, " ") {
		t.Errorf("%d %s\n%s", code, errs, out)
	}
	code, out, _ = m.run(t, "audit") // of what runs
	if want := "NAME  EXPOSURE  LEVEL   GATES         OTHER THAN DECLARED\nweb   9.0       UNSAFE  WritableRoot  umask\n"; code != 0 || out != want {
		t.Errorf("%d\n%s", code, out)
	}
	var r api.Audit
	if _, out, _ := m.run(t, "audit", "-o", "json", "web"); json.Unmarshal([]byte(out), &r) != nil || r.PID != 42 || len(r.Findings) != 5 {
		t.Errorf("%s", out)
	}
}

func TestSteering(t *testing.T) {
	m := start(t)
	for _, tc := range []struct{ args, asked, out string }{
		{"start web", "start web", "web is ready (pid 42)\n"},
		{"-q start -sock /run/containerd/containerd.sock -path /containers/services web", "start web", ""},
		{"-v -containerd-namespace services.linuxkit stop -sock /x -path /containers/services/ web", "stop web", "web is ready (pid 42)\n"},
		{"restart web --timeout=1m", "restart web", "web is ready (pid 42)\n"},
		{"kill -s usr1 web", "kill web SIGUSR1", ""},
		{"kill web", "kill web SIGTERM", ""},
		{"reload web", "reload web", "web: read again; what is not policy is in force from its next start\n"},
		{"reboot", "reboot", "reboot was asked for; the console shows how it goes\n"},
		{"system-init", "", "The supervisor has started containerd and the services by itself: the machine is running, 1 of 4 services ready.\n"},
	} {
		m.asked = nil
		code, out, errs := m.run(t, strings.Fields(tc.args)...)
		if code != 0 || out != tc.out || strings.Join(m.asked, ";") != tc.asked {
			t.Errorf("service %s: %d, asked for %q, %q %q", tc.args, code, m.asked, out, errs)
		}
	}
	m.asked = nil
	if code, out, _ := m.run(t, "stop", "proxy", "web", "-o", "json"); code != 0 || strings.Count(out, "\n") != 2 || len(m.asked) != 2 {
		t.Errorf("%d %s %q", code, out, m.asked)
	}
}

func TestWait(t *testing.T) {
	m := start(t)
	if code, out, errs := m.run(t, "wait", "web", "--for=running"); code != 0 || out != "web is ready\n" {
		t.Error(code, out, errs)
	}
	done := make(chan string, 1)
	go func() {
		code, out, errs := m.run(t, "wait", "slow", "proxy", "--timeout=20s")
		done <- fmt.Sprint(code, out, errs)
	}()
	// Each look of a waiter is an event that it has subscribed to before.
	m.set(api.Service{Name: "slow", State: "ready"})
	m.server.Close() // a supervisor that is started again is no reason to give up
	m.listen(t)
	m.set(api.Service{Name: "proxy", State: "ready"})
	if got := <-done; got != "0slow is ready\nproxy is ready\n" {
		t.Error(got)
	}
}

// A supervisor that dies with a connection in its queue takes it along: the question
// is put to the next one.
func TestAQuestionThatADyingSupervisorTook(t *testing.T) {
	m := &machine{socket: filepath.Join(t.TempDir(), "control.sock")}
	l, err := net.Listen("unix", m.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for i := 0; ; i++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if i > 0 {
				_, _ = http.ReadRequest(bufio.NewReader(conn))
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
			}
			_ = conn.Close()
		}
	}()
	var all []api.Service
	if all, err = (&client{socket: m.socket}).services(t.Context()); err != nil || all == nil {
		t.Errorf("%v %v", all, err)
	}
}

// A supervisor that hangs is told from one that takes its time.
func TestASupervisorThatHangs(t *testing.T) {
	for _, goesRound := range []bool{false, true} {
		socket := filepath.Join(t.TempDir(), "control.sock")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var easy atomic.Int32
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					r, err := http.ReadRequest(bufio.NewReader(conn))
					if err != nil {
						return
					}
					if r.URL.Path == "/v1/machine" && goesRound {
						easy.Add(1)
						_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
					} else if goesRound {
						for easy.Load() < 2 {
							time.Sleep(time.Millisecond)
						}
						_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
					}
					_, _ = io.Copy(io.Discard, conn)
				}()
			}
		}()
		var out, errs bytes.Buffer
		bound := 50 * time.Millisecond
		if goesRound {
			bound = time.Minute
		}
		a := &app{ctx: t.Context(), out: &out, err: &errs, client: &client{socket: socket, patience: 50 * time.Millisecond, easyBound: bound}}
		code := a.main([]string{"list"})
		switch {
		case goesRound && (code != 0 || !strings.Contains(out.String(), "The image has no services")):
			t.Errorf("one that takes its time: %d, %q, %q", code, out.String(), errs.String())
		case !goesRound && (code != 4 || !strings.Contains(errs.String(), "takes connections but does not answer")):
			t.Errorf("one that hangs: %d, %q", code, errs.String())
		}
	}
}

func TestNobodyThere(t *testing.T) {
	m := &machine{socket: filepath.Join(t.TempDir(), "missing/control.sock")}
	code, _, errs := m.run(t, "list")
	if code != codeNobody || !strings.Contains(errs, "binds: [/run:/run") {
		t.Error(code, errs)
	}
	if code, _, errs := m.run(t, "wait", "web"); code != codeNobody {
		t.Error(code, errs)
	}
}

func TestLogs(t *testing.T) {
	m := start(t)
	for _, r := range []logs.Record{
		{At: 1 * time.Second, Source: "web", Stream: logs.Stdout, Text: []byte("one \x1b[31m\u2066"), Priority: logs.NoPriority},
		{At: 2 * time.Second, Source: "db", Stream: logs.Stderr, Text: []byte("two"), Priority: logs.NoPriority, Dropped: 3, DroppedBytes: 300},
		{At: 3 * time.Second, Source: "web", Stream: logs.Stdout, Text: []byte("no newline"), Priority: logs.NoPriority, Partial: true},
		{At: 4 * time.Second, Source: "keelson", Stream: logs.Event, Text: []byte("boot complete"), Priority: 6},
		{At: 5 * time.Second, Source: "web", Stream: logs.Event, Text: []byte("not well"), Priority: 4},
		{At: 6 * time.Second, Source: "web", Stream: logs.Event, Text: []byte("killed"), Priority: 3},
	} {
		m.clock.Store(int64(r.At)) // the end of a line without a newline is when it is said
		m.store.Append(r)
	}
	m.clock.Store(int64(now))
	for _, tc := range []struct{ args, want string }{
		{"logs", "    1.000  web           one \\x1b[31m\\u2066\n    2.000  db            missed 3 lines (300 B)\n    2.000  db            two\n    3.000  web           no newline\n"},
		{"logs -n 1 web", "    3.000  web           no newline\n"},
		{"logs -o raw web", "one \x1b[31m\u2066\nno newline"},
		{"logs -o raw db", "two\n"},
		{"logs --stream=stderr", "    2.000  db            missed 3 lines (300 B)\n    2.000  db            two\n"},
		{"logs --since 4 --boot-events", "    4.000  keelson       boot complete\n    5.000  web           warning: not well\n    6.000  web           ERROR: killed\n"},
		{"logs -n 0", ""},
		{"logs -f --until 2 web", "    1.000  web           one \\x1b[31m\\u2066\n"}, // it ends, and is no cut
	} {
		if code, out, errs := m.run(t, strings.Fields(tc.args)...); code != 0 || out != tc.want {
			t.Errorf("service %s: %d %s\n%q, want\n%q", tc.args, code, errs, out, tc.want)
		}
	}
	code, out, _ := m.run(t, "logs", "-o", "json", "db")
	gap, _, _ := strings.Cut(out, "\n")
	r, _, err := logs.Decode([]byte(gap))
	if code != 0 || err != nil || r.Dropped != 3 {
		t.Error(code, err, out)
	}
}

// An answer that ends in the middle of a line was cut off: its writer has died.
func TestCutAnswers(t *testing.T) {
	for _, tc := range []struct {
		text    string
		endless bool
		want    error
	}{{"a\nb\n", false, nil}, {"a\nb\n", true, errCut}, {"a\nb\nc", false, errCut}, {"a\nb\nc", true, errCut}} {
		var got []string
		err := eachLine(strings.NewReader(tc.text), tc.endless, func(line []byte) error { got = append(got, string(line)); return nil })
		if err != tc.want || !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("%q: %q, %v", tc.text, got, err)
		}
	}
}

// Following goes on where a supervisor that was started again left off.
func TestLogsAreFollowedAcrossASupervisor(t *testing.T) {
	m := start(t)
	rec := func(at time.Duration, text string) {
		m.store.Append(logs.Record{At: at, Source: "web", Stream: logs.Stdout, Text: []byte(text), Priority: logs.NoPriority})
	}
	rec(1*time.Second, "before")
	rec(1*time.Second, "one")
	m.follow(t, "logs -f -n 1 -o raw", []string{"one", "two", "also two", "two as well", "three"}, func(line string) {
		switch line {
		case "one":
			rec(2*time.Second, "two")
			rec(2*time.Second, "also two")
		case "also two":
			m.server.Close()
			rec(2*time.Second, "two as well") // of the same time
			m.listen(t)
			rec(3*time.Second, "three")
		}
	})
}

// A connection that is cut while old lines are shown goes on with the next one of them, also of streams of which
// nothing was shown yet, and whatever was asked for.
func TestLogsAreCutInTheBacklog(t *testing.T) {
	for _, args := range []string{"", "-n 1900", "--since 0.5", "-n 1900 -o json"} {
		t.Run(args, func(t *testing.T) {
			m := start(t)
			long := strings.Repeat("x", 800)
			say := func(i int, source string, stream logs.Stream, at time.Duration) {
				m.store.Append(logs.Record{At: at, Source: source, Stream: stream, Text: fmt.Appendf(nil, "%s/%s %d %s", source, stream, i, long), Priority: logs.NoPriority})
			}
			var want []string
			for i := range 2000 {
				// A thousand at a time of one stream, many of them at the same time, in the end of one that is new.
				source, stream := "web", logs.Stdout
				switch {
				case i >= 1990:
					source, stream = "late", logs.Stderr
				case i >= 1000:
					source, stream = "db", logs.Stderr
				}
				say(i, source, stream, time.Second+time.Duration(i/8)*10*time.Millisecond)
				if !strings.Contains(args, "-n") || i >= 100 {
					want = append(want, fmt.Sprintf("%s/%s %d ", source, stream, i))
				}
			}
			r, w := io.Pipe()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			context.AfterFunc(ctx, func() { w.Close() })
			a := &app{ctx: ctx, out: w, err: io.Discard, client: &client{socket: m.socket}}
			ended := make(chan int, 1)
			go func() { ended <- a.main(append([]string{"logs", "-f"}, strings.Fields(args)...)) }()
			lines := bufio.NewScanner(r)
			for i, text := range want {
				if i == 10 || i == 300 || i == 1200 { // the supervisor dies and comes back
					m.server.Close()
					m.listen(t)
				}
				if !lines.Scan() || !strings.Contains(lines.Text(), text) || strings.Contains(lines.Text(), "position") {
					t.Fatalf("line %d is %.80q, want %q: %v", i, lines.Text(), text, lines.Err())
				}
			}
			say(2000, "web", logs.Stdout, 90*time.Second)
			if !lines.Scan() || !strings.Contains(lines.Text(), "web/stdout 2000 ") {
				t.Errorf("then comes %.80q", lines.Text())
			}
			cancel()
			if code := <-ended; code != 0 {
				t.Errorf("interrupted, it ends with %d", code)
			}
		})
	}
}

// Who asked for nothing that was there is shown all that came since, also what came while the connection was cut.
func TestLogsAreCutBeforeAnythingIsShown(t *testing.T) {
	m := start(t)
	say := func(source, text string, at time.Duration) {
		m.store.Append(logs.Record{At: at, Source: source, Stream: logs.Stdout, Text: []byte(text), Priority: logs.NoPriority})
	}
	for i := range 100 {
		say("web", "old", time.Duration(i/10)*time.Second)
	}
	say("db", "old", 5*time.Second)
	served := make(chan struct{}, 10)
	m.served = func() { served <- struct{}{} }
	m.server.Close()
	m.listen(t)
	r, w := io.Pipe()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	context.AfterFunc(ctx, func() { w.Close() })
	a := &app{ctx: ctx, out: w, err: io.Discard, client: &client{socket: m.socket}}
	ended := make(chan int, 1)
	go func() { ended <- a.main([]string{"logs", "-f", "-n", "0", "-o", "raw"}) }()
	<-served // what there was is passed over
	m.server.Close()
	say("web", "one", 9*time.Second) // of the time of the last one
	say("db", "two", 9500*time.Millisecond)
	say("new", "three", 10*time.Second)
	m.listen(t)
	lines := bufio.NewScanner(r)
	for _, want := range []string{"one", "two", "three"} {
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("got %q, want %q: %v", lines.Text(), want, lines.Err())
		}
	}
	cancel()
	<-ended
}

func TestEvents(t *testing.T) {
	m := start(t)
	m.hub.Publish(api.Event{At: time.Second, Kind: "state", Service: "web", From: "running", To: "ready", Cause: "tcp:80 answers"})
	m.hub.Publish(api.Event{At: 2 * time.Second, Kind: "machine", To: "running"})
	code, out, _ := m.run(t, "events")
	want := "    1.000  state      web           running -> ready: tcp:80 answers\n    2.000  machine    -             running\n"
	if code != 0 || out != want {
		t.Errorf("%d\n%s\nwant\n%s", code, out, want)
	}
	first, second, _ := strings.Cut(want, "\n")
	for args, want := range map[string]string{"-n 1": second, "-n 1 web": first + "\n", "-n 0": "", "-n 2": want, "-n 99": want} {
		if code, out, errs := m.run(t, append([]string{"events"}, strings.Fields(args)...)...); code != 0 || out != want {
			t.Errorf("events %s: %d %q %s, want %q", args, code, out, errs, want)
		}
	}
	if code, out, _ := m.run(t, "events", "-o", "json", "web"); code != 0 || strings.Count(out, "\n") != 1 || !strings.Contains(out, `"seq":1`) {
		t.Errorf("%d %s", code, out)
	}
}

// What was shown before a cut is not shown again, whether the supervisor is the same
// or another, which counts its events from 1.
func TestEventsAreFollowedAcrossACut(t *testing.T) {
	for args, shown := range map[string][]string{"": {"one", "two", "three", "four"}, "-n 1": {"two", "three", "four"}} {
		t.Run(args, func(t *testing.T) { testEventsAcrossACut(t, strings.Fields(args), shown) })
	}
}

func testEventsAcrossACut(t *testing.T, args, shown []string) {
	m := start(t)
	at := func(at time.Duration, cause string) {
		m.hub.Publish(api.Event{At: at, Kind: "state", Service: "web", To: "ready", Cause: cause})
	}
	at(1*time.Second, "one")
	at(2*time.Second, "two")
	var want []string
	for _, cause := range shown {
		n := 1 + slices.Index([]string{"one", "two", "three", "four"}, cause)
		want = append(want, fmt.Sprintf("    %d.000  state      web           ready: %s", n, cause))
	}
	m.follow(t, strings.Join(append([]string{"events -f web"}, args...), " "), want, func(line string) {
		switch _, cause, _ := strings.Cut(line, "ready: "); cause {
		case "two": // we were too slow
			m.server.Close()
			m.listen(t)
			at(3*time.Second, "three")
		case "three": // the supervisor was started again
			m.server.Close()
			m.hub = events.New(func() time.Duration { return now })
			m.listen(t)
			at(4*time.Second, "four")
		}
	})
}

// Who asked for no event that was there is shown those that came while the connection was cut, and no other.
func TestEventsAreCutBeforeAnythingIsShown(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan string, 3)
	go func() {
		for _, body := range []string{`{"now":5000000000}`, "", `{"seq":1,"at":4000000000,"cause":"old"}` + "\n" + `{"seq":2,"at":6000000000,"cause":"new"}` + "\n"} {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r, err := http.ReadRequest(bufio.NewReader(conn))
			if err != nil {
				return
			}
			asked <- r.URL.RequestURI()
			_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\n"+body)
			_ = conn.Close()
		}
	}()
	r, w := io.Pipe()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	context.AfterFunc(ctx, func() { w.Close() })
	a := &app{ctx: ctx, out: w, err: io.Discard, client: &client{socket: socket}}
	go a.main([]string{"events", "-f", "-n", "0"})
	lines := bufio.NewScanner(r)
	if !lines.Scan() || !strings.HasSuffix(lines.Text(), "new") {
		t.Errorf("got %q", lines.Text())
	}
	for _, want := range []string{"/v1/machine", "/v1/events?follow=1&last=0", "/v1/events?follow=1"} {
		if got := <-asked; got != want {
			t.Errorf("asked for %s, want %s", got, want)
		}
	}
}

func TestCompare(t *testing.T) {
	figures := func(cpu time.Duration, read uint64) *api.Figures {
		return &api.Figures{CPU: cpu, ReadBytes: read, Memory: 7}
	}
	got := compare(
		[]api.Service{{Name: "a", PID: 1, Figures: figures(time.Second, 0)}, {Name: "b", PID: 2, Figures: figures(0, 0)}, {Name: "c", PID: 3, Figures: figures(9*time.Second, 0)}},
		[]api.Service{{Name: "a", PID: 1, Figures: figures(1100*time.Millisecond, 2000)}, {Name: "b", PID: 2, Figures: figures(time.Second, 0)}, {Name: "c", PID: 4, Figures: figures(time.Second, 0)}},
		2*time.Second)
	var names []string
	for _, u := range got {
		names = append(names, fmt.Sprintf("%s %.1f %.0f", u.Name, u.CPU, u.Read))
	}
	if want := []string{"b 50.0 0", "a 5.0 1000", "c 0.0 0"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
}

func TestTop(t *testing.T) {
	m := start(t)
	code, out, errs := m.run(t, "top", "-n", "1", "-d", "100ms")
	if code != 0 || !strings.HasPrefix(out, "NAME   STATE     CPU   MEMORY   LIMIT  READ/s  WRITE/s  PIDS\nweb    ready     0.0%  3.0 MiB") {
		t.Errorf("%d %s %s", code, out, errs)
	}
}

// A terminal shows the head, the busiest and the total, however small it is.
func TestTopFitsItsTerminal(t *testing.T) {
	text := "NAME\nweb   1\ndb    2\ntotal 3\n"
	for _, tc := range []struct {
		cols, rows int
		want       string
	}{
		{0, 0, "NAME\nweb   1\ndb    2\ntotal 3"},
		{80, 4, "NAME\nweb   1\ndb    2\ntotal 3"},
		{80, 3, "NAME\nweb   1\ntotal 3"},
		{5, 2, "NAME\ntotal"},
		{1, 1, "N"},
	} {
		if got := fit(text, func() (int, int) { return tc.cols, tc.rows }); got != tc.want {
			t.Errorf("%d by %d: %q, want %q", tc.cols, tc.rows, got, tc.want)
		}
	}
	m := start(t)
	m.terminal = true
	if _, out, _ := m.run(t, "top", "-n", "2", "-d", "100ms"); strings.Count(out, "\x1b[H\x1b[2JNAME   STATE  \nweb    ready  \ntotal         ") != 2 || !strings.HasSuffix(out, " \n") {
		t.Errorf("%q", out)
	}
}

// What could not be written whole must not look as if it were.
func TestAnOutputThatTakesNothing(t *testing.T) {
	m := start(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	for _, command := range []string{"list", "list -o json", "status web", "help", "logs", "events", "completion bash", "top -n 1 -d 100ms"} {
		m.hub.Publish(api.Event{Kind: "machine", To: "running"})
		var errs bytes.Buffer
		out := &noted{w: full}
		a := &app{ctx: t.Context(), out: out, err: &errs, client: &client{socket: m.socket}}
		code := out.codeFor(a, a.main(strings.Fields(command)))
		if command == "logs" { // there are none
			if code != 0 {
				t.Error(code, errs.String())
			}
			continue
		}
		if code != codeFailed || !strings.Contains(errs.String(), "no space left") {
			t.Errorf("%s: %d %q", command, code, errs.String())
		}
	}
}

// chain is a boot whose critical chain is known.
var chain = api.Boot{
	InitStart: 900 * time.Millisecond, InitDone: 920 * time.Millisecond, Complete: 2 * time.Second,
	Steps: []api.Step{
		{Name: "containerd", Start: 920 * time.Millisecond, End: 990 * time.Millisecond},
		{Name: "modules", Start: 930 * time.Millisecond, End: 950 * time.Millisecond},
		{Name: "hardware", Start: 921 * time.Millisecond, End: 960 * time.Millisecond},
		{Name: "onboot.000-dhcp", Start: 970 * time.Millisecond, End: 1200 * time.Millisecond, Error: "<&>"},
	},
	Services: []api.BootService{
		{Name: "db", Starting: 1210 * time.Millisecond, Running: 1250 * time.Millisecond, Ready: 1700 * time.Millisecond},
		{Name: "web", Waiting: 1210 * time.Millisecond, Starting: 1710 * time.Millisecond, Running: 1800 * time.Millisecond, Ready: 1990 * time.Millisecond, Requires: []string{"db"}},
		{Name: "aside", Starting: 1210 * time.Millisecond, Running: 1300 * time.Millisecond, Ready: 1980 * time.Millisecond},
		{Name: "broken", Starting: 1210 * time.Millisecond, Failed: 1220 * time.Millisecond},
	},
}

func TestAnalyze(t *testing.T) {
	m := start(t)
	m.boot = chain
	code, out, _ := m.run(t, "analyze")
	want := `web @1.990s +0.280s
└─db @1.700s +0.490s
  └─onboot.000-dhcp @1.200s +0.230s
    └─hardware @0.960s +0.039s
      └─init @0.920s +0.020s
        └─kernel @0.900s +0.900s
`
	if code != 0 || !strings.HasSuffix(out, want) {
		t.Errorf("%d\n%s", code, out)
	}
	for _, want := range []string{"boot complete in 2.000s", "onboot.000-dhcp  0.970  1.200  0.230s  <&>\n", "web      0.500s  0.090s      0.190s       1.990\n", "failed at 1.220\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if _, out, _ := m.run(t, "analyze", "aside"); !strings.Contains(out, ":\naside @1.980s +0.770s\n└─onboot.000-dhcp") {
		t.Error(out)
	}
}

func TestPlot(t *testing.T) {
	m := start(t)
	m.boot = chain
	code, out, _ := m.run(t, "analyze", "plot")
	if dir := os.Getenv("KEELSON_PLOT"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, "boot.svg"), []byte(out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d := xml.NewDecoder(strings.NewReader(out))
	texts := 0
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("not XML: %v\n%s", err, out)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "text" {
			texts++
		}
	}
	if code != 0 || texts < 6+4+4 {
		t.Errorf("%d, %d texts", code, texts)
	}
	for _, b := range []api.Boot{{}, {Complete: 1}, {Services: []api.BootService{{Name: "x"}}}} {
		if err := plot(io.Discard, b); err != nil {
			t.Errorf("%+v: %v", b, err)
		}
	}
}

func TestHelp(t *testing.T) {
	m := start(t)
	_, all, _ := m.run(t, "help")
	for _, c := range commands() {
		code, out, errs := m.run(t, "help", c.name)
		if code != 0 || !strings.HasPrefix(out, "usage: service "+c.name) || len(c.long) < 100 || errs != "" {
			t.Errorf("help %s: %d %q %q", c.name, code, out, errs)
		}
		if _, other, _ := m.run(t, c.name, "--help"); other != out {
			t.Errorf("%s --help is not help %s", c.name, c.name)
		}
		if !strings.Contains(all, "\n  "+c.name+" ") {
			t.Errorf("help does not list %s", c.name)
		}
	}
}

func TestCompletion(t *testing.T) {
	m := start(t)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		code, script, _ := m.run(t, "completion", shell)
		if code != 0 || strings.Contains(script, "@") || !strings.Contains(script, "restart") {
			t.Errorf("%s: %d %s", shell, code, script)
		}
		path, err := exec.LookPath(shell)
		if err != nil {
			continue // that shell is not here to judge
		}
		check := exec.CommandContext(t.Context(), path, "-n")
		check.Stdin = strings.NewReader(script)
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s does not understand it: %v %s", shell, err, out)
		}
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash to complete with")
	}
	_, script, _ := m.run(t, "completion", "bash")
	try := exec.CommandContext(t.Context(), bash, "-c", script+`
service() { printf 'web\ndb\n'; }
COMP_WORDS=(service restart w) COMP_CWORD=2; _service; echo "${COMPREPLY[@]}"
COMP_WORDS=(service sta) COMP_CWORD=1; _service; echo "${COMPREPLY[@]}"`)
	if out, err := try.CombinedOutput(); err != nil || string(out) != "web\nstatus start\n" {
		t.Errorf("%v %q", err, out)
	}
	// The others where they are: each completes a name and a command.
	if zsh, err := exec.LookPath("zsh"); err == nil {
		_, script, _ := m.run(t, "completion", "zsh")
		try := exec.CommandContext(t.Context(), zsh, "-f", "-c", `
compdef() { :; }
compadd() { local w; for w in "$@"; do [[ $w == $words[CURRENT]* ]] && echo -n "$w "; done; echo; }
`+script+`
service() { printf 'web\ndb\n'; }
words=(service restart w) CURRENT=3; _service
words=(service sta) CURRENT=2; _service`)
		if out, err := try.CombinedOutput(); err != nil || string(out) != "web \nstatus start \n" {
			t.Errorf("zsh: %v %q", err, out)
		}
	}
	if fish, err := exec.LookPath("fish"); err == nil {
		_, script, _ := m.run(t, "completion", "fish")
		try := exec.CommandContext(t.Context(), fish, "--no-config", "-c", `
function service; printf 'web\ndb\n'; end
`+script+`
complete -C 'service restart w'
complete -C 'service sta'`)
		try.Env = append(os.Environ(), "HOME="+t.TempDir())
		if out, err := try.CombinedOutput(); err != nil || string(out) != "web\nstart\nstatus\n" {
			t.Errorf("fish: %v %q", err, out)
		}
	}
}

func TestOwnStep(t *testing.T) {
	var b bytes.Buffer
	if !OwnStep("010-onboot", &b) || !strings.Contains(b.String(), "by itself") {
		t.Error(b.String())
	}
	if OwnStep("service", &b) {
		t.Error("service is taken for a step of the boot")
	}
}

func TestWords(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 3 << 20: "3.0 MiB", 300 << 20: "300 MiB", 5 << 40: "5.0 TiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d bytes: %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-1: "0.0s", 1500 * time.Millisecond: "1.5s", 61 * time.Second: "1m01s", 3 * time.Hour: "3h00m", 50 * time.Hour: "2d02h"} {
		if got := ago(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

// What the containers bind as /usr/bin/ctr tells where the real one is.
func TestNoCtr(t *testing.T) {
	var b bytes.Buffer
	if code := NoCtr(&b); code != 127 || !strings.Contains(b.String(), "    - keelson/ctr\n") || !strings.Contains(b.String(), "build/keelson-ctr.tar") {
		t.Errorf("exits with %d: %s", code, b.String())
	}
}

// And what they bind as /usr/bin/runc, on one line: shims repeat it in their errors.
func TestNoRunc(t *testing.T) {
	var b bytes.Buffer
	if code := NoRunc(&b); code != 1 || strings.Count(b.String(), "\n") != 1 || !strings.Contains(b.String(), "keelson/runc") || !strings.Contains(b.String(), "build/keelson-runc.tar") {
		t.Errorf("exits with %d: %s", code, b.String())
	}
}
