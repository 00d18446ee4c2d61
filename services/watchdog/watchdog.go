// Package watchdog owns the machine's hardware watchdog: a timer that resets the
// machine unless it is fed.
//
// It promises that the watchdog is fed only while the supervisor's loop goes round
// and every critical service is well or on its way to being so, and that it says who
// is to blame, and when the machine will be reset, before it is. It costs one
// wakeup in a third of the timeout. It must never stop a watchdog that is armed: a
// next supervisor has it from PID 1, which feeds it while the machine ends.
package watchdog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// name is the column of the console's lines.
const name = "watchdog"

// Console is where the watchdog's doings are told.
type Console interface {
	Line(name, format string, a ...any)
	Warn(name, format string, a ...any)
	Error(name, format string, a ...any)
}

// Config is what a Dog needs.
type Config struct {
	Setting Setting
	Hands   Hands
	Console Console
	// Critical reports whether every critical service is well, and if not which is
	// not and why. It may be called from the Dog's goroutine only.
	Critical func() (ok bool, who string)
	// Owner names a container that has the watchdog itself, to which it is left
	// unless keelson.watchdog asks for it; "" for none.
	Owner string
	// Needed names a critical service, for which a machine without a watchdog is
	// worth a warning; "" for none.
	Needed string
}

// Dog feeds the watchdog.
type Dog struct {
	cfg   Config
	open  func() (*os.File, error)
	setUp func(*os.File, time.Duration) (device, error)
	now   func() time.Time
	after func(time.Duration) <-chan time.Time

	beats chan struct{}
	armed chan struct{} // tells Run that there is a device

	mu     sync.Mutex // guards what follows
	device device     // nil: not armed
	none   string     // why not, in words
	said   bool       // so on the console
	fed    time.Time  // for the last time
	hungry string     // who it is not fed for; "" while it is
	last   bool       // the last warning before the reset was said
}

// New returns a dog that has not looked for a watchdog yet.
func New(cfg Config) *Dog {
	return &Dog{
		cfg: cfg, open: open, now: time.Now, after: time.After,
		setUp: func(f *os.File, d time.Duration) (device, error) { return setUp(f, d) },
		beats: make(chan struct{}), armed: make(chan struct{}, 1),
	}
}

// Beats is received from by the supervisor's loop, each time it comes round: a
// loop that does not is one that hangs.
func (d *Dog) Beats() <-chan struct{} { return d.beats }

// Arm looks for a watchdog and arms it. It may be called again, as when a device
// has come; one that is armed stays as it is.
func (d *Dog) Arm() { d.arm(true) }

// ArmEarly is Arm while drivers are still being loaded: that there is no watchdog yet
// is nothing to tell.
func (d *Dog) ArmEarly() { d.arm(false) }

func (d *Dog) arm(tell bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.device != nil {
		return
	}
	switch {
	case d.cfg.Setting.Off:
		d.none = "off (keelson.watchdog=off)"
		return
	case d.cfg.Owner != "" && !d.cfg.Setting.Asked:
		d.none = "left to the container " + d.cfg.Owner
		d.once(d.cfg.Console.Line, "left to the container %s, which has it itself; keelson.watchdog=%v on the kernel command line takes it", d.cfg.Owner, DefaultTimeout)
		return
	}
	f, again, timeout := d.cfg.Hands.held, true, time.Duration(0)
	if f == nil {
		again, timeout = false, d.cfg.Setting.Timeout
		var err error
		if f, err = d.open(); err != nil {
			if tell || !errors.Is(err, errNone) {
				d.unarmed(err)
			}
			return
		}
		if err := d.cfg.Hands.Keep(f); err != nil {
			d.cfg.Console.Warn(name, "the end of the machine is not watched over: %v", err)
		}
	}
	dev, wrong := d.setUp(f, timeout)
	d.device, d.fed = dev, d.now()
	if !again {
		if wrong != nil {
			d.cfg.Console.Warn(name, "%s: %v", dev.Identity(), wrong)
		}
		d.cfg.Console.Line(name, "%s armed: it resets the machine after %v without a sign of life", dev.Identity(), dev.Timeout())
		if d.cfg.Owner != "" {
			d.cfg.Console.Warn(name, "container %s has it too and will find it busy", d.cfg.Owner)
		}
	}
	select {
	case d.armed <- struct{}{}:
	default: // it has been told
	}
}

