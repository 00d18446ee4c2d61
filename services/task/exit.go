package task

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"keelson/internal/bundle"
)

// exitFile is what our shim leaves in a task's folder when the task has ended,
// because containerd drops the exit code of one that ends while it is away. A
// stock shim leaves none.
type exitFile struct {
	ID         string    `json:"id"`
	PID        int       `json:"pid"`
	ExitStatus int       `json:"exit_status"`
	ExitedAt   time.Time `json:"exited_at"`
}

// Dir is where containerd has its tasks' folders, NAMESPACE/ID, below its
// state folder.
const Dir = "io.containerd.runtime.v2.task"

// readExit returns the exit of a container's task as its shim wrote it down, or
// as SaveExits kept it; with a process number only that of the task that had it.
func (r *Runtime) readExit(b *bundle.Bundle, pid int) (Exit, bool) {
	if e, ok := readExitFile(filepath.Join(r.StateDir, Dir, key(b), "exit.json"), b.ID); ok {
		return e, pid == 0 || e.PID == pid
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.exits[key(b)]
	return e, ok && (pid == 0 || e.PID == pid)
}

// SaveExits keeps what shims wrote of tasks that ended. It is to be called
// before containerd is started: it removes the folders of such tasks.
func (r *Runtime) SaveExits() {
	files, _ := filepath.Glob(filepath.Join(r.StateDir, Dir, "*", "*", "exit.json"))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.exits == nil {
		r.exits = map[string]Exit{}
	}
	for _, path := range files {
		dir := filepath.Dir(path)
		id := filepath.Base(dir)
		if e, ok := readExitFile(path, id); ok {
			r.exits[filepath.Base(filepath.Dir(dir))+"/"+id] = e
		}
	}
}

func readExitFile(path, id string) (Exit, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Exit{}, false
	}
	var f exitFile
	if json.Unmarshal(data, &f) != nil || f.ID != id {
		return Exit{}, false
	}
	return Exit{Status: f.ExitStatus, Known: true, PID: f.PID, At: f.ExitedAt}, true
}
