// Package reap waits for processes to end without stealing anybody's children.
//
// There is one owner of every wait(2) in the shim: whoever started a process
// waits for that process and no other. libcontainer waits for the short-lived
// stages of a container's start, this package says when a container's process
// has ended, and its owner then collects it. Nobody ever calls wait4(-1), so
// no exit can go to the wrong one, and the shim is no child subreaper: every
// container process is its direct child (libcontainer clones with
// CLONE_PARENT), and what containers orphan belongs to PID 1.
//
// A waiting process costs a file descriptor and a parked goroutine; no thread,
// no timer, no signal.
package reap

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Handle refers to one process for as long as it is open, however often the
// kernel uses its pid again.
type Handle struct {
	file *os.File
	conn syscall.RawConn
}

// Open opens a process that has not been collected yet. It fails on kernels
// before 5.3, which have no pidfd_open(2); the owner then has to block in
// wait(2) itself.
func Open(pid int) (*Handle, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	// A nonblocking descriptor is one that the runtime's poller takes.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set pidfd of %d nonblocking: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	conn, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("poll pidfd of %d: %w", pid, err)
	}
	return &Handle{file: f, conn: conn}, nil
}

// Wait returns when the process has ended, without collecting it. It returns
// os.ErrClosed when the handle is closed meanwhile.
func (h *Handle) Wait() error {
	var pollErr error
	err := h.conn.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(p, 0)
			if err == unix.EINTR {
				continue
			}
			pollErr = err
			return err != nil || n > 0
		}
	})
	if err != nil {
		return os.ErrClosed // the only way for a poll without deadline to fail
	}
	return pollErr
}

// Close ends every Wait.
func (h *Handle) Close() error { return h.file.Close() }

// Status is the exit status of a collected process as containerd counts it:
// the exit code, or 128 plus the signal that ended it.
func Status(st *os.ProcessState) int {
	if st == nil {
		return 255
	}
	if ws, ok := st.Sys().(syscall.WaitStatus); ok {
		if ws.Signaled() {
			return 128 + int(ws.Signal())
		}
		return ws.ExitStatus()
	}
	return st.ExitCode()
}
