package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	bolt "go.etcd.io/bbolt"
)

func TestTask(t *testing.T) {
	m := newMachine(t)
	// A shim that ends with its last task may take the last events with it,
	// the stock one does: another member keeps it.
	group := map[string]string{"io.containerd.runc.v2.group": "keelson"}
	m.run("other", "sleep 1000", group)
	evctx, cancel := context.WithCancel(m.ctx)
	defer cancel()
	events, _ := m.c.Subscribe(evctx)

	var out, errout bytes.Buffer
	task, err := m.container("web", "echo hello; cat; exit 7", group).
		NewTask(m.ctx, cio.NewCreator(cio.WithStreams(strings.NewReader(""), &out, &errout), cio.WithFIFODir(m.dir+"/fifo")))
	must(t, err)
	exit, err := task.Wait(m.ctx)
	must(t, err)
	if st, err := task.Status(m.ctx); err != nil || st.Status != client.Created {
		t.Fatalf("status before start: %v, %v; want created", st.Status, err)
	}
	// A client that waits no longer: the shim's answer comes all the same, later.
	wctx, cancelWait := context.WithTimeout(m.ctx, 200*time.Millisecond)
	defer cancelWait()
	if _, err := m.c.TaskService().Wait(wctx, &tasksapi.WaitRequest{ContainerID: "web"}); err == nil {
		t.Error("a task that was not started has ended")
	}
	must(t, task.Start(m.ctx))
	if !alive(task.Pid()) {
		t.Fatalf("no process %d", task.Pid())
	}

	proc, err := task.Exec(m.ctx, "sh1", &specs.Process{Args: []string{"sh", "-c", "exit 3"}, Env: []string{"PATH=/bin"}, Cwd: "/"}, cio.NullIO)
	must(t, err)
	procExit, err := proc.Wait(m.ctx)
	must(t, err)
	must(t, proc.Start(m.ctx))
	if code := m.exit(procExit); code != 3 {
		t.Errorf("exec: exit status %d, want 3", code)
	}
	if st, err := proc.Delete(m.ctx); err != nil || st.ExitCode() != 3 {
		t.Errorf("exec delete: %v, %v", st, err)
	}

	pids, err := task.Pids(m.ctx)
	must(t, err)
	if !slices.ContainsFunc(pids, func(p client.ProcessInfo) bool { return p.Pid == task.Pid() }) {
		t.Errorf("pids %v have not the task's own %d", pids, task.Pid())
	}
	metric, err := task.Metrics(m.ctx)
	must(t, err)
	if metric.ID != "web" || metric.Data == nil {
		t.Errorf("metrics: %v", metric)
	}
	must(t, task.Pause(m.ctx))
	if st, err := task.Status(m.ctx); err != nil || st.Status != client.Paused {
		t.Errorf("status of a paused task: %v, %v", st.Status, err)
	}
	must(t, task.Resume(m.ctx))
	must(t, task.Update(m.ctx, client.WithAnnotations(map[string]string{"a": "b"}), client.WithResources(&specs.LinuxResources{})))

	must(t, task.CloseIO(m.ctx, client.WithStdinCloser))
	if code := m.exit(exit); code != 7 {
		t.Errorf("exit status %d, want 7", code)
	}
	st, err := task.Delete(m.ctx)
	must(t, err)
	if st.ExitCode() != 7 {
		t.Errorf("delete: exit status %d, want 7", st.ExitCode())
	}
	if out.String() != "hello\n" || errout.String() != "" {
		t.Errorf("output %q and %q", out.String(), errout.String())
	}
	if _, err := task.Status(m.ctx); !errdefs.IsNotFound(err) {
		t.Errorf("status of a deleted task: %v, want not found", err)
	}

	want := []string{"/containers/create", "/tasks/create", "/tasks/start", "/tasks/exec-added", "/tasks/exec-started", "/tasks/exit", "/tasks/exit", "/tasks/delete"}
	for len(want) > 0 {
		select {
		case e := <-events:
			if i := slices.Index(want, e.Topic); i >= 0 {
				want = slices.Delete(want, i, i+1)
			}
			if e.Topic == "/tasks/exit" {
				v, err := typeurl.UnmarshalAny(e.Event)
				must(t, err)
				if x := v.(*apievents.TaskExit); x.ID == "web" && x.ExitStatus != 7 {
					t.Errorf("event of the exit: %v", x)
				}
			}
		case <-time.After(bound):
			t.Fatalf("no event %v", want)
		}
	}
	if said := m.said(); said != "" {
		t.Errorf("the daemon said something about ordinary tasks:\n%s", said)
	}
}

