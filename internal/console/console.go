// Package console owns the lines people see when they look at the machine:
// their format, and the way they reach every console device.
//
// It promises that writing a line never blocks and never fails the caller: a
// line goes into a bounded queue, one goroutine per device drains it, and what
// a slow or hung-up terminal could not take is counted and said as soon as it
// can take lines again; and that no container's output, however much, keeps a line
// about the machine from being seen. It must never hold up PID 1 or the
// supervisor, grow without bound, or depend on more than the standard library, x/sys
// and package visible: PID 1 uses it too.
package console

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/visible"
)

// queueBytes bounds what may wait for one device. A serial line takes about
// 11 KB/s at worst, so this is some twenty seconds of it.
const queueBytes = 256 << 10

// outputBytes is how much of that may be containers' output, for a line about the
// machine has to wait until what is before it has been sent.
const outputBytes = 32 << 10

// Console writes lines to one or more console devices.
type Console struct {
	devices []*device
	now     func() time.Duration
	after   func(time.Duration, func())

	mu    sync.Mutex
	level Level                                                          // guarded by mu
	tap   func(at time.Duration, name string, priority int, text string) // nil if nobody listens, guarded by mu
	limit limiter                                                        // guarded by mu

	// spare takes what no device takes; nil for none.
	spare   *device
	lines   uint64 // how many there were, guarded by mu
	rescued uint64 // the last one that the spare device got, guarded by mu
}

// New opens a console on the devices named by their paths, at level Info. A
// device that cannot be opened yet is tried again as lines arrive.
func New(devs ...string) *Console {
	c := newConsole()
	for _, path := range devs {
		c.devices = append(c.devices, newDevice(path))
	}
	c.start()
	return c
}

// Machine opens the console of a machine with this kernel command line, on Devices.
// Lines that none of them takes go to whatever device a person may be looking at, so
// that no machine is silent for want of the right name.
func Machine(cmdline string) *Console {
	c := newConsole()
	for _, path := range Devices(cmdline) {
		c.devices = append(c.devices, newDevice(path))
	}
	if !wantsSilence(cmdline) {
		c.spare = newDevice(kernelConsole)
		c.spare.ops.open = openAny(c.spare.ops.open, spares)
	}
	c.start()
	return c
}

func (c *Console) start() {
	for _, d := range c.devices {
		if c.spare != nil {
			d.lost = c.rescue
		}
		go d.run()
	}
	if c.spare != nil {
		go c.spare.run()
	}
}

// rescue has the spare device take a line that a device could not, unless another one
// has taken it.
func (c *Console) rescue(q queued) {
	for _, d := range c.devices {
		if !d.down.Load() {
			return
		}
	}
	c.mu.Lock()
	again := q.number <= c.rescued
	c.rescued = max(c.rescued, q.number)
	c.mu.Unlock()
	if !again {
		c.spare.put(q)
	}
}

func newConsole() *Console {
	return &Console{now: Now, after: func(d time.Duration, f func()) { time.AfterFunc(d, f) }, limit: limiter{}}
}

// SetLevel sets how much is shown from now on.
func (c *Console) SetLevel(l Level) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.level = l
}

