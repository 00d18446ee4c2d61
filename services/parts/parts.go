// Package parts watches the processes that the machine runs by and that answer calls,
// containerd and the shims, and ends those that hang, so that they are started again.
//
// It promises that a part which is slow is not taken for one that hangs: an interval
// counts only if the part did nothing in it, neither ran nor waited for a processor,
// while calls waited for their answers, and if the one who looks was on time. Where
// nothing is under way it costs a call to each part in five minutes, or less often where there
// are many. It must never end a part that answers.
package parts

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/api"
	"keelson/internal/cputime"
	"keelson/internal/pidfd"
)

const (
	// interval is how often a part is looked at that has been asked and does not answer.
	interval = 5 * time.Second
	// callBound ends a call that is not answered; others have been made by then.
	callBound = time.Minute
	// roundEvery is how often each part is asked, and roundPart how much time there is
	// for each of them.
	roundEvery = 5 * time.Minute
	roundPart  = 2 * time.Minute
	// stuckAfter is how long after SIGKILL it is reported that a part does not exit.
	stuckAfter = 30 * time.Second
	// doubtEvery is how often doubts are followed.
	doubtEvery = 5 * time.Second
)

// Containerd and Shim are how long each may be silent. Containers go on without
// containerd, and end with their shim.
var (
	Containerd = Limits{Idle: 20 * time.Second, Busy: 5 * time.Minute, Abort: 10 * time.Second}
	Shim       = Limits{Idle: 60 * time.Second, Abort: 10 * time.Second}
)

// Part is a process that is watched.
type Part struct {
	Name    string // of its kind, and the column of the console's lines
	PID     int
	Members []string // NAMESPACE/ID of the containers that end with it
	Limits  Limits
	// Ask makes a call and returns nil if it was answered, whatever the answer.
	Ask func(ctx context.Context) error
	// Signal sends the process a signal.
	Signal func(sig unix.Signal) error
	// Exited is closed when the process has.
	Exited <-chan struct{}
}

// Console is where people read of parts that hang.
type Console interface {
	Line(name, format string, a ...any)
	Warn(name, format string, a ...any)
	Error(name, format string, a ...any)
}

// Set is the parts that are watched.
type Set struct {
	console Console
	proc    cputime.Proc
	now     func() time.Duration // since the machine's start
	// scan finds parts that are not watched yet; nil is for none.
	scan func()

	doubts chan struct{}

	mu      sync.Mutex
	all     []*watched    // guarded by mu
	changed chan struct{} // closed when a part has changed; guarded by mu
}

// watched is one part.
type watched struct {
	part Part
	set  *Set
	ask  chan struct{}

	machine *Machine // guarded by set.mu
	warned  bool     // of the watching goroutine, as is stuck
	stuck   bool
}

// New returns an empty set. scan, which may be nil, is called before each round.
func New(console Console, now func() time.Duration, scan func()) *Set {
	return &Set{
		console: console, proc: osProc{}, now: now, scan: scan,
		doubts: make(chan struct{}, 1), changed: make(chan struct{}),
	}
}

// osProc reads /proc.
type osProc struct{}

func (osProc) ReadFile(path string) ([]byte, error) { return os.ReadFile(path) }

func (osProc) ReadDir(path string) ([]string, error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// Run asks each part from time to time, and when somebody doubts that it answers, until
// the context ends.
func (s *Set) Run(ctx context.Context) {
	for {
		s.mu.Lock()
		n := len(s.all)
		s.mu.Unlock()
		round := time.NewTimer(max(roundEvery, time.Duration(n)*roundPart))
		select {
		case <-ctx.Done():
			round.Stop()
			return
		case <-s.doubts:
			round.Stop()
		case <-round.C:
		}
		if s.scan != nil {
			s.scan()
		}
		s.mu.Lock()
		all := slices.Clone(s.all)
		s.mu.Unlock()
		for _, w := range all {
			select {
			case w.ask <- struct{}{}:
			default: // it is about to be asked
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(doubtEvery):
		}
	}
}

// Doubt has every part asked now, as a call of somebody's is not answered.
func (s *Set) Doubt() {
	select {
	case s.doubts <- struct{}{}:
	default: // they are about to be
	}
}

// Answering waits until no part is doubtful that is needed: those without members are, and
// those of whose members needs says so. The error says which one is doubtful.
func (s *Set) Answering(ctx context.Context, needs func(members []string) bool) error {
	for {
		s.mu.Lock()
		changed, doubtful := s.changed, ""
		for _, w := range s.all {
			if w.machine.Doubtful() && (len(w.part.Members) == 0 || needs(w.part.Members)) {
				doubtful = w.part.Name
			}
		}
		s.mu.Unlock()
		if doubtful == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", doubtful, ctx.Err())
		case <-changed:
		}
	}
}

// Status is the parts as people are shown them.
func (s *Set) Status() []api.Part {
	if s.scan != nil {
		s.scan()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]api.Part, 0, len(s.all))
	for _, w := range s.all {
		state, since := w.machine.State()
		all = append(all, api.Part{Name: w.part.Name, State: string(state), Since: since, PID: w.part.PID, Members: w.part.Members})
	}
	slices.SortFunc(all, func(a, b api.Part) int {
		if n := strings.Compare(a.Name, b.Name); n != 0 {
			return n
		}
		return a.PID - b.PID
	})
	return all
}

// Has reports whether a process is watched, and notes which containers end with it.
func (s *Set) Has(pid int, members []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.all {
		if w.part.PID == pid {
			w.part.Members = members
			return true
		}
	}
	return false
}

