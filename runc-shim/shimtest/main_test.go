package shimtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"keelson/internal/nstest"
	"keelson/runc-shim/plan"
)

// bound is how long any one thing may take; what does not happen by then does
// not happen.
const bound = 60 * time.Second

// insideEnv marks the test process that is PID 1 of namespaces of its own, so
// that nothing it starts outlives it and no mount of it is seen outside.
const insideEnv = "KEELSON_SHIMTEST_INSIDE"

// runtimeEnv is how the containers of the tests are made: by a plan where one covers them,
// or by libcontainer.
const runtimeEnv = "KEELSON_SHIMTEST_RUNTIME"

var binary string // the shim under test

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println("containers need root: skipped")
		os.Exit(0)
	}
	if os.Getenv(insideEnv) == "" {
		os.Exit(outside())
	}
	binary = os.Getenv(insideEnv)
	if err := inside(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// outside builds the shim and runs the tests in new namespaces.
func outside() int {
	dir, err := os.MkdirTemp("", "shimtest")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	shim := os.Getenv("KEELSON_SHIM")
	if shim == "" {
		shim = filepath.Join(dir, "containerd-shim-runc-v2")
		build := exec.Command("go", "build", "-tags", "netgo osusergo seccomp runc_nocriu no_grpc grpcnotrace",
			"-ldflags", `-linkmode external -extldflags "-static"`, "-o", shim, "keelson/runc-shim")
		build.Env = append(os.Environ(), "CGO_ENABLED=1")
		build.Stdout, build.Stderr = os.Stdout, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build the shim:", err)
			return 1
		}
	}
	for _, runtime := range []string{"plan", plan.Libcontainer} {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), insideEnv+"="+shim, runtimeEnv+"="+runtime)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC}
		err = cmd.Run()
		removeCgroups()
		if err != nil {
			fmt.Fprintf(os.Stderr, "in namespaces, with %s: %v\n", runtime, err)
			return 1
		}
	}
	return 0
}

// byLibcontainer reports whether this run is without plans.
func byLibcontainer() bool { return os.Getenv(runtimeEnv) == plan.Libcontainer }

