package console

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// device is one console= device with its own bounded queue, so that a hung
// serial line delays neither a writer nor another console.
type device struct {
	path string
	ops  deviceOps
	// lost is told of lines that the device has not taken; nil for nobody.
	lost func(queued)
	down atomic.Bool // it took no line the last time

	mu       sync.Mutex
	queue    []queued      // guarded by mu
	bytes    int           // in queue, guarded by mu
	output   int           // bytes in queue that are containers' output, guarded by mu
	dropped  int           // lines not taken since the last one that was, guarded by mu
	busy     bool          // the writer holds a line, guarded by mu
	idle     chan struct{} // closed when queue is empty and the writer idle; nil if nobody waits; guarded by mu
	dropping time.Duration // since when dropped counts, guarded by mu
	wake     chan struct{}
}

type queued struct {
	line   []byte
	output bool
	number uint64 // of the console's lines; 0 for one of the device's own
}

// sayEvery is how often a device that is never idle says what it drops.
const sayEvery = 5 * time.Second

// deviceOps are the system calls a device needs; a test replaces them.
type deviceOps struct {
	open  func(path string) (int, error)
	write func(fd int, b []byte) (int, error)
	// wait reports whether fd takes more, or nothing ever again, within the limit.
	wait  func(fd int, limit time.Duration) bool
	close func(fd int)
	pause func(time.Duration)
	now   func() time.Duration
}

func systemOps() deviceOps {
	return deviceOps{
		open: func(path string) (int, error) {
			return unix.Open(path, unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		},
		write: unix.Write,
		wait: func(fd int, limit time.Duration) bool {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
			n, err := unix.Poll(p, int(limit/time.Millisecond))
			return n > 0 || err != nil && err != unix.EINTR
		},
		close: func(fd int) { _ = unix.Close(fd) },
		pause: time.Sleep,
		now:   Now,
	}
}

func newDevice(path string) *device {
	return &device{path: path, ops: systemOps(), wake: make(chan struct{}, 1)}
}

// put queues a line, or counts it as dropped where the queue is full.
func (d *device) put(q queued) {
	d.mu.Lock()
	if d.bytes+len(q.line) > queueBytes || q.output && d.output+len(q.line) > outputBytes {
		if d.dropped == 0 {
			d.dropping = d.ops.now()
		}
		d.dropped++
	} else {
		d.queue = append(d.queue, q)
		d.bytes += len(q.line)
		if q.output {
			d.output += len(q.line)
		}
	}
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// next takes the next line to write. What was dropped is said once the queue
// has drained, or every now and then if it never does, unless the device is down:
// then the next line has to get through first, so that a dead console is not tried
// again and again.
func (d *device) next(down bool) (q queued, drops int, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dropped > 0 && !down && (len(d.queue) == 0 || d.ops.now()-d.dropping >= sayEvery) {
		n := d.dropped
		d.dropped, d.busy = 0, true
		return queued{line: Format(d.ops.now(), "console", fmt.Sprintf("warning: %s dropped: %s was too slow or away", lines(n), d.path))}, n, true
	}
	if len(d.queue) > 0 {
		q := d.queue[0]
		d.queue = d.queue[1:]
		d.bytes -= len(q.line)
		if q.output {
			d.output -= len(q.line)
		}
		d.busy = true
		return q, 0, true
	}
	d.busy = false
	if d.idle != nil {
		close(d.idle)
		d.idle = nil
	}
	return queued{}, 0, false
}

// run drains the queue for the life of the process.
func (d *device) run() {
	fd := -1
	for {
		q, drops, ok := d.next(d.down.Load())
		if !ok {
			<-d.wake
			continue
		}
		if fd = d.write(fd, q.line); fd >= 0 {
			d.down.Store(false)
			continue
		}
		d.down.Store(true)
		d.mu.Lock()
		d.dropped += max(drops, 1)
		d.mu.Unlock()
		if d.lost != nil && q.number > 0 {
			d.lost(q)
		}
	}
}

// waitBound is how long a stopped terminal is waited for at a time.
const waitBound = 30 * time.Second

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
		// A terminal says that it takes more once fewer than 256 bytes wait in it, and
		// a serial line has room for 4096: so a line goes in one piece, and PID 1's and
		// the supervisor's do not come to stand within each other. There is no bound
		// here for a stopped terminal: the queue has one.
		if !d.ops.wait(fd, waitBound) {
			continue
		}
		n, err := d.ops.write(fd, line)
		if n > 0 {
			line = line[n:]
			tries = 0
		}
		switch err {
		case nil, unix.EINTR:
		case unix.EAGAIN: // although it said so
			d.ops.pause(20 * time.Millisecond)
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
