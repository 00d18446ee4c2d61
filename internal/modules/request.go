package modules

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// RequestSocket is where the module helper reports what the kernel asked it for.
const RequestSocket = "/run/keelson/modules.sock"

// Request is one time that the kernel has asked for a module.
type Request struct {
	Name   string   `json:"name"`             // as the kernel asked: net-pf-40, fs-xfs
	Loaded []string `json:"loaded,omitempty"` // what was loaded for it
	Absent bool     `json:"absent,omitempty"` // the image has no such module
	Error  string   `json:"error,omitempty"`  // why it was not loaded, where it is there
	Askers []Asker  `json:"askers,omitempty"` // who waits for a module: usually one
}

// Asker is a process that waits for the kernel to have a module loaded.
type Asker struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
	Cgroup  string `json:"cgroup"`
}

// findBound is how long the askers are searched for: whoever asked waits meanwhile. It
// takes some milliseconds, and a machine under load, where it takes longer, is the one
// whose owner wants to know.
const findBound = 2 * time.Second

// askers returns the processes that wait for a module helper. The kernel does not name
// the one that made it ask, and the helper is a child of the kernel's; but a process
// waits in the kernel for as long as the helper runs. Several that wait at once cannot
// be told apart, and one that does not wait is not found.
//
// Most that ask have one thread, so other threads are looked at only where no first one
// waits: that halves the time.
func askers(proc string) []Asker {
	until := time.Now().Add(findBound)
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil
	}
	found := waiting(proc, entries, until, func(dir string) []string { return []string{dir} })
	if len(found) == 0 {
		found = waiting(proc, entries, until, func(dir string) []string {
			threads, _ := filepath.Glob(dir + "/task/*")
			return threads
		})
	}
	return found
}

// waiting returns the processes of which one of the threads waits for a module helper.
func waiting(proc string, entries []os.DirEntry, until time.Time, threads func(dir string) []string) (found []Asker) {
	// The newest first, as far as names tell: who asks is seldom an old daemon.
	for _, e := range slices.Backward(entries) {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if time.Now().After(until) {
			return found
		}
		dir := filepath.Join(proc, e.Name())
		for _, thread := range threads(dir) {
			if !waits(thread) {
				continue
			}
			a := Asker{PID: pid}
			command, _ := os.ReadFile(thread + "/comm")
			a.Command = strings.TrimSuffix(string(command), "\n")
			groups, _ := os.ReadFile(dir + "/cgroup")
			a.Cgroup = cgroupOf(string(groups))
			found = append(found, a)
			break
		}
	}
	return found
}

// waits reports whether a thread waits for a module helper.
func waits(thread string) bool {
	const helper = "call_usermodehelper_exec"
	var where [2 * len(helper)]byte
	// With plain system calls: this is done for each thread of the machine.
	fd, err := unix.Open(thread+"/wchan", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	n, err := unix.Read(fd, where[:])
	unix.Close(fd)
	if err != nil || string(where[:n]) != helper {
		return false
	}
	// The kernel runs other helpers too. Where it shows no stack it may be one of those.
	stack, err := os.ReadFile(thread + "/stack")
	return err != nil || len(stack) == 0 || bytes.Contains(stack, []byte("request_module"))
}

// cgroupOf is the longest path of /proc/PID/cgroup: the only one, or with the old
// hierarchies one of those that a container is in.
func cgroupOf(text string) string {
	longest := ""
	for line := range strings.Lines(text) {
		if f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(f) == 3 && len(f[2]) > len(longest) {
			longest = f[2]
		}
	}
	return longest
}

// reportBound is how long a report may wait for the supervisor.
const reportBound = 200 * time.Millisecond

// report tells the supervisor of a request.
func (r Request) report(socket string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	conn, err := net.DialTimeout("unixgram", socket, reportBound)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(reportBound)); err != nil {
		return err
	}
	_, err = conn.Write(data)
	return err
}

// serve loads what was asked for and returns modprobe's exit status.
func (r *Request) serve(ctx context.Context, open func() (*Index, error)) int {
	x, err := open()
	if err == nil {
		r.Loaded, err = x.modprobe(ctx, r.Name, nil, false)
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrNotFound) || errors.Is(err, ErrNoModules):
		r.Absent = true
	default:
		r.Error = err.Error()
	}
	return 1
}

// idle reports whether there is nothing to report: the module was there already.
func (r *Request) idle() bool { return len(r.Loaded) == 0 && !r.Absent && r.Error == "" }

// String is the request in one line.
func (r Request) String() string {
	var who []string
	for _, a := range r.Askers {
		who = append(who, fmt.Sprintf("%s (pid %d, cgroup %s)", a.Command, a.PID, a.Cgroup))
	}
	text := fmt.Sprintf("%s asked for", r.Name)
	if len(who) > 0 {
		text += " by " + strings.Join(who, " or ")
	}
	switch {
	case len(r.Loaded) > 0:
		text += ": loaded " + strings.Join(r.Loaded, " ")
	case r.Absent:
		text += ": there is no such module"
	case r.Error != "":
		text += ": " + r.Error
	}
	return text
}
