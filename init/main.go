// Command init is PID 1: /init of the image.
//
// It owns the first and the last steps of the machine and the life of the
// supervisor: root and mounts, /usr/bin/service started and started again,
// every orphan reaped, and at the end everything killed, unmounted and off. It
// promises to outlive whatever happens to the rest, since its own end is a
// kernel panic, and to wait for nothing without a bound. It must never do what
// the supervisor could do instead.
//
// docs/init.md is the page for users.
package main

import (
	"fmt"
	"os"
	"time"

	"keelson/init/boot"
	"keelson/init/cgroups"
	"keelson/init/handover"
	"keelson/init/kernel"
	"keelson/internal/console"
)

// name is the column of the console's lines.
const name = "init"

func main() {
	start := console.Now()
	k := kernel.Linux{}
	if why := unfit(k); why != "" {
		fmt.Fprintln(os.Stderr, "init: "+why)
		os.Exit(1)
	}
	p := &pid1{kernel: k, signals: watch(), started: start, pause: time.Sleep}
	p.boot = boot.Run(k, console.Now)
	if p.boot.Cgroup != "" {
		go cgroups.FavorMoves(k)
	}
	p.console = openConsole(p.boot)
	p.report()
	p.run()
	if p.boot.Container {
		os.Exit(0)
	}
	p.remain()
}

// unfit says why this process must not act as init: started by hand it would
// be a second one.
func unfit(k kernel.Calls) string {
	if k.Getpid() == 1 {
		return ""
	}
	if _, err := k.Readlink("/proc/self"); err != nil {
		return "this is PID 1 of a machine and cannot be started by hand"
	}
	if k.SameFile("/proc/1/exe", "/proc/self/exe") {
		return "it runs already, as PID 1"
	}
	if ns, err := k.Readlink("/proc/self/ns/pid"); err == nil && ns == boot.InitialPIDNamespace {
		return "it is for being the first process of a machine or of a container, not for being started by hand"
	}
	return "" // a container whose PID 1 is a small init such as docker's
}

// openConsole opens the machine's consoles; a container has its standard output.
func openConsole(r boot.Result) *console.Console {
	if r.Container {
		return console.New("/proc/self/fd/1")
	}
	c := console.Machine(r.Cmdline)
	level, _ := console.LevelOf(r.Cmdline) // the supervisor says what is wrong with it
	c.SetLevel(level)
	return c
}

// report says how the boot went.
func (p *pid1) report() {
	r := p.boot
	switch {
	case r.Container:
		p.console.Line(name, "started as the first process of a container")
	case r.HandedOver:
		p.console.Line(name, "root handed over in %s (%s, no copy), %d mounts in %s", millis(r.Handover), r.Root.Type, r.Mounts, millis(r.Mounting))
	default:
		p.console.Line(name, "root is a %s, %d mounts in %s", rootWord(r.Root), r.Mounts, millis(r.Mounting))
	}
	for _, err := range r.Failed {
		p.console.Error(name, "%v", err)
	}
	for _, err := range r.Warnings {
		p.console.Warn(name, "%v", err)
	}
}

func rootWord(r handover.Root) string {
	if r.InMemory {
		return r.Type + " that could not be handed over"
	}
	return r.Type
}

// millis is a duration in milliseconds with two digits or more.
func millis(d time.Duration) string {
	switch ms := float64(d) / float64(time.Millisecond); {
	case ms < 1:
		return fmt.Sprintf("%.2fms", ms)
	case ms < 10:
		return fmt.Sprintf("%.1fms", ms)
	default:
		return fmt.Sprintf("%.0fms", ms)
	}
}
