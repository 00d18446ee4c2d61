package task

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"keelson/internal/bundle"
)

// making knows in which containers a process is being made, the first one or another: the
// runtime takes some MiB of the container's memory until the command runs.
type making struct {
	mu  sync.Mutex
	all map[*made]bool // guarded by mu
}

// made is a process that is being made, or was just now.
type made struct {
	dir string    // the container's cgroup
	pid int       // 0 until it is known; guarded by making's mu
	end time.Time // when the runtime had made it, from then on it becomes the command; guarded by making's mu
}

const (
	// becoming is how long a process may take to become the command.
	becoming = 2 * time.Second
	// runtimeComm begins the name of a process until then.
	runtimeComm = "runc:["
)

// begin notes that a process is being made in a container. The caller calls done with
// its number when it is made, or with 0.
func (m *making) begin(dir string) (done func(pid int)) {
	one := &made{dir: dir}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all == nil {
		m.all = map[*made]bool{}
	}
	m.all[one] = true
	return func(pid int) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if one.pid, one.end = pid, time.Now(); pid == 0 {
			delete(m.all, one)
		}
		for other := range m.all {
			if !other.end.IsZero() && time.Since(other.end) > becoming {
				delete(m.all, other)
			}
		}
	}
}

// in reports whether a process is being made in a container; proc is where /proc is. One
// that is the command already could have the name of the runtime's, for a short while.
func (m *making) in(proc, dir string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for one := range m.all {
		if one.dir != dir {
			continue
		}
		if one.end.IsZero() {
			return true
		}
		comm, _ := os.ReadFile(proc + "/" + strconv.Itoa(one.pid) + "/comm")
		if time.Since(one.end) <= becoming && strings.HasPrefix(string(comm), runtimeComm) {
			return true
		}
	}
	return false
}

// Making reports whether a process is being made in the container of a cgroup, a directory.
func (r *Runtime) Making(dir string) bool { return r.making.in("/proc", dir) }

// runs returns a container that runs, or nil.
func (r *Runtime) runs(namespace, id string) *bundle.Bundle {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.tasks[namespace+"/"+id]; t != nil {
		return t.bundle
	}
	return nil
}
