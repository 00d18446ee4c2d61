// Package hold owns the open files that must outlive the supervisor: sockets
// others have bound by name, and the read ends of pipes that others write to.
//
// They are kept as messages on their way through a socket pair. PID 1 made the
// pair, gives both ends to each supervisor and never takes what goes from the first to
// the second; as long as it has them, the kernel keeps what is on the way, and the next
// supervisor finds it. What goes the other way are beats, by which a supervisor shows
// PID 1 that it goes round.
//
// It promises that a file is closed for good only when it was dropped, and that a
// supervisor without such a pair (started by hand) works all the same and keeps
// nothing. It must never block: a full pair is an error of Put.
package hold

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Env names the two ends in the supervisor's environment: "3,4".
const Env = "KEELSON_HOLD"

const (
	// nameBytes bounds a name.
	nameBytes = 1024
	// room is asked for in the pair: what is on the way takes about a kilobyte each.
	room = 4 << 20
)

// marker begins the name of what goes round with the files and is none.
const marker = "\x00"

// Hold is a socket pair that holds files. A nil Hold holds none.
type Hold struct {
	in, out int // never closed: they are the process's

	mu     sync.Mutex // one goes round at a time
	rounds int        // guarded by mu
}

// FromEnv returns the Hold that PID 1 gave to this process, or nil.
func FromEnv() *Hold {
	first, second, ok := strings.Cut(os.Getenv(Env), ",")
	in, err := strconv.Atoi(first)
	out, err2 := strconv.Atoi(second)
	if !ok || err != nil || err2 != nil {
		return nil
	}
	h, err := New(in, out)
	if err != nil {
		return nil
	}
	return h
}

// New makes a Hold of the two ends of a SOCK_SEQPACKET pair.
func New(in, out int) (*Hold, error) {
	for _, fd := range []int{in, out} {
		if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_SEQPACKET {
			return nil, fmt.Errorf("descriptor %d is no end of a pair that holds files", fd)
		}
		unix.CloseOnExec(fd) // not for containerd and scripts
	}
	// Beyond what an ordinary process may have; without the right to it there is less room.
	_ = unix.SetsockoptInt(in, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, room)
	return &Hold{in: in, out: out}, nil
}

// Pair makes a pair for New. Both ends are closed on exec.
func Pair() (in, out int, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	return p[0], p[1], err
}

// ErrNone is returned by Put where there is nothing to hold files with.
var ErrNone = errors.New("PID 1 gave no pair to hold files with")

// Beat shows PID 1 that the supervisor goes round. Where PID 1 has not looked for long it
// does nothing: there is a beat already.
func (h *Hold) Beat() error {
	if h == nil {
		return nil // nobody looks
	}
	err := unix.Sendmsg(h.out, []byte{1}, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if err == unix.EAGAIN || err == unix.EINTR {
		return nil
	}
	return err
}

// beatsTaken bounds how many beats are taken at once.
const beatsTaken = 1024

// Beaten takes the beats that have come to the first end of a pair, and reports whether
// there were any.
func Beaten(in int) (any bool) {
	for range beatsTaken {
		n, _, _, _, err := unix.Recvmsg(in, make([]byte, 1), nil, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			break
		}
		any = true
	}
	return any
}

// Put holds a copy of a descriptor under a name.
func (h *Hold) Put(name string, fd int) error {
	if h == nil {
		return ErrNone
	}
	if name == "" || strings.HasPrefix(name, marker) || len(name) > nameBytes {
		return fmt.Errorf("hold %q: a name has 1 to %d bytes", name, nameBytes)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.send(name, fd); err != nil {
		return fmt.Errorf("hold %s: %w", name, err)
	}
	return nil
}

// Drop lets go of every file of that name.
func (h *Hold) Drop(name string) {
	if h == nil {
		return
	}
	_ = h.round(func(n string, _ int) bool { return n != name })
}

// File is one that was held.
type File struct {
	Name string
	*os.File
}

// Files returns copies of all that is held, which stays held.
func (h *Hold) Files() ([]File, error) {
	if h == nil {
		return nil, nil
	}
	var files []File
	err := h.round(func(name string, fd int) bool {
		if own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			files = append(files, File{name, os.NewFile(uintptr(own), name)})
		}
		return true
	})
	return files, err
}

// round takes out each file and puts it back if keep says so. A death on the way
// costs the one file that is in hand at most. A marker says where it began; one
// of a supervisor that died on its round is thrown away.
func (h *Hold) round(keep func(name string, fd int) bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rounds++
	end := fmt.Sprintf("%s%d.%d", marker, os.Getpid(), h.rounds)
	if err := h.send(end, -1); err != nil {
		return fmt.Errorf("look at the files held: %w", err)
	}
	var failed error
	for {
		name, fd, err := h.receive()
		switch {
		case err != nil:
			return fmt.Errorf("look at the files held: %w", err)
		case name == end:
			return failed
		case fd < 0:
			continue
		}
		if keep(name, fd) {
			if err := h.send(name, fd); err != nil {
				failed = fmt.Errorf("go on holding %s: %w", name, err)
			}
		}
		_ = unix.Close(fd)
	}
}

func (h *Hold) send(name string, fd int) error {
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	for {
		err := unix.Sendmsg(h.in, []byte(name), rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return err
		}
	}
}

// receive returns the next message, with descriptor -1 if it has none.
func (h *Hold) receive() (name string, fd int, err error) {
	text := make([]byte, nameBytes)
	rights := make([]byte, unix.CmsgSpace(4))
	for {
		n, m, _, _, err := unix.Recvmsg(h.out, text, rights, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return "", -1, err
		}
		fds := Descriptors(rights[:m])
		for len(fds) > 1 { // never sent
			_ = unix.Close(fds[len(fds)-1])
			fds = fds[:len(fds)-1]
		}
		if len(fds) == 0 {
			return string(text[:n]), -1, nil
		}
		return string(text[:n]), fds[0], nil
	}
}

// Descriptors returns the open files that came with a message.
func Descriptors(control []byte) []int {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	var fds []int
	for _, m := range messages {
		if got, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}
