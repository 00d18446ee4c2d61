package runner

import (
	"context"
	"time"

	"keelson/internal/api"
	"keelson/internal/bundle"
	"keelson/internal/pidfd"
	"keelson/internal/policy"
	"keelson/services/queue"
	"keelson/services/task"
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
	// Intact reports whether what Paths names is still there.
	Intact() bool
	Mark() // Tail and watches begin here
	// Marked is where they begin, and MarkAt makes them begin there in a next supervisor.
	Marked() [2]int64
	MarkAt(mark [2]int64)
	Drain()
	Tail(lines int) []string
	Close(keep bool)
}

// watcher is an Output that shows each line as it comes, those since Mark first.
type watcher interface {
	Watch(line func(line []byte)) (cancel func())
}

// Message is what a service says of itself; see sd_notify(3).
type Message struct {
	Ready, Stopping, Reloading bool
	Watchdog                   bool // it is alive
	WatchdogTrigger            bool // it wants to be seen as dead
	Status                     string
	ExtendTimeout              time.Duration // from now on
	Errno                      int
}

// Order is what a service has to know of the others; *roster.Roster is one. None
// of it blocks but AwaitRemoval.
type Order interface {
	// Gate says in words what a service has to wait for before it is started, and
	// if there is nothing, the run of each one that it requires.
	Gate(name string) (waitsFor []string, with map[string]uint64)
	// Hopeless reports whether what a service waits for will not come by itself.
	Hopeless(name string) bool
	// Lost says why a service that was started with these may not go on; "" if it may.
	Lost(name string, with map[string]uint64) string
	// StopFirst names those that have to be stopped before the service is.
	StopFirst(name string) []string
	// Changed is told of every move of a service.
	Changed(name string)
	// StartTurn reports whether the service may be started now, as so many may be at a
	// time. Else it is woken when it may; EndStart ends its turn, or its wait for one.
	StartTurn(name string, class queue.Class) bool
	EndStart(name string, finished bool)
	// AwaitRemoval waits until what is left of the service may be removed; end ends
	// its turn.
	AwaitRemoval(ctx context.Context, name string) (end func())
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
	// After is a timer, as time.After is one.
	After func(time.Duration) <-chan time.Time
	// Jitter returns a number in [-1, 1).
	Jitter func() float64
	// Act asks for the end of the machine because a service has failed.
	Act func(a policy.Action, why string)
	// Order is what the others are to each service; nil is nothing.
	Order Order
	// Events is told what happens; nil is nobody. It must not block.
	Events func(api.Event)
	// Probe finds out once, within ctx, whether a running service is as a probe
	// wants it; nil: a service that has started is ready, and healthy.
	Probe func(ctx context.Context, p policy.Probe, t task.Task) error
	// Notify opens the socket on which a service says how it is, as long as ctx
	// lasts; nil: nothing is heard.
	Notify func(ctx context.Context, b *bundle.Bundle) (<-chan Message, error)
	// Hardening is what is added to a service's configuration; nil is nothing.
	Hardening func(b *bundle.Bundle) *api.Hardening
	// OOMKills is how many processes of a service were killed for want of memory
	// since the boot; nil is none.
	OOMKills func(service string) int
	// Resumed says that an earlier supervisor of this boot may have started the
	// services.
	Resumed bool
	// Leaving says that the machine is going down: what runs is taken over, and
	// nothing is started.
	Leaving bool
}

func (c *Config) order() Order {
	if c.Order == nil {
		return noOrder{}
	}
	return c.Order
}

func (c *Config) publish(e api.Event) {
	if c.Events != nil {
		c.Events(e)
	}
}

// noOrder is that of a service that is alone.
type noOrder struct{}

func (noOrder) Gate(string) ([]string, map[string]uint64) { return nil, nil }
func (noOrder) Hopeless(string) bool                      { return false }
func (noOrder) Lost(string, map[string]uint64) string     { return "" }
func (noOrder) StopFirst(string) []string                 { return nil }
func (noOrder) Changed(string)                            {}
func (noOrder) StartTurn(string, queue.Class) bool        { return true }
func (noOrder) EndStart(string, bool)                     {}
func (noOrder) AwaitRemoval(context.Context, string) (end func()) {
	return func() {}
}
