// Package seal makes the copy of this program that the shim runs from.
//
// A process inside a container can reach the file its own start was made from
// through /proc/PID/exe. libcontainer therefore starts containers only from a
// file nobody can write to, and copies itself for every container if it is not
// one already, or shows itself through a read-only overlay where the kernel has
// overlayfs. A memfd with all of its seals set is such a file: made once, when
// the shim is started, it saves the copies on a kernel without overlayfs.
//
// The overlay is of the program's folder, and shows what lies below a mount, not
// what is mounted there: a shim whose file is itself a mount would find an empty file
// in its place. It needs the copy.
package seal

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// seals are those that libcontainer wants to see.
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// mfdExec asks for an executable memfd where the kernel makes others not so
// (Linux 6.3 with vm.memfd_noexec).
const mfdExec = 0x10

// Self returns a sealed copy of the running program.
func Self() (*os.File, error) {
	src, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer src.Close()
	return Copy(src, "containerd-shim-runc-v2")
}

// Hidden says whether the running program's file is mounted where it lies, so that
// an overlay of its folder does not have it.
func Hidden() bool {
	path, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return false
	}
	var st unix.Statx_t
	err = unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// Copy returns a sealed, executable copy of src.
func Copy(src *os.File, name string) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|mfdExec)
	if err == unix.EINVAL {
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := fill(f, src); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func fill(f, src *os.File) error {
	if _, err := io.Copy(f, src); err != nil {
		return fmt.Errorf("copy %s: %w", src.Name(), err)
	}
	if err := f.Chmod(0o511); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return os.NewSyscallError("fcntl(F_ADD_SEALS)", err)
	}
	return nil
}

// Sealed says whether fd, which need not be open, is a memfd with every seal set.
func Sealed(fd uintptr) bool {
	got, err := unix.FcntlInt(fd, unix.F_GET_SEALS, 0)
	return err == nil && got&seals == seals
}
