package kernel

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// call makes a system call that x/sys has no wrapper for and that takes one path.
func call(number uintptr, path *byte) error {
	if _, _, errno := unix.Syscall(number, uintptr(unsafe.Pointer(path)), 0, 0); errno != 0 {
		return errno
	}
	return nil
}