// unarmed notes why there is no watchdog. It is said where somebody counts on one.
func (d *Dog) unarmed(err error) {
	switch {
	case errors.Is(err, unix.EBUSY):
		d.none = "in use by another program"
		d.once(d.cfg.Console.Warn, "another program has the watchdog open: keelson cannot feed it, nor reset the machine by it")
	case !errors.Is(err, errNone):
		d.none = err.Error()
		d.once(d.cfg.Console.Warn, "cannot be opened: %v", err)
	case d.cfg.Setting.Asked:
		d.none = err.Error()
		d.once(d.cfg.Console.Warn, "keelson.watchdog=%v is asked for, but %v (or no driver for it): nothing will reset it should it hang", d.cfg.Setting.Timeout, err)
	case d.cfg.Needed != "":
		d.none = err.Error()
		d.once(d.cfg.Console.Warn, "service %s is critical, but %v (or no driver for it): nothing will reset it", d.cfg.Needed, err)
	default:
		d.none = err.Error()
	}
}

func (d *Dog) once(say func(name, format string, a ...any), format string, a ...any) {
	if !d.said {
		d.said = true
		say(name, format, a...)
	}
}

// hungryTick is how often it is looked whether a service is well again while the
// watchdog is not fed.
const hungryTick = time.Second

// Run feeds the watchdog, once it is armed, until the context ends.
func (d *Dog) Run(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-d.armed:
	}
	for {
		d.mu.Lock()
		wait := d.device.Timeout() / 3
		if d.hungry != "" {
			wait = min(wait, hungryTick)
		}
		d.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-d.after(wait):
		}
		select { // the loop comes round
		case <-ctx.Done():
			return
		case d.beats <- struct{}{}:
		}
		d.look(d.cfg.Critical())
	}
}

// look feeds the watchdog, or says why not.
func (d *Dog) look(ok bool, who string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	left := d.fed.Add(d.device.Timeout()).Sub(now).Round(time.Second)
	switch {
	case ok:
		if err := d.device.Feed(); err != nil {
			d.cfg.Console.Error(name, "%s cannot be fed: %v", d.device.Identity(), err)
			return
		}
		if d.hungry != "" {
			d.cfg.Console.Line(name, "fed again: every critical service is well")
		}
		d.fed, d.hungry, d.last = now, "", false
	case d.hungry == "":
		d.cfg.Console.Error(name, "not fed: %s; the machine is reset in %v unless that changes", who, left)
		d.hungry = who
	default:
		d.hungry = who
		if left <= lastWarning && !d.last {
			d.last = true
			d.cfg.Console.Error(name, "the machine is reset in %v: %s", max(left, 0), who)
		}
	}
}

// lastWarning is how long before a reset it is said once more.
const lastWarning = 3 * time.Second

// String is the watchdog's state in words, for people.
func (d *Dog) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.device == nil && d.none == "":
		return "not looked for yet"
	case d.device == nil:
		return d.none
	case d.hungry != "":
		return fmt.Sprintf("%s: NOT FED, resets the machine in %v: %s", d.device.Identity(),
			max(d.fed.Add(d.device.Timeout()).Sub(d.now()).Round(time.Second), 0), d.hungry)
	}
	return fmt.Sprintf("%s armed, timeout %v, fed %v ago", d.device.Identity(), d.device.Timeout(), d.now().Sub(d.fed).Round(time.Second))
}
