package task

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"keelson/internal/bundle"
)

// exitFile is what our shim leaves in a task's folder when the task has ended,
// because containerd drops the exit code of one that ends while it is away.
type exitFile struct {
	ID         string    `json:"id"`
	PID        int       `json:"pid"`
	ExitStatus int       `json:"exit_status"`
	ExitedAt   time.Time `json:"exited_at"`
}

// readExit reads the exit of a container's task from where its shim wrote it. A
// stock shim writes none.
func (r *Runtime) readExit(b *bundle.Bundle) (Exit, bool) {
	path := filepath.Join(r.StateDir, "io.containerd.runtime.v2.task", b.Namespace(), b.ID, "exit.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return Exit{}, false
	}
	var f exitFile
	if json.Unmarshal(data, &f) != nil || f.ID != b.ID {
		return Exit{}, false
	}
	return Exit{Status: f.ExitStatus, Known: true, At: f.ExitedAt}, true
}
