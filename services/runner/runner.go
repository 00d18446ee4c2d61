// Package runner owns the life of one service: it starts it when what comes
// before it is there, finds out whether it is ready and healthy, waits for its
// end, applies its policy, stops it, does what is asked of it, and takes it over
// from an earlier supervisor.
//
// It promises that no path leaves a service wedged. What may hang (a start, a
// removal, a probe, a look for an earlier task) is done beside the loop that
// serves the service, which at any time hears a request and gives up what the
// kernel does not give back. After whatever has happened the loop looks at what
// has become possible or due (consider): nothing depends on an event being seen
// once. It must never start a service whose task may run: until that is known, it
// asks again.
package runner

import (
	"context"
	"sync"
	"time"

	"keelson/internal/api"
	"keelson/internal/bundle"
	"keelson/internal/pidfd"
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
	// aloneBound is how often it is seen, while a service stops, whether what is left
	// of it can still end.
	aloneBound = time.Second
	// An earlier supervisor's task is looked for again after adoptMin, doubling
	// up to adoptMax.
	adoptMin = 100 * time.Millisecond
	adoptMax = 5 * time.Second
)

// Service keeps one service. Its fields without a word belong to the goroutine
// of Run; the ones others look at are guarded by mu, which is never held while
// anything else is called.
type Service struct {
	cfg     *Config
	name    string
	ctx     context.Context // Run's
	b       *bundle.Bundle
	next    *bundle.Bundle // read again; in force from the next start, nil if there is none
	loadErr error          // the bundle cannot be used

	requests  chan request
	leave     chan struct{} // closed by Leave
	leaveOnce sync.Once
	hurry     chan struct{} // closed by Hurry
	hurryOnce sync.Once
	wake      chan struct{} // what others do may concern this one; holds one
	over      chan struct{} // closed when Run has returned

	mu      sync.Mutex
	machine *lifecycle.Machine // guarded by mu
	pub     public             // guarded by mu
	changed chan struct{}      // closed at the next change, guarded by mu

	leaving bool // the machine goes down
	hurried bool // and has no time left
	output  Output
	notify  <-chan Message
	early   Message // what the task said before its start was over
	task    task.Task

	// What is under way beside the loop, at most one of them: nil where it is not.
	adopts  chan adoption
	starts  chan startResult
	removed chan struct{}
	// removalTurn is closed when the removal begins, nil if it has or there is none.
	removalTurn chan struct{}
	// stuck fires when it has taken longer than anything but a hung kernel explains.
	stuck       <-chan time.Time
	cancelStart context.CancelFunc

	exits chan task.Exit // nil unless a task runs
	// Timers, nil unless armed.
	retry, kill, died <-chan time.Time
	again             <-chan time.Time // when a stop signal nobody heard is sent again
	look              <-chan time.Time // when it is seen whether one can still come to anything
	adoptAgain        <-chan time.Time
	saveAgain         <-chan time.Time // when what was said with STATUS= is remembered

	watch     watch // of readiness and health
	follow    follow
	signalled bool // the stop signal was sent
	stopHeard bool // and somebody gets it; also of a task that an earlier supervisor sent it to
	alone     bool // only a process that cannot hear it was left at the last look

	remembered  memory // of the earlier supervisor
	adoptDelay  time.Duration
	adoptError  string // the last one, not to be said again
	startBegan  time.Duration
	stopBegan   time.Duration
	killAt      time.Duration // when it is killed that has heard the stop signal
	stopCause   string        // why it stops, where nobody asked
	killedFor   string        // why it is killed, while it is unhealthy
	due         bool          // the backoff is over
	afterRemove func()        // what the loop does once the removal is done
	deaf        bool          // it was killed because it cannot hear the stop signal
	lastFailure string        // the last failed start, not to be told at length again
	memoryError string        // the last one, not to be said again
	outputError string        // the last one, not to be said again
	// The start or stop that was reported to reach its extendBound.
	boundReported string
	// What a person asked for before it was known what runs.
	startAsked, restartAsked bool
	asked                    bool   // a person asked for the next start
	saidWaiting              string // the last hopeless wait that was said
}

