// Package pidfd holds processes that are not our children by descriptor, so
// that their end can be waited for and a signal can never reach another process
// that was given the same number. See pidfd_open(2).
package pidfd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
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

// Identity names one process of one boot: process numbers are given anew, but
// not with the same time of start. The zero value names none.
type Identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, field 22 of /proc/PID/stat
}

// OpenSame takes hold of a process that was known before. The error is
// unix.ESRCH if it has ended, whoever has its number now.
func OpenSame(id Identity) (*Process, error) {
	if id.PID <= 1 {
		return nil, fmt.Errorf("hold process %d: %w", id.PID, unix.ESRCH)
	}
	p, err := Open(id.PID)
	if err != nil {
		return nil, err
	}
	if now, err := p.Identity(); err != nil || now != id {
		p.Close()
		return nil, fmt.Errorf("hold process %d: %w", id.PID, unix.ESRCH)
	}
	return p, nil
}

// Identity returns the process's identity, or an error if it has ended.
func (p *Process) Identity() (Identity, error) {
	start, err := startTime(p.PID)
	// Not ended yet: so the number was its own while it was looked at.
	if err == nil && p.Ended() {
		err = unix.ESRCH
	}
	if err != nil {
		return Identity{}, fmt.Errorf("identify process %d: %w", p.PID, err)
	}
	return Identity{p.PID, start}, nil
}

// startTime reads when a process was started.
func startTime(pid int) (uint64, error) {
	text, err := Stat(pid, 22)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(text, 10, 64)
}

// Stat reads a field of /proc/PID/stat, by its number in proc_pid_stat(5): 3 or more.
func Stat(pid, field int) (string, error) {
	path := fmt.Sprintf("/proc/%d/stat", pid)
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	// The name, field 2, may hold blanks and parentheses itself.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) <= field-3 {
		return "", fmt.Errorf("%s: too short", path)
	}
	return fields[field-3], nil
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
