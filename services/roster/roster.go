// Package roster owns all services of a machine and the order between them: which
// are started after which, which go down with which, and what people ask of them.
//
// It promises that services start and stop as parallel as their order allows, that
// what one waits for can be said in words at any time, and that an order that
// cannot be followed is told and left out: an appliance must boot. Each service
// decides for itself (package runner); this package only answers what the others
// are, from their present state, so that there is no event that could be missed. No
// lock of a service is held while it asks, and none of ours while a service is told.
package roster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"keelson/internal/api"
	"keelson/internal/bundle"
	"keelson/internal/policy"
	"keelson/services/queue"
	"keelson/services/runner"
	"keelson/services/watchdog"
)

// ErrUnknown says that there is no service of that name.
var ErrUnknown = errors.New("no such service")

// Loaded is a service's folder as it was read.
type Loaded struct {
	Bundle *bundle.Bundle
	Err    error // it cannot be used
}

// Warning is something about a service that people should know.
type Warning struct{ Service, Text string }

// Roster is the services of a machine.
type Roster struct {
	names    []string
	services map[string]*runner.Service
	queues   Queues
	entries  map[string]queue.Entry // how each waits for its turn
	fresh    []string               // that can be started at once, where no earlier supervisor has been
	// Who was found not to be, the last time, by Settled and Gone.
	unsettled, staying atomic.Int64

	mu       sync.Mutex
	order    map[string]policy.Service    // whose After and Requires are in force, guarded by mu
	problems map[string][]string          // what is wrong with the order, guarded by mu
	tell     map[string][]*runner.Service // who looks again when a service has moved, guarded by mu
	leaving  bool                         // the machine goes down, guarded by mu
	moved    chan struct{}                // closed at the next move of any, guarded by mu
}

// Queues are where services wait for their turn; a nil one lets them all go at once.
type Queues struct{ Starts, Removals *queue.Queue }

// New makes the services, which are not kept before Run. What is wrong with the
// order between them comes back as warnings.
func New(cfg runner.Config, queues Queues, loaded []Loaded) (*Roster, []Warning) {
	r := &Roster{queues: queues, services: map[string]*runner.Service{}, order: map[string]policy.Service{}, problems: map[string][]string{}, moved: make(chan struct{})}
	cfg.Order = r
	dirs := map[string]string{}
	for _, l := range loaded {
		name := l.Bundle.Name
		r.names = append(r.names, name)
		r.services[name] = runner.New(&cfg, l.Bundle, l.Err)
		r.order[name] = l.Bundle.Service
		dirs[name] = l.Bundle.Dir
	}
	slices.Sort(r.names)
	var warnings []Warning
	for _, p := range policy.Order(r.order) {
		text := orderText(dirs, p) + "; they are started without it"
		warnings = append(warnings, Warning{p.Service, text})
		for _, m := range p.Members {
			r.problems[m] = append(r.problems[m], text)
		}
	}
	r.tell = r.listeners()
	r.line(loaded)
	for _, l := range loaded {
		name := l.Bundle.Name
		if l.Err == nil && !cfg.Resumed && !cfg.Leaving && len(r.before(name)) == 0 {
			r.fresh = append(r.fresh, name)
		}
	}
	return r, warnings
}

// Run begins to keep every service, as long as ctx lasts.
func (r *Roster) Run(ctx context.Context) {
	// All at once, so that the first turns are not those of who happens to run first.
	r.queues.Starts.EnterAll(r.turnsOf(r.fresh))
	for _, name := range r.names {
		go r.services[name].Run(ctx)
	}
}

// Names returns the names of all services, sorted.
func (r *Roster) Names() []string { return slices.Clone(r.names) }

// Bundles returns what is in force of each service's directory.
func (r *Roster) Bundles() []*bundle.Bundle {
	all := make([]*bundle.Bundle, 0, len(r.names))
	for _, name := range r.names {
		all = append(all, r.services[name].Bundle())
	}
	return all
}

