package supervise

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"keelson/internal/bundle"
	"keelson/internal/console"
	"keelson/internal/policy"
	"keelson/services/capture"
	"keelson/services/lifecycle"
	"keelson/services/store"
	"keelson/services/task"
)

// Limits of a service's life that are not the user's to set.
const (
	tailLines = 10
	// startBound ends a start that hangs in containerd or the runtime.
	startBound = 3 * time.Minute
	// killBound is how long a killed task may take to end before it is said
	// that it cannot be killed.
	killBound = 5 * time.Second
	// handlerBound is the age at which a service has installed its signal
	// handlers if it ever will.
	handlerBound = time.Second
)

// service keeps one service. Its fields without a word belong to the goroutine
// of run; the ones others look at are guarded by mu.
type service struct {
	b       *bundle.Bundle
	loadErr error // the bundle cannot be used
	sup     *Supervisor

	stopRequest chan struct{} // closed by Stop
	stopOnce    sync.Once
	settled     chan struct{} // closed when the first start has come to something
	settleOnce  sync.Once
	over        chan struct{} // closed when run has returned

	mu        sync.Mutex
	machine   *lifecycle.Machine // guarded by mu
	restarts  lifecycle.Restarts // guarded by mu
	pid       int                // guarded by mu
	startedAt time.Duration      // since the machine's start, guarded by mu
	retryAt   time.Duration      // when the timer of Backoff fires, guarded by mu

	stdout, stderr    *capture.Stream
	outMark, errMark  int64
	task              *task.Task
	starts            chan startResult // nil unless a start is under way
	cancelStart       context.CancelFunc
	startBegan        time.Duration
	exits             chan task.Exit // nil unless a task runs
	retry, kill, died <-chan time.Time
	again             <-chan time.Time // when a stop signal nobody heard is sent again
	deaf              bool             // it was killed because it cannot hear the stop signal
	stopBegan         time.Duration
	lastFailure       string // the last failed start, not to be told at length again
}

type startResult struct {
	task *task.Task
	err  error
}

// memory is what the next supervisor has to know of a service.
type memory struct {
	State     lifecycle.State    `json:"state"`
	Restarts  lifecycle.Restarts `json:"restarts"`
	StartedAt time.Duration      `json:"started_at"`
	RetryAt   time.Duration      `json:"retry_at,omitempty"`
}

func newService(sup *Supervisor, b *bundle.Bundle, loadErr error) *service {
	return &service{
		b: b, loadErr: loadErr, sup: sup,
		machine:     lifecycle.NewMachine(),
		stopRequest: make(chan struct{}), settled: make(chan struct{}), over: make(chan struct{}),
	}
}

// stop asks the service to stop for good; over tells when it has.
func (s *service) stop() { s.stopOnce.Do(func() { close(s.stopRequest) }) }

// state returns the present state.
func (s *service) state() lifecycle.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machine.State()
}

// apply makes a move and remembers it. A move the table does not have is a
// defect: it is said, and the service goes on from where it was.
func (s *service) apply(e lifecycle.Event, cause string) {
	s.mu.Lock()
	err := s.machine.Apply(e, cause, console.Now())
	m := memory{s.machine.State(), s.restarts, s.startedAt, s.retryAt}
	s.mu.Unlock()
	if err != nil {
		s.sup.con.Error(s.b.Name, "%v (%s)", err, cause)
		return
	}
	if err := store.Save(s.memoryPath(), m); err != nil {
		s.sup.warnOnce(s.b.Name, "a restarted supervisor will not remember this service: "+err.Error())
	}
	switch m.State {
	case lifecycle.Starting, lifecycle.Stopping:
	default:
		s.settleOnce.Do(func() { close(s.settled) })
	}
}

func (s *service) memoryPath() string {
	return filepath.Join(s.sup.cfg.RunDir, "services", s.b.Name+".json")
}

