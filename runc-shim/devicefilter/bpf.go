package devicefilter

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bpf calls bpf(2). other is what attr has the address of as a number, if anything.
func bpf(command uintptr, attr unsafe.Pointer, size uintptr, other unsafe.Pointer) (int, error) {
	var pinned runtime.Pinner
	defer pinned.Unpin()
	if other != nil {
		pinned.Pin(other)
	}
	n, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(attr), size)
	runtime.KeepAlive(attr)
	if errno != 0 {
		return -1, os.NewSyscallError("bpf", errno)
	}
	return int(n), nil
}
