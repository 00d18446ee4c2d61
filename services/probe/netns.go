package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// errGone says that there is nothing to look at any more.
var errGone = errors.New("the process has ended")

// dial connects to ip:port in the network namespace of a process. Only the
// socket is made there: it stays in that namespace, whichever thread uses it.
func dial(ctx context.Context, ip net.IP, port, pid int) (net.Conn, error) {
	family, addr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: port, Addr: [16]byte(ip.To16())})
	if v4 := ip.To4(); v4 != nil {
		family, addr = unix.AF_INET, &unix.SockaddrInet4{Port: port, Addr: [4]byte(v4)}
	}
	fd, err := socketOf(pid, family)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "probe")
	defer f.Close()
	if err := await(ctx, f, fd, addr); err != nil {
		return nil, err
	}
	if talksToItself(fd) {
		return nil, unix.ECONNREFUSED
	}
	return net.FileConn(f)
}

// await connects a nonblocking socket and waits until it is.
func await(ctx context.Context, f *os.File, fd int, addr unix.Sockaddr) error {
	switch err := unix.Connect(fd, addr); err {
	case nil:
		return nil
	case unix.EINPROGRESS, unix.EINTR:
	default:
		return err
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var failed error
	err = conn.Write(func(uintptr) bool {
		if errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || errno != 0 {
			failed = err
			if err == nil {
				failed = unix.Errno(errno)
			}
			return true
		}
		_, err := unix.Getpeername(fd)
		return err == nil // not connected yet: it is called again when there is something new
	})
	if err != nil {
		return err
	}
	return failed
}

// talksToItself reports whether the kernel connected the socket to itself: where
// nobody listens at a port that it also gives to clients, a client may by chance
// be given that very port.
func talksToItself(fd int) bool {
	local, err1 := unix.Getsockname(fd)
	remote, err2 := unix.Getpeername(fd)
	if err1 != nil || err2 != nil {
		return false
	}
	switch l := local.(type) {
	case *unix.SockaddrInet4:
		r, ok := remote.(*unix.SockaddrInet4)
		return ok && l.Port == r.Port && l.Addr == r.Addr
	case *unix.SockaddrInet6:
		r, ok := remote.(*unix.SockaddrInet6)
		return ok && l.Port == r.Port && l.Addr == r.Addr
	}
	return false
}

// socketOf makes a nonblocking TCP socket in the network namespace of a process.
func socketOf(pid, family int) (int, error) {
	socket := func() (int, error) {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return fd, os.NewSyscallError("socket", err)
	}
	there, err := openNamespace(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return -1, err
	}
	defer unix.Close(there)
	type result struct {
		fd  int
		err error
	}
	results := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		here, err := openNamespace("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread() // it has not moved
			results <- result{-1, err}
			return
		}
		defer unix.Close(here)
		if same(here, there) {
			fd, err := socket()
			runtime.UnlockOSThread()
			results <- result{fd, err}
			return
		}
		if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			results <- result{-1, os.NewSyscallError("join its network namespace: setns", err)}
			return
		}
		fd, err := socket()
		if unix.Setns(here, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		} // else the thread ends with this goroutine: nobody may work in a wrong namespace
		results <- result{fd, err}
	}()
	r := <-results
	return r.fd, r.err
}

func openNamespace(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	switch err {
	case nil:
		return fd, nil
	case unix.ENOENT, unix.ESRCH:
		return -1, errGone
	default:
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
}

func same(a, b int) bool {
	var sa, sb unix.Stat_t
	return unix.Fstat(a, &sa) == nil && unix.Fstat(b, &sb) == nil && sa.Dev == sb.Dev && sa.Ino == sb.Ino
}
