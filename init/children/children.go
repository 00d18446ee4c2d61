// Package children reaps.
//
// It promises to be the only caller of wait4(2) in PID 1 (but for a failed exec
// within kernel.Calls.Start, which waits for that one process), so that nobody
// misses or steals an exit status; to return where there is nothing to reap
// instead of trying again; and to reap a bounded number at once.
package children

import (
	"errors"
	"syscall"

	"keelson/init/kernel"
)

// Left says whether children are left after reaping.
type Left int

const (
	None Left = iota // no child at all
	Some             // some live
	Many             // more may have ended: reap again
)

// atOnce bounds one Reap, so that children that end as fast as they are reaped
// cannot keep PID 1 from anything else.
const atOnce = 512

// Reap reaps the children that have ended and tells each to ended, if that is
// not nil.
func Reap(k kernel.Calls, ended func(pid int, st syscall.WaitStatus)) Left {
	for range atOnce {
		pid, st, err := k.Wait()
		switch {
		case errors.Is(err, syscall.ECHILD):
			return None
		case err != nil || pid <= 0:
			return Some
		case ended != nil:
			ended(pid, st)
		}
	}
	return Many
}
