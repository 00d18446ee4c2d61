package lifecycle

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// SignalName is SIGKILL for 9, and so on.
func SignalName(s syscall.Signal) string {
	if n := unix.SignalName(s); n != "" {
		return n
	}
	return fmt.Sprintf("signal %d", int(s))
}