func TestErrors(t *testing.T) {
	m := newMachine(t)
	if _, err := m.c.LoadContainer(m.ctx, "nobody"); !errdefs.IsNotFound(err) {
		t.Errorf("container that is not there: %v", err)
	}
	task, _ := m.run("twice", "sleep 1000", nil)
	c, err := m.c.LoadContainer(m.ctx, "twice")
	must(t, err)
	if _, err := c.NewTask(m.ctx, cio.NullIO); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second task: %v, want already exists", err)
	}
	if _, err := task.Delete(m.ctx); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete of a running task: %v, want failed precondition", err)
	}
	if _, err := task.Checkpoint(m.ctx); !errdefs.IsNotImplemented(err) {
		t.Errorf("checkpoint: %v, want not implemented", err)
	}
	bad, err := m.container("bad", "", nil).NewTask(m.ctx, cio.NullIO)
	must(t, err)
	must(t, bad.Kill(m.ctx, syscall.SIGKILL))

	spec := m.spec("missing", "")
	spec.Process.Args = []string{"/no/such/program"}
	c, err = m.c.NewContainer(m.ctx, "missing", client.WithSpec(spec), client.WithRuntime("io.containerd.runc.v2", nil))
	must(t, err)
	if _, err = c.NewTask(m.ctx, cio.NullIO); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("program that is not there: %v, want its name", err)
	}
	if said := m.said(); said != "" {
		t.Errorf("the clients know already, yet the daemon said\n%s", said)
	}
}

// A daemon that is killed and comes back finds every task as it was.
func TestKillAndRestart(t *testing.T) {
	m := newMachine(t)
	pids := map[string]uint32{}
	for _, id := range []string{"one", "two"} {
		task, _ := m.run(id, "trap 'exit 5' TERM; while :; do sleep 1000 & wait; done", nil)
		pids[id] = task.Pid()
	}
	for i := range 20 {
		m.kill(syscall.SIGKILL)
		m.start()
		for id, pid := range pids {
			if got := m.task(id).Pid(); got != pid {
				t.Fatalf("round %d: %s has pid %d, had %d", i, id, got, pid)
			}
		}
	}
	for id := range pids {
		task := m.task(id)
		exit, err := task.Wait(m.ctx)
		must(t, err)
		must(t, task.Kill(m.ctx, syscall.SIGTERM))
		if code := m.exit(exit); code != 5 {
			t.Errorf("%s: exit status %d, want 5", id, code)
		}
		if st, err := task.Delete(m.ctx); err != nil || st.ExitCode() != 5 {
			t.Errorf("%s: delete: %v, %v", id, st, err)
		}
	}
	eventually(t, "no shim is left", func() bool { return len(m.shims()) == 0 })
}

// One shim serves the containers of a group, also across a restart.
func TestGroup(t *testing.T) {
	m := newMachine(t)
	group := map[string]string{"io.containerd.runc.v2.group": "keelson"}
	pids := map[string]uint32{}
	for i := range 4 {
		id := fmt.Sprintf("member%d", i)
		task, _ := m.run(id, "sleep 1000", group)
		pids[id] = task.Pid()
	}
	if shims := m.shims(); len(shims) != 1 {
		t.Fatalf("shims %v, want one", shims)
	}
	if os.Getenv(otherDaemon) == "" {
		// Only the first had to ask the shim's program which shim takes it.
		for id := range pids {
			_, err := os.Stat(m.bundle(id) + "/sandbox")
			if asked := err != nil; asked != (id == "member0") {
				t.Errorf("%s: asked for its shim: %v", id, asked)
			}
		}
	}
	remove := func(id string) {
		t.Helper()
		task := m.task(id)
		exit, err := task.Wait(m.ctx)
		must(t, err)
		must(t, task.Kill(m.ctx, syscall.SIGKILL))
		if code := m.exit(exit); code != 137 {
			t.Errorf("%s: exit status %d, want 137", id, code)
		}
		_, err = task.Delete(m.ctx)
		must(t, err)
		c, err := m.c.LoadContainer(m.ctx, id)
		must(t, err)
		must(t, c.Delete(m.ctx))
		delete(pids, id)
	}
	check := func() {
		t.Helper()
		for id, pid := range pids {
			if got := m.task(id).Pid(); got != pid || !alive(pid) {
				t.Errorf("%s: pid %d (alive: %v), had %d", id, got, alive(pid), pid)
			}
		}
		if shims := m.shims(); len(shims) != 1 {
			t.Errorf("shims %v, want one", shims)
		}
	}
	// The first one gave the shim its address and its log: it goes first.
	remove("member0")
	check()
	m.kill(syscall.SIGKILL)
	m.start()
	check()
	remove("member2")
	task, _ := m.run("late", "sleep 1000", group)
	pids["late"] = task.Pid()
	check()
	m.kill(syscall.SIGKILL)
	m.start()
	check()
	for id := range pids {
		remove(id)
	}
	eventually(t, "the shim ends with its last member", func() bool { return len(m.shims()) == 0 })
}

