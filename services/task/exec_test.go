package task

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"keelson/internal/bundle"
	"keelson/internal/pidfd"
	"keelson/internal/policy"
)

// execs is as much of containerd as Exec needs, on this machine.
type execs struct {
	tasksapi.TasksClient

	mu      sync.Mutex
	away    int                                     // calls that fail, as containerd is away; guarded by mu
	all     map[string]*exec.Cmd                    // guarded by mu
	ended   map[string]chan struct{}                // guarded by mu
	asked   map[string]*tasksapi.ExecProcessRequest // guarded by mu
	deleted int                                     // guarded by mu
	hungUp  int                                     // waits that were given up before the end; guarded by mu
	last    specs.Process                           // guarded by mu
	slow    func()                                  // before a start is answered; nil is nothing
	gone    bool                                    // starts fail, as the shim has exited
	late    chan struct{}                           // closed when exits are reported; nil is at once
}

func (e *execs) unavailable() error {
	if e.gone {
		return status.Error(codes.Unknown, "ttrpc: closed")
	}
	if e.away > 0 {
		e.away--
		return status.Error(codes.Unavailable, "connection refused")
	}
	return nil
}

func (e *execs) Exec(_ context.Context, r *tasksapi.ExecProcessRequest, _ ...grpc.CallOption) (*emptypb.Empty, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked[r.ExecID] = r
	return &emptypb.Empty{}, json.Unmarshal(r.Spec.Value, &e.last)
}