func inside() error {
	for _, m := range []struct {
		source, target, fs string
		flags              uintptr
	}{
		{"none", "/", "", unix.MS_REC | unix.MS_PRIVATE},
		{"proc", "/proc", "proc", 0},
		{"tmpfs", "/run", "tmpfs", 0},
	} {
		if err := unix.Mount(m.source, m.target, m.fs, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return nil
}

// testCgroup is the parent of every container's cgroup.
const testCgroup = "/keelson-shimtest"

func removeCgroups() {
	for _, pattern := range []string{"/sys/fs/cgroup" + testCgroup, "/sys/fs/cgroup/*" + testCgroup} {
		dirs, _ := filepath.Glob(pattern)
		for _, d := range dirs {
			entries, _ := os.ReadDir(d)
			for _, e := range entries {
				if e.IsDir() {
					_ = unix.Rmdir(filepath.Join(d, e.Name()))
				}
			}
			_ = unix.Rmdir(d)
		}
	}
}

// rootfs makes a root of busybox alone.
func rootfs(t *testing.T) string {
	t.Helper()
	dir := filepath.Join("/run", "rootfs")
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	for _, d := range []string{"bin", "proc", "dev", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := nstest.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"sh", "sleep", "echo", "cat", "true", "false", "tty", "stty", "mkdir", "grep", "id", "dd", "ls", "readlink", "kill"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", n)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

type env struct {
	*Host
	t    *testing.T
	ctx  context.Context
	root string
}

// newEnv is a host of its own for one test.
func newEnv(t *testing.T) *env {
	t.Helper()
	root := rootfs(t)
	dir, err := os.MkdirTemp("/run", "t")
	if err != nil {
		t.Fatal(err)
	}
	h, err := NewHost(dir, binary)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	t.Cleanup(cancel)
	t.Cleanup(h.Close)
	return &env{Host: h, t: t, ctx: ctx, root: root}
}

func (e *env) spec(args ...string) *specs.Spec {
	s := Group(Spec(e.root, args...), "keelson")
	if byLibcontainer() {
		s.Annotations[plan.RuntimeKey] = plan.Libcontainer
	}
	return s
}

// create makes the container of a spec.
func (e *env) create(id string, s *specs.Spec, change ...func(*taskapi.CreateTaskRequest)) taskapi.TTRPCTaskService {
	e.t.Helper()
	c, _, err := e.tryCreate(id, s, change...)
	if err != nil {
		e.t.Fatalf("create %s: %v", id, err)
	}
	return c
}

func (e *env) tryCreate(id string, s *specs.Spec, change ...func(*taskapi.CreateTaskRequest)) (taskapi.TTRPCTaskService, uint32, error) {
	e.t.Helper()
	if s.Linux.CgroupsPath == "" {
		s.Linux.CgroupsPath = filepath.Join(testCgroup, filepath.Base(e.Dir)+"-"+id)
	}
	if err := e.Bundle(id, s); err != nil {
		e.t.Fatal(err)
	}
	return e.Create(e.ctx, id, change...)
}

func (e *env) start(c taskapi.TTRPCTaskService, id, exec string) uint32 {
	e.t.Helper()
	r, err := c.Start(e.ctx, &taskapi.StartRequest{ID: id, ExecID: exec})
	if err != nil {
		e.t.Fatalf("start %s %s: %v", id, exec, err)
	}
	return r.Pid
}

func (e *env) wait(c taskapi.TTRPCTaskService, id, exec string) uint32 {
	e.t.Helper()
	r, err := c.Wait(e.ctx, &taskapi.WaitRequest{ID: id, ExecID: exec})
	if err != nil {
		e.t.Fatalf("wait for %s %s: %v", id, exec, err)
	}
	if r.ExitedAt == nil || r.ExitedAt.AsTime().IsZero() {
		e.t.Errorf("wait for %s %s: no time of exit", id, exec)
	}
	return r.ExitStatus
}

func (e *env) kill(c taskapi.TTRPCTaskService, id, exec string, sig unix.Signal) {
	e.t.Helper()
	if _, err := c.Kill(e.ctx, &taskapi.KillRequest{ID: id, ExecID: exec, Signal: uint32(sig)}); err != nil {
		e.t.Fatalf("kill %s %s: %v", id, exec, err)
	}
}

func (e *env) remove(c taskapi.TTRPCTaskService, id, exec string) *taskapi.DeleteResponse {
	e.t.Helper()
	r, err := c.Delete(e.ctx, &taskapi.DeleteRequest{ID: id, ExecID: exec})
	if err != nil {
		e.t.Fatalf("delete %s %s: %v", id, exec, err)
	}
	return r
}

// run creates, starts and waits for a container that ends by itself.
func (e *env) run(id string, s *specs.Spec, change ...func(*taskapi.CreateTaskRequest)) uint32 {
	e.t.Helper()
	c := e.create(id, s, change...)
	e.start(c, id, "")
	status := e.wait(c, id, "")
	e.remove(c, id, "")
	return status
}

func (e *env) shimPid(c taskapi.TTRPCTaskService, id string) int {
	e.t.Helper()
	r, err := c.Connect(e.ctx, &taskapi.ConnectRequest{ID: id})
	if err != nil {
		e.t.Fatal(err)
	}
	return int(r.ShimPid)
}

// output has a container's stdout and stderr in files.
func (e *env) output(id string) (change func(*taskapi.CreateTaskRequest), read func() string) {
	out := filepath.Join(e.Dir, id+".out")
	if err := os.WriteFile(out, nil, 0o600); err != nil {
		e.t.Fatal(err)
	}
	return func(r *taskapi.CreateTaskRequest) { r.Stdout, r.Stderr = out, out },
		func() string {
			data, err := os.ReadFile(out)
			if err != nil {
				e.t.Fatal(err)
			}
			return string(data)
		}
}

// decode unpacks an event.
func decode[T proto.Message](t *testing.T, e *types.Envelope, into T) T {
	t.Helper()
	if err := proto.Unmarshal(e.Event.Value, into); err != nil {
		t.Fatalf("event %s: %v", e.Topic, err)
	}
	return into
}

// ended waits until a process that is not our child is gone or a zombie.
func (e *env) ended(pid int) {
	e.t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH || err == unix.EINVAL {
		// Gone, or so far gone that only its number is left.
		return
	}
	if err != nil {
		e.t.Fatal(err)
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(bound.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			e.t.Fatalf("process %d does not end (%v)", pid, err)
		}
		return
	}
}
