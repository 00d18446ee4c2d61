package supervise

import (
	"context"
	"fmt"
	"os"
	"path"
	"strings"

	"keelson/internal/bundle"
	"keelson/internal/policy"
	"keelson/services/notify"
	"keelson/services/probe"
	"keelson/services/runner"
	"keelson/services/task"
)

// look looks at a running service once.
func look(ctx context.Context, p policy.Probe, t task.Task) error {
	target := probe.Target{PID: t.PID()}
	if x, ok := t.(task.Execer); ok {
		target.Exec = x.Exec
	}
	return probe.Check(ctx, p, target)
}

// listen opens the socket on which a service says how it is, until ctx ends.
func (s *Supervisor) listen(ctx context.Context, b *bundle.Bundle) (<-chan runner.Message, error) {
	// The machine's root alone may come this way; a container has the folder below.
	if err := os.MkdirAll(s.tasks.NotifyDir, 0o700); err != nil {
		return nil, err
	}
	cgroup := b.CgroupsPath()
	l, err := notify.Listen(s.tasks.NotifyFolder(b),
		func(pid int) bool {
			table, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
			return err == nil && inCgroup(string(table), cgroup)
		},
		func(format string, a ...any) { s.con.Warn(b.Name, format, a...) })
	if err != nil {
		return nil, err
	}
	messages := make(chan runner.Message)
	go func() {
		defer l.Close()
		for {
			select {
			case m := <-l.C():
				select {
				case messages <- runner.Message(m):
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return messages, nil
}

// inCgroup reports whether a process is in a cgroup or below it, by its file
// /proc/PID/cgroup. With cgroup v1 one hierarchy that says so is enough: not all
// of them have to know a container.
func inCgroup(table, cgroup string) bool {
	for line := range strings.Lines(table) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) < 3 {
			continue
		}
		at := path.Clean(strings.TrimSuffix(fields[2], " (deleted)"))
		if at == cgroup || strings.HasPrefix(at, strings.TrimSuffix(cgroup, "/")+"/") {
			return true
		}
	}
	return false
}
