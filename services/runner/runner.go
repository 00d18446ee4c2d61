// Package runner owns the life of one service: it starts it, waits for its end,
// applies its policy, stops it, and takes it over from an earlier supervisor.
//
// It promises that no path leaves a service wedged. What may hang (a start, a
// removal, a look for an earlier task) is done beside the loop that serves the
// service, which at any time hears a request to stop and gives up what the
// kernel does not give back. It must never start a service whose task may run:
// until that is known, it asks again.
package runner

import (
	"context"
	"sync"
	"time"

	"keelson/internal/bundle"
	"keelson/internal/pidfd"
	"keelson/internal/policy"
	"keelson/services/lifecycle"
	"keelson/services/task"
)

// Limits of a service's life that are not the user's to set.
const (
	tailLines = 10
	// startBound ends a start that hangs in containerd or the runtime.
	startBound = 3 * time.Minute
	// stuckBound is how long what was ended or cancelled may take to come back.
	stuckBound = 30 * time.Second
	// killBound is how long a killed task may take to end before it is said
	// that it cannot be killed.
	killBound = 5 * time.Second
	// handlerBound is the age at which a service has installed its signal
	// handlers if it ever will.
	handlerBound = time.Second
	// An earlier supervisor's task is looked for again after adoptMin, doubling
	// up to adoptMax.
	adoptMin = 100 * time.Millisecond
	adoptMax = 5 * time.Second
)

// Tasks is what a service needs of the container runtime; *task.Runtime is one.
type Tasks interface {
	Start(ctx context.Context, b *bundle.Bundle, io task.Streams) (task.Task, error)
	Adopt(ctx context.Context, b *bundle.Bundle, was pidfd.Identity) (task.Task, *task.Exit, error)
	Remove(ctx context.Context, b *bundle.Bundle)
}

// Console is where a service's life is shown.
type Console interface {
	Line(name, format string, a ...any)
	Warn(name, format string, a ...any)
	Error(name, format string, a ...any)
}

// Output is where a service's output goes; *capture.Output is one.
type Output interface {
	Paths() (stdout, stderr string)
	Mark()
	Drain()
	Tail(lines int) []string
	Close(keep bool)
}

// Config is what the services of a machine have in common.
type Config struct {
	Tasks   Tasks
	Console Console
	// OpenOutput makes the pipes of a service and begins to copy what comes.
	OpenOutput func(b *bundle.Bundle) (Output, error)
	// MemoryDir holds what the next supervisor has to know, a file for each service.
	MemoryDir string
	// Now is the time since the machine's start.
	Now func() time.Duration
	// Jitter returns a number in [-1, 1).
	Jitter func() float64
	// Act asks for the end of the machine because a service has failed.
	Act func(a policy.Action, why string)
	// Resumed says that an earlier supervisor of this boot may have started the
	// services.
	Resumed bool
	// Leaving says that the machine is going down: what runs is taken over, and
	// nothing is started.
	Leaving bool
}

// Service keeps one service. Its fields without a word belong to the goroutine
// of Run; the ones others look at are guarded by mu.
type Service struct {
	cfg     *Config
	b       *bundle.Bundle
	loadErr error // the bundle cannot be used

	stopRequest chan struct{} // closed by Stop
	stopOnce    sync.Once
	settled     chan struct{} // closed when the first start has come to something
	settleOnce  sync.Once
	over        chan struct{} // closed when Run has returned

	mu        sync.Mutex
	machine   *lifecycle.Machine // guarded by mu
	restarts  lifecycle.Restarts // guarded by mu
	process   pidfd.Identity     // the task's first process, guarded by mu
	startedAt time.Duration      // since the machine's start, guarded by mu
	retryAt   time.Duration      // when the timer of Backoff fires, guarded by mu

	stopAsked bool
	output    Output // nil where it could not be opened
	task      task.Task

	// What is under way beside the loop, at most one of them: nil where it is not.
	adopts  chan adoption
	starts  chan startResult
	removed chan struct{}
	// stuck fires when it has taken longer than anything but a hung kernel explains.
	stuck       <-chan time.Time
	cancelStart context.CancelFunc

	exits chan task.Exit // nil unless a task runs
	// Timers, nil unless armed.
	retry, kill, died <-chan time.Time
	again             <-chan time.Time // when a stop signal nobody heard is sent again
	adoptAgain        <-chan time.Time

	remembered  memory // of the earlier supervisor
	adoptDelay  time.Duration
	adoptError  string // the last one, not to be said again
	startBegan  time.Duration
	stopBegan   time.Duration
	due         bool   // the backoff was over before the removal
	afterRemove func() // what the loop does once the removal is done
	deaf        bool   // it was killed because it cannot hear the stop signal
	lastFailure string // the last failed start, not to be told at length again
	memoryError string // the last one, not to be said again
}