// Tap has each event told to f as well, whatever the level: when it was, who it is
// about, its priority as in syslog, and its text. f must not block and must not
// write to the console. Containers' output is not told: it is in their logs.
func (c *Console) Tap(f func(at time.Duration, name string, priority int, text string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tap = f
}

// outputMark begins a line of a container's output.
const outputMark = "| "

// Line writes one line: guest time, name, text. Newlines within the text make
// further lines of the same time and name. A format that begins with "| " makes it
// one of the last lines of output of something that has failed, which every level
// shows.
func (c *Console) Line(name, format string, a ...any) {
	c.event(name, priorityInfo, "", fmt.Sprintf(format, a...), strings.HasPrefix(format, outputMark))
}

// Debug is Line for what only level Debug shows.
func (c *Console) Debug(name, format string, a ...any) {
	c.event(name, priorityDebug, "debug: ", fmt.Sprintf(format, a...), false)
}

// Warn is Line for something that is wrong but does not stop what was being done.
func (c *Console) Warn(name, format string, a ...any) {
	c.event(name, priorityWarning, "warning: ", fmt.Sprintf(format, a...), false)
}

// Error is Line for something that failed.
func (c *Console) Error(name, format string, a ...any) {
	c.event(name, priorityError, "ERROR: ", fmt.Sprintf(format, a...), false)
}

// event writes a line about the machine.
func (c *Console) event(name string, priority int, mark, text string, output bool) {
	at := c.now()
	c.mu.Lock()
	level, tap := c.level, c.tap
	c.mu.Unlock()
	if tap != nil && !output {
		tap(at, name, priority, strings.TrimRight(text, "\n"))
	}
	if output || level.shows(priority) {
		c.put(Format(at, name, mark+text), false)
	}
}

func (l Level) shows(priority int) bool {
	switch l {
	case Debug:
		return true
	case Warn:
		return priority <= priorityWarning
	}
	return priority <= priorityInfo
}

// Output writes a line of a container's output as it comes. Of more than the
// console has room for it shows a part and says how many lines it does not show.
// Level Warn shows none.
func (c *Console) Output(name, line string) {
	c.limited(c.now(), name, outputMark+line, priorityInfo, true)
}

// Kernel writes a message of the kernel's that was logged at a time since its
// start. They are bounded as output is.
func (c *Console) Kernel(at time.Duration, text string) {
	c.limited(at, kernelName, text, priorityError, false)
}

// kernelName is the column of the kernel's messages.
const kernelName = "kernel"

func (c *Console) limited(at time.Duration, name, text string, priority int, output bool) {
	line := Format(at, name, text)
	c.mu.Lock()
	if !c.level.shows(priority) {
		c.mu.Unlock()
		return
	}
	ok, first := c.limit.take(name, len(line), c.now())
	c.mu.Unlock()
	if ok {
		c.put(line, output)
	}
	if first {
		c.after(window, func() { c.sayDropped(name) })
	}
}

// sayDropped says how many lines of a name are not shown, if any.
func (c *Console) sayDropped(name string) {
	c.mu.Lock()
	n := c.limit.dropped(name)
	c.mu.Unlock()
	if n > 0 {
		c.put(Format(c.now(), name, "... "+lines(n)+" dropped"), false)
	}
}

func (c *Console) put(line []byte, output bool) {
	c.mu.Lock()
	c.lines++
	q := queued{line, output, c.lines}
	c.mu.Unlock()
	for _, d := range c.devices {
		d.put(q)
	}
}

// Flush waits until every device has taken all that was queued before the
// call, for at most the given time. It reports whether it did.
func (c *Console) Flush(limit time.Duration) bool {
	c.mu.Lock()
	var names []string
	for name, b := range c.limit {
		if b.dropped > 0 {
			names = append(names, name)
		}
	}
	c.mu.Unlock()
	for _, name := range names {
		c.sayDropped(name)
	}
	deadline := time.Now().Add(limit)
	for _, d := range c.devices {
		if !d.flush(time.Until(deadline)) {
			return false
		}
	}
	return c.spare == nil || c.spare.flush(time.Until(deadline))
}

// Now returns the time since the kernel started, CLOCK_BOOTTIME.
func Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// Format renders one console line for a time since the kernel's start; a text
// of several lines becomes as many console lines. Name and text are made visible, so
// that no container's output can steer the terminal.
func Format(at time.Duration, name, text string) []byte {
	var b bytes.Buffer
	text = strings.TrimRight(text, "\n")
	name = visible.Text(name)
	for _, line := range strings.Split(text, "\n") {
		fmt.Fprintf(&b, "%9.3f  %-12s  ", at.Seconds(), name)
		b.WriteString(visible.Text(strings.TrimSuffix(line, "\r")))
		b.WriteByte('\n')
	}
	return b.Bytes()
}
