package supervise

import (
	"runtime"

	"golang.org/x/sys/unix"

	"keelson/internal/console"
	"keelson/services/queue"
	"keelson/services/roster"
)

// smallMemory is where a second start at the same time takes room that containers need:
// the runtime's own first step in each takes megabytes.
const smallMemory = 192 << 20

// queues makes the queues in which services wait to be started, and to be removed.
func (s *Supervisor) queues() roster.Queues {
	var info unix.Sysinfo_t
	memory := uint64(0)
	if unix.Sysinfo(&info) == nil {
		memory = uint64(info.Totalram) * uint64(info.Unit)
	}
	width := turns(runtime.NumCPU(), memory)
	return roster.Queues{
		Starts:   queue.New(width, console.Now, queue.After),
		Removals: queue.New(width, console.Now, queue.After),
	}
}

// turns is how many services are started at a time: one more than there are CPUs, as a
// start also waits for others, but one where memory is short. 0 is memory that is not known.
func turns(cpus int, memory uint64) int {
	if memory != 0 && memory < smallMemory {
		return 1
	}
	return cpus + 1
}
