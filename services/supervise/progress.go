package supervise

import (
	"sync"
	"time"

	"keelson/services/store"
)

// progress is how far the boot has come, remembered for a next supervisor.
type progress struct {
	path string
	warn func(format string, a ...any)

	mu    sync.Mutex
	steps steps  // guarded by mu
	said  string // the last failure to remember, guarded by mu
}

type steps struct {
	Done  map[string]bool          `json:"done"`
	Spans map[string]time.Duration `json:"spans"` // how long parts of the boot took
	// StopBy is when the shutdown under way has to be over.
	StopBy time.Duration `json:"stop_by,omitempty"`
	// Lost says that it is not known any more what of the boot is done. All of it
	// counts as done then: to format a disk twice is worse than to leave out a step.
	Lost bool `json:"lost,omitempty"`
}

func openProgress(path string, warn func(string, ...any)) *progress {
	p := &progress{path: path, warn: warn}
	if _, err := store.Load(path, &p.steps); err != nil {
		warn("%v; the boot counts as over", err)
		p.steps.Lost = true
		// At once: the file was set aside, and a next supervisor that found none would boot again.
		p.save()
	}
	if p.steps.Done == nil {
		p.steps.Done = map[string]bool{}
	}
	if p.steps.Spans == nil {
		p.steps.Spans = map[string]time.Duration{}
	}
	return p
}

// Done reports whether a step was done in this boot.
func (p *progress) Done(step string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.steps.Done[step] || p.steps.Lost && p.steps.StopBy == 0
}

// SetDone remembers that a step is done.
func (p *progress) SetDone(step string) { p.setSpan(step, 0) }

// setSpan remembers that a step is done and how long it took.
func (p *progress) setSpan(step string, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.steps.Done[step] = true
	if took > 0 {
		p.steps.Spans[step] = took
	}
	p.save()
}

// stopBy remembers when the shutdown has to be over, unless an earlier supervisor
// has, and returns it.
func (p *progress) stopBy(at time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.steps.StopBy == 0 {
		p.steps.StopBy = at
		p.save()
	}
	return p.steps.StopBy
}

// save writes down how far it is. mu is held.
func (p *progress) save() {
	if err := store.Save(p.path, p.steps); err != nil && err.Error() != p.said {
		p.said = err.Error()
		p.warn("a restarted supervisor would repeat what is done: %v", err)
	}
}

func (p *progress) span(step string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.steps.Spans[step]
}
