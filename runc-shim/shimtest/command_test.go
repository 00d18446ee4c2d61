package shimtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
)

// runc calls the binary by its other name.
type runc struct {
	*env
	link string
}

func newRunc(t *testing.T) *runc {
	e := newEnv(t)
	link := filepath.Join(e.Dir, "runc")
	if err := os.Symlink(binary, link); err != nil {
		t.Fatal(err)
	}
	return &runc{e, link}
}

func (r *runc) call(args ...string) (stdout, stderr string, status int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.link, append([]string{"--root", filepath.Join(r.Dir, "state")}, args...)...)
	var out, errb bytes.Buffer
	// A detached container keeps what it inherits: files, not pipes that
	// would be waited for.
	of, ef := r.temp(), r.temp()
	cmd.Stdout, cmd.Stderr = of, ef
	err := cmd.Run()
	for f, b := range map[*os.File]*bytes.Buffer{of: &out, ef: &errb} {
		data, rerr := os.ReadFile(f.Name())
		if rerr != nil {
			r.t.Fatal(rerr)
		}
		b.Write(data)
		f.Close()
	}
	var x *exec.ExitError
	if err != nil && !errors.As(err, &x) {
		r.t.Fatalf("runc %v: %v", args, err)
	}
	return out.String(), errb.String(), cmd.ProcessState.ExitCode()
}

func (r *runc) temp() *os.File {
	f, err := os.CreateTemp(r.Dir, "out")
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

func (r *runc) ok(args ...string) string {
	r.t.Helper()
	out, stderr, status := r.call(args...)
	if status != 0 {
		r.t.Fatalf("runc %v: status %d: %s", args, status, stderr)
	}
	return out
}

func (r *runc) refused(want string, args ...string) {
	r.t.Helper()
	_, stderr, status := r.call(args...)
	if status == 0 || !strings.Contains(stderr, want) {
		r.t.Errorf("runc %v: status %d, said %q, want an error with %q", args, status, stderr, want)
	}
}

func (r *runc) bundle(id string, s *specs.Spec) string {
	r.t.Helper()
	s.Linux.CgroupsPath = filepath.Join(testCgroup, filepath.Base(r.Dir)+"-"+id)
	if err := r.Bundle(id, s); err != nil {
		r.t.Fatal(err)
	}
	return r.BundleDir(id)
}

type runcState struct {
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     string            `json:"created"`
	Annotations map[string]string `json:"annotations"`
	Owner       string            `json:"owner"`
}

func (r *runc) state(id string) runcState {
	r.t.Helper()
	out := r.ok("state", id)
	var s runcState
	d := json.NewDecoder(strings.NewReader(out))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		r.t.Fatalf("state %s: %v", out, err)
	}
	return s
}

func TestRuncRun(t *testing.T) {
	r := newRunc(t)
	b := r.bundle("run", r.spec("sh", "-c", "echo to stdout; echo to stderr >&2; exit 9"))
	out, stderr, status := r.call("run", "--bundle", b, "run")
	if out != "to stdout\n" || stderr != "to stderr\n" || status != 9 {
		t.Errorf("run: %q %q %d", out, stderr, status)
	}
	if out := r.ok("list", "--format", "json"); strings.TrimSpace(out) != "null" {
		t.Errorf("left behind: %s", out)
	}
}