func (e *execs) Start(_ context.Context, r *tasksapi.StartRequest, _ ...grpc.CallOption) (*tasksapi.StartResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.unavailable(); err != nil {
		return nil, err
	}
	var p specs.Process
	if err := json.Unmarshal(e.asked[r.ExecID].Spec.Value, &p); err != nil {
		return nil, err
	}
	w, err := os.OpenFile(e.asked[r.ExecID].Stdout, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	cmd := exec.Command(p.Args[0], p.Args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = w, w, &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	e.all[r.ExecID], e.ended[r.ExecID] = cmd, ended
	go func() { _ = cmd.Wait(); close(ended) }()
	if e.slow != nil {
		e.mu.Unlock()
		e.slow()
		e.mu.Lock()
	}
	return &tasksapi.StartResponse{Pid: uint32(cmd.Process.Pid)}, nil
}

func (e *execs) Wait(ctx context.Context, r *tasksapi.WaitRequest, _ ...grpc.CallOption) (*tasksapi.WaitResponse, error) {
	e.mu.Lock()
	if err := e.unavailable(); err != nil {
		e.mu.Unlock()
		return nil, err
	}
	cmd, ended := e.all[r.ExecID], e.ended[r.ExecID]
	e.mu.Unlock()
	if ended == nil {
		return nil, status.Error(codes.NotFound, "no such exec")
	}
	select {
	case <-ended:
		if e.late != nil {
			<-e.late
		}
		return &tasksapi.WaitResponse{ExitStatus: uint32(cmd.ProcessState.ExitCode())}, nil
	case <-ctx.Done():
		e.mu.Lock()
		e.hungUp++
		e.mu.Unlock()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

func (e *execs) Kill(_ context.Context, r *tasksapi.KillRequest, _ ...grpc.CallOption) (*emptypb.Empty, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if cmd := e.all[r.ExecID]; cmd != nil {
		_ = cmd.Process.Signal(syscall.Signal(r.Signal))
	}
	return &emptypb.Empty{}, nil
}

func (e *execs) DeleteProcess(_ context.Context, r *tasksapi.DeleteProcessRequest, _ ...grpc.CallOption) (*tasksapi.DeleteResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if ended := e.ended[r.ExecID]; ended != nil {
		select {
		case <-ended:
		default:
			return nil, status.Error(codes.FailedPrecondition, "it runs")
		}
	}
	if e.asked[r.ExecID] == nil {
		return nil, status.Error(codes.NotFound, "no such exec")
	}
	delete(e.asked, r.ExecID)
	delete(e.all, r.ExecID)
	delete(e.ended, r.ExecID)
	e.deleted++
	return &tasksapi.DeleteResponse{}, nil
}

// left returns how many commands containerd knows, and how many were removed.
func (e *execs) left() (known, deleted int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.asked), e.deleted
}

func inContainer(t *testing.T) (*execs, *running) {
	t.Helper()
	e := &execs{all: map[string]*exec.Cmd{}, ended: map[string]chan struct{}{}, asked: map[string]*tasksapi.ExecProcessRequest{}}
	r := &Runtime{Client: &Client{tasks: e}, ExecDir: filepath.Join(t.TempDir(), "exec"), Ready: func(ctx context.Context) error { return ctx.Err() }}
	b := &bundle.Bundle{ID: "web", Name: "web", Section: bundle.Services, Spec: &specs.Spec{Process: &specs.Process{
		Args: []string{"web"}, Terminal: true, Env: []string{"A=b"}, Cwd: "/srv", User: specs.User{UID: 7},
	}}}
	return e, &running{bundle: b, runtime: r, process: &pidfd.Process{PID: os.Getpid()}}
}

// gone waits until nothing is left of any command: no pipe, nothing in containerd.
func gone(t *testing.T, e *execs, task *running) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		pipes, err := filepath.Glob(filepath.Join(task.runtime.ExecDir, "*", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		known, _ := e.left()
		if len(pipes) == 0 && known == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left: pipes %q, %d commands", pipes, known)
		}
		runtime.Gosched()
	}
}

func TestExecRunsAsTheFirstProcessDoes(t *testing.T) {
	e, task := inContainer(t)
	code, output, err := task.Exec(t.Context(), []string{"sh", "-c", "echo out; echo err >&2; exit 3"})
	if code != 3 || err != nil || !strings.Contains(output, "out\n") || !strings.Contains(output, "err\n") {
		t.Errorf("got %d, %q, %v", code, output, err)
	}
	if p := e.last; p.Terminal || p.Cwd != "/srv" || p.User.UID != 7 || len(p.Env) != 1 || p.OOMScoreAdj == nil {
		t.Errorf("it ran as %+v", p)
	}
	gone(t, e, task)
	if !task.bundle.Spec.Process.Terminal {
		t.Error("the bundle's own process was changed")
	}
}

func TestExecKeepsTheEndOfALongOutput(t *testing.T) {
	e, task := inContainer(t)
	code, output, err := task.Exec(t.Context(), []string{"sh", "-c", "seq 100000; echo the last"})
	if code != 0 || err != nil || len(output) > outputBytes || !strings.HasSuffix(output, "99999\n100000\nthe last\n") {
		t.Errorf("got %d, %d bytes, ending %q, %v", code, len(output), output[max(0, len(output)-30):], err)
	}
	gone(t, e, task)
}

func TestExecIsCutWithWhatItStarted(t *testing.T) {
	for _, when := range []string{"as it runs", "as it starts"} {
		t.Run(when, func(t *testing.T) {
			e, task := inContainer(t)
			before := runtime.NumGoroutine()
			file := filepath.Join(t.TempDir(), "pid")
			ctx, cancel := context.WithCancel(t.Context())
			child := func() string { // once it runs
				for {
					if data, err := os.ReadFile(file); err == nil && strings.HasSuffix(string(data), "\n") {
						return strings.TrimSpace(string(data))
					}
					runtime.Gosched()
				}
			}
			answer := make(chan struct{})
			if when == "as it starts" {
				e.slow = func() {
					child()
					cancel()
					<-answer
				}
			} else {
				close(answer)
				go func() { child(); cancel() }()
			}
			_, _, err := task.Exec(ctx, []string{"sh", "-c", "trap '' TERM; sleep 1000 & echo $! >" + file + "; wait"})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			if when == "as it starts" { // the caller was not held up by it
				for range 10000 { // time for who would kill it too early
					runtime.Gosched()
				}
				close(answer)
			}
			gone(t, e, task)
			deadline := time.Now().Add(time.Minute)
			for { // it is a zombie for nobody's longer than init's
				stat, err := os.ReadFile("/proc/" + child() + "/stat")
				if err != nil || strings.Contains(string(stat), ") Z") {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("what it started still runs")
				}
				runtime.Gosched()
			}
			for runtime.NumGoroutine() > before {
				runtime.Gosched()
			}
			e.mu.Lock()
			defer e.mu.Unlock()
			if e.hungUp != 0 {
				t.Error("the wait for the command was given up before its end")
			}
		})
	}
}

func TestExecIsRunAgainWhereContainerdGoesAway(t *testing.T) {
	for away := range 3 { // during nothing, the start, the start and the second one's
		e, task := inContainer(t)
		e.away = away
		code, output, err := task.Exec(t.Context(), []string{"echo", "here"})
		if code != 0 || output != "here\n" || err != nil {
			t.Errorf("away %d times: got %d, %q, %v", away, code, output, err)
		}
		gone(t, e, task)
	}
	e, task := inContainer(t)
	task.runtime.Ready = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, _, err := task.Exec(ctx, []string{"echo"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("containerd stays away: %v", err)
	}
	gone(t, e, task)
}

func TestCommandsOfAnEarlierSupervisorAreRemoved(t *testing.T) {
	e, task := inContainer(t)
	x, err := task.newCommand()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := json.Marshal(specs.Process{Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	r := &tasksapi.ExecProcessRequest{ContainerID: x.container, ExecID: x.id, Stdout: x.pipe, Spec: &anypb.Any{Value: spec}}
	if _, err := e.Exec(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	started, err := e.Start(t.Context(), &tasksapi.StartRequest{ContainerID: x.container, ExecID: x.id})
	if err != nil {
		t.Fatal(err)
	}
	next := &running{bundle: task.bundle, process: task.process, runtime: &Runtime{Client: task.runtime.Client, ExecDir: task.runtime.ExecDir, Ready: task.runtime.Ready}}
	next.runtime.ClearExecs()
	gone(t, e, next)
	if err := syscall.Kill(int(started.Pid), 0); err == nil {
		t.Error("the command still runs")
	}
	x.close()
}

// Of a command whose start or exit nobody reports nothing is known; of one that runs on it is known that it does.
func TestExecIsUnknownWhereNobodyAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		argv    []string
		prepare func(e *execs, task *running, end chan struct{})
		unknown bool
	}{
		"containerd is away":  {[]string{"true"}, func(e *execs, _ *running, _ chan struct{}) { e.away = 1 << 30 }, true},
		"the shim has exited": {[]string{"true"}, func(e *execs, _ *running, _ chan struct{}) { e.gone = true }, true},
		"containerd cannot be had": {[]string{"true"}, func(_ *execs, task *running, _ chan struct{}) {
			task.runtime.Ready = func(context.Context) error { return errors.New("containerd is not running") }
		}, true},
		"the shim does not answer": {[]string{"true"}, func(_ *execs, task *running, _ chan struct{}) {
			task.runtime.Answering = func(ctx context.Context, needs func([]string) bool) error {
				if !needs([]string{task.bundle.Namespace() + "/web"}) || needs([]string{"other/web"}) {
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			}
		}, true},
		"its start is not answered": {[]string{"true"}, func(e *execs, _ *running, end chan struct{}) { e.slow = func() { <-end } }, true},
		"its exit is not reported":  {[]string{"true"}, func(e *execs, _ *running, end chan struct{}) { e.late = end }, true},
		"it runs on":                {[]string{"sleep", "1000"}, func(*execs, *running, chan struct{}) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			e, task := inContainer(t)
			task.bundle.Service.OwnShim = true
			end := make(chan struct{})
			tc.prepare(e, task, end)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			_, _, err := task.Exec(ctx, tc.argv)
			if err == nil || errors.Is(err, policy.ErrUnknown) != tc.unknown {
				t.Errorf("got %v", err)
			}
			e.mu.Lock()
			e.away, e.gone = 0, false
			e.mu.Unlock()
			close(end)
			gone(t, e, task)
		})
	}
}
