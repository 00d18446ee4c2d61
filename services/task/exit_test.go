package task

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"keelson/internal/bundle"
	"keelson/internal/pidfd"
)

func TestExitsAreKeptWhenContainerdRemovesThem(t *testing.T) {
	r := &Runtime{StateDir: t.TempDir()}
	web := &bundle.Bundle{ID: "web", Section: bundle.Services}
	dir := filepath.Join(r.StateDir, Dir, bundle.DefaultNamespace, "web")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if e, ok := r.readExit(web, 7); ok {
		t.Errorf("a task that has not ended: %v", e)
	}
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "exit.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"id":"other","pid":7,"exit_status":3}`)
	if e, ok := r.readExit(web, 7); ok {
		t.Errorf("another task's exit: %v", e)
	}
	write(`{"id":"web","pid":7,"exit_status":137,"exited_at":"2026-01-02T03:04:05Z"}`)
	r.SaveExits()
	if err := os.RemoveAll(filepath.Join(r.StateDir, Dir)); err != nil {
		t.Fatal(err)
	}
	e, ok := r.readExit(web, 7)
	if !ok || !e.Known || e.Status != 137 || e.At.Year() != 2026 {
		t.Errorf("got %+v, %v", e, ok)
	}
	if e, ok := r.readExit(web, 8); ok {
		t.Errorf("the exit of a process with another number: %v", e)
	}
	if _, ok := r.readExit(web, 0); !ok {
		t.Error("without a number the exit is not found")
	}
	r.hold(web, nil, nil)
	if e, ok := r.readExit(web, 0); ok {
		t.Errorf("the next task has the exit of the one before: %v", e)
	}
}

// silent is a containerd that takes calls and answers none.
type silent struct{ tasksapi.TasksClient }

func (silent) Wait(ctx context.Context, _ *tasksapi.WaitRequest, _ ...grpc.CallOption) (*tasksapi.WaitResponse, error) {
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}

// While containerd does not answer, an exit is known as soon as the shim has written it down.
func TestExitIsKnownWhileContainerdHangs(t *testing.T) {
	r := &Runtime{StateDir: t.TempDir(), Client: &Client{tasks: silent{}}}
	web := &bundle.Bundle{ID: "web", Name: "web", Section: bundle.Services}
	dir := filepath.Join(r.StateDir, Dir, bundle.DefaultNamespace, "web")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	go func() { // after the process has exited, as the shim does
		time.Sleep(20 * time.Millisecond)
		_ = os.WriteFile(filepath.Join(dir, "exit.json"), []byte(`{"id":"web","pid":7,"exit_status":3}`), 0o600)
	}()
	began := time.Now()
	if e := r.status(t.Context(), web, 7); !e.Known || e.Status != 3 {
		t.Errorf("got %+v", e)
	}
	if took := time.Since(began); took >= exitBound {
		t.Errorf("it took %v", took)
	}
}

// While the shim hangs, the kernel knows.
func TestExitOfAProcessThatNobodyReaps(t *testing.T) {
	for script, want := range map[string]int{"exit 7": 7, "exit 0": 0, "kill -9 $$": 137} {
		cmd := exec.Command("sh", "-c", script)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		p, err := pidfd.Open(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		start, err := pidfd.Stat(p.PID, 22)
		if err != nil {
			t.Fatal(err)
		}
		id := pidfd.Identity{PID: p.PID}
		if id.Start, err = strconv.ParseUint(start, 10, 64); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if e := unreaped(id); !e.Known || e.Status != want || e.PID != p.PID {
			t.Errorf("%s: got %+v", script, e)
		}
		if e := unreaped(pidfd.Identity{PID: id.PID, Start: id.Start + 1}); e.Known {
			t.Errorf("%s: the exit of another process: %+v", script, e)
		}
		_ = cmd.Wait()
		if e := unreaped(id); e.Known {
			t.Errorf("%s: the exit of one that was reaped: %+v", script, e)
		}
		p.Close()
	}
}
