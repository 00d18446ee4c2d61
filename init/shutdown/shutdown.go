// Package shutdown is the end of the machine, after the supervisor has stopped
// what it knew of or has run out of time: ask what is left to end, kill it, reap
// it, unmount, sync, reboot(2).
//
// It promises that every step has a bound and that the next one follows
// whatever came of it, so that the last call is always reached; that what does
// not end or let go is named on the console; and that only the machine's own
// PID 1 touches what belongs to the machine. It must never sleep: where there is
// nothing to wait for, nothing is waited for.
package shutdown

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"keelson/init/cgroups"
	"keelson/init/children"
	"keelson/init/kernel"
	"keelson/init/lifecycle"
	"keelson/init/mountinfo"
	"keelson/init/mounts"
)

// Bounds of the steps.
const (
	TermBound    = 5 * time.Second
	KillBound    = 5 * time.Second
	SwapBound    = 10 * time.Second
	DeviceBound  = 2 * time.Second  // for the removal of one device
	UnmountBound = 45 * time.Second // for all together
	DiskBound    = 30 * time.Second // for one on this machine
	NetworkBound = 2 * time.Second  // for one that waits for another machine
	SyncBound    = 20 * time.Second
	FlushBound   = time.Second

	killAgain = 100 * time.Millisecond
)

// Console is where the end is told.
type Console interface {
	Line(name, format string, a ...any)
	Warn(name, format string, a ...any)
	Error(name, format string, a ...any)
	Flush(time.Duration) bool
}

// Clock is the time; a test has its own.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

// End is one end of the machine.
type End struct {
	Kernel  kernel.Calls
	Console Console
	Clock   Clock
	Kind    lifecycle.Kind
	// Machine: all of the machine is ours: cgroups, swap, disks.
	Machine bool
	// Container: we are a container's PID 1; what is mounted is not ours.
	Container bool
	// Supervisor is the process of one that has not ended within its time, 0 for none: it
	// has been asked.
	Supervisor int
	// Terminals are the console's devices; what they hold is lost at the end.
	Terminals []string
	// StopWatchdog stops the hardware watchdog, where there is one, just before
	// the machine is to stay off; nil: there is none.
	StopWatchdog func() error
	// Children gets something whenever a child may have ended.
	Children <-chan os.Signal

	hung map[string]bool // devices whose removal does not end
}

const name = "init"

// Run ends the machine. It returns inside a container, where the caller exits,
// and where the kernel refuses to end.
func (e *End) Run() {
	e.terminate()
	e.kill()
	if e.Container {
		e.Console.Line(name, "%s: everything stopped, leaving the container", e.Kind)
		e.Console.Flush(FlushBound)
		return
	}
	if e.Machine {
		_ = e.swapOff() // what it cannot end yet is tried again
	}
	e.Console.Line(name, "%s, %s", e.unmount(), map[lifecycle.Kind]string{
		lifecycle.Poweroff: "powering off", lifecycle.Reboot: "rebooting", lifecycle.Halt: "halting"}[e.Kind])
	e.Last()
}

// Last is the last step alone: sync and reboot(2).
func (e *End) Last() {
	if !e.bounded(SyncBound, e.Kernel.Sync) {
		e.Console.Error(name, "sync did not end within %s: data may be lost", SyncBound)
	}
	e.flush()
	e.reboot()
}

// flush waits for the console, down to what a serial line still has to send.
func (e *End) flush() {
	e.Console.Flush(FlushBound)
	e.bounded(FlushBound, func() {
		for _, t := range e.Terminals {
			_ = e.Kernel.Drain(t)
		}
	})
}

// kill kills every process but this one and reaps them.
func (e *End) kill() {
	limit := e.Clock.Now().Add(KillBound)
	for {
		if e.Machine {
			cgroups.Kill(e.Kernel)
		}
		e.killRest()
		again := e.Clock.After(killAgain)
		for waiting := true; waiting; {
			if children.Reap(e.Kernel, nil) == children.None {
				return
			}
			if !e.Clock.Now().Before(limit) {
				e.Console.Error(name, "still there %s after SIGKILL: %s", KillBound, strings.Join(e.survivors(), ", "))
				return
			}
			select {
			case <-e.Children:
			case <-again:
				waiting = false
			}
		}
	}
}

