// Package boot is the way from the kernel's first process to a machine that a
// supervisor can work on: root, mounts, cgroups, limits, hostname.
//
// It promises to get to its end whatever fails on the way, and to hand back
// what failed instead of printing it: there may be no console yet. Inside a
// container, which somebody else has set up, it mounts nothing.
package boot

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"keelson/init/cgroups"
	"keelson/init/cmdline"
	"keelson/init/handover"
	"keelson/init/kernel"
	"keelson/init/mounts"
)

// Result is what the boot found and did.
type Result struct {
	// Container: somebody else has set up what is here.
	Container bool
	// Machine: this is the machine's own PID 1, not one of a PID namespace.
	// Only then are cgroups, swap and disks its own to dispose of.
	Machine bool

	Cmdline string // text of /proc/cmdline
	Options cmdline.Options

	Root       handover.Root
	HandedOver bool
	Handover   time.Duration // handing the root over took this long
	Mounts     int           // file systems mounted
	Mounting   time.Duration // and that took so long
	Cgroup     string        // the supervisor's cgroup; empty: none

	// Failed is what users rely on and do not have; Warnings is the rest.
	Failed, Warnings []error
}

// InitialPIDNamespace is the kernel's fixed number for it, PROC_PID_INIT_INO.
const InitialPIDNamespace = "pid:[4026531836]"

const (
	openFiles = 1048576
	unlimited = ^uint64(0)
)

// Run boots. now is the time since the kernel's start.
func Run(k kernel.Calls, now func() time.Duration) Result {
	var r Result
	if inContainer(k) {
		r.container(k)
	} else {
		r.machine(k, now)
	}
	r.limits(k)
	r.hostname(k)
	return r
}

// inContainer tells whether somebody else has set up what is here: /proc is
// there, and this is not the first process of the machine itself, which an
// earlier initramfs may leave with /proc mounted.
func inContainer(k kernel.Calls) bool {
	if _, err := k.Readlink("/proc/self"); err != nil {
		return false
	}
	ns, err := k.Readlink("/proc/self/ns/pid")
	return err != nil || ns != InitialPIDNamespace || k.Getpid() != 1
}

func (r *Result) container(k kernel.Calls) {
	r.Container = true
	r.warn("become subreaper", k.Subreaper())
	r.readCmdline(k)
}

func (r *Result) machine(k kernel.Calls, now func() time.Duration) {
	start := now()
	var err error
	if r.Root, err = handover.Look(k); err != nil {
		r.Failed = append(r.Failed, err)
	}
	if r.Root.InMemory {
		if err := handover.Do(k); err != nil {
			r.Failed = append(r.Failed, fmt.Errorf("%w; pivot_root inside containers will not work", err))
		} else {
			r.HandedOver = true
		}
	}
	r.Handover = now() - start

	start = now()
	if err := mounts.Do(k, mounts.Proc); err != nil {
		r.Failed = append(r.Failed, err)
	} else {
		r.Mounts++
	}
	r.readCmdline(k)
	ns, err := k.Readlink("/proc/self/ns/pid")
	r.Machine = err != nil || ns == InitialPIDNamespace
	n, failed := mounts.All(k)
	r.Mounts += n
	r.Failed = append(r.Failed, failed...)
	r.cgroups(k)
	r.Failed = append(r.Failed, handover.Seal(k, r.Root)...)
	r.Mounting = now() - start
	// From here on ctrl-alt-del is a signal to PID 1, not the end of the machine.
	if r.Machine {
		r.warn("take over ctrl-alt-del", k.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF))
	}
}

func (r *Result) cgroups(k kernel.Calls) {
	if !r.Machine {
		r.Warnings = append(r.Warnings, errors.New("in a PID namespace of somebody else's machine: its cgroups are left alone"))
		return
	}
	setUp := cgroups.V2
	if r.Options.CgroupV1 {
		setUp = cgroups.V1
	} else {
		r.Cgroup = cgroups.Supervisor
	}
	n, failed := setUp(k)
	r.Mounts += n
	r.Failed = append(r.Failed, failed...)
	if n == 0 {
		r.Cgroup = ""
	}
}

func (r *Result) readCmdline(k kernel.Calls) {
	text, err := k.ReadFile("/proc/cmdline")
	r.warn("read /proc/cmdline", err)
	var wrong []error
	r.Cmdline = strings.TrimSpace(string(text))
	r.Options, wrong = cmdline.Parse(r.Cmdline)
	r.Warnings = append(r.Warnings, wrong...)
}

func (r *Result) limits(k kernel.Calls) {
	r.warn(fmt.Sprintf("set RLIMIT_NOFILE to %d", openFiles), k.SetLimit(unix.RLIMIT_NOFILE, openFiles, openFiles))
	r.warn("set RLIMIT_NPROC to infinity", k.SetLimit(unix.RLIMIT_NPROC, unlimited, unlimited))
}

// hostname takes the first line of /etc/hostname that is not a comment. Without
// one the supervisor finds a name.
func (r *Result) hostname(k kernel.Calls) {
	text, err := k.ReadFile("/etc/hostname")
	if errors.Is(err, syscall.ENOENT) {
		return
	}
	r.warn("read /etc/hostname", err)
	for line := range strings.Lines(string(text)) {
		name := strings.TrimSpace(line)
		if name == "" || strings.HasPrefix(name, "#") {
			continue
		}
		if err := k.SetHostname(name); err != nil {
			r.warn(fmt.Sprintf("set the hostname to %.80q from /etc/hostname (at most 64 bytes)", name), err)
		}
		return
	}
}

// warn notes an error that takes nothing essential away. In a container most
// are the container's own limits, and expected.
func (r *Result) warn(doing string, err error) {
	if err == nil || r.Container && errors.Is(err, syscall.EPERM) {
		return
	}
	r.Warnings = append(r.Warnings, fmt.Errorf("%s: %w", doing, mounts.Errno(err)))
}
