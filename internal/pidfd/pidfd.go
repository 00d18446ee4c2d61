// Package pidfd holds processes that are not our children by descriptor, so
// that their end can be waited for and a signal can never reach another process
// that was given the same number. See pidfd_open(2).
package pidfd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// aLongTimeAgo is a deadline that has passed, which ends a wait at once.
var aLongTimeAgo = time.Unix(1, 0)

// Process is a process held by descriptor.
type Process struct {
	PID  int
	file *os.File
	conn syscall.RawConn
}

// Open takes hold of the process with that number. The error is unix.ESRCH if
// there is none.
func Open(pid int) (*Process, error) {
	// A flag of 0 and fcntl, since PIDFD_NONBLOCK came only with Linux 5.10.
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("hold process %d: %w", pid, err)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("hold process %d: %w", pid, err)
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	conn, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("hold process %d: %w", pid, err)
	}
	return &Process{PID: pid, file: file, conn: conn}, nil
}

// Wait returns nil once the process has ended, whoever reaps it, or the
// context's error.
func (p *Process) Wait(ctx context.Context) error {
	for {
		// A wait that was cancelled leaves its deadline behind, possibly late.
		if err := p.file.SetReadDeadline(time.Time{}); err != nil {
			return fmt.Errorf("wait for process %d: %w", p.PID, err)
		}
		stop := context.AfterFunc(ctx, func() { _ = p.file.SetReadDeadline(aLongTimeAgo) })
		err := p.conn.Read(func(fd uintptr) bool {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(poll, 0)
			return err == nil && n > 0
		})
		stop()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("wait for process %d: %w", p.PID, err)
		}
	}
}

// Ended reports whether the process has ended.
func (p *Process) Ended() bool {
	ended := false
	_ = p.conn.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		ended = err == nil && n > 0
	})
	return ended
}

// Signal sends a signal. A process that has ended is no error.
func (p *Process) Signal(sig unix.Signal) error {
	var err error
	if cerr := p.conn.Control(func(fd uintptr) {
		err = unix.PidfdSendSignal(int(fd), sig, nil, 0)
	}); cerr != nil {
		return fmt.Errorf("signal process %d: %w", p.PID, cerr)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(sig), p.PID, err)
	}
	return nil
}

// Close lets go of the process; a Wait under way ends with an error.
func (p *Process) Close() { _ = p.file.Close() }
