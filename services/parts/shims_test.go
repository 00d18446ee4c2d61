package parts

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"keelson/internal/console"
	"keelson/internal/cputime"
	"keelson/services/task/tasktest"
)

// TestMain is the test, or a shim.
func TestMain(m *testing.M) {
	if socket := os.Getenv("PARTS_SHIM"); socket != "" {
		fmt.Fprintln(os.Stderr, serveShim(socket))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// aShim answers Connect as a shim does that has lost the container.
type aShim struct{ taskapi.TTRPCTaskService }

func (aShim) Connect(context.Context, *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	return nil, errgrpc.ToGRPC(errdefs.ErrNotFound)
}

func serveShim(socket string) error {
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	taskapi.RegisterTTRPCTaskService(server, aShim{})
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	return server.Serve(context.Background(), l)
}

// startShim starts a shim in a process of its own.
func startShim(t *testing.T, socket string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "PARTS_SHIM="+socket)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for deadline := time.Now().Add(time.Minute); ; {
		if conn, err := net.Dial("unix", socket); err == nil {
			_ = conn.Close()
			return cmd
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not listen")
		}
		time.Sleep(time.Millisecond)
	}
}

// A shim is found by what containerd notes of its tasks, answers, does not while it is stopped, and is forgotten
// when it has exited.
func TestAShimIsFoundAndAsked(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	shim := startShim(t, socket)
	note := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, "tasks", "ns", name, "bootstrap.json")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	note("web", `{"version":3,"address":"unix://`+socket+`","protocol":"ttrpc"}`)
	note("db", `{"version":3,"address":"ttrpc+unix://`+socket+`","protocol":"ttrpc"}`)
	note("gone", `{"version":3,"address":"unix:///nobody/listens","protocol":"ttrpc"}`)
	note("odd", `{`)
	set := New(&tasktest.Console{Now: console.Now}, console.Now, nil)
	shims := &Shims{Set: set, Tasks: filepath.Join(dir, "tasks")}
	for range 2 {
		shims.Scan(ctx)
	}
	all := set.Status()
	if len(all) != 1 || all[0].PID != shim.Process.Pid || strings.Join(all[0].Members, " ") != "ns/db ns/web" {
		t.Fatalf("found %+v", all)
	}
	set.mu.Lock()
	part := set.all[0].part
	set.mu.Unlock()
	if err := part.Ask(ctx); err != nil {
		t.Errorf("it does not answer: %v", err)
	}
	if err := part.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // its threads stop one by one
		if sample, err := cputime.Of(osProc{}, shim.Process.Pid); err == nil && sample.Stopped {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not stop")
		}
	}
	cut, end := context.WithTimeout(ctx, 100*time.Millisecond)
	defer end()
	if err := part.Ask(cut); err == nil {
		t.Error("one that is stopped answers")
	}
	note("late", `{"version":3,"address":"unix://`+socket+`","protocol":"ttrpc"}`)
	shims.Scan(ctx) // also while it does not answer
	if all = set.Status(); len(all) != 1 || !slices.Contains(all[0].Members, "ns/late") {
		t.Errorf("found %+v", all)
	}
	if err := part.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = shim.Wait()
	for deadline := time.Now().Add(time.Minute); len(set.Status()) > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("still there: %+v", set.Status())
		}
		time.Sleep(time.Millisecond)
	}
	if err := part.Ask(ctx); err == nil {
		t.Error("one that has exited answers")
	}
	_ = os.Remove(socket)
	next := startShim(t, socket) // the next shim of the group
	shims.Scan(ctx)
	if all = set.Status(); len(all) != 1 || all[0].PID != next.Process.Pid {
		t.Errorf("found %+v", all)
	}
}

// A container that has a socket of the same path in its own root is not taken for the shim,
// and does not hide it.
func TestAnotherSocketOfThatPath(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	elsewhere := func() { // the path that it was made by is the one that the kernel tells
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		t.Cleanup(func() { _ = l.Close() })
		if err := os.Remove(socket); err != nil {
			t.Fatal(err)
		}
	}
	elsewhere()
	shim := startShim(t, socket)
	if err := os.Rename(socket, socket+".shim"); err != nil {
		t.Fatal(err)
	}
	elsewhere()
	if err := os.Rename(socket+".shim", socket); err != nil {
		t.Fatal(err)
	}
	task := filepath.Join(dir, "tasks", "ns", "web")
	if err := os.MkdirAll(task, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(task, "bootstrap.json"), []byte(`{"version":3,"address":"unix://`+socket+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	set := New(&tasktest.Console{Now: console.Now}, console.Now, nil)
	shims := &Shims{Set: set, Tasks: filepath.Join(dir, "tasks"), Processes: func() []int { return []int{shim.Process.Pid} }}
	for range 2 {
		shims.Scan(t.Context())
		if all := set.Status(); len(all) != 1 || all[0].PID != shim.Process.Pid {
			t.Fatalf("found %+v", all)
		}
	}
}
