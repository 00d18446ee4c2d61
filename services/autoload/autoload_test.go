package autoload

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keelson/internal/modules"
)

// world is a Log whose lines and timers the test sees.
type world struct {
	*Log
	lines  []string
	timers []func()
}

func open(t *testing.T, path string) *world {
	w := &world{}
	w.Log = Open(Config{
		Path: path,
		Who:  func(cgroup string) string { return strings.TrimPrefix(cgroup, "/services/") },
		Line: func(format string, a ...any) { w.lines = append(w.lines, fmt.Sprintf(format, a...)) },
		Warn: func(format string, a ...any) { w.lines = append(w.lines, "warning: "+fmt.Sprintf(format, a...)) },
		After: func(d time.Duration, f func()) {
			if d != window {
				t.Errorf("a timer of %v", d)
			}
			w.timers = append(w.timers, f)
		},
	})
	return w
}

func by(cgroups ...string) (a []modules.Asker) {
	for i, c := range cgroups {
		a = append(a, modules.Asker{PID: 7 + i, Command: "x", Cgroup: c})
	}
	return a
}

func TestLines(t *testing.T) {
	for _, c := range []struct {
		r    modules.Request
		want string
	}{
		{modules.Request{Name: "net-pf-40", Loaded: []string{"vsock", "x"}, Askers: by("/services/asks")}, "vsock x for asks (x, pid 7), which asked for net-pf-40"},
		{modules.Request{Name: "net-pf-40", Loaded: []string{"vsock"}, Askers: by("/services/a", "/services/b", "/services/a")}, "vsock for a or b, which asked for net-pf-40"},
		{modules.Request{Name: "fs-xfs", Loaded: []string{"xfs"}, Askers: by("")}, "xfs for the machine (x, pid 7), which asked for fs-xfs"},
		{modules.Request{Name: "fs-xfs", Loaded: []string{"xfs"}}, "xfs for a process that is not known, which asked for fs-xfs"},
		{modules.Request{Name: "binfmt-0403", Absent: true, Askers: by("/services/asks")}, "none for asks (x, pid 7), which asked for binfmt-0403: the image has no such module"},
		{modules.Request{Name: "fs-xfs", Error: "locked", Askers: by("/services/asks")}, "warning: none for asks (x, pid 7), which asked for fs-xfs: locked"},
	} {
		w := open(t, filepath.Join(t.TempDir(), "c.json"))
		w.Take(c.r)
		if !slices.Equal(w.lines, []string{c.want}) {
			t.Errorf("%+v: %q, want %q", c.r, w.lines, c.want)
		}
	}
}

func TestFewLinesForManyRequests(t *testing.T) {
	w := open(t, filepath.Join(t.TempDir(), "c.json"))
	for range 100 {
		w.Take(modules.Request{Name: "binfmt-0403", Absent: true, Askers: by("/services/evil")})
	}
	w.Take(modules.Request{Name: "fs-xfs", Loaded: []string{"xfs"}, Askers: by("/services/good")})
	if len(w.lines) != linesPerWindow+1 || !strings.HasPrefix(w.lines[linesPerWindow], "xfs for good") {
		t.Errorf("lines %q", w.lines)
	}
	if len(w.timers) != 2 {
		t.Fatalf("%d timers", len(w.timers))
	}
	w.lines = nil
	w.timers[0]()
	w.timers[1]()
	if want := []string{"warning: 95 more requests for kernel modules by evil in the last 1m0s"}; !slices.Equal(w.lines, want) {
		t.Errorf("lines %q, want %q", w.lines, want)
	}
	w.lines = nil
	w.Take(modules.Request{Name: "binfmt-0403", Absent: true, Askers: by("/services/evil")})
	if len(w.lines) != 1 {
		t.Errorf("in the next minute there are %q", w.lines)
	}
	if got, want := w.String(), "requests: 1 loaded a module, 101 did not; by container: evil 101, good 1"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestCountsOutliveTheSupervisor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.json")
	w := open(t, path)
	w.Take(modules.Request{Name: "fs-xfs", Loaded: []string{"xfs"}, Askers: by("/services/good")})
	w.Take(modules.Request{Name: "fs-xfs", Loaded: []string{"xfs"}})
	w = open(t, path)
	w.Take(modules.Request{Name: "fs-xfs", Error: "locked", Askers: by("/services/good")})
	if c := w.Counts(); c["good"] != (Count{1, 1}) || c[""] != (Count{1, 0}) || len(c) != 2 {
		t.Errorf("counts %v", c)
	}
}

func TestNamesAreBounded(t *testing.T) {
	w := open(t, filepath.Join(t.TempDir(), "c.json"))
	for i := range maxNames + 10 {
		w.Take(modules.Request{Name: "x", Absent: true, Askers: by(fmt.Sprint("/services/", i))})
	}
	if n := len(w.Counts()); n > maxNames+1 {
		t.Errorf("%d names", n)
	}
	if c := w.Counts()[""]; c.Other != 10 {
		t.Errorf("the others are %+v", c)
	}
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	taken := make(chan string, 1)
	l := Open(Config{
		Path: filepath.Join(dir, "c.json"), Who: func(string) string { return "asks" },
		Line: func(format string, a ...any) { taken <- fmt.Sprintf(format, a...) },
		Warn: t.Errorf, After: func(time.Duration, func()) {},
	})
	for range 2 { // the second finds the socket of the first
		ctx, cancel := context.WithCancel(context.Background())
		over := make(chan error, 1)
		go func() { over <- l.Run(ctx, socket) }()
		data, _ := json.Marshal(modules.Request{Name: "n", Loaded: []string{"m"}, Askers: by("c")})
		var conn net.Conn
		var err error
		for conn == nil {
			if conn, err = net.Dial("unixgram", socket); err != nil {
				time.Sleep(time.Millisecond)
			}
		}
		for _, text := range []string{"no JSON", string(data)} {
			if _, err := conn.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if got := <-taken; !strings.HasPrefix(got, "m for asks") {
			t.Errorf("line %q", got)
		}
		conn.Close()
		cancel()
		<-over
	}
}
