package console

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// device is one console= device with its own bounded queue, so that a hung
// serial line delays neither a writer nor another console.
type device struct {
	path string
	ops  deviceOps

	mu      sync.Mutex
	queue   [][]byte      // guarded by mu
	queued  int           // bytes in queue, guarded by mu
	dropped int           // lines not taken since the last one that was, guarded by mu
	busy    bool          // the writer holds a line, guarded by mu
	idle    chan struct{} // closed when queue is empty and the writer idle; nil if nobody waits; guarded by mu
	wake    chan struct{}
}

// deviceOps are the system calls a device needs; a test replaces them.
type deviceOps struct {
	open  func(path string) (int, error)
	write func(fd int, b []byte) (int, error)
	// wait returns when fd may take more, or after the limit.
	wait  func(fd int, limit time.Duration)
	close func(fd int)
	pause func(time.Duration)
}

func systemOps() deviceOps {
	return deviceOps{
		open: func(path string) (int, error) {
			return unix.Open(path, unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		},
		write: unix.Write,
		wait: func(fd int, limit time.Duration) {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
			_, _ = unix.Poll(p, int(limit/time.Millisecond))
		},
		close: func(fd int) { _ = unix.Close(fd) },
		pause: time.Sleep,
	}
}

func newDevice(path string) *device {
	return &device{path: path, ops: systemOps(), wake: make(chan struct{}, 1)}
}

// put queues a line, or counts it as dropped where the queue is full.
func (d *device) put(line []byte) {
	d.mu.Lock()
	if d.queued+len(line) > queueBytes {
		d.dropped++
	} else {
		d.queue = append(d.queue, line)
		d.queued += len(line)
	}
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// next takes the next line to write. What was dropped is said once the queue
// has drained, unless the device is down: then the next line has to get through
// first, so that a dead console is not tried again and again.
func (d *device) next(down bool) (line []byte, drops int, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) > 0 {
		line := d.queue[0]
		d.queue = d.queue[1:]
		d.queued -= len(line)
		d.busy = true
		return line, 0, true
	}
	if d.dropped > 0 && !down {
		n := d.dropped
		d.dropped = 0
		d.busy = true
		return Format(Now(), "console", fmt.Sprintf("warning: %d lines dropped: %s was too slow or away", n, d.path)), n, true
	}
	d.busy = false
	if d.idle != nil {
		close(d.idle)
		d.idle = nil
	}
	return nil, 0, false
}

// run drains the queue for the life of the process.
func (d *device) run() {
	fd, down := -1, false
	for {
		line, drops, ok := d.next(down)
		if !ok {
			<-d.wake
			continue
		}
		if fd = d.write(fd, line); fd >= 0 {
			down = false
			continue
		}
		down = true
		d.mu.Lock()
		d.dropped += max(drops, 1)
		d.mu.Unlock()
	}
}

// write puts one line on the device, opening it if need be, and returns the
// descriptor for the next one. It gives a line up, and returns -1, only when
// the device is gone and stays gone for a few tries.
func (d *device) write(fd int, line []byte) int {
	for tries := 0; len(line) > 0; {
		if fd < 0 {
			var err error
			if fd, err = d.ops.open(d.path); err != nil {
				if tries++; tries > 3 {
					return -1
				}
				d.ops.pause(20 * time.Millisecond)
				fd = -1
				continue
			}
		}
		n, err := d.ops.write(fd, line)
		if n > 0 {
			line = line[n:]
			tries = 0
		}
		switch err {
		case nil, unix.EINTR:
		case unix.EAGAIN:
			// Flow control or a slow line: no bound here, the queue has one.
			d.ops.wait(fd, time.Second)
		default:
			// EIO after a hang-up: the terminal has to be opened anew.
			d.ops.close(fd)
			fd = -1
			if tries++; tries > 3 {
				return -1
			}
			d.ops.pause(20 * time.Millisecond)
		}
	}
	return fd
}

// flush waits until all that is queued has been written.
func (d *device) flush(limit time.Duration) bool {
	d.mu.Lock()
	if len(d.queue) == 0 && !d.busy {
		d.mu.Unlock()
		return true
	}
	if d.idle == nil {
		d.idle = make(chan struct{})
	}
	idle := d.idle
	d.mu.Unlock()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-idle:
		return true
	case <-t.C:
		return false
	}
}