// run keeps the service until it is asked to stop and has stopped, or until the
// context ends: then everything is left as it is, for the next supervisor.
func (s *service) run(ctx context.Context) {
	defer close(s.over)
	defer s.settleOnce.Do(func() { close(s.settled) })
	if !s.begin(ctx) {
		return
	}
	stopRequest := s.stopRequest
	for {
		select {
		case <-ctx.Done():
			return
		case <-stopRequest:
			stopRequest = nil
			s.stopping()
		case r := <-s.starts:
			s.started(ctx, r)
		case e := <-s.exits:
			s.exited(ctx, e)
		case <-s.retry:
			s.retry = nil
			s.apply(lifecycle.TimerFired, "the backoff is over")
			s.start(ctx)
		case <-s.kill:
			s.kill = nil
			s.sup.con.Warn(s.b.Name, "has not stopped %v after %s: killed", s.b.Service.StopTimeout, signalName(s.b.Service.StopSignal))
			s.killAll()
		case <-s.again:
			s.again = nil
			s.signalStop()
		case <-s.died:
			s.died = nil
			s.sup.con.Error(s.b.Name, "cannot be killed: its processes are stuck in the kernel")
			s.closeStreams(true)
			return
		}
		if st := s.state(); stopRequest == nil && (st == lifecycle.Stopped || st == lifecycle.Failed) {
			s.closeStreams(true)
			return
		}
	}
}

// begin opens the log pipes, takes over what an earlier supervisor left, and
// starts the service where there is nothing to take over.
func (s *service) begin(ctx context.Context) bool {
	var m memory
	known, err := store.Load(s.memoryPath(), &m)
	if err != nil {
		s.sup.con.Warn(s.b.Name, "%v", err)
	}
	s.mu.Lock()
	s.restarts, s.startedAt, s.retryAt = m.Restarts, m.StartedAt, m.RetryAt
	s.mu.Unlock()
	if s.loadErr != nil {
		if !known {
			s.sup.con.Error(s.b.Name, "cannot be started: %v", s.loadErr)
			s.apply(lifecycle.GaveUp, s.loadErr.Error())
			s.failed()
		} else {
			s.apply(lifecycle.GaveUp, s.loadErr.Error())
		}
		return true
	}
	if err := s.openStreams(); err != nil {
		// A service without a log is better than none.
		s.sup.con.Warn(s.b.Name, "its output goes nowhere: %v", err)
	}
	if !known {
		s.apply(lifecycle.StartAsked, "boot")
		s.start(ctx)
		return true
	}
	switch m.State {
	case lifecycle.Failed:
		s.apply(lifecycle.GaveUp, "found failed by a restarted supervisor")
		return true
	case lifecycle.Stopped:
		return true
	case lifecycle.Backoff:
		s.backoff(max(m.RetryAt-console.Now(), 0), "found in backoff by a restarted supervisor")
		return true
	}
	return s.takeOver(ctx, m)
}

// takeOver finds out what became of a service that ran when the last
// supervisor died.
func (s *service) takeOver(ctx context.Context, m memory) bool {
	actx, cancel := context.WithTimeout(ctx, startBound)
	t, exit, err := s.sup.tasks.Adopt(actx, s.b)
	cancel()
	switch {
	case ctx.Err() != nil:
		return false
	case err != nil:
		s.sup.con.Error(s.b.Name, "cannot be taken over: %v", err)
		s.apply(lifecycle.StartAsked, "it could not be taken over")
		s.start(ctx)
	case t != nil:
		s.sup.con.Line(s.b.Name, "still running (pid %d)", t.PID)
		s.holdTask(ctx, t)
		s.apply(lifecycle.Adopted, "found running by a restarted supervisor")
	case exit == nil && m.State == lifecycle.Starting:
		s.apply(lifecycle.StartAsked, "its start was cut short")
		s.start(ctx)
	default:
		if exit == nil {
			exit = &task.Exit{}
		}
		s.ended(ctx, *exit, console.Now()-m.StartedAt)
	}
	return true
}

