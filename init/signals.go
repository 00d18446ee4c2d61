package main

import (
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
)

// signals are the two kinds PID 1 listens to.
type signals struct {
	children chan os.Signal // SIGCHLD, merged into one
	others   chan os.Signal
}

// watch takes over every signal there is. The Go runtime ends the program on
// most of those it is not asked to deliver, and this program may not end; a
// write to a console that has gone must give EPIPE and no SIGPIPE.
func watch() signals {
	s := signals{children: make(chan os.Signal, 1), others: make(chan os.Signal, 16)}
	signal.Notify(s.children, syscall.SIGCHLD)
	const last = 64
	for n := syscall.Signal(1); n <= last; n++ {
		switch n {
		case syscall.SIGCHLD, syscall.SIGKILL, syscall.SIGSTOP:
		case syscall.SIGURG: // the runtime sends it to itself to preempt
		default:
			signal.Notify(s.others, n)
		}
	}
	return s
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
