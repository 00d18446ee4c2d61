// Package garbage puts off a process's garbage collection while the machine boots.
//
// A program that starts makes garbage faster than ever again and has a small heap, so
// that it collects every few milliseconds, at a time when everybody waits for it. Here
// garbage gathers until the start is over, and is then collected once.
//
// It promises
//   - that no more gathers than a share of the machine's memory: a process that
//     reaches it collects as always from then on, because one that needs so much anyway
//     would otherwise do nothing but collect;
//   - that it ends by itself;
//   - that GOGC in the environment, which is there where there is little memory, has
//     its effect from the start.
package garbage

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Bound is how long collection is put off at most.
	Bound = 30 * time.Second
	// share is the part of the machine's memory that a process may fill.
	share = 32
	// most is what it may fill of a large one. With less than least nothing is put off:
	// in a machine of less than 512 MiB containers may have been promised the rest.
	most, least = 32 << 20, 16 << 20
)

// Postponed is collection that was put off.
type Postponed struct {
	percent int
	once    sync.Once // for what ends it
}

// Postpone puts collection off until Release, or until Bound has passed. percent is that
// of debug.SetGCPercent from then on; GOGC wins over it.
func Postpone(percent int) *Postponed {
	return postpone(percent, limit())
}

func postpone(percent int, limit int64) *Postponed {
	p := &Postponed{percent: percent}
	switch {
	case os.Getenv("GOGC") != "":
		p.once.Do(func() {})
	case limit < least:
		p.resume()
	default:
		debug.SetMemoryLimit(limit)
		debug.SetGCPercent(-1)
		// The first collection frees it: the limit was reached.
		runtime.AddCleanup(&witness{}, func(p *Postponed) { p.resume() }, p)
		time.AfterFunc(Bound, p.Release)
	}
	return p
}

// A witness is freed by the first collection. It is too large for the runtime to put it
// together with something that lives on.
type witness struct{ _ [64]byte }

// resume collects as always from now on.
func (p *Postponed) resume() {
	p.once.Do(func() {
		debug.SetGCPercent(p.percent)
		debug.SetMemoryLimit(math.MaxInt64)
	})
}

// Release ends what is left of the postponement, collects, and gives the kernel what is
// free.
func (p *Postponed) Release() {
	p.resume()
	debug.FreeOSMemory()
}

// limit is how much memory a process may fill, in bytes.
func limit() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(min(uint64(info.Totalram)*uint64(info.Unit)/share, most))
}