// start begins a start in the background.
func (s *service) start(ctx context.Context) {
	sctx, cancel := context.WithTimeout(ctx, startBound)
	s.cancelStart = cancel
	s.startBegan = console.Now()
	results := make(chan startResult, 1)
	s.starts = results
	var streams task.Streams
	if s.stdout != nil {
		s.outMark, s.errMark = s.stdout.Mark(), s.stderr.Mark()
		streams = task.Streams{Stdout: s.stdout.Path(), Stderr: s.stderr.Path()}
	}
	go func() {
		t, err := s.sup.tasks.Start(sctx, s.b, streams)
		results <- startResult{t, err}
	}()
}

// started settles a start.
func (s *service) started(ctx context.Context, r startResult) {
	s.starts = nil
	s.cancelStart()
	stopping := s.state() == lifecycle.Stopping
	switch {
	case r.err != nil && stopping:
		s.apply(lifecycle.StartFailed, r.err.Error())
	case r.err != nil && ctx.Err() != nil: // the supervisor ends; nothing was decided
	case r.err != nil:
		cause := strings.TrimPrefix(r.err.Error(), s.b.ID+": ")
		if cause == s.lastFailure {
			s.settle("failed to start for the same reason", false, 0)
			return
		}
		s.lastFailure = cause
		s.settle("failed to start: "+cause, false, 0)
		s.showTail()
	default:
		s.lastFailure = ""
		s.mu.Lock()
		s.startedAt = console.Now()
		s.mu.Unlock()
		s.holdTask(ctx, r.task)
		s.apply(lifecycle.Started, fmt.Sprintf("pid %d", r.task.PID))
		if stopping {
			s.signalStop()
			return
		}
		s.sup.con.Line(s.b.Name, "running (pid %d), started in %.3fs", r.task.PID, (console.Now() - s.startBegan).Seconds())
	}
}

// holdTask begins to wait for a running task.
func (s *service) holdTask(ctx context.Context, t *task.Task) {
	s.task = t
	exits := make(chan task.Exit, 1)
	s.exits = exits
	s.mu.Lock()
	s.pid = t.PID
	s.mu.Unlock()
	go func() {
		if e, err := t.Wait(ctx); err == nil {
			exits <- e
		}
	}()
}

// exited settles the end of a task.
func (s *service) exited(ctx context.Context, e task.Exit) {
	s.exits, s.kill, s.died, s.again = nil, nil, nil, nil
	s.task = nil
	s.mu.Lock()
	s.pid = 0
	ran := console.Now() - s.startedAt
	s.mu.Unlock()
	if s.state() != lifecycle.Stopping {
		s.ended(ctx, e, ran)
		return
	}
	s.sup.tasks.Remove(context.WithoutCancel(ctx), s.b)
	s.drain()
	s.apply(lifecycle.Exited, e.String())
	how := e.String()
	if s.deaf {
		how += ", as it has no handler for " + signalName(s.b.Service.StopSignal)
		s.deaf = false
	}
	s.sup.con.Line(s.b.Name, "stopped in %.3fs (%s)", (console.Now() - s.stopBegan).Seconds(), how)
}

// ended decides what follows the end of a task that nobody asked for.
func (s *service) ended(ctx context.Context, e task.Exit, ran time.Duration) {
	s.settle(fmt.Sprintf("%s after %.1fs", e, ran.Seconds()), e.Success(), ran)
	// The shim has copied the last output when the task is removed; a restart
	// waits for its delay meanwhile.
	s.sup.tasks.Remove(context.WithoutCancel(ctx), s.b)
	s.drain()
	if !e.Success() {
		s.showTail()
	}
}

// settle applies the policy to an end or a failed start and says so.
func (s *service) settle(cause string, success bool, ran time.Duration) {
	s.mu.Lock()
	d := s.restarts.Decide(s.b.Service, ran, success, console.Now(), 2*rand.Float64()-1)
	count := s.restarts.Count
	s.mu.Unlock()
	say := s.sup.con.Error
	if success {
		say = s.sup.con.Line
	}
	switch d.Event {
	case lifecycle.RetryAt:
		say(s.b.Name, "%s; restart %d in %s", cause, count, roundDelay(d.Delay))
		s.backoff(d.Delay, cause)
	default:
		say(s.b.Name, "%s; %s", cause, d.Reason)
		s.apply(d.Event, cause+"; "+d.Reason)
		if d.Event == lifecycle.GaveUp {
			s.failed()
		}
	}
}

