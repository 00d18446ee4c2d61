package task

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/pidfd"
)

// Stop sends the stop signal and reports whether anybody will hear it.
//
// The first process of a pid namespace does not get a signal that it has no
// handler for (pid_namespaces(7)): waiting for such a one to end would be
// waiting for nothing. Then the signal goes to the container's other processes,
// whose end usually brings the first one's about; where there are none, nobody
// has heard it.
//
// That is seen before the signal is sent: many a handler begins by taking itself
// away, so that a second signal would end a process that does not come to its end.
func (t *running) Stop(sig unix.Signal) (heard bool, err error) {
	deaf, err := settledDeafTo(fmt.Sprintf("/proc/%d/status", t.PID()), sig)
	t.deaf, t.reaped = err == nil && deaf, ""
	if err := t.process.Signal(sig); err != nil {
		return false, err
	}
	if !t.deaf {
		return true, nil // gone, or it gets the signal
	}
	others := t.others()
	t.told, t.commands, t.again = map[string]bool{}, map[string]bool{}, false
	for _, pid := range others {
		t.told[identity(pid)] = true
		if command := commandOf(pid); command != "" {
			t.commands[command] = true
		}
	}
	for _, pid := range others {
		if unix.Kill(pid, sig) == nil {
			heard = true
		}
	}
	return heard, nil
}

// Alone reports whether the signal has done all it can: the first process did not
// hear it and does not, and either there are no others whose end it may wait for, nor
// were there any since the last look, as a script may be at its last commands; or it
// goes on as before.
func (t *running) Alone(sig unix.Signal) bool {
	if !t.deaf {
		return false // it may have taken its handler away and be at its last work
	}
	deaf, err := settledDeafTo(fmt.Sprintf("/proc/%d/status", t.PID()), sig)
	was := t.reaped
	t.reaped = reaped(t.PID())
	if err != nil || !deaf {
		return false
	}
	others := t.others()
	if len(others) == 0 && !t.again { // else it is between two rounds of its loop
		return was == "" || was == t.reaped
	}
	return t.goesOn(others)
}

// goesOn reports whether the first process does what it did before the signal: all
// who got that have ended, and one of their commands runs again. A loop of a shell,
// which starts "sleep 1" once more, goes on; a script that does its last work runs
// other commands than before.
func (t *running) goesOn(others []int) bool {
	for _, pid := range others {
		if t.told[identity(pid)] {
			return false // it may be at its own last work
		}
		t.again = t.again || t.commands[commandOf(pid)]
	}
	return t.again
}

// identity tells a process from another one that has its number later.
func identity(pid int) string {
	start, _ := pidfd.Stat(pid, 22) // "" of one that has ended
	return fmt.Sprintf("%d.%s", pid, start)
}

// commandOf is the command line of a process, "" of one that has ended.
func commandOf(pid int) string {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return string(line)
}

// reaped is a figure that grows with each child of a process that it has waited for:
// how many pages those have touched, cminflt.
func reaped(pid int) string {
	pages, _ := pidfd.Stat(pid, 11) // "" of one that has ended
	return pages
}

// others returns the processes of the container but for its first one.
func (t *running) others() (pids []int) {
	all := machineProcesses
	if root := t.runtime.CgroupRoot; root != "" {
		all = func() []int { return processes(filepath.Join(root, t.bundle.CgroupsPath())) }
	}
	// A cgroup that the user chose may hold others' processes as well.
	namespace := pidNamespace(t.PID())
	for _, pid := range all() {
		if pid != t.PID() && namespace != "" && pidNamespace(pid) == namespace {
			pids = append(pids, pid)
		}
	}
	return pids
}

// pidNamespace names the pid namespace of a process, "" if it has ended.
func pidNamespace(pid int) string {
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return ""
	}
	return name
}

// machineProcesses returns every process there is: with cgroup v1 none of the
// hierarchies has to know a container.
func machineProcesses() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// processes returns the processes of a cgroup and of those below it.
func processes(cgroup string) []int {
	var pids []int
	_ = filepath.WalkDir(cgroup, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil // a threaded cgroup's are its parent's
		}
		for _, word := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// A shell blocks all signals for the moment in which it starts a command.
const (
	blockedLooks = 3
	blockedPause = 10 * time.Millisecond
)

// settledDeafTo is deafTo, asked again where the signal is blocked and has no
// handler: a process that waits for it in a signalfd or sigwait has it blocked all
// the time.
func settledDeafTo(status string, sig unix.Signal) (bool, error) {
	for look := 1; ; look++ {
		first, blocked, caught, err := signals(status)
		if err != nil || !first || caught&(1<<(sig-1)) != 0 {
			return false, err
		}
		if blocked&(1<<(sig-1)) == 0 {
			return true, nil
		}
		if look == blockedLooks {
			return false, nil
		}
		time.Sleep(blockedPause)
	}
}

// deafTo reports whether the process of a /proc/PID/status file is the first of
// its pid namespace and has neither a handler for the signal nor blocked it: a
// blocked one is kept for a signalfd or sigwait.
func deafTo(status string, sig unix.Signal) (bool, error) {
	first, blocked, caught, err := signals(status)
	return err == nil && first && (blocked|caught)&(1<<(sig-1)) == 0, err
}

// signals reads of a /proc/PID/status file whether the process is the first of its
// pid namespace, and which signals it blocks and handles.
func signals(status string) (first bool, blocked, caught uint64, err error) {
	f, err := os.Open(status)
	if err != nil {
		return false, 0, 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch name {
		case "NSpid":
			pids := strings.Fields(value)
			first = len(pids) > 1 && pids[len(pids)-1] == "1"
		case "SigBlk", "SigCgt":
			mask, err := strconv.ParseUint(value, 16, 64)
			if err != nil {
				return false, 0, 0, fmt.Errorf("%s: %s: %w", status, name, err)
			}
			if name == "SigBlk" {
				blocked = mask
			} else {
				caught = mask
			}
		}
	}
	return first, blocked, caught, lines.Err()
}
