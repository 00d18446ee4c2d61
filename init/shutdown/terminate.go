package shutdown

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"keelson/init/cgroups"
	"keelson/init/children"
)

// terminate asks what is left to end, before it is killed, and waits for that: what an
// image's scripts have started, or pods that a kubelet made. The services have been
// stopped already, and keelson's own parts have nothing to bring to an end. What cannot
// hear the signal is not waited for.
func (e *End) terminate() {
	limit := e.Clock.Now().Add(TermBound)
	ownGroups := e.Kernel.IsDir(cgroups.Own)
	asked := map[int]bool{}
	for first := true; ; first = false {
		children.Reap(e.Kernel, nil)
		var left []string
		for _, p := range e.mine() {
			if p.pid == e.Supervisor || e.isOwn(p, ownGroups) {
				continue
			}
			if !asked[p.pid] {
				asked[p.pid] = true
				_ = e.Kernel.Kill(p.pid, syscall.SIGTERM)
				if p.state == "T" {
					_ = e.Kernel.Kill(p.pid, syscall.SIGCONT)
				}
			}
			if e.hearsTerm(p) {
				left = append(left, fmt.Sprintf("%d (%s)", p.pid, p.name))
			}
		}
		if len(left) == 0 {
			return
		}
		if len(left) > maxHolders {
			left = append(left[:maxHolders], "more")
		}
		switch {
		case !e.Clock.Now().Before(limit):
			e.Console.Warn(name, "still there %s after SIGTERM, killed: %s", TermBound, strings.Join(left, ", "))
			return
		case first:
			e.Console.Line(name, "SIGTERM to what belongs to no service: %s", strings.Join(left, ", "))
		}
		select {
		case <-e.Children:
		case <-e.Clock.After(killAgain):
		}
	}
}

// mine lists the processes that are ours to end. From any other process than PID 1,
// others than its children may be somebody else's.
func (e *End) mine() []process {
	self := e.Kernel.Getpid()
	var list []process
	for _, p := range processes(e.Kernel) {
		if p.pid != self && !p.kernel && p.state != "Z" && p.state != "X" && (self == 1 || p.parent == self) {
			list = append(list, p)
		}
	}
	return list
}

// isOwn reports whether a process is containerd or a shim of ours. Without groups of
// their own they are known by their names.
func (e *End) isOwn(p process, groups bool) bool {
	if !groups {
		return strings.HasPrefix(p.name, "containerd")
	}
	text, err := e.Kernel.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/cgroup")
	if err != nil {
		return false
	}
	own := strings.TrimPrefix(cgroups.Own, cgroups.Top) + "/"
	for line := range strings.Lines(string(text)) {
		// What a script has left running is in the supervisor's group.
		_, path, _ := strings.Cut(strings.TrimSpace(line), "::")
		if strings.HasPrefix(path, own) && "/"+strings.TrimPrefix(path, "/") != strings.TrimPrefix(cgroups.Supervisor, cgroups.Top) {
			return true
		}
	}
	return false
}

// hearsTerm reports whether SIGTERM does something to a process: it is lost on one that
// ignores it, and on the first one of a PID namespace that has no handler for it.
func (e *End) hearsTerm(p process) bool {
	text, err := e.Kernel.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/status")
	if err != nil {
		return false // it has just ended
	}
	const bit = 1 << (uint(syscall.SIGTERM) - 1)
	var ignored, caught uint64
	first := false
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		f := strings.Fields(value)
		if len(f) == 0 {
			continue
		}
		switch key {
		case "NSpid":
			first = len(f) > 1 && f[len(f)-1] == "1"
		case "SigIgn":
			ignored, _ = strconv.ParseUint(f[0], 16, 64)
		case "SigCgt":
			caught, _ = strconv.ParseUint(f[0], 16, 64)
		}
	}
	return ignored&bit == 0 && (!first || caught&bit != 0)
}