func TestRuncLifeOfAContainer(t *testing.T) {
	r := newRunc(t)
	s := r.spec("sleep", "1000")
	s.Annotations["note"] = "hello"
	b := r.bundle("c1", s)
	pidFile := filepath.Join(r.Dir, "pid")
	// Flags may come after the id.
	r.ok("create", "c1", "-b", b, "--pid-file", pidFile)
	st := r.state("c1")
	pid, err := os.ReadFile(pidFile)
	if err != nil || string(pid) != strconv.Itoa(st.Pid) {
		t.Errorf("pid file %q %v, state says %d", pid, err, st.Pid)
	}
	if st.ID != "c1" || st.Status != "created" || st.Bundle != b || st.Rootfs != r.root || st.OCIVersion == "" || st.Created == "" || st.Annotations["note"] != "hello" {
		t.Errorf("state: %+v", st)
	}
	r.ok("start", "c1")
	if st = r.state("c1"); st.Status != "running" {
		t.Errorf("state: %+v", st)
	}
	r.refused("already running", "start", "c1")
	r.refused("not stopped", "delete", "c1")

	var pids []int
	if err := json.Unmarshal([]byte(r.ok("ps", "--format", "json", "c1")), &pids); err != nil || len(pids) != 1 || pids[0] != st.Pid {
		t.Errorf("ps: %v %v", pids, err)
	}
	var list []runcState
	if err := json.Unmarshal([]byte(r.ok("list", "-f", "json")), &list); err != nil || len(list) != 1 || list[0].ID != "c1" || list[0].Owner != "root" && list[0].Owner != "#0" {
		t.Errorf("list: %v %v", list, err)
	}
	if out := r.ok("list", "-q"); out != "c1\n" {
		t.Errorf("list -q: %q", out)
	}
	r.ok("pause", "c1")
	if st = r.state("c1"); st.Status != "paused" {
		t.Errorf("state: %+v", st)
	}
	r.refused("paused", "exec", "c1", "true")
	r.ok("resume", "c1")

	if out, _, status := r.call("exec", "-e", "A=b", "--cwd", "/dev", "-u", "5:6", "c1", "sh", "-c", "echo $A $PWD; id -u; id -g; exit 4"); out != "b /dev\n5\n6\n" || status != 4 {
		t.Errorf("exec: %q %d", out, status)
	}
	p := filepath.Join(r.Dir, "process.json")
	if err := os.WriteFile(p, []byte(`{"args":["echo","from json"],"cwd":"/","env":["PATH=/bin"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := r.ok("exec", "--process", p, "c1"); out != "from json\n" {
		t.Errorf("exec --process: %q", out)
	}
	_, stderr, status := r.call("exec", "c1", "/no/such")
	if status != 255 || !strings.Contains(stderr, "/no/such") {
		t.Errorf("exec of a missing command: %d %q", status, stderr)
	}
	r.ok("update", "--pids-limit", "50", "c1")
	var ev struct {
		Type string
		ID   string
		Data struct {
			Pids struct{ Limit uint64 }
		}
	}
	if err := json.Unmarshal([]byte(r.ok("events", "--stats", "c1")), &ev); err != nil || ev.Type != "stats" || ev.ID != "c1" || ev.Data.Pids.Limit != 50 {
		t.Errorf("events --stats: %+v %v", ev, err)
	}
	r.ok("kill", "c1", "KILL")
	r.ended(st.Pid)
	if st = r.state("c1"); st.Status != "stopped" || st.Pid != 0 {
		t.Errorf("state: %+v", st)
	}
	r.ok("delete", "c1")
	r.refused("does not exist", "state", "c1")
	r.ok("delete", "--force", "c1")
}

func TestRuncConsoleSocket(t *testing.T) {
	r := newRunc(t)
	s := r.spec("sh", "-c", "tty; sleep 1000")
	s.Process.Terminal = true
	b := r.bundle("con", s)
	path := filepath.Join(r.Dir, "con.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r.refused("console socket", "create", "-b", b, "con")
	r.ok("create", "-b", b, "--console-socket", path, "con")
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 100), oob)
	if err != nil {
		t.Fatal(err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		t.Fatalf("control messages: %v %v", msgs, err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("descriptors: %v %v", fds, err)
	}
	master := os.NewFile(uintptr(fds[0]), "master")
	defer master.Close()
	r.ok("start", "con")
	buf := make([]byte, 100)
	m, err := master.Read(buf)
	if err != nil || !strings.Contains(string(buf[:m]), "/dev/pts/0") {
		t.Errorf("terminal: %q %v", buf[:m], err)
	}
	r.ok("delete", "-f", "con")
}

func TestRuncFeatures(t *testing.T) {
	r := newRunc(t)
	var f features.Features
	if err := json.Unmarshal([]byte(r.ok("features")), &f); err != nil {
		t.Fatal(err)
	}
	if f.OCIVersionMax != specs.Version || f.Linux == nil || f.Linux.Seccomp == nil || !*f.Linux.Seccomp.Enabled || len(f.Linux.Capabilities) < 30 {
		t.Errorf("features: %+v", f)
	}
	if f.Linux.Cgroup == nil || *f.Linux.Cgroup.Systemd {
		t.Error("features claim systemd cgroups")
	}
	if out := r.ok("--version"); !strings.HasPrefix(out, "runc version 1.") || !strings.Contains(out, "libseccomp: ") {
		t.Errorf("version: %q", out)
	}
}

func TestRuncSpecCanBeRun(t *testing.T) {
	r := newRunc(t)
	dir := filepath.Join(r.Dir, "new")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.ok("spec", "-b", dir)
	r.refused("exists", "spec", "-b", dir)
	var s specs.Spec
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	s.Root.Path, s.Process.Terminal, s.Process.Args = r.root, false, []string{"echo", "ran"}
	if out := r.ok("run", "-b", r.bundle("ex", &s), "ex"); out != "ran\n" {
		t.Errorf("run: %q", out)
	}
}

func TestRuncRefusals(t *testing.T) {
	r := newRunc(t)
	r.refused("unknown command", "frobnicate")
	r.refused("flag provided but not defined", "run", "--frobnicate", "x")
	r.refused("without CRIU", "checkpoint", "x")
	r.refused("without CRIU", "restore", "x")
	r.refused("no systemd", "--systemd-cgroup", "list")
	r.refused("neither text nor json", "--log-format", "xml", "list")
	r.refused("takes", "state")
	r.refused("takes", "start", "a", "b")
	r.refused("does not exist", "kill", "nobody", "TERM")
	r.refused("unknown signal", "kill", "nobody", "NOSUCH")
	r.refused("config.json not found", "run", "-b", r.Dir, "x")
	// What go-runc reads an error from.
	log := filepath.Join(r.Dir, "log.json")
	r.refused("does not exist", "--log", log, "--log-format", "json", "state", "nobody")
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var line struct{ Level, Msg, Time string }
	if err := json.Unmarshal(data, &line); err != nil || line.Level != "error" || line.Msg != "container does not exist" || line.Time == "" {
		t.Errorf("log: %q %v", data, err)
	}
}
