package supervise

import (
	"path/filepath"
	"sync"

	"keelson/internal/api"
	"keelson/internal/bundle"
	"keelson/services/resources"
	"keelson/services/store"
	"keelson/services/task"
)

// limits tells what containers hit of their limits: on the console, to whoever
// follows events, and as the count of processes that each has lost.
type limits struct {
	path    string
	warn    func(name, format string, a ...any)
	publish func(api.Event)
	reports *resources.Reports

	mu    sync.Mutex
	kills map[string]int // by service, since the boot; guarded by mu
	said  string         // the last failure to remember, guarded by mu
}

func openLimits(runDir string, warn func(name, format string, a ...any), publish func(api.Event)) *limits {
	l := &limits{path: filepath.Join(runDir, "oomkills.json"), warn: warn, publish: publish}
	l.reports = resources.NewReports(func(name, text string) { warn(name, "%s", text) })
	if _, err := store.Load(l.path, &l.kills); err != nil {
		warn("keelson", "%v", err)
	}
	if l.kills == nil {
		l.kills = map[string]int{}
	}
	return l
}

// hit takes what a container hit.
func (l *limits) hit(b *bundle.Bundle, h resources.Hit) {
	l.publish(api.Event{Kind: "resources", Service: b.Label(), Cause: h.String()})
	l.reports.Hit(b.Label(), h)
	if h.Kind != resources.OOM || b.Section != bundle.Services {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kills[b.Name] += int(h.Count)
	if err := store.Save(l.path, l.kills); err != nil && err.Error() != l.said {
		l.said = err.Error()
		l.warn("keelson", "a restarted supervisor will not remember what was killed for want of memory: %v", err)
	}
}

// ended takes the end of a container.
func (l *limits) ended(b *bundle.Bundle, e task.Exit) {
	l.reports.Ended(b.Label(), e.OutOfMemory())
}

// oomKills is how many processes of a service the kernel has killed for want of
// memory since the boot.
func (l *limits) oomKills(service string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kills[service]
}