// public is what others may look at of a service.
type public struct {
	bundle    *bundle.Bundle
	problem   string // why it cannot be used
	restarts  lifecycle.Restarts
	process   pidfd.Identity    // the task's first process
	startedAt time.Duration     // of the task
	readyAt   time.Duration     // of the task, 0 while it is not
	wellSince time.Duration     // ready and healthy, 0 while it is not
	readyBy   time.Duration     // when a task that is not ready yet has failed to start
	mark      [2]int64          // where the task's output begins
	retryAt   time.Duration     // when the timer of Backoff fires
	with      map[string]uint64 // the run of each required one that it was started with
	down      bool              // a person asked it to stop
	comes     bool              // it stops and will be started again
	sick      bool              // it has not been well since it last was not
	stuck     string            // what the kernel does not give back
	status    string            // STATUS=
	health    api.Health        // but for Check
	lastExit  *api.Exit
	ups       int  // how often it became ready
	failures  int  // ends and failed starts
	settled   bool // its first start has come to something
	over      bool // Run has returned
}

// follow is what comes after a stop.
type follow string

const (
	followNothing follow = ""       // it stays stopped
	followStart   follow = "start"  // it is started again
	followFailure follow = "failed" // it was not ready in time: the policy decides
)

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
	s := &Service{
		cfg: cfg, name: b.Name, b: b, loadErr: loadErr,
		machine:  lifecycle.NewMachine(),
		requests: make(chan request), leave: make(chan struct{}), hurry: make(chan struct{}), over: make(chan struct{}),
		wake: make(chan struct{}, 1), changed: make(chan struct{}),
	}
	s.pub.bundle = b
	if loadErr != nil {
		s.pub.problem = loadErr.Error()
	}
	return s
}

// Name is the service's.
func (s *Service) Name() string { return s.name }

// Leave asks the service to stop because the machine goes down; Over tells when
// it has. Nothing else is done any more.
func (s *Service) Leave() { s.leaveOnce.Do(func() { close(s.leave) }) }

// Hurry ends a stop that Leave began without waiting any longer.
func (s *Service) Hurry() { s.hurryOnce.Do(func() { close(s.hurry) }) }

// Wake makes the service look at the others again.
func (s *Service) Wake() {
	select {
	case s.wake <- struct{}{}:
	default: // it is about to look
	}
}

// Over is closed when Run has returned.
func (s *Service) Over() <-chan struct{} { return s.over }

// Run keeps the service until the machine goes down and it has stopped, or until
// the context ends: then everything is left as it is, for the next supervisor.
func (s *Service) Run(ctx context.Context) {
	defer func() {
		s.set(func(p *public) { p.over, p.settled = true, true })
		s.cfg.order().Changed(s.name)
		close(s.over)
	}()
	s.ctx = ctx
	s.begin(ctx)
	for s.consider(ctx); !s.done(); s.consider(ctx) {
		if !s.step(ctx) {
			break
		}
	}
	if ctx.Err() == nil {
		s.close()
	}
}

