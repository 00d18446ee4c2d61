package capture

import (
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// gateBurst is how much work may be done at once before anybody waits.
	gateBurst = 5 * time.Millisecond
	// gateLeast is the shortest wait there is a use for.
	gateLeast = time.Millisecond
	// gateMost is the longest for whoever writes files, as somebody may come to wait for
	// all that there is: what is left of it is in the next wait of whoever reads a pipe.
	gateMost = 100 * time.Millisecond
)

// gate keeps the work for streams that are written fast within a share of the
// processors, whoever they are: who works is told how long to rest.
type gate struct {
	share float64
	now   func() time.Duration

	mu   sync.Mutex
	free time.Duration // when all that was done is within the share, guarded by mu
}

// gateShare is how many of so many processors the work may take: half of them, as a
// writer needs as much itself, but where there are two or three enough to move one
// stream and to write its file at the same time.
func gateShare(processors int) float64 {
	n := float64(processors)
	return max(n/2, min(n-0.5, 1.5))
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
		return rest // with many at once as long as it takes for all of them
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
	// It returns at once: Go need not be told that it might not.
	if _, _, err := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_THREAD_CPUTIME_ID, uintptr(unsafe.Pointer(&ts)), 0); err != 0 {
		return 0
	}
	return time.Duration(ts.Nano())
}
