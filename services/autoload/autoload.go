// Package autoload owns what is known of kernel modules that containers make the
// kernel load: each request is counted for the container that made it, and shown on
// the console.
//
// It promises that
//   - a container that asks again and again gets five lines a minute, and one more that
//     counts the others;
//   - where it is not known who asked, no name is given;
//   - the counts outlive the supervisor.
//
// It must never hold up the module helper, for which the asking process waits.
package autoload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"keelson/internal/modules"
	"keelson/services/store"
)

// window is how long lines are counted together, and linesPerWindow how many of them
// are shown.
const (
	window         = time.Minute
	linesPerWindow = 5
)

// maxNames bounds for how many containers there are counts; the others are one.
const maxNames = 256

// Count is what one container has made the kernel ask for since the boot.
type Count struct {
	Loaded int `json:"loaded"` // requests that loaded something
	Other  int `json:"other"`  // requests for what is not there, or could not be loaded
}

// Config is what a Log needs.
type Config struct {
	Path  string                          // where the counts are kept
	Who   func(cgroup string) string      // the container whose cgroup it is, "" if it is the machine's own
	Line  func(format string, a ...any)   // shows a line
	Warn  func(format string, a ...any)   // shows a warning
	After func(d time.Duration, f func()) // time.AfterFunc
}

// Log counts and shows requests.
type Log struct {
	cfg Config

	mu     sync.Mutex
	counts map[string]Count // by container, "" is the machine or unknown; guarded by mu
	shown  map[string]int   // lines of the present window and beyond, guarded by mu
	failed string           // the last failure to save, guarded by mu
}

// Open returns a log that goes on from what an earlier supervisor has counted.
func Open(cfg Config) *Log {
	l := &Log{cfg: cfg, shown: map[string]int{}}
	if _, err := store.Load(cfg.Path, &l.counts); err != nil {
		cfg.Warn("%v", err)
	}
	if l.counts == nil {
		l.counts = map[string]Count{}
	}
	return l
}

// Run takes requests from the module helper on a socket until the context ends.
func (l *Log) Run(ctx context.Context, socket string) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := os.Chmod(socket, 0o600); err != nil {
		conn.Close()
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return err
		}
		var r modules.Request
		if json.Unmarshal(buf[:n], &r) == nil {
			l.Take(r)
		}
	}
}

// Take counts a request and shows it.
func (l *Log) Take(r modules.Request) {
	names := l.names(r.Askers)
	l.mu.Lock()
	defer l.mu.Unlock()
	key := ""
	if len(names) == 1 {
		key = names[0]
	}
	if _, known := l.counts[key]; !known && len(l.counts) >= maxNames {
		key = ""
	}
	c := l.counts[key]
	if len(r.Loaded) > 0 {
		c.Loaded++
	} else {
		c.Other++
	}
	l.counts[key] = c
	l.save()
	l.shown[key]++
	switch n := l.shown[key]; {
	case n == 1:
		l.cfg.After(window, func() { l.windowOver(key) })
		fallthrough
	case n <= linesPerWindow:
		l.show(r, names)
	}
}

// show writes the line of a request.
func (l *Log) show(r modules.Request, names []string) {
	who := "a process that is not known"
	switch {
	case len(names) > 0:
		who = strings.Join(names, " or ")
	case len(r.Askers) > 0:
		who = "the machine"
	}
	if len(r.Askers) == 1 {
		who += fmt.Sprintf(" (%s, pid %d)", r.Askers[0].Command, r.Askers[0].PID)
	}
	switch {
	case len(r.Loaded) > 0:
		l.cfg.Line("%s for %s, which asked for %s", strings.Join(r.Loaded, " "), who, r.Name)
	case r.Absent:
		l.cfg.Line("none for %s, which asked for %s: the image has no such module", who, r.Name)
	default:
		l.cfg.Warn("none for %s, which asked for %s: %s", who, r.Name, r.Error)
	}
}

// names are the containers among the askers, each once.
func (l *Log) names(askers []modules.Asker) []string {
	var names []string
	for _, a := range askers {
		if name := l.cfg.Who(a.Cgroup); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// windowOver shows how many lines of a container were not shown.
func (l *Log) windowOver(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	more := l.shown[key] - linesPerWindow
	delete(l.shown, key)
	if more <= 0 {
		return
	}
	who := key
	if who == "" {
		who = "others"
	}
	l.cfg.Warn("%d more requests for kernel modules by %s in the last %s", more, who, window)
}

// Counts returns what each container has asked for; "" is the machine's own processes,
// and all that are not known.
func (l *Log) Counts() map[string]Count {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := make(map[string]Count, len(l.counts))
	for name, c := range l.counts {
		counts[name] = c
	}
	return counts
}

// String is the counts in words, "" if nothing was asked for.
func (l *Log) String() string {
	var loaded, other int
	var by []string
	for name, c := range l.Counts() {
		loaded, other = loaded+c.Loaded, other+c.Other
		if name != "" {
			by = append(by, fmt.Sprintf("%s %d", name, c.Loaded+c.Other))
		}
	}
	if loaded+other == 0 {
		return ""
	}
	slices.Sort(by)
	text := fmt.Sprintf("requests: %d loaded a module, %d did not", loaded, other)
	if len(by) > 0 {
		text += "; by container: " + strings.Join(by, ", ")
	}
	return text
}

// save remembers the counts. mu is held.
func (l *Log) save() {
	if err := store.Save(l.cfg.Path, l.counts); err != nil && err.Error() != l.failed {
		l.failed = err.Error()
		l.cfg.Warn("a restarted supervisor will not know who asked for modules: %v", err)
	}
}
