package shimtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"keelson/internal/harden"
)

func ptr[T any](v T) *T { return &v }

func (e *env) pidsLimit(c taskapi.TTRPCTaskService, id string) uint64 {
	e.t.Helper()
	r, err := c.Stats(e.ctx, &taskapi.StatsRequest{ID: id})
	if err != nil {
		e.t.Fatal(err)
	}
	switch r.Stats.TypeUrl {
	case "io.containerd.cgroups.v1.Metrics":
		var m v1.Metrics
		if err := proto.Unmarshal(r.Stats.Value, &m); err != nil {
			e.t.Fatal(err)
		}
		return m.Pids.Limit
	case "io.containerd.cgroups.v2.Metrics":
		var m v2.Metrics
		if err := proto.Unmarshal(r.Stats.Value, &m); err != nil {
			e.t.Fatal(err)
		}
		return m.Pids.Limit
	}
	e.t.Fatalf("statistics are %s", r.Stats.TypeUrl)
	return 0
}

func (e *env) addExec(c taskapi.TTRPCTaskService, id, exec string, p *specs.Process, change ...func(*taskapi.ExecProcessRequest)) {
	e.t.Helper()
	data, err := json.Marshal(p)
	if err != nil {
		e.t.Fatal(err)
	}
	r := &taskapi.ExecProcessRequest{ID: id, ExecID: exec, Spec: &anypb.Any{Value: data}, Terminal: p.Terminal}
	for _, f := range change {
		f(r)
	}
	if _, err := c.Exec(e.ctx, r); err != nil {
		e.t.Fatalf("exec %s in %s: %v", exec, id, err)
	}
}

// exec runs a command in a container and returns its exit status.
func (e *env) exec(c taskapi.TTRPCTaskService, id, exec string, args ...string) uint32 {
	e.t.Helper()
	e.addExec(c, id, exec, &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}})
	e.start(c, id, exec)
	status := e.wait(c, id, exec)
	if r := e.remove(c, id, exec); r.ExitStatus != status {
		e.t.Errorf("delete of exec says %d, wait said %d", r.ExitStatus, status)
	}
	return status
}

func (e *env) fifo(name string) string {
	e.t.Helper()
	path := filepath.Join(e.Dir, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		e.t.Fatal(err)
	}
	return path
}

// open opens one end of a FIFO without waiting for the other. Reads end when the
// last writer has gone.
func (e *env) open(path string, flags int) *os.File {
	e.t.Helper()
	f, err := os.OpenFile(path, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { f.Close() })
	return f
}

