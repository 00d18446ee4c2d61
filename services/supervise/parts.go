package supervise

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/console"
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
	s.parts.WatchProcess(ctx, parts.Part{Name: "containerd", PID: pid, Limits: parts.Containerd, Ask: s.tasks.Client.Ask}, nil)
}

// stacksFile is where a supervisor that hangs leaves its stacks, below RunDir, and
// stacksBytes how much of them: with many services there are thousands of goroutines.
const (
	stacksFile  = "stacks.txt"
	stacksBytes = 1 << 20
)

// writeStacksOnAbort has PID 1's SIGABRT write the stacks to a file and end the supervisor. The Go
// runtime would write all of them to the console.
func writeStacksOnAbort(dir string) {
	abort := make(chan os.Signal, 1)
	signal.Notify(abort, unix.SIGABRT)
	go func() {
		<-abort
		stacks := make([]byte, stacksBytes)
		stacks = stacks[:runtime.Stack(stacks, true)]
		_ = os.WriteFile(filepath.Join(dir, stacksFile), stacks, 0o600)
		os.Exit(128 + int(unix.SIGABRT))
	}()
}

// beatEvery is how often PID 1 is shown that the supervisor goes round: a wakeup each.
const beatEvery = 20 * time.Second

// beat shows PID 1 that the supervisor goes round, and that nobody keeps the services locked.
func (s *Supervisor) beat() {
	if r := s.known.roster.Load(); r != nil {
		_ = r.Unsettled()
	}
	if err := s.logging.kept.Beat(); err != nil {
		s.con.Warn("keelson", "PID 1 is not shown that the supervisor goes round: %v", err)
	}
}

// beatOn goes on with that while the supervisor's own goroutine takes the machine down.
func (s *Supervisor) beatOn(ctx context.Context) {
	t := time.NewTicker(beatEvery)
	defer t.Stop()
	for {
		s.beat()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
