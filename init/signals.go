package main

import (
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"keelson/internal/rtsignal"
)

// signals are the kinds PID 1 tells apart. Each has its own channel, so that a
// storm of one cannot push another out.
type signals struct {
	children chan os.Signal // SIGCHLD, merged into one
	stops    chan os.Signal // what asks for a stop
	rest     chan os.Signal // taken over so that they do nothing; never read
}

// watch takes over what PID 1 acts on: the stop signals, so that the first
// process there is may ask for a stop, and SIGCHLD.
func watch() signals {
	s := signals{children: make(chan os.Signal, 1), stops: make(chan os.Signal, 16), rest: make(chan os.Signal, 1)}
	signal.Notify(s.children, syscall.SIGCHLD)
	signal.Notify(s.stops, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTERM, syscall.SIGINT)
	return s
}

// watchAll takes over every other signal there is. The Go runtime ends the
// program on most of those it is not asked to deliver, and this program may not
// end; a write to a console that has gone must give EPIPE and no SIGPIPE. It
// takes a millisecond under emulation, which the supervisor need not wait for.
func (s signals) watchAll() {
	const last = 64
	for n := syscall.Signal(1); n <= last; n++ {
		switch n {
		case syscall.SIGCHLD, syscall.SIGKILL, syscall.SIGSTOP,
			syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTERM, syscall.SIGINT:
		case syscall.SIGURG: // the runtime sends it to itself to preempt
		default:
			signal.Notify(s.rest, n)
		}
	}
	_ = rtsignal.Ignore() // 32 to 34, which have no other way; it cannot fail for signals that exist
}

// again has the children looked at once more.
func (s signals) again() {
	select {
	case s.children <- syscall.SIGCHLD:
	default:
	}
}

// spareThreads is how many threads PID 1 keeps for a time when the system has
// none to give.
const spareThreads = 6

// reserveThreads starts threads and parks them. The Go runtime starts one when
// all others are in system calls and aborts the program if the kernel refuses;
// it takes a parked one first.
func reserveThreads() {
	var started, done sync.WaitGroup
	started.Add(spareThreads)
	for range spareThreads {
		done.Go(func() {
			runtime.LockOSThread() // a thread of its own while all are here
			started.Done()
			started.Wait()
			runtime.UnlockOSThread() // and parked from here on
		})
	}
	done.Wait()
}