type startResult struct {
	task task.Task
	err  error
}

type adoption struct {
	task task.Task
	exit *task.Exit
	err  error
}

// New makes a service of a bundle. With an error of the bundle's loading it
// fails as its policy says.
func New(cfg *Config, b *bundle.Bundle, loadErr error) *Service {
	return &Service{
		cfg: cfg, b: b, loadErr: loadErr,
		machine:     lifecycle.NewMachine(),
		stopRequest: make(chan struct{}), settled: make(chan struct{}), over: make(chan struct{}),
	}
}

// Name is the service's.
func (s *Service) Name() string { return s.b.Name }

// Stop asks the service to stop for good; Over tells when it has.
func (s *Service) Stop() { s.stopOnce.Do(func() { close(s.stopRequest) }) }

// Settled is closed when the first start, or what an earlier supervisor left,
// has come to something.
func (s *Service) Settled() <-chan struct{} { return s.settled }

// Over is closed when Run has returned.
func (s *Service) Over() <-chan struct{} { return s.over }

// State returns the present state.
func (s *Service) State() lifecycle.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machine.State()
}

// Run keeps the service until it is asked to stop and has stopped, or until the
// context ends: then everything is left as it is, for the next supervisor.
func (s *Service) Run(ctx context.Context) {
	defer close(s.over)
	defer s.settle()
	s.begin(ctx)
	stopRequest := s.stopRequest
	for !s.done() {
		select {
		case <-ctx.Done():
			return
		case <-stopRequest:
			stopRequest = nil
			s.stopAsked = true
			s.stopping()
		case a := <-s.adopts:
			s.adopts, s.stuck = nil, nil
			s.adopted(ctx, a)
		case <-s.adoptAgain:
			s.adoptAgain = nil
			s.adopt(ctx)
		case r := <-s.starts:
			s.starts, s.stuck = nil, nil
			s.started(ctx, r)
		case e := <-s.exits:
			s.exited(ctx, e)
		case <-s.removed:
			s.removed, s.stuck = nil, nil
			s.afterRemove()
			if s.due {
				s.due = false
				s.restart(ctx)
			}
		case <-s.retry:
			s.retry = nil
			if s.due = s.removed != nil; !s.due {
				s.restart(ctx)
			}
		case <-s.kill:
			s.kill, s.again = nil, nil
			s.cfg.Console.Warn(s.b.Name, "has not stopped %v after %s: killed", s.b.Service.StopTimeout, signalName(s.b.Service.StopSignal))
			s.killAll()
		case <-s.again:
			s.again = nil
			s.signalStop()
		case <-s.died:
			s.died = nil
			s.cfg.Console.Error(s.b.Name, "cannot be killed: its processes are stuck in the kernel")
			s.close()
			return
		case <-s.stuck:
			s.stuck = nil
			s.hung()
			if s.stopAsked {
				s.close()
				return
			}
		}
	}
	s.close()
}

// done reports whether the service was asked to stop and nothing is left to do.
func (s *Service) done() bool {
	if !s.stopAsked || s.adopts != nil || s.adoptAgain != nil || s.starts != nil || s.removed != nil {
		return false
	}
	st := s.State()
	return st == lifecycle.Stopped || st == lifecycle.Failed
}

// hung says what the kernel or the runtime does not give back. The loop goes on
// waiting for it, without anybody waiting for the loop.
func (s *Service) hung() {
	what := "its removal"
	switch {
	case s.starts != nil:
		what = "its start"
	case s.adopts != nil:
		what = "the look for its task"
	}
	s.cfg.Console.Error(s.b.Name, "%s hangs: a mount, a device or the runtime does not answer", what)
	s.settle()
}

func (s *Service) settle() { s.settleOnce.Do(func() { close(s.settled) }) }

func (s *Service) close() {
	if s.output != nil {
		s.output.Close(true)
	}
}

// remove removes what is left of the container, beside the loop, and then does
// what is to follow: the last output is there by then.
func (s *Service) remove(ctx context.Context, then func()) {
	removed := make(chan struct{})
	s.removed, s.afterRemove = removed, then
	s.stuck = time.After(stuckBound)
	go func() {
		defer close(removed)
		s.cfg.Tasks.Remove(context.WithoutCancel(ctx), s.b)
	}()
}