// step waits for one thing to happen and deals with it. It reports false when
// there is nothing more that this service can wait for.
func (s *Service) step(ctx context.Context) bool {
	leave, hurry := s.leave, s.hurry
	if s.leaving {
		leave = nil
	}
	if !s.leaving || s.hurried {
		hurry = nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-leave:
		s.leaving = true
		s.stop("the machine goes down", followNothing)
	case <-hurry:
		s.hurried = true
		s.killNow()
	case r := <-s.requests:
		r.reply <- s.handle(ctx, r)
	case <-s.wake:
	case a := <-s.adopts:
		s.adopts, s.stuck = nil, nil
		s.unstuck()
		s.adopted(ctx, a)
	case <-s.adoptAgain:
		s.adoptAgain = nil
		s.adopt(ctx)
	case r := <-s.starts:
		s.starts, s.stuck = nil, nil
		s.started(ctx, r)
	case e := <-s.exits:
		s.exited(ctx, e)
	case <-s.removalTurn:
		s.removalTurn = nil
		s.armStuck(stuckBound)
	case <-s.removed:
		s.removed, s.removalTurn, s.stuck = nil, nil, nil
		s.unstuck()
		then := s.afterRemove
		s.afterRemove = nil
		then()
	case <-s.retry:
		s.retry, s.due = nil, true
	case <-s.saveAgain:
		s.saveAgain = nil
		s.save()
	case m, ok := <-s.notify:
		if !ok {
			s.notify = nil // nothing more will be heard
			break
		}
		s.heard(m)
	case r := <-s.watch.results:
		s.checked(r)
	case <-s.watch.cut:
		s.cutCheck()
	case <-s.watch.next:
		s.watch.next = nil
		s.checkNow()
	case <-s.watch.limit:
		s.watch.limit = nil
		s.notReadyInTime()
	case <-s.watch.matched:
		s.nowReady()
	case <-s.look:
		s.lookAlone()
	case <-s.kill:
		s.kill, s.again, s.look = nil, nil, nil
		s.cfg.Console.Warn(s.name, "has not stopped %v after %s: killed", s.b.Service.StopTimeout, signalName(s.b.Service.StopSignal))
		s.killAll()
	case <-s.again:
		s.again = nil
		s.signalStop()
	case <-s.died:
		if s.task != nil && s.task.Identity() == (pidfd.Identity{}) {
			s.died = s.cfg.After(killBound) // it has exited; how is about to be known
			break
		}
		s.died = nil
		s.stuckFor("cannot be killed: its processes are stuck in the kernel")
		return !s.leaving
	case <-s.stuck:
		s.stuck = nil
		s.hung()
		return !s.leaving
	}
	return true
}

// consider does what has become possible or due.
func (s *Service) consider(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	switch state := s.State(); state {
	case lifecycle.Waiting, lifecycle.Queued:
		if s.removed == nil {
			s.up(ctx, "")
		}
	case lifecycle.Backoff:
		if s.due && s.removed == nil {
			s.due = false
			s.up(ctx, "the backoff is over")
		}
	case lifecycle.Starting, lifecycle.Running, lifecycle.Ready:
		if why := s.cfg.order().Lost(s.name, s.with()); why != "" {
			s.set(func(p *public) { p.sick = true })
			s.stop(why, followStart)
		}
	}
	if s.State() != lifecycle.Stopping || s.task == nil || s.signalled {
		return
	}
	if s.hurried {
		s.killNow()
	} else if len(s.cfg.order().StopFirst(s.name)) == 0 {
		s.signalStop()
	}
}

// done reports whether the machine goes down and nothing is left to do.
func (s *Service) done() bool {
	if !s.leaving || s.adopts != nil || s.adoptAgain != nil || s.starts != nil || s.removed != nil {
		return false
	}
	switch s.State() {
	case lifecycle.Stopped, lifecycle.Failed:
		return true
	}
	return false
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
	s.stuckFor(what + " hangs: a mount, a device or the runtime does not answer")
}

func (s *Service) stuckFor(why string) {
	s.cfg.Console.Error(s.name, "%s", why)
	s.set(func(p *public) { p.stuck, p.settled = why, true })
	s.cfg.order().Changed(s.name)
}

func (s *Service) close() {
	s.endWatch()
	if s.output != nil {
		s.output.Close(true)
	}
}

// remove removes what is left of the container, beside the loop, and then does
// what is to follow: the last output is there by then.
func (s *Service) remove(ctx context.Context, then func()) {
	removed, turn := make(chan struct{}), make(chan struct{})
	s.removed, s.removalTurn, s.afterRemove = removed, turn, then
	b := s.b
	go func() {
		defer close(removed)
		end := s.cfg.order().AwaitRemoval(ctx, s.name)
		defer end()
		close(turn)
		s.cfg.Tasks.Remove(context.WithoutCancel(ctx), b)
	}()
}
