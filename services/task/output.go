package task

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// idleOutput is how long a pipe may stay silent after the process has exited
	// until its output counts as whole, while something that the process has left
	// running has it open.
	idleOutput = time.Second
	// restOutput is more than a shim and the pipes around it hold: what comes beyond
	// it was written by what the process has left running.
	restOutput = 1 << 20
)

// An output reads what a process writes, at the pace of its reader.
//
//   - It returns every byte that the process wrote, however late those are read: the
//     end is a pipe that nobody has open for writing any more.
//   - Where something that the process has left running has the pipe open, the end is
//     a pipe that stays silent for idle. Only time that a reader waits counts.
//   - One that the process has left running and that writes all the time is cut.
type output struct {
	file   *os.File
	exited chan struct{} // closed when the process has exited
	idle   time.Duration
	// settle has the shim move on what it holds; the channel is closed when it has. It
	// is nil for a terminal, whose output always comes to an end: silence before that
	// is an error.
	settle func() <-chan struct{}

	at   time.Time    // when the process has exited; set before exited is closed
	rest atomic.Int64 // what may still be read after that
	over bool         // of the reader: only what is there already is read
}

// errOutputCut says that a terminal's end did not come.
var errOutputCut = errors.New("the end of its output did not come: the shim does not answer")

// processExited tells that no more is written.
func (o *output) processExited() {
	o.at = time.Now()
	left := 0
	if conn, err := o.file.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { left, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	o.rest.Store(int64(left) + restOutput)
	close(o.exited)
	_ = o.file.SetReadDeadline(o.at.Add(o.idle)) // for a reader that waits
}

// hasExited reports whether the process has exited.
func (o *output) hasExited() bool {
	select {
	case <-o.exited:
		return true
	default:
		return false
	}
}

// Read reads what the process wrote. The end of that is io.EOF.
func (o *output) Read(p []byte) (int, error) {
	if o.over {
		return o.last(p)
	}
	bound := time.Time{}
	if o.hasExited() {
		if o.rest.Load() <= 0 && time.Since(o.at) > o.idle {
			return 0, io.EOF
		}
		bound = time.Now().Add(o.idle)
	}
	n, silent, err := o.await(p, bound)
	switch {
	case !silent:
		return n, err
	case o.settle == nil:
		return 0, errOutputCut
	}
	for settled := o.settle(); ; {
		select {
		case <-settled:
			o.over = true
			return o.last(p)
		default:
		}
		if n, silent, err = o.await(p, time.Now().Add(o.idle/10)); !silent {
			return n, err
		}
	}
}

// await reads, and reports silence where nothing has come until the bound, or until
// that of processExited if bound is zero.
func (o *output) await(p []byte, bound time.Time) (n int, silent bool, err error) {
	if !bound.IsZero() {
		if err := o.file.SetReadDeadline(bound); err != nil {
			return 0, false, err
		}
	}
	n, err = o.file.Read(p)
	if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		o.rest.Add(-int64(n))
		return n, false, err
	}
	// The deadline says nothing of what is there: it may have passed before the read.
	n, err = o.pending(p)
	return n, errors.Is(err, unix.EAGAIN), err
}

// last reads what is there and then ends.
func (o *output) last(p []byte) (int, error) {
	n, err := o.pending(p)
	if errors.Is(err, unix.EAGAIN) {
		err = io.EOF
	}
	return n, err
}

// pending reads what is there; EAGAIN is nothing.
func (o *output) pending(p []byte) (n int, err error) {
	conn, err := o.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	if cerr := conn.Control(func(fd uintptr) { n, err = unix.Read(int(fd), p) }); cerr != nil {
		return 0, cerr
	}
	switch {
	case n > 0:
		o.rest.Add(-int64(n))
		return n, nil
	case err == nil:
		return 0, io.EOF
	default:
		return 0, os.NewSyscallError("read", err)
	}
}