// A command that the kernel refuses to execute is a failed start with the kernel's
// reason, which is not among its output, and the pipe it is reported by is gone from one
// that runs.
func TestCommandThatCannotBeExecuted(t *testing.T) {
	e := newEnv(t)
	for name, text := range map[string]string{"lost": "#!/bin/nope\n", "windows": "#!/bin/sh\r\necho hello\r\n", "nothing": "hello\n"} {
		if err := os.WriteFile(filepath.Join(e.root, "bin", name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := e.create("x", e.spec("sleep", "1000"))
	e.start(c, "x", "")
	for name, want := range map[string]string{
		"lost": "exec /bin/lost: no such file or directory", "windows": "exec /bin/windows: no such file or directory", "nothing": "exec /bin/nothing: exec format error",
	} {
		output, read := e.output(name)
		c := e.create(name, e.spec("/bin/"+name), output)
		if _, err := c.Start(e.ctx, &taskapi.StartRequest{ID: name}); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("start of %s: %v, want %s", name, err, want)
		}
		if got := e.wait(c, name, ""); got != 255 {
			t.Errorf("%s: exit status %d", name, got)
		}
		e.remove(c, name, "")
		if text := read(); text != "" {
			t.Errorf("output of %s: %q", name, text)
		}
		for _, v := range e.Events.All() {
			if v.Topic == "/tasks/start" && decode(t, v, &eventsapi.TaskStart{}).ContainerID == name {
				t.Errorf("%s was started", name)
			}
		}

		e.addExec(c, "x", name, &specs.Process{Args: []string{"/bin/" + name}, Cwd: "/"})
		if _, err := c.Start(e.ctx, &taskapi.StartRequest{ID: "x", ExecID: name}); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("exec of %s: %v, want %s", name, err, want)
		}
		e.remove(c, "x", name)
	}
	if got := e.exec(c, "x", "files", "sh", "-c", "[ $(set -- $(ls /proc/self/fd); echo $#) = 4 ]"); got != 0 { // ls has the directory open
		t.Error("a command has more files open than its own")
	}
	e.kill(c, "x", "", unix.SIGKILL)
	e.wait(c, "x", "")
	e.remove(c, "x", "")

	// One that is killed before it was started.
	c = e.create("unstarted", e.spec("sleep", "1000"))
	e.kill(c, "unstarted", "", unix.SIGKILL)
	if got := e.wait(c, "unstarted", ""); got != 137 {
		t.Errorf("exit status %d, want 137", got)
	}
	e.remove(c, "unstarted", "")
}

func TestExec(t *testing.T) {
	e := newEnv(t)
	c := e.create("x", e.spec("sleep", "1000"))
	e.start(c, "x", "")
	if got := e.exec(c, "x", "three", "sh", "-c", "exit 3"); got != 3 {
		t.Errorf("exit status %d, want 3", got)
	}
	if got := e.exec(c, "x", "killed", "sh", "-c", "kill -KILL $$"); got != 137 {
		t.Errorf("exit status %d, want 137", got)
	}
	e.addExec(c, "x", "bad", &specs.Process{Args: []string{"/no/such"}, Cwd: "/"})
	if _, err := c.Start(e.ctx, &taskapi.StartRequest{ID: "x", ExecID: "bad"}); err == nil || !strings.Contains(err.Error(), "/no/such") {
		t.Errorf("exec of a missing command: %v", err)
	}
	e.remove(c, "x", "bad")

	// An exec dies with the container and is reported before it.
	e.addExec(c, "x", "long", &specs.Process{Args: []string{"sleep", "3000"}, Cwd: "/", Env: []string{"PATH=/bin"}})
	e.start(c, "x", "long")
	e.kill(c, "x", "", unix.SIGKILL)
	e.wait(c, "x", "")
	if _, err := e.Events.Await(e.ctx, func(v *types.Envelope) bool {
		return v.Topic == "/tasks/exit" && decode(t, v, &eventsapi.TaskExit{}).ID == "x"
	}); err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, v := range e.Events.All() {
		if v.Topic == "/tasks/exit" {
			order = append(order, decode(t, v, &eventsapi.TaskExit{}).ID)
		}
	}
	if got := strings.Join(order, " "); got != "three killed long x" {
		t.Errorf("exits in the order %s", got)
	}
	if _, err := c.Exec(e.ctx, &taskapi.ExecProcessRequest{ID: "x", ExecID: "late", Spec: &anypb.Any{Value: []byte(`{"args":["true"],"cwd":"/"}`)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Start(e.ctx, &taskapi.StartRequest{ID: "x", ExecID: "late"}); err == nil {
		t.Error("exec in an ended container succeeded")
	}
	e.remove(c, "x", "")
}

func TestStreamsAreTheFIFOsThemselves(t *testing.T) {
	e := newEnv(t)
	in, out := e.fifo("in"), e.fifo("out")
	r := e.open(out, os.O_RDONLY)
	c := e.create("io", e.spec("sh", "-c", "readlink /proc/self/fd/1; cat; echo end"), func(q *taskapi.CreateTaskRequest) {
		q.Stdin, q.Stdout = in, out
	})
	w := e.open(in, os.O_WRONLY)
	e.start(c, "io", "")
	if _, err := io.WriteString(w, "hello\n"); err != nil {
		t.Fatal(err)
	}
	// A client that goes away is no end of input ...
	w.Close()
	lines := bufio.NewReader(r)
	for _, want := range []string{out, "hello"} {
		got, err := lines.ReadString('\n')
		if err != nil || strings.TrimSpace(got) != want {
			t.Fatalf("read %q %v, want %q", got, err, want)
		}
	}
	// ... but CloseIO is.
	if _, err := c.CloseIO(e.ctx, &taskapi.CloseIORequest{ID: "io", Stdin: true}); err != nil {
		t.Fatal(err)
	}
	if got := e.wait(c, "io", ""); got != 0 {
		t.Errorf("exit status %d", got)
	}
	rest, err := io.ReadAll(lines)
	if err != nil || string(rest) != "end\n" {
		t.Errorf("read %q %v", rest, err)
	}
	e.remove(c, "io", "")
}

func TestWriterSurvivesAReaderThatLeaves(t *testing.T) {
	e := newEnv(t)
	out := e.fifo("out")
	c := e.create("w", e.spec("sh", "-c", "echo one; cat /dev/zero | dd bs=1 count=0 2>/dev/null; echo two; exit 5"), func(q *taskapi.CreateTaskRequest) {
		q.Stdout = out
	})
	// Nobody ever reads: what fits into the FIFO is written without an error.
	e.start(c, "w", "")
	if got := e.wait(c, "w", ""); got != 5 {
		t.Errorf("exit status %d, want 5", got)
	}
	e.remove(c, "w", "")
}

func TestFileAndBinaryStreams(t *testing.T) {
	e := newEnv(t)
	file := filepath.Join(e.Dir, "logs", "f.log")
	if got := e.run("file", e.spec("sh", "-c", "echo out; echo err >&2"), func(q *taskapi.CreateTaskRequest) {
		q.Stdout, q.Stderr = "file://"+file, "file://"+file
	}); got != 0 {
		t.Errorf("exit status %d", got)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "out\nerr\n" {
		t.Errorf("file: %q %v", data, err)
	}

	logged := filepath.Join(e.Dir, "logged")
	script := filepath.Join(e.Dir, "logger")
	body := fmt.Sprintf("#!/bin/sh\nexec 5>&-\ncat <&3 > %s.tmp\necho \"$CONTAINER_ID $CONTAINER_NAMESPACE $1=$2\" >> %s.tmp\nmv %s.tmp %s\n", logged, logged, logged, logged)
	if err := os.WriteFile(script, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
	uri := "binary://" + script + "?key=value"
	c := e.create("bin", e.spec("echo", "to the logger"), func(q *taskapi.CreateTaskRequest) { q.Stdout, q.Stderr = uri, uri })
	e.start(c, "bin", "")
	e.wait(c, "bin", "")
	for {
		data, err := os.ReadFile(logged)
		if err == nil {
			if string(data) != "to the logger\nbin test key=value\n" {
				t.Errorf("logger got %q", data)
			}
			break
		}
		if e.ctx.Err() != nil {
			t.Fatal("the logger wrote nothing")
		}
	}
	e.remove(c, "bin", "")
	if _, _, err := e.tryCreate("scheme", e.spec("true"), func(q *taskapi.CreateTaskRequest) { q.Stdout = "http://x" }); err == nil {
		t.Error("an unknown scheme was taken")
	}
}

func TestTerminal(t *testing.T) {
	e := newEnv(t)
	in, out := e.fifo("in"), e.fifo("out")
	s := e.spec("sh", "-c", "tty; read line; stty size; echo got $line")
	s.Process.Terminal = true
	r := e.open(out, os.O_RDONLY)
	c := e.create("tty", s, func(q *taskapi.CreateTaskRequest) { q.Stdin, q.Stdout, q.Terminal = in, out, true })
	w := e.open(in, os.O_WRONLY)
	if _, err := c.ResizePty(e.ctx, &taskapi.ResizePtyRequest{ID: "tty", Width: 111, Height: 33}); err != nil {
		t.Fatal(err)
	}
	e.start(c, "tty", "")
	if _, err := io.WriteString(w, "typed\n"); err != nil {
		t.Fatal(err)
	}
	if got := e.wait(c, "tty", ""); got != 0 {
		t.Errorf("exit status %d", got)
	}
	e.remove(c, "tty", "")
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/dev/pts/0", "33 111", "got typed"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %q in %q", want, data)
		}
	}
}

func TestExecWithTerminal(t *testing.T) {
	e := newEnv(t)
	c := e.create("xt", e.spec("sleep", "1000"))
	e.start(c, "xt", "")
	out := e.fifo("out")
	r := e.open(out, os.O_RDONLY)
	e.addExec(c, "xt", "sh", &specs.Process{Args: []string{"sh", "-c", "tty; exit 4"}, Cwd: "/", Env: []string{"PATH=/bin"}, Terminal: true},
		func(q *taskapi.ExecProcessRequest) { q.Stdout = out })
	e.start(c, "xt", "sh")
	if got := e.wait(c, "xt", "sh"); got != 4 {
		t.Errorf("exit status %d, want 4", got)
	}
	e.remove(c, "xt", "sh")
	if data, err := io.ReadAll(r); err != nil || !strings.Contains(string(data), "/dev/pts/0") {
		t.Errorf("read %q %v", data, err)
	}
	e.kill(c, "xt", "", unix.SIGKILL)
	e.wait(c, "xt", "")
	e.remove(c, "xt", "")
}

func TestSeccomp(t *testing.T) {
	e := newEnv(t)
	args := []string{"mkdir", "/dev/made"}
	if got := e.run("open", e.spec(args...)); got != 0 {
		t.Fatalf("mkdir without a filter: exit status %d", got)
	}
	s := e.spec(args...)
	s.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}},
	}
	if got := e.run("filtered", s); got != 1 {
		t.Errorf("mkdir with a filter against it: exit status %d, want 1", got)
	}
}

