package console

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelConsole is the device that stands for the kernel's preferred console.
const kernelConsole = "/dev/console"

// Devices returns the console devices of a machine, as paths below /dev: that of every
// console= on the kernel command line, in order and without repeats, then those that
// the kernel writes to beside them (/proc/consoles), and /dev/console where that is
// none. The kernel takes some names for others, such as uart8250 for ttyS0, and uses
// devices that nobody has named.
func Devices(cmdline string) []string {
	text, _ := os.ReadFile("/proc/consoles") // PID 1 may be without /proc
	return devices(cmdline, string(text), "/")
}

// devices is Devices for a machine with that text in /proc/consoles, below root.
func devices(cmdline, consoles, root string) []string {
	var names []string
	add := func(more ...string) {
		for _, name := range more {
			if !slices.Contains(names, name) && !withoutHardware(root, name) {
				names = append(names, name)
			}
		}
	}
	words := wordNames(cmdline)
	add(words...)
	add(kernelNames(consoles)...)
	onScreen := len(names) > 0 && !slices.ContainsFunc(names, func(n string) bool { return !isScreen(n) })
	if onScreen && len(words) == 0 && !wantsSilence(cmdline) && !hasScreen(root) {
		// The kernel has picked a screen that the machine does not have.
		if line := firstLine(root); line != "" {
			add(line)
		}
	}
	if len(names) == 0 {
		return []string{kernelConsole}
	}
	for i := range names {
		names[i] = "/dev/" + names[i]
	}
	return names
}

// wordNames are the names in console= words that may be those of devices. One whose
// driver is a module has none yet.
func wordNames(cmdline string) []string {
	var names []string
	for word := range strings.FieldsSeq(cmdline) {
		v, ok := strings.CutPrefix(word, "console=")
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(v, ",")
		name = strings.TrimPrefix(name, "/dev/")
		switch {
		case name == "", isNull(name), strings.Contains(name, ".."):
		case name == "tty": // the controlling terminal is nobody's console
		case strings.HasPrefix(name, "uart"): // an address: the kernel lists the device that it finds there
		default:
			names = append(names, name)
		}
	}
	return names
}

// kernelNames are the names of the consoles that are enabled and that programs can
// write to, from lines "ttyS0 -W- (EC p a) 4:64".
func kernelNames(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		_, rest, _ = strings.Cut(rest, "(")
		flags, number, ok := strings.Cut(rest, ")")
		switch {
		case !ok || strings.TrimSpace(number) == "": // no device, as netcon0
		case !strings.Contains(flags, "E") || strings.Contains(flags, "B"): // a boot console has none either
		case isNull(name), strings.Contains(name, ".."):
		default:
			names = append(names, name)
		}
	}
	return names
}

func isNull(name string) bool { return name == "null" || strings.HasPrefix(name, "ttynull") }

// wantsSilence reports whether a command line asks for no console, in the kernel's words.
func wantsSilence(cmdline string) bool {
	for word := range strings.FieldsSeq(cmdline) {
		if v, ok := strings.CutPrefix(word, "console="); ok && (v == "" || isNull(v)) {
			return true
		}
	}
	return false
}

// withoutHardware reports whether a name is that of a serial port that the machine does
// not have: its device is there all the same, and never takes anything.
func withoutHardware(root, name string) bool {
	kind, err := os.ReadFile(filepath.Join(root, "sys/class/tty", name, "type"))
	return err == nil && strings.TrimSpace(string(kind)) == "0"
}

// isScreen reports whether a name is that of a virtual terminal.
func isScreen(name string) bool {
	n, ok := strings.CutPrefix(name, "tty")
	return ok && n != "" && strings.Trim(n, "0123456789") == ""
}

// hasScreen reports whether the machine has a display. The kernel's own virtual terminals
// do not tell: its driver for VGA takes any memory at that address for one.
func hasScreen(root string) bool {
	for _, pattern := range []string{"sys/class/graphics/fb[0-9]*", "sys/class/drm/card[0-9]*"} {
		if found, _ := filepath.Glob(filepath.Join(root, pattern)); len(found) > 0 {
			return true
		}
	}
	classes, _ := filepath.Glob(filepath.Join(root, "sys/bus/pci/devices/*/class"))
	for _, path := range classes {
		if class, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(class), "0x03") {
			return true
		}
	}
	return false
}

// serialLines are the devices that people look at where there is no screen, best first.
var serialLines = []string{"ttyS0", "ttyAMA0", "hvc0", "ttyS1"}

// firstLine is the first of serialLines that the machine has, "" for none.
func firstLine(root string) string {
	for _, name := range serialLines {
		if _, err := os.Stat(filepath.Join(root, "dev", name)); err == nil && !withoutHardware(root, name) {
			return name
		}
	}
	return ""
}

// spares are the devices that people look at, best first.
func spares() []string {
	list := []string{kernelConsole}
	for _, name := range serialLines {
		if !withoutHardware("/", name) {
			list = append(list, "/dev/"+name)
		}
	}
	return append(list, "/dev/tty0")
}

// openAny opens the first of several devices that can be opened.
func openAny(open func(string) (int, error), paths func() []string) func(string) (int, error) {
	return func(string) (int, error) {
		var errs []error
		for _, path := range paths() {
			fd, err := open(path)
			if err == nil {
				return fd, nil
			}
			errs = append(errs, &os.PathError{Op: "open", Path: path, Err: err})
		}
		if len(errs) == 0 {
			return -1, unix.ENODEV
		}
		return -1, errors.Join(errs...)
	}
}
