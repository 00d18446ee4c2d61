// Package rtsignal owns what is done about the three signals that os/signal
// leaves alone because C libraries use them: 32, 33 and 34.
//
// PID 1 must ignore them. The kernel drops a signal without a handler that is
// sent to the first process, but not if that process's first thread blocks
// signals at the moment, as the Go runtime does while it starts a thread: then
// the signal goes to another thread, where its default is in force and ends the
// machine (sig_ignored and complete_signal in kernel/signal.c). What is ignored
// stays so in the programs that are started, so the supervisor, from which all
// others descend, takes it back.
package rtsignal

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Handlers of sigaction(2).
const (
	sigDefault = 0
	sigIgnore  = 1
)

// Ignore makes the process deaf for the three, and what it starts.
func Ignore() error { return set(sigIgnore) }

// Default gives the three back their default.
func Default() error { return set(sigDefault) }

func set(handler uintptr) error {
	var errs []error
	for n := syscall.Signal(32); n <= 34; n++ {
		// struct sigaction of the kernel begins with the handler; the rest (flags,
		// restorer, mask) counts for functions only.
		action := [8]uintptr{handler}
		const setBytes = 8 // of sigset_t
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(&action)), 0, setBytes, 0, 0); errno != 0 {
			errs = append(errs, fmt.Errorf("rt_sigaction of signal %d: %w", int(n), errno))
		}
	}
	return errors.Join(errs...)
}