// An orderly stop is prompt, leaves the containers alone, and a second daemon
// cannot run beside the first.
func TestStop(t *testing.T) {
	m := newMachine(t)
	task, _ := m.run("stays", "sleep 1000", nil)
	if state := m.kill(syscall.SIGTERM); state.ExitCode() != 0 {
		t.Errorf("SIGTERM: %v, want exit status 0", state)
	}
	if !alive(task.Pid()) {
		t.Error("the container ended with the daemon")
	}
	// The socket of a dead daemon is in the way.
	must(t, os.WriteFile(m.socket, nil, 0o600))
	m.start()
	if got := m.task("stays").Pid(); got != task.Pid() {
		t.Errorf("pid %d, had %d", got, task.Pid())
	}
}

// What people in the field type.
func TestCtr(t *testing.T) {
	m := newMachine(t)
	task, exit := m.run("web", "sleep 1000", nil)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"version"}, "Revision: keelson"},
		{[]string{"t", "ls"}, fmt.Sprintf("web     %d", task.Pid())},
		{[]string{"c", "ls"}, "io.containerd.runc.v2"},
		{[]string{"c", "info", "web"}, `"CgroupsPath"`},
		{[]string{"t", "exec", "--exec-id", "x", "web", "echo", "from inside"}, "from inside"},
		{[]string{"t", "ps", "web"}, fmt.Sprint(task.Pid())},
		{[]string{"t", "metrics", "web"}, "web"},
		{[]string{"ns", "ls"}, m.name},
		{[]string{"plugins", "ls"}, "io.containerd.runtime.v2"},
	} {
		if out := m.ctr(c.args...); !strings.Contains(out, c.want) && !strings.Contains(strings.ToLower(out), strings.ToLower(c.want)) {
			t.Errorf("ctr %v: no %q in\n%s", c.args, c.want, out)
		}
	}
	if _, err := m.c.ImageService().List(m.ctx); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "Images/List: this trimmed containerd does not have it") {
		t.Errorf("a service that is not here: %v", err)
	}
	m.ctr("t", "kill", "-s", "SIGKILL", "web")
	if code := m.exit(exit); code != 137 {
		t.Errorf("exit status %d, want 137", code)
	}
	m.ctr("t", "delete", "web")
	m.ctr("c", "delete", "web")
}

// A shim that dies takes its tasks with it, and the daemon says so: an exit
// event for each, nothing left behind, and the next task gets a new shim.
func TestShimKilled(t *testing.T) {
	m := newMachine(t)
	group := map[string]string{"io.containerd.runc.v2.group": "keelson"}
	tasks := map[string]uint32{}
	for _, id := range []string{"one", "two"} {
		task, _ := m.run(id, "sleep 1000", group)
		tasks[id] = task.Pid()
	}
	ctx, cancel := context.WithCancel(m.ctx)
	defer cancel()
	events, _ := m.c.Subscribe(ctx, `topic=="/tasks/exit"`)
	shims := m.shims()
	if len(shims) != 1 {
		t.Fatalf("shims %v, want one", shims)
	}
	must(t, syscall.Kill(shims[0], syscall.SIGKILL))
	m.run("three", "sleep 1000", group) // before the daemon has noticed, or after
	for len(tasks) > 0 {
		select {
		case e := <-events:
			v, err := typeurl.UnmarshalAny(e.Event)
			must(t, err)
			x := v.(*apievents.TaskExit)
			if x.ExitStatus != 137 {
				t.Errorf("%s: exit status %d, want 137", x.ContainerID, x.ExitStatus)
			}
			if pid := tasks[x.ContainerID]; alive(pid) {
				t.Errorf("%s: process %d has outlived the event of its exit", x.ContainerID, pid)
			}
			delete(tasks, x.ContainerID)
		case <-time.After(bound):
			t.Fatalf("no exit of %v", tasks)
		}
	}
	eventually(t, "only the new task is left", func() bool {
		list, err := m.c.TaskService().List(m.ctx, &tasksapi.ListTasksRequest{})
		must(t, err)
		return len(list.Tasks) == 1 && list.Tasks[0].ID == "three"
	})
	m.run("four", "sleep 1000", group)
	if shims := m.shims(); len(shims) != 1 {
		t.Errorf("shims %v, want one", shims)
	}
}

