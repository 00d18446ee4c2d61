package resources

import (
	"fmt"
	"sync"
	"time"
)

// quiet is how long nothing more is said of one limit of one container; what
// happens meanwhile is counted and said then.
const quiet = time.Minute

// settle is how long the end of a container is waited for after the kernel has
// killed a process of it: the end says it all, and once is enough.
const settle = time.Second

// Reports turns the hits of containers into lines for people, at most one in a
// minute for each limit of each container.
type Reports struct {
	warn  func(name, text string)
	after func(time.Duration, func()) (stop func() bool)

	mu    sync.Mutex
	lines map[line]*report // guarded by mu
}

type line struct {
	name string
	kind Kind
}

// report is what has been said and is to be said of one limit.
type report struct {
	last    Hit    // with the count of all that were not said
	pending uint64 // not said yet
	stop    func() bool
	said    bool // within the last minute
}

// NewReports makes reports that are written with warn.
func NewReports(warn func(name, text string)) *Reports {
	return newReports(warn, func(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop })
}

func newReports(warn func(name, text string), after func(time.Duration, func()) func() bool) *Reports {
	return &Reports{warn: warn, after: after, lines: map[line]*report{}}
}

// Hit takes a hit of the container name.
func (r *Reports) Hit(name string, h Hit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := line{name, h.Kind}
	p := r.lines[key]
	if p == nil {
		p = &report{}
		r.lines[key] = p
	}
	p.pending += h.Count
	p.last = h
	switch {
	case p.stop != nil: // the timer says it
	case h.Kind == OOM && !p.said:
		p.stop = r.after(settle, func() { r.due(key, p) })
	default:
		r.say(key, p)
	}
}

// Ended says that the container name has ended; because is whether its end was
// told with the reason, which is then not said again.
func (r *Reports) Ended(name string, because bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, kind := range []Kind{OOM, Pids} {
		key := line{name, kind}
		p := r.lines[key]
		if p == nil {
			continue
		}
		if kind == OOM && because {
			p.pending = 0
		}
		if kind == OOM && p.stop != nil {
			p.stop()
			p.stop = nil
			if p.pending > 0 {
				r.say(key, p)
			} else {
				delete(r.lines, key)
			}
		}
	}
}

// due is the timer's: what has gathered is said, and where nothing has, the next
// hit is news again.
func (r *Reports) due(key line, p *report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lines[key] != p || p.stop == nil {
		return // it has been dealt with meanwhile
	}
	p.stop = nil
	if p.pending == 0 {
		delete(r.lines, key)
		return
	}
	r.say(key, p)
}

// say is called with r.mu held.
func (r *Reports) say(key line, p *report) {
	h := p.last
	h.Count = p.pending
	text := h.String()
	if p.said {
		text += fmt.Sprintf(" in the last %s", quiet)
	}
	r.warn(key.name, text)
	p.pending, p.said = 0, true
	p.stop = r.after(quiet, func() { r.due(key, p) })
}
