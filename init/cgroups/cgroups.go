// Package cgroups sets up the control groups (cgroups(7)) of the machine and of
// keelson's own processes, and kills what is left in them at the end.
//
// It promises that PID 1 itself stays in the root of the hierarchy, that each
// controller is asked for by itself, so that one that is missing takes no other
// with it, and that Kill is only ever pointed at a hierarchy this machine made.
package cgroups

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"keelson/init/kernel"
	"keelson/init/mounts"
)

const (
	// Top is where the hierarchy is mounted.
	Top = "/sys/fs/cgroup"
	// Own is the parent of keelson's own parts.
	Own = Top + "/keelson"
	// Supervisor is the supervisor's.
	Supervisor = Own + "/supervisor"

	// ownMin is memory that pressure from services cannot take from keelson's
	// own parts together; what they do not use stays everybody's.
	ownMin = "64M"

	// ownWeight is their share of the CPU against each other group at the top,
	// which has 100: what keeps the machine going comes before what runs on it.
	ownWeight = "1000"

	flags = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV
)

// ownControllers are those keelson's own parts have a use for; each makes a
// group dearer to make, and the boot waits for these.
var ownControllers = []string{"cpu", "memory", "pids"}

// v2Options are what the unified hierarchy is mounted with, best first: kernels
// before 5.7 lack memory_recursiveprot, before 4.13 nsdelegate.
var v2Options = []string{fullOptions, "nsdelegate", ""}

const (
	fullOptions = "nsdelegate,memory_recursiveprot"
	bestOptions = fullOptions + ",favordynmods"
)

// FavorMoves makes moving a process into a group cheap, which every start of a
// container does: without it each move waits for an RCU grace period. What it
// costs in return, a lock at each fork and exit, is not measurable. The call
// waits for such a period itself, some 10 ms, so it is made beside the boot.
// Kernels before 6.0 do not know it, and nothing is lost then.
func FavorMoves(k kernel.Calls) {
	_ = k.Mount("cgroup2", Top, "cgroup2", flags|unix.MS_REMOUNT, bestOptions)
}

// Restore gives the hierarchy its options back if it has lost any, and returns
// whether it had: they belong to all its mounts at once, and the kernel sets them
// anew whenever a privileged process outside of any cgroup namespace mounts it.
func Restore(k kernel.Calls) bool {
	text, err := k.ReadFile("/proc/self/mounts")
	if err != nil {
		return false
	}
	have, found := options(string(text))
	if !found {
		return false
	}
	for _, want := range []string{bestOptions, fullOptions, "nsdelegate"} {
		if !slices.ContainsFunc(strings.Split(want, ","), func(o string) bool { return !slices.Contains(have, o) }) {
			return false
		}
		if k.Mount("cgroup2", Top, "cgroup2", flags|unix.MS_REMOUNT, want) == nil {
			return true
		}
	}
	return false
}

// options returns those of the hierarchy, from a table of mounts.
func options(table string) ([]string, bool) {
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == Top && f[2] == "cgroup2" {
			return strings.Split(f[3], ","), true
		}
	}
	return nil, false
}

// V2 mounts the unified hierarchy and makes keelson's groups in it.
func V2(k kernel.Calls) (mounted int, failed []error) {
	var err error
	for _, options := range v2Options {
		if err = k.Mount("cgroup2", Top, "cgroup2", flags, options); !errors.Is(err, syscall.EINVAL) {
			break
		}
	}
	if err != nil && !errors.Is(err, syscall.EBUSY) {
		return 0, []error{fmt.Errorf("mount cgroup2 on %s: %w", Top, mounts.Errno(err))}
	}
	return 1, Prepare(k)
}

// Prepare hands every controller down to the groups at the top and makes
// keelson's. It may be called again: what is there already stays.
func Prepare(k kernel.Calls) (failed []error) {
	text, err := k.ReadFile(Top + "/cgroup.controllers")
	if err != nil {
		return []error{fmt.Errorf("read %s/cgroup.controllers: %w", Top, err)}
	}
	controllers := strings.Fields(string(text))
	hand := func(group string, controllers []string) {
		all := "+" + strings.Join(controllers, " +")
		if len(controllers) == 0 || k.WriteFile(group+"/cgroup.subtree_control", all) == nil {
			return
		}
		for _, c := range controllers {
			if err := k.WriteFile(group+"/cgroup.subtree_control", "+"+c); err != nil {
				failed = append(failed, fmt.Errorf("enable controller %s in %s: %w", c, group, err))
			}
		}
	}
	hand(Top, controllers)
	for _, g := range []string{Own, Supervisor} {
		if err := k.Mkdir(g, 0o755); err != nil && !errors.Is(err, syscall.EEXIST) {
			return append(failed, fmt.Errorf("make cgroup %s: %w", g, err))
		}
		if g == Own {
			hand(Own, slices.DeleteFunc(controllers, func(c string) bool { return !slices.Contains(ownControllers, c) }))
		}
	}
	for _, setting := range [][2]string{{"memory.min", ownMin}, {"cpu.weight", ownWeight}} {
		// A kernel without the controller has no such file.
		if err := k.WriteFile(Own+"/"+setting[0], setting[1]); err != nil && !errors.Is(err, syscall.ENOENT) {
			failed = append(failed, fmt.Errorf("write %s/%s: %w", Own, setting[0], err))
		}
	}
	return failed
}

// V1 mounts one hierarchy for each controller the kernel has enabled, and the
// named one that systemd's images look for.
func V1(k kernel.Calls) (mounted int, failed []error) {
	mount := func(m mounts.Mount) {
		if err := k.Mkdir(m.Target, 0o555); err != nil && !errors.Is(err, syscall.EEXIST) {
			failed = append(failed, fmt.Errorf("make folder %s: %w", m.Target, err))
			return
		}
		if err := mounts.Do(k, m); err != nil {
			failed = append(failed, err)
			return
		}
		mounted++
	}
	mount(mounts.Mount{Source: "cgroup_root", Target: Top, Type: "tmpfs", Flags: flags, Data: "mode=755,size=10m"})
	text, err := k.ReadFile("/proc/cgroups")
	if err != nil {
		failed = append(failed, fmt.Errorf("read /proc/cgroups: %w", err))
	}
	for _, c := range enabled(string(text)) {
		mount(mounts.Mount{Source: c, Target: Top + "/" + c, Type: "cgroup", Flags: flags, Data: c})
	}
	// Kernels from 5.11 on always account in a hierarchy and may lack the file.
	_ = k.WriteFile(Top+"/memory/memory.use_hierarchy", "1")
	mount(mounts.Mount{Source: "cgroup", Target: Top + "/systemd", Type: "cgroup", Data: "none,name=systemd"})
	return mounted, failed
}

// enabled returns the controllers that /proc/cgroups shows as enabled: name,
// hierarchy, number of groups, enabled.
func enabled(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 4 && !strings.HasPrefix(f[0], "#") && f[3] == "1" {
			list = append(list, f[0])
		}
	}
	return list
}

// Kill kills everything in every group below the top, each group at once, so
// that nothing can fork away. It returns whether there was any group to kill.
func Kill(k kernel.Calls) bool {
	names, err := k.ReadDir(Top)
	if err != nil {
		return false
	}
	any := false
	for _, n := range names {
		if k.WriteFile(Top+"/"+n+"/cgroup.kill", "1") == nil {
			any = true
		}
	}
	return any
}
