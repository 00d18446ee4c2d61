package children

import (
	"strconv"
	"strings"
	"syscall"
)

// Dying reports whether what /proc/PID/status says is of a process that has ended, but
// for threads that the kernel has not let go of yet.
func Dying(status string) bool {
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch name {
		case "State": // of the first thread
			if strings.HasPrefix(value, "Z") || strings.HasPrefix(value, "X") {
				return true
			}
		case "SigPnd": // the first thread's own: one that ends has SIGKILL for each of its threads
			set, err := strconv.ParseUint(value, 16, 64)
			return err == nil && set&(1<<(syscall.SIGKILL-1)) != 0
		}
	}
	return false
}
