package modules

import (
	"strings"
)

// late are the modules that no container can miss while the machine boots: they make no
// network interface, no block device, no watchdog and no source of randomness. Whatever
// is not here is loaded before the first container.
var late = []struct {
	path string // in the kernel's tree: a directory, or a module's file
	seen string // what a container that cares names: then it is loaded first
	why  string
}{
	{"kernel/drivers/acpi/button.", "/dev/input", "the power button: its initialisation waits for 14 ms"},
	{"kernel/drivers/input/", "/dev/input", "keys, mice and speakers, and the nodes that their events are read from"},
	{"kernel/drivers/hwmon/", "/sys/class/hwmon", "sensors"},
	{"kernel/arch/x86/crypto/", "", "faster ciphers: the kernel asks for them itself when it needs one"},
}

// isLate reports whether the boot need not wait for a module. One that has parameters is
// somebody's concern, and so is one whose devices a container names.
func (x *Index) isLate(module string, named func(path string) bool) bool {
	for _, l := range late {
		if strings.HasPrefix(x.deps[module], l.path) {
			return x.conf.params(module, "") == "" && (l.seen == "" || !named(l.seen))
		}
	}
	return false
}
