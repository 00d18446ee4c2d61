package shutdown

import (
	"fmt"
	"strconv"
	"strings"

	"keelson/init/kernel"
)

// process is what /proc/PID/stat says.
type process struct {
	pid, parent int
	name, state string
	kernel      bool // a kernel thread
}

// processes lists all of them; what ends meanwhile is left out.
func processes(k kernel.Calls) []process {
	names, err := k.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var list []process
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil {
			continue
		}
		text, err := k.ReadFile("/proc/" + n + "/stat")
		if err != nil {
			continue
		}
		if p, ok := parseStat(pid, string(text)); ok {
			list = append(list, p)
		}
	}
	return list
}

// parseStat reads "pid (name) state ppid ...": the name may hold anything.
func parseStat(pid int, text string) (process, bool) {
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return process{}, false
	}
	f := strings.Fields(text[end+1:])
	if len(f) < 2 {
		return process{}, false
	}
	parent, err := strconv.Atoi(f[1])
	if err != nil {
		return process{}, false
	}
	// kthreadd is PID 2 and the parent of all others; a PID namespace has none.
	isKernel := parent == 2 && f[0] != "Z" || pid == 2 && parent == 0
	return process{pid, parent, text[open+1 : end], f[0], isKernel}, true
}

const (
	maxHolders = 8
	// maxLinks bounds how many open files are looked at for one busy mount.
	maxLinks = 20000
)

// holders names processes that use a file below target.
func holders(k kernel.Calls, target string) []string {
	var list []string
	links := 0
	for _, p := range processes(k) {
		if p.kernel {
			continue
		}
		dir := "/proc/" + strconv.Itoa(p.pid)
		paths := []string{"cwd", "root", "exe"}
		if fds, err := k.ReadDir(dir + "/fd"); err == nil {
			for _, fd := range fds {
				paths = append(paths, "fd/"+fd)
			}
		}
		for _, what := range paths {
			if links++; links > maxLinks {
				return list
			}
			file, err := k.Readlink(dir + "/" + what)
			if err != nil || !under(file, target) {
				continue
			}
			list = append(list, fmt.Sprintf("%d (%s, %s %s)", p.pid, p.name, what, file))
			if len(list) == maxHolders {
				return append(list, "more")
			}
			break
		}
	}
	return list
}
