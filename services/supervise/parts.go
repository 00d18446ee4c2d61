package supervise

import (
	"context"
	"path/filepath"
	"time"

	"keelson/internal/console"
	"keelson/internal/pidfd"
	"keelson/services/parts"
	"keelson/services/task"
)

// watchParts begins to watch what the machine runs by. containerd comes with
// watchContainerd, the shims when they are there.
func (s *Supervisor) watchParts(ctx context.Context) {
	shims := &parts.Shims{Tasks: filepath.Join(containerdState, task.Dir), Processes: func() []int { return s.tasks.Shims() }}
	s.parts = parts.New(s.con, console.Now, func() { shims.Scan(ctx) })
	shims.Set = s.parts
	go s.parts.Run(ctx)
}

// watchContainerd watches a containerd that has come.
func (s *Supervisor) watchContainerd(ctx context.Context, pid int) {
	process, err := pidfd.Open(pid)
	if err != nil {
		return // it has just exited
	}
	exited := make(chan struct{})
	go func() {
		_ = process.Wait(ctx)
		close(exited)
		process.Close()
	}()
	s.parts.Watch(ctx, parts.Part{
		Name: "containerd", PID: pid, Limits: parts.Containerd,
		Ask: s.tasks.Client.Ask, Signal: process.Signal, Exited: exited,
	})
}

// beatEvery is how often PID 1 is shown that the supervisor goes round.
const beatEvery = 10 * time.Second

// beat shows PID 1 that the supervisor goes round, as long as it lives: that its own
// goroutine comes round, until the machine goes down, and that nobody keeps the services
// locked.
func (s *Supervisor) beat() {
	t := time.NewTicker(beatEvery)
	for ; ; <-t.C {
		if r := s.known.roster.Load(); r != nil {
			_ = r.Unsettled()
		}
		select {
		case s.rounds <- struct{}{}:
		case <-s.leaving:
		}
		if err := s.logging.kept.Beat(); err != nil {
			s.con.Warn("keelson", "PID 1 is not shown that the supervisor goes round: %v", err)
			return
		}
	}
}
