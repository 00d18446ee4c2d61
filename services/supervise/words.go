package supervise

import (
	"fmt"
	"slices"
	"strings"

	"keelson/internal/console"
	"keelson/services/forward"
)

// words are what the kernel command line says to the supervisor about logs.
type words struct {
	level       console.Level
	runcConsole bool // linuxkit.runc_console=1: the output of all containers is shown
	runcDebug   bool // linuxkit.runc_debug=1: the runtime tells what it does
	forward     []forward.Target
}

// readWords reads a kernel command line. Each error is about one word, for which
// the default is in force.
func readWords(cmdline string) (w words, wrong []error) {
	var err error
	if w.level, err = console.LevelOf(cmdline); err != nil {
		wrong = append(wrong, err)
	}
	targets, bad := forward.Targets(cmdline)
	w.forward, wrong = targets, append(wrong, bad...)
	for _, word := range strings.Fields(cmdline) {
		name, value, _ := strings.Cut(word, "=")
		var to *bool
		switch name {
		case "linuxkit.runc_console":
			to = &w.runcConsole
		case "linuxkit.runc_debug":
			to = &w.runcDebug
		default:
			continue
		}
		switch value {
		case "1":
			*to = true
		case "0":
			*to = false
		default:
			wrong = append(wrong, fmt.Errorf("kernel command line: %s is neither %s=1 nor %s=0", word, name, name))
		}
	}
	return w, wrong
}

// containerdOptions adds to the image's own options of containerd what has the
// runtime tell what it does: containerd passes its log level on to the shim. An
// image that sets a level keeps it.
func (w words) containerdOptions(given []string) []string {
	if !w.runcDebug || slices.ContainsFunc(given, func(o string) bool {
		name, _, _ := strings.Cut(o, "=")
		return name == "--log-level" || name == "-l"
	}) {
		return given
	}
	return append(slices.Clone(given), "--log-level", "debug")
}
