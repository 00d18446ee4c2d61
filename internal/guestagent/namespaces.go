package guestagent

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// within calls f on a thread that has joined the namespaces of process pid, and directly for pid 0. Paths that
// f uses, symbolic links in them and children it starts are then those of that process.
func within(pid int, f func() error) error {
	if pid == 0 {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread is of no use to anybody else afterwards and ends with this goroutine.
		runtime.LockOSThread()
		done <- func() error {
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				return fmt.Errorf("process %d: %w", pid, err)
			}
			defer unix.Close(fd)
			// A mount namespace can only be joined by a thread that shares its root and working directory
			// with no other (setns(2)).
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare: %w", err)
			}
			const which = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID
			if err := unix.Setns(fd, which); err != nil {
				return fmt.Errorf("join the namespaces of process %d: %w", pid, err)
			}
			return f()
		}()
	}()
	return <-done
}