// The default profile reaches the container's own process and those that are added, with and without privileges to load it; and nothing of how it does so is left open in them.
func TestDefaultSeccompProfile(t *testing.T) {
	const look = `grep -c '^Seccomp:.2$' /proc/self/status; unshare -U true 2>/dev/null && echo open || echo refused; sh -c 'ls /proc/self/fd | wc -l'`
	const want = "1\nrefused\n4\n" // the fourth is of the directory that is listed
	for _, tc := range []struct{ noNewPrivileges, byName bool }{{true, true}, {false, true}, {true, false}, {false, false}} {
		noNewPrivileges := tc.noNewPrivileges
		e := newEnv(t)
		s := e.spec("sh", "-c", look+"; exec sleep 1000")
		s.Linux.Seccomp = harden.Profile(nil, true, false)
		if tc.byName {
			s.Linux.Seccomp = harden.Placeholder()
			s.Annotations = map[string]string{harden.SeccompAnnotation: harden.Name(nil, true, false)}
		}
		s.Process.NoNewPrivileges = noNewPrivileges
		change, read := e.output("x")
		c := e.create("x", s, change)
		e.start(c, "x", "")
		if got := e.exec(c, "x", "added", "sh", "-c", "("+look+`) | tr '\n' ' ' | grep -qx '1 refused 4 '`); got != 0 {
			t.Errorf("no new privileges %v: a process that was added: exit status %d", noNewPrivileges, got)
		}
		e.kill(c, "x", "", unix.SIGKILL)
		e.wait(c, "x", "")
		if got := read(); got != want {
			t.Errorf("no new privileges %v: %q, want %q", noNewPrivileges, got, want)
		}
		e.remove(c, "x", "")
	}
}

