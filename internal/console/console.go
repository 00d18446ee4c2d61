// Package console owns the lines people see when they look at the machine:
// their format, and the way they reach every console device.
//
// It promises that writing a line never blocks and never fails the caller: a
// line goes into a bounded queue, one goroutine per device drains it, and what
// a slow or hung-up terminal could not take is counted and said as soon as it
// can take lines again. It must never hold up PID 1 or the supervisor, grow
// without bound, or depend on anything outside the standard library and x/sys:
// PID 1 uses it too.
package console

import (
	"bytes"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// queueBytes bounds what may wait for one device. A serial line takes about
// 11 KB/s at worst, so this is some twenty seconds of it.
const queueBytes = 256 << 10

// Console writes lines to one or more console devices.
type Console struct {
	devices []*device
}

// Devices returns the device of every console= on the kernel command line, in
// order and without repeats, as paths under /dev; /dev/console if there is none.
func Devices(cmdline string) []string {
	var devs []string
	seen := map[string]bool{}
	for _, word := range strings.Fields(cmdline) {
		v, ok := strings.CutPrefix(word, "console=")
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(v, ",")
		name = strings.TrimPrefix(name, "/dev/")
		if name == "" || name == "null" || strings.Contains(name, "..") || seen[name] {
			continue
		}
		if name == "tty" { // the controlling terminal is nobody's console
			continue
		}
		seen[name] = true
		devs = append(devs, "/dev/"+name)
	}
	if len(devs) == 0 {
		return []string{"/dev/console"}
	}
	return devs
}

// New opens a console on the devices named by their paths. A device that
// cannot be opened yet is tried again as lines arrive.
func New(devs ...string) *Console {
	c := &Console{}
	for _, path := range devs {
		d := newDevice(path)
		c.devices = append(c.devices, d)
		go d.run()
	}
	return c
}

// Line writes one line: guest time, name, text. Newlines within the text make
// further lines of the same time and name.
func (c *Console) Line(name, format string, a ...any) {
	c.put(name, "", fmt.Sprintf(format, a...))
}

// Warn is Line for something that is wrong but does not stop what was being done.
func (c *Console) Warn(name, format string, a ...any) {
	c.put(name, "warning: ", fmt.Sprintf(format, a...))
}

// Error is Line for something that failed.
func (c *Console) Error(name, format string, a ...any) {
	c.put(name, "ERROR: ", fmt.Sprintf(format, a...))
}

func (c *Console) put(name, mark, text string) {
	line := Format(Now(), name, mark+text)
	for _, d := range c.devices {
		d.put(line)
	}
}

// Flush waits until every device has taken all that was queued before the
// call, for at most the given time. It reports whether it did.
func (c *Console) Flush(limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for _, d := range c.devices {
		if !d.flush(time.Until(deadline)) {
			return false
		}
	}
	return true
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
// of several lines becomes as many console lines. Control characters other than
// tab, and bytes that are not UTF-8, are made visible, so that no container's
// output can steer the terminal.
func Format(at time.Duration, name, text string) []byte {
	var b bytes.Buffer
	text = strings.TrimRight(text, "\n")
	for _, line := range strings.Split(text, "\n") {
		fmt.Fprintf(&b, "%9.3f  %-12s  ", at.Seconds(), name)
		line = strings.TrimSuffix(line, "\r")
		for len(line) > 0 {
			r, n := utf8.DecodeRuneInString(line)
			// The last ones are C1 controls, which 8-bit terminals obey as bytes and
			// others as characters.
			if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError && n == 1 {
				for _, ch := range []byte(line[:n]) {
					fmt.Fprintf(&b, "\\x%02x", ch)
				}
			} else {
				b.WriteString(line[:n])
			}
			line = line[n:]
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}