// What a dead shim leaves is cleaned up by the daemon itself, by name: a task of that name
// may be made anew only when that is over, or it would be taken from the daemon's list.
func TestShimKilledAndBackAtOnce(t *testing.T) {
	if os.Getenv(otherDaemon) != "" {
		t.Skip("the stock daemon has this defect")
	}
	real := filepath.Join(os.Getenv(otherShim), "containerd-shim-runc-v2")
	if os.Getenv(otherShim) == "" {
		bin, err := tools()
		must(t, err)
		real = filepath.Join(bin, "containerd-shim-runc-v2")
	}
	dir := t.TempDir()
	over := filepath.Join(dir, "over")
	slow := fmt.Sprintf(`#!/bin/sh
case "$*" in
*" delete") %s "$@"; code=$?; sleep 1; touch %s; exit $code;;
esac
exec %[1]s "$@"
`, real, over)
	must(t, os.WriteFile(filepath.Join(dir, "containerd-shim-runc-v2"), []byte(slow), 0o755))
	t.Setenv(otherShim, dir)
	m := newMachine(t)
	task, _ := m.run("one", "sleep 1000", nil)
	for _, pid := range m.shims() {
		must(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	eventually(t, "the container is killed", func() bool { return !alive(task.Pid()) })
	if _, err := m.c.TaskService().Delete(m.ctx, &tasksapi.DeleteTaskRequest{ContainerID: "one"}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("delete: %v, want not found", err)
	}
	if _, err := os.Stat(over); err != nil {
		t.Errorf("it is deleted while it is still being cleaned up: %v", err)
	}
	c, err := m.c.LoadContainer(m.ctx, "one")
	must(t, err)
	again, err := c.NewTask(m.ctx, cio.NullIO)
	must(t, err)
	must(t, again.Start(m.ctx))
	if said := m.said(); strings.Contains(said, "failed to delete task") {
		t.Errorf("the daemon said:\n%s", said)
	}
}

// A task that ends while there is no daemon is gone when one comes back; its
// container is not, nor is anybody else's task. How it ended is in the
// exit.json that the shim left in the bundle, until the daemon starts.
func TestExitWhileAway(t *testing.T) {
	m := newMachine(t)
	group := map[string]string{"io.containerd.runc.v2.group": "keelson"}
	other, _ := m.run("other", "sleep 1000", group)
	for id, annotations := range map[string]map[string]string{"grouped": group, "own": nil} {
		task, _ := m.run(id, "sleep 1000", annotations)
		m.kill(syscall.SIGKILL)
		must(t, syscall.Kill(int(task.Pid()), syscall.SIGKILL))
		eventually(t, "the process is gone", func() bool { return !alive(task.Pid()) })
		m.start()
		c, err := m.c.LoadContainer(m.ctx, id)
		must(t, err)
		if _, err := c.Task(m.ctx, nil); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v, want not found", id, err)
		}
		if got := m.task("other").Pid(); got != other.Pid() || !alive(got) {
			t.Errorf("other: pid %d (alive: %v), had %d", got, alive(got), other.Pid())
		}
		again, err := c.NewTask(m.ctx, cio.NullIO)
		must(t, err)
		must(t, again.Start(m.ctx))
	}
}

// A daemon that cannot start says why in one line and ends.
func TestCannotStart(t *testing.T) {
	dir, err := os.MkdirTemp("", "ctrd")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	locked := filepath.Join(dir, "locked", "io.containerd.metadata.v1.bolt")
	must(t, os.MkdirAll(locked, 0o700))
	db, err := bolt.Open(filepath.Join(locked, "meta.db"), 0o600, nil)
	must(t, err)
	defer db.Close()
	must(t, os.WriteFile(dir+"/file", nil, 0o600))
	must(t, os.WriteFile(dir+"/bad.toml", []byte("root = \n"), 0o600))
	must(t, os.WriteFile(dir+"/quick.toml", []byte("[timeouts]\n\"io.containerd.timeout.bolt.open\" = \"10ms\"\n"), 0o600))
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"another daemon":     {[]string{"--config", dir + "/quick.toml", "--root", dir + "/locked"}, "meta.db: another containerd has held it for 10ms"},
		"root is a file":     {[]string{"--root", dir + "/file"}, "make the root folder: mkdir " + dir + "/file: not a directory"},
		"malformed config":   {[]string{"--config", dir + "/bad.toml"}, dir + "/bad.toml:1:8: "},
		"socket is a folder": {[]string{"--root", dir + "/r", "--address", dir + "/r"}, "listen on " + dir + "/r: "},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "socket is a folder" && os.Geteuid() != 0 {
				t.Skip("needs root: it fails earlier, as it may not give its other socket to root")
			}
			ctx, cancel := context.WithTimeout(t.Context(), bound)
			defer cancel()
			args := append([]string{"--state", dir + "/state", "--address", dir + "/c.sock"}, c.args...)
			cmd := exec.CommandContext(ctx, os.Args[0], args...)
			cmd.Env = append(os.Environ(), asDaemon+"=1")
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("ended with %v, want exit status 1", err)
			}
			if !strings.HasPrefix(string(out), "ERROR: containerd: ") || !strings.Contains(string(out), c.want) || strings.Count(string(out), "\n") != 1 {
				t.Errorf("said %q, want one line with %q", out, c.want)
			}
		})
	}
}
