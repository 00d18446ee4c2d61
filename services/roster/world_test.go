package roster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keelson/internal/bundle"
	"keelson/internal/pidfd"
	"keelson/internal/policy"
	"keelson/services/runner"
	"keelson/services/task"
	"keelson/services/task/tasktest"
)

// act is how the tasks of one service behave. Its zero value starts at once, is
// ready at once where it is probed, and ends at the stop signal.
type act struct {
	startTime time.Duration
	startErr  error
	readyTime time.Duration // from the start on
	never     bool          // never ready
	stopTime  time.Duration
	deaf      bool // does not end at the stop signal
	stuck     bool // nor at SIGKILL
}

// world is a machine of fakes: its container runtime and its console.
type world struct {
	*tasktest.Console
	t      *testing.T
	begin  time.Time
	cfg    runner.Config
	queues Queues
	r      *Roster
	cancel context.CancelFunc

	mu       sync.Mutex
	acts     map[string]*act
	running  map[string]*fakeTask
	history  []string // "1s +db", "2s -db": tasks that started and ended
	acted    []policy.Action
	pids     int
	warnings []Warning
}

// fakeTask is a task that does as its service's act says.
type fakeTask struct {
	*tasktest.Task
	name  string
	began time.Time
}

// newTask makes one. w.mu is held.
func (w *world) newTask(name string) *fakeTask {
	w.pids++
	f := &fakeTask{Task: tasktest.New(100 + w.pids), name: name, began: time.Now()}
	f.OnStop = func(t *tasktest.Task) bool {
		if a := w.act(name); !a.deaf && !a.stuck {
			time.AfterFunc(a.stopTime, func() { t.Ends(128 + 15) })
		}
		return true
	}
	f.OnKill = func(t *tasktest.Task) {
		if !w.act(name).stuck {
			t.Ends(128 + 9)
		}
	}
	f.OnEnd = func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.history = append(w.history, fmt.Sprintf("%v -%s", w.now().Round(100*time.Millisecond), name))
		delete(w.running, name)
	}
	return f
}

// newWorld makes services of annotations. Each is probed for its readiness unless
// it says otherwise.
func newWorld(t *testing.T, services map[string]map[string]string) *world {
	// The machine is a nanosecond old: a time of 0 is none.
	w := &world{t: t, begin: time.Now().Add(-time.Nanosecond), acts: map[string]*act{}, running: map[string]*fakeTask{}}
	w.Console = &tasktest.Console{Now: w.now, Round: 100 * time.Millisecond}
	w.cfg = runner.Config{
		Tasks: w, Console: w, MemoryDir: t.TempDir(), Now: w.now, After: time.After,
		Jitter:     func() float64 { return 0 },
		Act:        func(a policy.Action, _ string) { w.mu.Lock(); w.acted = append(w.acted, a); w.mu.Unlock() },
		OpenOutput: func(*bundle.Bundle) (runner.Output, error) { return nil, errors.New("no logs here") },
		Probe:      w.probe,
	}
	w.make(services)
	return w
}

func (w *world) make(services map[string]map[string]string) {
	w.t.Helper()
	var loaded []Loaded
	for name, annotations := range services {
		b := &bundle.Bundle{Name: name, ID: name, Dir: "/containers/services/" + name, Section: bundle.Services}
		with := map[string]string{"keelson.ready": "tcp:80"}
		for k, v := range annotations {
			with["keelson."+k] = v
		}
		var problems []policy.Problem
		if b.Service, problems = policy.ParseService(with); len(problems) > 0 {
			w.t.Fatal(problems)
		}
		if w.acts[name] == nil {
			w.acts[name] = &act{}
		}
		loaded = append(loaded, Loaded{Bundle: b})
	}
	r, warnings := New(w.cfg, w.queues, loaded)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.r, w.warnings = r, warnings
}

// roster is the present one, for what runs beside the test.
func (w *world) roster() *Roster {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.r
}

func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	w.r.Run(ctx)
	synctest.Wait()
}

// end lets the machine go down and everything with it.
func (w *world) end() {
	w.t.Helper()
	w.r.Leave()
	for _, name := range w.r.names {
		<-w.r.services[name].Over()
	}
	w.cancel()
	synctest.Wait()
}

func (w *world) until(at time.Duration) {
	time.Sleep(at - w.now())
	synctest.Wait()
}

// after does something at a time, beside the test.
func (w *world) after(at time.Duration, do func()) { time.AfterFunc(at-w.now(), do) }

func (w *world) now() time.Duration { return time.Since(w.begin) }

func (w *world) act(name string) act {
	w.mu.Lock()
	defer w.mu.Unlock()
	return *w.acts[name]
}

func (w *world) change(name string, f func(*act)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w.acts[name])
}

func (w *world) task(name string) *fakeTask {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.running[name]
}

func (w *world) Start(ctx context.Context, b *bundle.Bundle, _ task.Streams) (task.Task, error) {
	a := w.act(b.Name)
	select {
	case <-time.After(a.startTime):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if a.startErr != nil {
		return nil, a.startErr
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.newTask(b.Name)
	if w.running[b.Name] != nil {
		w.t.Errorf("%s is started beside itself", b.Name)
	}
	w.running[b.Name] = f
	w.history = append(w.history, fmt.Sprintf("%v +%s", w.now().Round(100*time.Millisecond), b.Name))
	return f, nil
}

func (w *world) Adopt(_ context.Context, b *bundle.Bundle, _ pidfd.Identity) (task.Task, *task.Exit, error) {
	if f := w.task(b.Name); f != nil {
		return f, nil, nil
	}
	return nil, nil, nil
}

func (w *world) Remove(context.Context, *bundle.Bundle) {}

// probe is both the look for readiness and the health check of every service.
func (w *world) probe(_ context.Context, _ policy.Probe, t task.Task) error {
	f := t.(*fakeTask)
	if a := w.act(f.name); a.never || time.Since(f.began) < a.readyTime {
		return errors.New("connection refused")
	}
	return nil
}

// happened fails the test unless exactly these tasks started and ended since the
// last call; those of the same moment may come in any order.
func (w *world) happened(want ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	byTime := func(list []string) []string {
		list = slices.Clone(list)
		slices.SortStableFunc(list, func(a, b string) int {
			ta, na, _ := strings.Cut(a, " ")
			tb, nb, _ := strings.Cut(b, " ")
			if ta != tb {
				return 0
			}
			return strings.Compare(na, nb)
		})
		return list
	}
	if !slices.Equal(byTime(w.history), byTime(want)) {
		w.t.Errorf("what happened is\n\t%s\nnot\n\t%s\nthe console shows\n\t%s", strings.Join(w.history, "\n\t"), strings.Join(want, "\n\t"), strings.Join(w.Shown(), "\n\t"))
	}
	w.history = nil
}

// are fails the test unless each service is in its state, and waits for this.
func (w *world) are(want map[string]string) {
	w.t.Helper()
	for name, state := range want {
		i, _ := w.r.Info(name)
		got := i.State
		if len(i.WaitingFor) > 0 {
			got += ": " + strings.Join(i.WaitingFor, ", ")
		}
		if got != state {
			w.t.Errorf("%s is %q, not %q", name, got, state)
		}
	}
}

func keys(pairs ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}
