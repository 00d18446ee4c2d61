package kernel

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func (Linux) Socketpair() (int, int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	return fds[0], fds[1], err
}

func (Linux) ReceiveFile(socket int) (int, error) {
	for {
		data, rights := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
		n, rn, _, _, err := unix.Recvmsg(socket, data, rights, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0 && rn == 0:
			return 0, syscall.EPIPE // the other end is gone
		}
		messages, err := unix.ParseSocketControlMessage(rights[:rn])
		if err != nil {
			return 0, err
		}
		for _, m := range messages {
			if fds, err := unix.ParseUnixRights(&m); err == nil && len(fds) == 1 {
				return fds[0], nil
			}
		}
		// A message without one: the next.
	}
}

func (Linux) Close(fd int) { _ = unix.Close(fd) }

func (Linux) Keepalive(fd int) error {
	return unix.IoctlSetInt(fd, unix.WDIOC_KEEPALIVE, 0)
}

func (Linux) WatchdogTimeout(fd int) (time.Duration, error) {
	seconds, err := unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT)
	return time.Duration(seconds) * time.Second, err
}

func (Linux) StopWatchdog(fd int) error {
	defer unix.Close(fd)
	err := unix.IoctlSetPointerInt(fd, unix.WDIOC_SETOPTIONS, unix.WDIOS_DISABLECARD)
	if _, werr := unix.Write(fd, []byte("V")); err != nil && err != unix.EBUSY && werr == nil {
		return nil // a driver that knows only the magic character
	}
	return err
}
