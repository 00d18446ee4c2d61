package capture

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// gateBurst is how much work may be done at once before anybody waits.
	gateBurst = 5 * time.Millisecond
	// gateLeast is the shortest wait there is a use for, gateMost the longest.
	gateLeast = time.Millisecond
	gateMost  = 100 * time.Millisecond
)

// gate keeps the work for streams that are written fast within a share of the
// processors, whoever they are: who works is told how long to rest.
type gate struct {
	share float64
	now   func() time.Duration

	mu   sync.Mutex
	free time.Duration // when all that was done is within the share, guarded by mu
}

func newGate(share float64, now func() time.Duration) *gate { return &gate{share: share, now: now} }

// spend takes note of work and returns how long to rest after it.
func (g *gate) spend(work time.Duration) time.Duration {
	if work <= 0 {
		return 0
	}
	now := g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.free = max(g.free, now-gateBurst) + time.Duration(float64(work)/g.share)
	if rest := g.free - now; rest >= gateLeast {
		return min(rest, gateMost)
	}
	return 0
}

// measured does work and returns how much processor time it took. The work must not
// wait for anybody for long: its thread is its own meanwhile.
func measured(work func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := threadTime()
	work()
	return threadTime() - began
}

func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