// WatchProcess is Watch for a process of this machine, which it finds and signals by p.PID. over,
// which may be nil, is called when nobody watches any more. It reports false, and calls nothing,
// where the process has just exited.
func (s *Set) WatchProcess(ctx context.Context, p Part, over func()) bool {
	process, err := pidfd.Open(p.PID)
	if err != nil {
		return false
	}
	exited := make(chan struct{})
	p.Signal, p.Exited = process.Signal, exited
	go func() {
		_ = process.Wait(ctx)
		close(exited)
		process.Close()
		if over != nil {
			over()
		}
	}()
	s.Watch(ctx, p)
	return true
}

// Watch watches a part until its process has exited or the context ends. It does not
// wait for that.
func (s *Set) Watch(ctx context.Context, p Part) {
	w := &watched{part: p, set: s, ask: make(chan struct{}, 1), machine: NewMachine(p.Limits, s.now())}
	s.mu.Lock()
	s.all = append(s.all, w)
	s.mu.Unlock()
	go func() {
		w.run(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all = slices.DeleteFunc(s.all, func(x *watched) bool { return x == w })
		s.tell()
	}()
}

// tell wakes who waits for a change. mu is held.
func (s *Set) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (w *watched) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.part.Exited:
			return
		case <-w.ask:
		}
		if !w.inquire(ctx) {
			return
		}
	}
}

// inquire asks the part until it has answered, and ends it if it hangs. It reports false
// when there is nothing to watch any more.
func (w *watched) inquire(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answered := make(chan struct{}, 1)
	for state := Answering; ; {
		if state == Answering || state == Silent {
			go w.call(ctx, answered)
		}
		began := time.Now()
		before, _ := cputime.Of(w.set.proc, w.part.PID) // an error is of a process that has exited
		timer := time.NewTimer(interval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-w.part.Exited:
			timer.Stop()
			w.next(Exited{})
			return false
		case <-answered:
			timer.Stop()
			if state, _ = w.next(Answered{}); state == Answering {
				return true
			}
			continue // it has got its SIGABRT meanwhile
		case <-timer.C:
		}
		after, err := cputime.Of(w.set.proc, w.part.PID)
		if err != nil {
			continue // the end of the process is about to be seen
		}
		e := Evidence{Interval: interval, Took: time.Since(began), Worked: cputime.Worked(before, after, interval)}
		var order Order
		state, order = w.next(Unanswered{e})
		w.do(order, after.Stopped, e.Worked)
	}
}

// call makes a call.
func (w *watched) call(ctx context.Context, answered chan<- struct{}) {
	ctx, cancel := context.WithTimeout(ctx, callBound)
	defer cancel()
	if w.part.Ask(ctx) != nil {
		return
	}
	select {
	case answered <- struct{}{}:
	default: // another call was
	}
}

// next gives an event to the state machine.
func (w *watched) next(e Event) (State, Order) {
	w.set.mu.Lock()
	was, since := w.machine.State()
	order := w.machine.Next(e, w.set.now())
	state, _ := w.machine.State()
	idle := w.machine.Idle()
	w.set.tell()
	w.set.mu.Unlock()
	if was == Silent && state == Answering && w.warned {
		w.warned = false
		w.set.console.Line(w.part.Name, "answers again after %s", (w.set.now() - since + interval).Round(time.Second))
	}
	if limit := w.part.Limits.Idle; state == Silent && idle >= limit/2 && !w.warned {
		w.warned = true
		w.set.console.Warn(w.part.Name, "does not answer and does nothing: it is killed%s in %s unless that changes", w.with(), limit-idle)
	}
	if state == Killed && !w.stuck && w.set.now()-since >= stuckAfter {
		w.stuck = true
		w.set.console.Error(w.part.Name, "cannot be killed: it is stuck in the kernel")
	}
	return state, order
}

// do does what the state machine wants done.
func (w *watched) do(order Order, stopped, worked bool) {
	var signals []unix.Signal
	switch order {
	case Nothing:
		return
	case Abort:
		why := "does nothing"
		switch {
		case stopped:
			why = "was stopped by a signal"
		case worked:
			why = "works without an end"
		}
		w.set.console.Error(w.part.Name, "hangs: it does not answer and %s; SIGABRT for its stacks, then it is killed%s and started again", why, w.with())
		signals = []unix.Signal{unix.SIGABRT, unix.SIGCONT}
	case Kill:
		w.set.console.Warn(w.part.Name, "has not exited %s after SIGABRT: SIGKILL", w.part.Limits.Abort)
		signals = []unix.Signal{unix.SIGKILL}
	}
	for _, sig := range signals {
		if err := w.part.Signal(sig); err != nil {
			w.set.console.Error(w.part.Name, "%v", err)
		}
	}
}

// namesShown is how many containers a line names.
const namesShown = 5

// with is what ends with the part, for the middle of a sentence.
func (w *watched) with() string {
	w.set.mu.Lock()
	members := slices.Clone(w.part.Members)
	w.set.mu.Unlock()
	if len(members) == 0 {
		return ""
	}
	more := ""
	if len(members) > namesShown {
		more = fmt.Sprintf(" and %d more", len(members)-namesShown)
		members = members[:namesShown]
	}
	for i, m := range members {
		members[i] = m[strings.LastIndexByte(m, '/')+1:]
	}
	return " with its containers (" + strings.Join(members, ", ") + more + ")"
}
