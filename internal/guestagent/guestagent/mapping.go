package main

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// linear maps a block device one to one under a name, as "dmsetup create" does with a table of the target linear.
func linear(device, name string) error {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", device, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	bytes, err := unix.IoctlGetUint32(fd, unix.BLKGETSIZE64) // a small one
	if err != nil {
		return fmt.Errorf("size of %s: %w", device, err)
	}
	control, err := unix.Open("/dev/mapper/control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/mapper/control: %w", err)
	}
	defer unix.Close(control)
	target := fmt.Sprintf("%d:%d 0\x00", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	for _, step := range []struct {
		what    string
		request uintptr
		targets uint32
	}{{"create", 0xc138fd03, 0}, {"load", 0xc138fd09, 1}, {"resume", 0xc138fd06, 0}} {
		// struct dm_ioctl, and behind it for a table struct dm_target_spec with its text (linux/dm-ioctl.h).
		var request [128]uint64
		b := unsafe.Slice((*byte)(unsafe.Pointer(&request)), len(request)*8)
		head := (*[6]uint32)(unsafe.Pointer(&request))
		*head = [6]uint32{4, 0, 0, uint32(len(b)), 312, step.targets}
		copy(b[48:], name)
		*(*uint64)(unsafe.Pointer(&b[312+8])) = uint64(bytes) / 512
		copy(b[312+24:], "linear")
		copy(b[312+40:], target)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(control), step.request, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return fmt.Errorf("%s the mapping %s: %w", step.what, name, errno)
		}
	}
	return nil
}
