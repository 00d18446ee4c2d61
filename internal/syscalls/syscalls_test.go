package syscalls

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestNamesAndNumbers(t *testing.T) {
	for nr, name := range map[int]string{
		unix.SYS_READ: "read", unix.SYS_MOUNT: "mount", unix.SYS_KEXEC_FILE_LOAD: "kexec_file_load", unix.SYS_STATX: "statx", unix.SYS_RSEQ: "rseq",
		unix.SYS_URETPROBE: "uretprobe", unix.SYS_PIDFD_SEND_SIGNAL: "pidfd_send_signal", unix.SYS_CLONE3: "clone3", unix.SYS_FUTEX_WAITV: "futex_waitv", unix.SYS_MSEAL: "mseal",
	} {
		if got := Name(nr); got != name {
			t.Errorf("call %d is %q, want %q", nr, got, name)
		}
		if got, ok := Number(name); !ok || got != nr {
			t.Errorf("%s is %d, %v, want %d", name, got, ok, nr)
		}
	}
	for _, nr := range []int{-1, 400, 10_000} {
		if got := Name(nr); got != "" {
			t.Errorf("call %d is %q", nr, got)
		}
	}
	for _, name := range []string{"", "?", "mmap2"} {
		if nr, ok := Number(name); ok {
			t.Errorf("%q is %d", name, nr)
		}
	}
}
