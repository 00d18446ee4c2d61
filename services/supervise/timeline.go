package supervise

import (
	"slices"
	"sync"
	"time"

	"keelson/internal/api"
	"keelson/internal/bundle"
	"keelson/services/lifecycle"
	"keelson/services/store"
)

// timeline is when the boot did what, for whoever asks where its time went. It is
// remembered for a next supervisor.
type timeline struct {
	path string
	now  func() time.Duration
	warn func(format string, a ...any)

	mu   sync.Mutex
	boot bootTimes // guarded by mu
	said string    // the last failure to remember, guarded by mu
}

// bootTimes is what is remembered.
type bootTimes struct {
	Complete time.Duration              `json:"complete"`
	Steps    []api.Step                 `json:"steps"`
	Services map[string]api.BootService `json:"services"`
}

func openTimeline(path string, now func() time.Duration, warn func(string, ...any)) *timeline {
	t := &timeline{path: path, now: now, warn: warn}
	if _, err := store.Load(path, &t.boot); err != nil {
		warn("%v", err)
	}
	if t.boot.Services == nil {
		t.boot.Services = map[string]api.BootService{}
	}
	return t
}

// step notes what began then and is over now, unless it was noted before.
func (t *timeline) step(name string, began time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if slices.ContainsFunc(t.boot.Steps, func(s api.Step) bool { return s.Name == name }) {
		return
	}
	s := api.Step{Name: name, Start: began, End: t.now()}
	if err != nil {
		s.Error = err.Error()
	}
	t.boot.Steps = append(t.boot.Steps, s)
	t.save()
}

// complete notes that the boot is over.
func (t *timeline) complete() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.boot.Complete == 0 {
		t.boot.Complete = t.now()
		t.save()
	}
}

// note takes a service's move: its first ones are its way up.
func (t *timeline) note(e api.Event) {
	if e.Kind != "state" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.boot.Services[e.Service]
	s.Name = e.Service
	var first *time.Duration
	switch lifecycle.State(e.To) {
	case lifecycle.Waiting, lifecycle.Queued:
		first = &s.Waiting
	case lifecycle.Starting:
		first = &s.Starting
	case lifecycle.Running:
		first = &s.Running
	case lifecycle.Ready:
		first = &s.Ready
	case lifecycle.Failed:
		first = &s.Failed
	}
	if first == nil || *first != 0 || s.Ready != 0 {
		return // what comes after its first way up is not the boot's
	}
	if *first = e.At; *first == 0 {
		*first = t.now()
	}
	t.boot.Services[e.Service] = s
	if t.boot.Complete != 0 {
		t.save() // during the boot there would be many, and the end saves them all
	}
}

// save remembers. mu is held.
func (t *timeline) save() {
	if err := store.Save(t.path, t.boot); err != nil && err.Error() != t.said {
		t.said = err.Error()
		t.warn("a restarted supervisor will not know how the boot went: %v", err)
	}
}

// times returns a copy.
func (t *timeline) times() bootTimes {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.boot
	b.Steps = slices.Clone(b.Steps)
	b.Services = make(map[string]api.BootService, len(t.boot.Services))
	for name, s := range t.boot.Services {
		b.Services[name] = s
	}
	return b
}

// oneShotProgress is the boot's progress as onboot needs it, and notes when each
// one-shot began and ended.
type oneShotProgress struct {
	*progress
	times   *timeline
	section bundle.Section
	from    time.Duration // when the present one began
}

// Done reports whether a one-shot is over. It is asked right before one begins.
func (p *oneShotProgress) Done(id string) bool {
	done := p.progress.Done(id)
	if !done {
		p.from = p.times.now()
	}
	return done
}

// SetDone remembers that a one-shot is over, and why it failed if it did.
func (p *oneShotProgress) SetDone(id string, failed error) {
	if p.section == bundle.Onboot {
		p.times.step(id, p.from, failed)
	}
	p.progress.SetDone(id)
}
