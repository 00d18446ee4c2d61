package shimtest

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"keelson/runc-shim/task"
)

func TestExitStatus(t *testing.T) {
	e := newEnv(t)
	for id, c := range map[string]struct {
		command string
		want    uint32
	}{
		"zero":   {"exit 0", 0},
		"code":   {"exit 7", 7},
		"signal": {"kill -TERM $$; kill -KILL $$; sleep 100", 137},
	} {
		s := e.spec("sh", "-c", c.command)
		if id == "signal" {
			// PID 1 of a namespace cannot kill itself; a child can be killed.
			s.Process.Args = []string{"sh", "-c", "sh -c 'kill -KILL $$'; exit $?"}
		}
		if got := e.run(id, s); got != c.want {
			t.Errorf("%s: exit status %d, want %d", id, got, c.want)
		}
	}
}

func TestLifeOfATask(t *testing.T) {
	e := newEnv(t)
	c, pid, err := e.tryCreate("one", e.spec("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	state := func() *taskapi.StateResponse {
		t.Helper()
		r, err := c.State(e.ctx, &taskapi.StateRequest{ID: "one"})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if s := state(); s.Status != tasktypes.Status_CREATED || s.Pid != pid || s.ID != "one" || s.Bundle != e.BundleDir("one") {
		t.Errorf("created: %v", s)
	}
	if _, err := c.Create(e.ctx, &taskapi.CreateTaskRequest{ID: "one", Bundle: e.BundleDir("one")}); err == nil {
		t.Error("a second create of the same id succeeded")
	}
	if got := e.start(c, "one", ""); got != pid {
		t.Errorf("start says pid %d, create said %d", got, pid)
	}
	if s := state(); s.Status != tasktypes.Status_RUNNING {
		t.Errorf("running: %v", s)
	}
	if _, err := c.Start(e.ctx, &taskapi.StartRequest{ID: "one"}); err == nil {
		t.Error("a running container was started again")
	}
	if _, err := c.Delete(e.ctx, &taskapi.DeleteRequest{ID: "one"}); err == nil {
		t.Error("a running container was deleted")
	}
	if _, err := c.Pause(e.ctx, &taskapi.PauseRequest{ID: "one"}); err != nil {
		t.Error(err)
	}
	if s := state(); s.Status != tasktypes.Status_PAUSED {
		t.Errorf("paused: %v", s)
	}
	if _, err := c.Resume(e.ctx, &taskapi.ResumeRequest{ID: "one"}); err != nil {
		t.Error(err)
	}
	pids, err := c.Pids(e.ctx, &taskapi.PidsRequest{ID: "one"})
	if err != nil || len(pids.Processes) != 1 || pids.Processes[0].Pid != pid {
		t.Errorf("pids: %v %v", pids, err)
	}
	if _, err := c.Checkpoint(e.ctx, &taskapi.CheckpointTaskRequest{ID: "one"}); err == nil {
		t.Error("checkpoint was not refused")
	}
	e.kill(c, "one", "", unix.SIGKILL)
	if got := e.wait(c, "one", ""); got != 137 {
		t.Errorf("killed: exit status %d, want 137", got)
	}
	if s := state(); s.Status != tasktypes.Status_STOPPED || s.ExitStatus != 137 {
		t.Errorf("stopped: %v", s)
	}
	if _, err := c.Kill(e.ctx, &taskapi.KillRequest{ID: "one", Signal: 9}); err == nil || !strings.Contains(err.Error(), "finished") {
		t.Errorf("kill of an ended task: %v", err)
	}
	if r := e.remove(c, "one", ""); r.ExitStatus != 137 || r.Pid != pid {
		t.Errorf("delete: %v", r)
	}
	if _, err := c.State(e.ctx, &taskapi.StateRequest{ID: "one"}); err == nil {
		t.Error("the deleted task is still there")
	}
	if _, err := os.Stat(filepath.Join(e.Options.Root, "test", "one")); !os.IsNotExist(err) {
		t.Errorf("state directory: %v", err)
	}
	if _, err := e.Events.Await(e.ctx, func(v *types.Envelope) bool { return v.Topic == "/tasks/delete" }); err != nil {
		t.Fatal(err)
	}
	var topics []string
	for _, v := range e.Events.All() {
		topics = append(topics, v.Topic)
		if v.Namespace != "test" {
			t.Errorf("event %s of namespace %q", v.Topic, v.Namespace)
		}
	}
	want := "/tasks/create /tasks/start /tasks/paused /tasks/resumed /tasks/exit /tasks/delete"
	if got := strings.Join(topics, " "); got != want {
		t.Errorf("events\n%s\nwant\n%s", got, want)
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	e := newEnv(t)
	_, _, err := e.tryCreate("bad", e.spec("/no/such/command"))
	if err == nil || !strings.Contains(err.Error(), "/no/such/command") {
		t.Errorf("create of a missing command: %v", err)
	}
	if got := e.run("bad", e.spec("true")); got != 0 {
		t.Errorf("the id cannot be used again: %d", got)
	}
	s := e.spec("true")
	s.Root.Path = "/no/such/root"
	if _, _, err = e.tryCreate("noroot", s); err == nil || !strings.Contains(err.Error(), "/no/such/root") {
		t.Errorf("create without a root: %v", err)
	}
}

func TestExitIsOnDiskAndNotLostWhileContainerdIsAway(t *testing.T) {
	e := newEnv(t)
	c, pid, err := e.tryCreate("away", e.spec("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	e.start(c, "away", "")
	if _, err := e.Events.Await(e.ctx, func(v *types.Envelope) bool { return v.Topic == "/tasks/start" }); err != nil {
		t.Fatal(err)
	}
	e.Events.Close()
	before := time.Now()
	if err := unix.Kill(int(pid), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := e.wait(c, "away", ""); got != 137 {
		t.Errorf("exit status %d, want 137", got)
	}
	// Whoever has been told of the exit can read it.
	var r struct {
		ID         string    `json:"id"`
		Pid        int       `json:"pid"`
		ExitStatus int       `json:"exit_status"`
		ExitedAt   time.Time `json:"exited_at"`
	}
	data, err := os.ReadFile(filepath.Join(e.BundleDir("away"), "exit.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	if r.ID != "away" || r.Pid != int(pid) || r.ExitStatus != 137 || r.ExitedAt.Before(before) {
		t.Errorf("exit.json: %s", data)
	}
	// The stock shim's `delete` reads the same file.
	if p, st, at, err := task.ReadExit(e.BundleDir("away")); err != nil || p != int(pid) || st != 137 || !at.Equal(r.ExitedAt) {
		t.Errorf("ReadExit: %d %d %v %v", p, st, at, err)
	}
	if e.Events, err = ServeEvents(e.eventSocket()); err != nil {
		t.Fatal(err)
	}
	v, err := e.Events.Await(e.ctx, func(v *types.Envelope) bool { return v.Topic == "/tasks/exit" })
	if err != nil {
		t.Fatal(err)
	}
	if x := decode(t, v, &eventsapi.TaskExit{}); x.ContainerID != "away" || x.ExitStatus != 137 || x.Pid != pid {
		t.Errorf("exit event: %v", x)
	}
	e.remove(c, "away", "")
}

func TestGroupsShareAShimAndEndWithTheirLastMember(t *testing.T) {
	e := newEnv(t)
	ids := []string{"a", "b", "c"}
	pid := 0
	var c taskapi.TTRPCTaskService
	for _, id := range ids {
		c = e.create(id, e.spec("sleep", "1000"))
		e.start(c, id, "")
		if p := e.shimPid(c, id); pid == 0 {
			pid = p
		} else if p != pid {
			t.Errorf("%s is in shim %d, the group's is %d", id, p, pid)
		}
	}
	own := e.create("own", Group(e.spec("sleep", "1000"), "other"))
	if p := e.shimPid(own, "own"); p == pid {
		t.Error("a container of another group is in the same shim")
	}
	for _, id := range ids {
		e.kill(c, id, "", unix.SIGKILL)
		e.wait(c, id, "")
		e.remove(c, id, "")
		if id != "c" {
			if _, err := c.Connect(e.ctx, &taskapi.ConnectRequest{}); err != nil {
				t.Errorf("the shim is gone after %s: %v", id, err)
			}
		}
	}
	e.ended(pid)
	entries, err := os.ReadDir(e.SocketDir())
	if err != nil || len(entries) != 1 {
		t.Errorf("sockets left: %v %v, want that of the other group", entries, err)
	}
	// The group can be used again.
	if got := e.run("again", e.spec("true")); got != 0 {
		t.Errorf("exit status %d", got)
	}
}

// A runtime binary is refused before there is a shim, and by one that lives.
func TestRuntimeBinaryIsRefused(t *testing.T) {
	e := newEnv(t)
	c := e.create("ours", e.spec("sleep", "1000"))
	request := &taskapi.CreateTaskRequest{ID: "x", Bundle: e.BundleDir("x")}
	e.Options.BinaryName = "runc"
	var err error
	if request.Options, err = anypb.New(e.Options); err != nil {
		t.Fatal(err)
	}
	if err := e.Bundle("x", e.spec("true")); err != nil {
		t.Fatal(err)
	}
	const want = "bring the stock containerd-shim-runc-v2"
	if _, err := e.Start(e.ctx, "x"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("start: %v", err)
	}
	if _, err := c.Create(e.ctx, request); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("create: %v", err)
	}
	e.kill(c, "ours", "", unix.SIGKILL)
	e.wait(c, "ours", "")
	e.remove(c, "ours", "")
}

func TestDeadShim(t *testing.T) {
	e := newEnv(t)
	c, pid, err := e.tryCreate("orphan", e.spec("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	e.start(c, "orphan", "")
	shim := e.shimPid(c, "orphan")
	if err := unix.Kill(shim, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	e.ended(shim)
	if err := unix.Kill(int(pid), 0); err != nil {
		t.Errorf("the container died with its shim: %v", err)
	}
	out, err := e.Call(e.ctx, "orphan", nil, "-bundle", e.BundleDir("orphan"), "delete")
	if err != nil {
		t.Fatal(err)
	}
	var r taskapi.DeleteResponse
	if err := proto.Unmarshal(out, &r); err != nil || r.ExitStatus != 137 || r.Pid != pid {
		t.Errorf("delete says %v %v", &r, err)
	}
	e.ended(int(pid))
	if _, err := os.Stat(filepath.Join(e.Options.Root, "test", "orphan")); !os.IsNotExist(err) {
		t.Errorf("state directory: %v", err)
	}
	// The dead shim's socket is in nobody's way.
	if got := e.run("next", e.spec("true")); got != 0 {
		t.Errorf("exit status %d", got)
	}
}

// After a good delete containerd asks the binary as well, and gets the shim's answer
// without anything being looked for.
func TestDeleteOfWhatTheShimHasRemoved(t *testing.T) {
	if os.Getenv("KEELSON_SHIM") != "" {
		return // what the stock shim has removed its binary removes again
	}
	e := newEnv(t)
	c, _, err := e.tryCreate("gone", e.spec("sh", "-c", "exit 7"))
	if err != nil {
		t.Fatal(err)
	}
	e.start(c, "gone", "")
	e.wait(c, "gone", "")
	want := e.remove(c, "gone", "")
	// The long way stumbles over these.
	if err := os.WriteFile(filepath.Join(e.BundleDir("gone"), task.OptionsFile), []byte("no JSON"), 0o600); err != nil {
		t.Fatal(err)
	}
	remove := func() ([]byte, error) {
		return e.Call(e.ctx, "gone", nil, "-bundle", e.BundleDir("gone"), "delete")
	}
	out, err := remove()
	if err != nil {
		t.Fatal(err)
	}
	var got taskapi.DeleteResponse
	if err := proto.Unmarshal(out, &got); err != nil || !proto.Equal(&got, want) {
		t.Errorf("delete says %v %v, the shim said %v", &got, err, want)
	}
	if err := os.Remove(filepath.Join(e.BundleDir("gone"), "deleted")); err != nil {
		t.Fatal(err)
	}
	if out, err := remove(); err == nil || !strings.Contains(err.Error(), "task options") {
		t.Errorf("without the shim's answer: %q %v, want the long way", out, err)
	}
}

func TestKillReachesWhatSharesThePidNamespace(t *testing.T) {
	e := newEnv(t)
	s := e.spec("sh", "-c", "sleep 1000 & exec sleep 2000")
	s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	c := e.create("hostpid", s)
	e.start(c, "hostpid", "")
	var pids []*tasktypes.ProcessInfo
	for len(pids) < 2 { // the shell forks in its own time; bounded by e.ctx
		r, err := c.Pids(e.ctx, &taskapi.PidsRequest{ID: "hostpid"})
		if err != nil {
			t.Fatal(err)
		}
		pids = r.Processes
	}
	if _, err := c.Kill(e.ctx, &taskapi.KillRequest{ID: "hostpid", Signal: uint32(unix.SIGKILL), All: true}); err != nil {
		t.Fatal(err)
	}
	e.wait(c, "hostpid", "")
	for _, p := range pids {
		e.ended(int(p.Pid))
	}
	e.remove(c, "hostpid", "")
}

func TestUpdateAndStats(t *testing.T) {
	e := newEnv(t)
	s := e.spec("sleep", "1000")
	limit := int64(64)
	s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
	c := e.create("lim", s)
	e.start(c, "lim", "")
	if got := e.pidsLimit(c, "lim"); got != 64 {
		t.Errorf("pids limit %d, want 64", got)
	}
	res, err := json.Marshal(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(32))}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Update(e.ctx, &taskapi.UpdateTaskRequest{ID: "lim", Resources: &anypb.Any{Value: res}}); err != nil {
		t.Fatal(err)
	}
	if got := e.pidsLimit(c, "lim"); got != 32 {
		t.Errorf("pids limit %d after update, want 32", got)
	}
	// An update must not keep anybody from starting something.
	x := e.exec(c, "lim", "after", "true")
	if x != 0 {
		t.Errorf("exec after update: %d", x)
	}
	e.kill(c, "lim", "", unix.SIGKILL)
	e.wait(c, "lim", "")
	e.remove(c, "lim", "")
}

func TestOutOfMemoryIsReported(t *testing.T) {
	e := newEnv(t)
	s := e.spec("sh", "-c", "dd if=/dev/zero of=/dev/null bs=256M count=1; sleep 1000")
	s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(16 << 20)), Swap: ptr(int64(16 << 20))}}
	c, _, err := e.tryCreate("oom", s)
	if err != nil && strings.Contains(err.Error(), "memory") {
		t.Skipf("no memory controller here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	e.start(c, "oom", "")
	v, err := e.Events.Await(e.ctx, func(v *types.Envelope) bool { return v.Topic == "/tasks/oom" })
	if err != nil {
		t.Fatal(err)
	}
	if o := decode(t, v, &eventsapi.TaskOOM{}); o.ContainerID != "oom" {
		t.Errorf("oom event: %v", o)
	}
	e.kill(c, "oom", "", unix.SIGKILL)
	e.wait(c, "oom", "")
	e.remove(c, "oom", "")
}

func TestShimCgroup(t *testing.T) {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		t.Skip("needs cgroup v2 at /sys/fs/cgroup")
	}
	e := newEnv(t)
	e.Options.ShimCgroup = testCgroup + "/shim"
	c := e.create("cg", e.spec("sleep", "1000"))
	data, err := os.ReadFile("/proc/" + strconv.Itoa(e.shimPid(c, "cg")) + "/cgroup")
	if err != nil || strings.TrimSpace(string(data)) != "0::"+testCgroup+"/shim" {
		t.Errorf("the shim is in %q (%v)", data, err)
	}
	e.start(c, "cg", "")
	e.kill(c, "cg", "", unix.SIGKILL)
	e.wait(c, "cg", "")
	e.remove(c, "cg", "")
	e.Options.ShimCgroup = "../escape"
	if err := e.Bundle("bad", e.spec("true")); err != nil {
		t.Fatal(err)
	}
	e.Namespace = "other" // a shim of its own
	if _, err := e.Start(e.ctx, "bad"); err == nil || !strings.Contains(err.Error(), "ShimCgroup") {
		t.Errorf("start with a bad ShimCgroup: %v", err)
	}
}

// A create whose client gave it up, and that succeeds later, is undone; the next one waits
// for that, and is not told that the container is there already.
func TestCreateThatTookTooLong(t *testing.T) {
	e := newEnv(t)
	grouped := func(args ...string) *specs.Spec { return Group(e.spec(args...), "one") }
	c, _, err := e.tryCreate("first", grouped("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	slow := grouped("sleep", "1000")
	slow.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "2"}}}}
	if err := e.Bundle("late", slow); err != nil {
		t.Fatal(err)
	}
	request := &taskapi.CreateTaskRequest{ID: "late", Bundle: e.BundleDir("late")}
	short, cancel := context.WithTimeout(e.ctx, 500*time.Millisecond)
	defer cancel()
	if _, err := c.Create(short, request); err == nil {
		t.Fatal("it was created in time")
	}
	if err := e.Bundle("late", grouped("sleep", "1000")); err != nil {
		t.Fatal(err)
	}
	created, err := c.Create(e.ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.State(e.ctx, &taskapi.StateRequest{ID: "late"})
	if err != nil || s.Pid != created.Pid || s.Status != tasktypes.Status_CREATED {
		t.Errorf("%v %v, created as %d", s, err, created.Pid)
	}
	if _, err := c.Create(e.ctx, request); err == nil || !strings.Contains(err.Error(), "already exists") {
		t.Errorf("one that is there: %v", err)
	}
}

// A user that is not root opens its own streams by name.
func TestUsersOpenTheirStreams(t *testing.T) {
	e := newEnv(t)
	s := e.spec("sh", "-c", "echo out >/dev/stdout && echo err >/dev/stderr")
	s.Process.User.UID, s.Process.User.GID = 1000, 1000
	var fifos []string
	for _, name := range []string{"out", "err"} {
		path := filepath.Join(e.Dir, name)
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fifos = append(fifos, path)
	}
	if got := e.run("user", s, func(r *taskapi.CreateTaskRequest) { r.Stdout, r.Stderr = fifos[0], fifos[1] }); got != 0 {
		t.Errorf("exit status %d", got)
	}
}