// Bundle returns what is in force of one service's directory.
func (r *Roster) Bundle(name string) (*bundle.Bundle, bool) {
	svc, err := r.find(name)
	if err != nil {
		return nil, false
	}
	return svc.Bundle(), true
}

// Info returns what there is to know of a service, but for figures and its log.
func (r *Roster) Info(name string) (api.Service, bool) {
	svc := r.services[name]
	if svc == nil {
		return api.Service{}, false
	}
	i := svc.Info()
	r.mu.Lock()
	o := r.order[name]
	i.Requires, i.After = slices.Clone(o.Requires), slices.Clone(o.After)
	i.Problems = append(i.Problems, r.problems[name]...)
	i.RequiredBy = r.comeAfter(name, false)
	r.mu.Unlock()
	i.WaitingFor = r.waitsFor(name)
	return i, true
}

// All returns Info of every service, sorted by name.
func (r *Roster) All() []api.Service {
	all := make([]api.Service, 0, len(r.names))
	for _, name := range r.names {
		i, _ := r.Info(name)
		all = append(all, i)
	}
	return all
}

// Critical returns what the hardware watchdog has to know of the services with
// keelson.critical. One is not sick until it has been seen not to be well.
func (r *Roster) Critical() []watchdog.Service {
	var all []watchdog.Service
	for _, name := range r.names {
		svc := r.services[name]
		p := svc.Bundle().Service
		if !p.Critical {
			continue
		}
		st, _ := svc.Status()
		all = append(all, watchdog.Service{
			Name: name, State: st.State, Cause: st.Cause, Sick: st.Sick, Down: st.Down,
			Hopeless: r.Hopeless(name), Grace: p.ReadyTimeout,
		})
	}
	return all
}

func (r *Roster) find(name string) (*runner.Service, error) {
	if svc := r.services[name]; svc != nil {
		return svc, nil
	}
	if len(r.names) == 0 {
		return nil, fmt.Errorf("%w: %s; the image has none", ErrUnknown, name)
	}
	return nil, fmt.Errorf("%w: %s; there are %s", ErrUnknown, name, strings.Join(r.names, ", "))
}

// Moved returns a channel that is closed when a service has moved.
func (r *Roster) Moved() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.moved
}

// Changed is told by a service that it has moved.
func (r *Roster) Changed(name string) {
	r.mu.Lock()
	tell := r.tell[name]
	close(r.moved)
	r.moved = make(chan struct{})
	r.mu.Unlock()
	for _, svc := range tell {
		svc.Wake()
	}
}

// listeners returns for each service those that may have to do something when it
// has moved: all that come after it, however indirectly, for they may wait, and
// those right before it, which are stopped after it.
func (r *Roster) listeners() map[string][]*runner.Service {
	after := map[string][]string{} // those that come right after each
	for _, name := range r.names {
		for _, before := range r.before(name) {
			after[before] = append(after[before], name)
		}
	}
	tell := map[string][]*runner.Service{}
	for _, name := range r.names {
		reach := map[string]bool{}
		for queue := []string{name}; len(queue) > 0; queue = queue[1:] {
			for _, other := range after[queue[0]] {
				if !reach[other] {
					reach[other] = true
					queue = append(queue, other)
				}
			}
		}
		for _, before := range r.before(name) {
			reach[before] = true
		}
		for _, other := range slices.Sorted(maps.Keys(reach)) {
			tell[name] = append(tell[name], r.services[other])
		}
	}
	return tell
}

// before returns those that come right before a service. mu is held, or nobody
// else has the roster yet.
func (r *Roster) before(name string) []string {
	return append(slices.Clone(r.order[name].Requires), r.order[name].After...)
}

func (r *Roster) orderOf(name string) (requires, after []string, leaving bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.order[name].Requires, r.order[name].After, r.leaving
}