// A container does not run without the filter that its configuration asks for: not where the name of the profile is
// missing or not known, nor where the runtime does not know of names.
func TestNoSeccompProfileNoContainer(t *testing.T) {
	for name, annotations := range map[string]map[string]string{
		"no name": nil, "another name": {harden.SeccompAnnotation: "other"},
	} {
		e := newEnv(t)
		s := e.spec("true")
		s.Linux.Seccomp, s.Annotations = harden.Placeholder(), annotations
		if _, _, err := e.tryCreate("x", s); err == nil || !strings.Contains(err.Error(), "seccomp") {
			t.Errorf("%s: %v", name, err)
		}
	}
	e := newEnv(t)
	s := e.spec("true")
	s.Linux.Seccomp = harden.Placeholder()
	s.Linux.Seccomp.DefaultErrnoRet = nil // so that nobody takes it for a placeholder
	c, _, err := e.tryCreate("x", s)
	if err == nil {
		_, err = c.Start(e.ctx, &taskapi.StartRequest{ID: "x"})
	}
	if err == nil && e.wait(c, "x", "") == 0 {
		t.Error("a runtime that does not know of names ran the container")
	}
}

func TestProcessAttributes(t *testing.T) {
	e := newEnv(t)
	// The shim inherits ours; the container must not.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("100"), 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0) }()
	s := e.spec("sh", "-c", "id -u; id -g; ulimit -n; ulimit -Hn; grep -E 'CapAmb|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; cat /proc/self/oom_score_adj; echo $WHO")
	s.Process.User = specs.User{UID: 7, GID: 8, AdditionalGids: []uint32{9}}
	s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}}
	net := []string{"CAP_NET_BIND_SERVICE"}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: net, Effective: net, Permitted: net, Inheritable: net, Ambient: net}
	s.Process.NoNewPrivileges = true
	s.Process.Env = append(s.Process.Env, "WHO=me")
	change, read := e.output("attr")
	if got := e.run("attr", s, change); got != 0 {
		t.Errorf("exit status %d", got)
	}
	want := strings.Join([]string{
		"7", "8", "100", "200", "CapBnd:\t0000000000000400", "CapAmb:\t0000000000000400", "NoNewPrivs:\t1", "Seccomp:\t0", "0", "me", "",
	}, "\n")
	if got := read(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	s = e.spec("true")
	s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOSUCH"}}
	if _, _, err := e.tryCreate("badlimit", s); err == nil || !strings.Contains(err.Error(), "RLIMIT_NOSUCH") {
		t.Errorf("unknown rlimit: %v", err)
	}
}

