package supervise

import (
	"fmt"
	"slices"
	"strings"

	"keelson/internal/console"
	"keelson/services/forward"
)

// words are what the kernel command line asks of the supervisor.
type words struct {
	level       console.Level
	runcConsole bool // linuxkit.runc_console=1: the output of all containers is shown
	runcDebug   bool // linuxkit.runc_debug=1: the runtime tells what it does
	forward     []forward.Target
	sysctlOff   bool // keelson.sysctl=off: no kernel setting is touched
	kexecOff    bool // keelson.kexec=off: no other kernel can be started
	modulesBoot bool // keelson.modules=boot: none can be loaded once the boot is complete
	// keelson.modules=early: all are loaded before the first container
	modulesEarly bool
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
		sw := w.of(name)
		switch {
		case name == "keelson.modules":
			if err := w.setModules(value); err != nil {
				wrong = append(wrong, err)
			}
		case sw.to == nil:
		case value == sw.yes:
			*sw.to = true
		case value == sw.no:
			*sw.to = false
		default:
			wrong = append(wrong, fmt.Errorf("kernel command line: %s is neither %s=%s nor %s=%s", word, name, sw.yes, name, sw.no))
		}
	}
	return w, wrong
}

// setModules takes on, or one or both of boot and early.
func (w *words) setModules(value string) error {
	boot, early := false, false
	for one := range strings.SplitSeq(value, ",") {
		switch one {
		case "on":
		case "boot":
			boot = true
		case "early":
			early = true
		default:
			return fmt.Errorf("kernel command line: keelson.modules=%s: must be on, boot, early, or boot,early", value)
		}
	}
	w.modulesBoot, w.modulesEarly = boot, early
	return nil
}

// onOff is a word with two values, of which no is the default.
type onOff struct {
	to      *bool
	yes, no string
}

// of returns the word of that name; without a to if there is none.
func (w *words) of(name string) onOff {
	switch name {
	case "linuxkit.runc_console":
		return onOff{&w.runcConsole, "1", "0"}
	case "linuxkit.runc_debug":
		return onOff{&w.runcDebug, "1", "0"}
	case "keelson.sysctl":
		return onOff{&w.sysctlOff, "off", "on"}
	case "keelson.kexec":
		return onOff{&w.kexecOff, "off", "on"}
	}
	return onOff{}
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
