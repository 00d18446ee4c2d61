package capture

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// diskCall is what is asked of a disk while it is. Whether the disk does not answer or
// we have no processor to hear it cannot be told from the time it takes; what the kernel
// says of the thread tells it.
type diskCall struct {
	thread int       // that asks, 0 while nothing is asked
	since  time.Time // it has been seen to wait in the kernel each time since then
}

// onDisk does work that may have to wait for a disk. It returns how long to rest after
// it.
func (e *exporter) onDisk(work func()) (rest time.Duration) {
	return e.sys.gate.spend(measured(func() {
		e.mu.Lock()
		e.call = diskCall{thread: unix.Gettid()}
		e.mu.Unlock()
		work()
		e.mu.Lock()
		e.call = diskCall{}
		e.mu.Unlock()
	}))
}

// blockedFor returns how long the kernel has been seen to wait for the disk.
func (c *diskCall) blockedFor() time.Duration {
	switch {
	case c.thread == 0:
		return 0
	case !waitsInKernel(c.thread):
		c.since = time.Time{}
		return 0
	case c.since.IsZero():
		c.since = time.Now()
	}
	return time.Since(c.since)
}

// waitsInKernel reports whether a thread of ours waits in a system call. Neither does
// one that runs, or would if it had a processor, nor one that Go has let wait.
func waitsInKernel(thread int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/syscall", thread))
	if err != nil {
		return true // a kernel that does not say
	}
	call, _, _ := bytes.Cut(text, []byte(" "))
	number, err := strconv.Atoi(string(call))
	return err == nil && number >= 0 && number != unix.SYS_FUTEX
}