func TestUserNamespace(t *testing.T) {
	if n, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err != nil || strings.TrimSpace(string(n)) == "0" {
		t.Skip("no user namespaces here")
	}
	e := newEnv(t)
	s := e.spec("sh", "-c", "id -u; cat /proc/self/uid_map; echo again > /dev/stdout")
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	s.Linux.GIDMappings = s.Linux.UIDMappings
	out := e.fifo("out")
	r := e.open(out, os.O_RDONLY)
	if got := e.run("user", s, func(q *taskapi.CreateTaskRequest) { q.Stdout = out }); got != 0 {
		t.Errorf("exit status %d", got)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(string(data)); strings.Join(got, " ") != "0 0 100000 65536 again" {
		t.Errorf("got %q", data)
	}
}

func TestHooksRunInTheBundle(t *testing.T) {
	e := newEnv(t)
	s := e.spec("true")
	mark := filepath.Join(e.Dir, "hook")
	s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "pwd > " + mark}}}}
	if got := e.run("hook", s); got != 0 {
		t.Errorf("exit status %d", got)
	}
	if data, err := os.ReadFile(mark); err != nil || strings.TrimSpace(string(data)) != e.BundleDir("hook") {
		t.Errorf("hook ran in %q (%v)", data, err)
	}
	s = e.spec("true")
	s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "exit 3"}}}}
	if _, _, err := e.tryCreate("badhook", s); err == nil {
		t.Error("a failing createRuntime hook did not fail the create")
	}
}

func TestOldContainerdIsAnsweredInJSON(t *testing.T) {
	e := newEnv(t)
	if err := e.Bundle("old", e.spec("true")); err != nil {
		t.Fatal(err)
	}
	out, err := e.Call(e.ctx, "old", nil, "start")
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Version  int    `json:"version"`
		Address  string `json:"address"`
		Protocol string `json:"protocol"`
	}
	if err := json.Unmarshal(out, &r); err != nil || r.Version != 3 || r.Protocol != "ttrpc" || !strings.HasPrefix(r.Address, "unix://") {
		t.Fatalf("answer %q %v", out, err)
	}
	c, err := e.Dial(r.Address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(e.ctx, &taskapi.CreateTaskRequest{ID: "old", Bundle: e.BundleDir("old")}); err != nil {
		t.Fatal(err)
	}
	e.start(c, "old", "")
	if got := e.wait(c, "old", ""); got != 0 {
		t.Errorf("exit status %d", got)
	}
	e.remove(c, "old", "")
}

func TestDescriptorsDoNotGrow(t *testing.T) {
	e := newEnv(t)
	keep := e.create("keep", e.spec("sleep", "1000"))
	pid := e.shimPid(keep, "keep")
	round := func(n int) int {
		for i := range n {
			if got := e.run("r"+strconv.Itoa(i), e.spec("true")); got != 0 {
				t.Fatalf("exit status %d", got)
			}
		}
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	before := round(2)
	if after := round(10); after > before {
		t.Errorf("%d descriptors after 2 containers came and went, %d after 12", before, after)
	}
	e.kill(keep, "keep", "", unix.SIGKILL)
	e.wait(keep, "keep", "")
	e.remove(keep, "keep", "")
}