// killRest kills what no cgroup was killed for. kill(-1) from any other process
// than PID 1 would reach beyond its own descendants.
func (e *End) killRest() {
	self := e.Kernel.Getpid()
	if self == 1 {
		_ = e.Kernel.Kill(-1, syscall.SIGKILL)
		return
	}
	for _, p := range processes(e.Kernel) {
		if p.parent == self {
			_ = e.Kernel.Kill(p.pid, syscall.SIGKILL)
		}
	}
}

// survivors names a few processes that do not end.
func (e *End) survivors() []string {
	var list []string
	for _, p := range processes(e.Kernel) {
		if p.pid == e.Kernel.Getpid() || p.kernel || p.state == "Z" {
			continue
		}
		if len(list) == 8 {
			list = append(list, "more")
			break
		}
		list = append(list, fmt.Sprintf("%d (%s, state %s)", p.pid, p.name, p.state))
	}
	if len(list) == 0 {
		list = []string{"nothing that /proc shows"}
	}
	return list
}

// swaps lists what the kernel swaps to.
func (e *End) swaps() []string {
	text, err := e.Kernel.ReadFile("/proc/swaps")
	if err != nil {
		return nil
	}
	// Filename Type Size Used Priority
	var list []string
	for i, line := range strings.Split(string(text), "\n") {
		if f := strings.Fields(line); i > 0 && len(f) >= 5 {
			list = append(list, mountinfo.Unescape(f[0]))
		}
	}
	return list
}

// swapOff ends all swapping and tells whether it ended some.
func (e *End) swapOff() bool {
	any := false
	for _, file := range e.swaps() {
		result := make(chan error, 1)
		if !e.bounded(SwapBound, func() { result <- e.Kernel.Swapoff(file) }) {
			e.Console.Warn(name, "swapoff %s did not end within %s", file, SwapBound)
			continue
		}
		select {
		case err := <-result:
			any = any || err == nil
		default: // it panicked
		}
	}
	return any
}

// bounded runs f and waits for it as long as limit. What does not end is left
// behind: the machine is about to be gone.
func (e *End) bounded(limit time.Duration, f func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				e.Console.Error(name, "panic while ending the machine: %v", p)
			}
		}()
		f()
	}()
	select {
	case <-done:
		return true
	case <-e.Clock.After(limit):
		return false
	}
}

// stopWatchdog keeps the watchdog from resetting a machine that is to stay off.
// One that is powered off is out of its reach in any case.
func (e *End) stopWatchdog() {
	if e.StopWatchdog == nil {
		return
	}
	if err := e.StopWatchdog(); err != nil && e.Kind != lifecycle.Poweroff {
		e.Console.Warn(name, "the hardware watchdog cannot be stopped (%v): it will reset this machine", mounts.Errno(err))
		e.flush()
	}
}

func (e *End) reboot() {
	cmd := map[lifecycle.Kind]int{
		lifecycle.Poweroff: unix.LINUX_REBOOT_CMD_POWER_OFF,
		lifecycle.Reboot:   unix.LINUX_REBOOT_CMD_RESTART,
		lifecycle.Halt:     unix.LINUX_REBOOT_CMD_HALT,
	}[e.Kind]
	if e.Kind != lifecycle.Reboot {
		e.stopWatchdog()
	}
	err := e.Kernel.Reboot(cmd)
	if err == nil {
		return
	}
	if e.Kind == lifecycle.Reboot {
		e.stopWatchdog()
	}
	e.Console.Error(name, "the kernel refuses to %s: %v; halting", e.Kind, mounts.Errno(err))
	e.flush()
	if err := e.Kernel.Reboot(unix.LINUX_REBOOT_CMD_HALT); err != nil {
		e.Console.Error(name, "the kernel refuses to halt: %v; everything is stopped, it is safe to cut the power", mounts.Errno(err))
		e.flush()
	}
}
