package seccomp

// #cgo pkg-config: libseccomp
// #cgo LDFLAGS: -Wl,--wrap=seccomp_export_bpf
// extern int keelson_seccomp_program;
import "C"

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Take finds the program among the files that were passed to the last stage of a
// start, and keeps it from what is started.
func Take() {
	// Files that are passed come before libcontainer's own.
	end, err := strconv.Atoi(os.Getenv("_LIBCONTAINER_INITPIPE"))
	if err != nil {
		return
	}
	for fd := 3; fd < end; fd++ {
		name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		if err == nil && strings.HasPrefix(name, "/memfd:"+fileName) {
			unix.CloseOnExec(fd)
			C.keelson_seccomp_program = C.int(fd)
		}
	}
}
