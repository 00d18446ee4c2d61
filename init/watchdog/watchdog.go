// Package watchdog holds the machine's hardware watchdog for the supervisor, which
// finds it, sets it and feeds it: so that a supervisor that dies hands it on to the
// next one, and that the end of the machine is watched over as well.
//
// It promises to feed the watchdog by itself only while the machine ends, and then
// only as long as that may take. It must never open the watchdog, and never wait
// for the supervisor.
//
// The two have a socket. The supervisor sends the watchdog's descriptor over it
// once; it stays in the socket, open, until PID 1 has a use for it, which is why
// nobody has to listen.
package watchdog

import (
	"fmt"
	"sync"
	"time"

	"keelson/init/kernel"
)

// Variable tells a supervisor which of its descriptors are the socket and, if
// there is one, the watchdog: "5" or "5,6".
const Variable = "KEELSON_WATCHDOG"

// Clock is the time; a test has its own.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

// Holder is PID 1's side. Its zero value holds nothing and never will.
type Holder struct {
	Kernel kernel.Calls

	mu           sync.Mutex // guards what follows
	ours, theirs int        // the socket's ends; 0: none
	device       int        // 0: none
	over         bool       // it was stopped for good
}

// New makes the socket. After an error there is no holding, and nothing else is
// lost: the zero value's methods do nothing.
func New(k kernel.Calls) (*Holder, error) {
	h := &Holder{Kernel: k}
	ours, theirs, err := k.Socketpair()
	if err != nil {
		return h, fmt.Errorf("make the socket that a hardware watchdog is handed over by: %w", err)
	}
	h.ours, h.theirs = ours, theirs
	return h, nil
}

// Give returns what the next supervisor is to have: descriptors, which it is to get
// as number first and the one after, and the value of Variable; "" for nothing.
func (h *Holder) Give(first int) (files []int, value string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.take()
	switch {
	case h.theirs == 0:
		return nil, ""
	case h.device == 0:
		return []int{h.theirs}, fmt.Sprint(first)
	}
	return []int{h.theirs, h.device}, fmt.Sprintf("%d,%d", first, first+1)
}

// take takes what the supervisor has sent; h.mu is held.
func (h *Holder) take() {
	for h.ours != 0 && !h.over {
		fd, err := h.Kernel.ReceiveFile(h.ours)
		if err != nil {
			return // nothing more
		}
		if h.device != 0 {
			h.Kernel.Close(h.device)
		}
		h.device = fd
	}
}

// noDevice is how often it is looked whether the supervisor has sent one.
const noDevice = time.Second

// Keep feeds the watchdog while the machine ends, for as long as limit. It
// returns how long the watchdog then gives the machine, 0 if there is none.
func (h *Holder) Keep(clock Clock, limit time.Duration) time.Duration {
	for end := clock.Now().Add(limit); ; {
		timeout, over := h.feed()
		if over {
			return 0
		}
		if !clock.Now().Before(end) {
			return timeout
		}
		wait := noDevice
		if timeout > 0 {
			wait = timeout / 3
		}
		<-clock.After(wait)
	}
}

// feed returns the watchdog's timeout, 0 without one, and whether it was stopped.
func (h *Holder) feed() (timeout time.Duration, over bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.take()
	if h.device == 0 || h.over {
		return 0, h.over
	}
	_ = h.Kernel.Keepalive(h.device) // a driver that cannot has fed it by the open
	timeout, err := h.Kernel.WatchdogTimeout(h.device)
	if err != nil || timeout < minTimeout {
		timeout = minTimeout
	}
	return timeout, false
}

// minTimeout is the least that is believed of a driver.
const minTimeout = time.Second

// Stop stops the watchdog for good, so that a machine that is off stays off. The
// error is the kernel's where it does not let go.
func (h *Holder) Stop() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.take()
	h.over = true
	if h.device == 0 {
		return nil
	}
	fd := h.device
	h.device = 0
	return h.Kernel.StopWatchdog(fd)
}