// backoff arms the timer of the next start.
func (s *service) backoff(delay time.Duration, cause string) {
	s.mu.Lock()
	s.retryAt = console.Now() + delay
	s.mu.Unlock()
	s.retry = time.After(delay)
	s.apply(lifecycle.RetryAt, cause)
}

// failed does what the user asked for should the service fail for good.
func (s *service) failed() {
	if a := s.b.Service.OnFailure; a != policy.ActionNone {
		s.sup.machineAction(a, fmt.Sprintf("service %s has failed (keelson.on-failure: %s)", s.b.Name, a))
	}
}

// stopping handles the request to stop, in whatever state it comes.
func (s *service) stopping() {
	s.stopBegan = console.Now()
	was := s.state()
	s.apply(lifecycle.StopAsked, "asked to stop")
	switch was {
	case lifecycle.Starting:
		s.cancelStart()
	case lifecycle.Running:
		s.signalStop()
	case lifecycle.Backoff:
		s.retry = nil
	}
}

// signalStop sends the stop signal and arms the bound after which it is killed.
// A service that cannot hear the signal is killed at once, unless it is so
// young that it may not have come to installing its handler.
func (s *service) signalStop() {
	if s.task == nil {
		return
	}
	heard, err := s.task.Stop(s.b.Service.StopSignal)
	if err != nil {
		s.sup.con.Warn(s.b.Name, "%v", err)
	}
	s.mu.Lock()
	age := console.Now() - s.startedAt
	s.mu.Unlock()
	switch {
	case heard || err != nil:
		if s.kill == nil {
			s.kill = time.After(s.b.Service.StopTimeout)
		}
	case age < handlerBound:
		s.again = time.After(min(handlerBound-age, s.b.Service.StopTimeout))
	default:
		s.deaf = true
		s.killAll()
	}
}

func (s *service) killAll() {
	if s.task == nil {
		return
	}
	if err := s.task.Kill(); err != nil {
		s.sup.con.Warn(s.b.Name, "%v", err)
	}
	s.died = time.After(killBound)
}

func (s *service) openStreams() error {
	var show func(string)
	if s.b.Service.Console {
		show = func(line string) { s.sup.con.Line(s.b.Name, "| %s", line) }
	}
	warn := func(format string, a ...any) { s.sup.con.Warn(s.b.Name, format, a...) }
	pipes := filepath.Join(s.sup.cfg.RunDir, "io", s.b.ID)
	base := filepath.Join(s.sup.cfg.LogDir, s.b.Name)
	out, err := capture.Open(filepath.Join(pipes, "stdout"), base+".out.log", show, warn)
	if err != nil {
		return err
	}
	errs, err := capture.Open(filepath.Join(pipes, "stderr"), base+".log", show, warn)
	if err != nil {
		out.Close(true)
		return err
	}
	s.stdout, s.stderr = out, errs
	return nil
}

func (s *service) drain() {
	if s.stdout != nil {
		s.stdout.Drain()
		s.stderr.Drain()
	}
}

func (s *service) closeStreams(keep bool) {
	if s.stdout != nil {
		s.stdout.Close(keep)
		s.stderr.Close(keep)
	}
}

// showTail puts the last output of a failed service under its failure, unless
// it has been shown as it came.
func (s *service) showTail() {
	if s.stdout == nil || s.b.Service.Console {
		return
	}
	for _, line := range append(s.stdout.Tail(s.outMark, tailLines), s.stderr.Tail(s.errMark, tailLines)...) {
		s.sup.con.Line(s.b.Name, "| %s", line)
	}
}

func roundDelay(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}
