package memlog

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/hold"
	"keelson/services/logs"
)

const (
	// maxFiles bounds the files that are read at a time.
	maxFiles = 256
	// maxRights is how many files a message may bring; the kernel closes the rest.
	maxRights = 16
	// receivePause follows an error of receiving that is none of a message's.
	receivePause = time.Second
)

// handed is a file that a client gave us to read.
type handed struct {
	// watch is a copy, to see the end of its writers: the store owns the one it reads.
	watch *os.File
}

// receive takes files until the socket is closed.
func (s *Server) receive() {
	message := make([]byte, maxName+1) // one more, to see what is too long
	rights := make([]byte, unix.CmsgSpace(4*maxRights))
	for {
		n, m, flags, _, err := s.write.ReadMsgUnix(message, rights)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			s.once("receive", "%s: %v", WriteSocket, err)
			t := time.NewTimer(receivePause)
			<-t.C
			continue
		}
		fds := hold.Descriptors(rights[:m])
		name, stream, err := source(message[:n])
		switch {
		case err != nil:
		case flags&unix.MSG_CTRUNC != 0 && len(fds) == 0:
			err = errors.New("there is no room for the files it brought")
		case len(fds) == 0:
			err = errors.New("it brought no file to read from")
		}
		if err != nil {
			s.once("junk", "%s: a message was thrown away: %v (said once)", WriteSocket, err)
		}
		for _, fd := range fds {
			if err != nil {
				_ = unix.Close(fd)
				continue
			}
			s.take(name, stream, fd)
		}
	}
}

// take begins to read a file that was handed over, and owns it.
func (s *Server) take(name string, stream logs.Stream, fd int) {
	if err := readable(fd); err != nil {
		_ = unix.Close(fd)
		s.once("kind", "%s: a file of %s was not taken: %v (said once)", WriteSocket, name, err)
		return
	}
	s.mu.Lock()
	full := len(s.files) >= maxFiles
	s.last++
	key := heldFile + strconv.Itoa(s.last) + "." + sourceName(logs.Record{Source: name, Stream: stream})
	s.mu.Unlock()
	if full {
		_ = unix.Close(fd)
		s.once("full", "%s: a file of %s was not taken: %d are open already (said once)", WriteSocket, name, maxFiles)
		return
	}
	if err := s.cfg.Hold.Put(key, fd); err != nil && !errors.Is(err, hold.ErrNone) {
		s.once("hold", "what %s writes is cut off if the supervisor dies: %v (said once)", name, err)
	}
	s.read(key, name, stream, os.NewFile(uintptr(fd), name))
}

// takeOver goes on reading a file that an earlier supervisor was given.
func (s *Server) takeOver(f hold.File) {
	number, name, ok := strings.Cut(strings.TrimPrefix(f.Name, heldFile), ".")
	n, err := strconv.Atoi(number)
	if !ok || err != nil {
		_ = f.Close()
		s.cfg.Hold.Drop(f.Name)
		return
	}
	s.mu.Lock()
	s.last = max(s.last, n)
	s.mu.Unlock()
	base, stream := name, logs.Stderr
	if out, ok := strings.CutSuffix(name, outSuffix); ok {
		base, stream = out, logs.Stdout
	}
	s.read(f.Name, base, stream, f.File)
}

// read gives f to the store, and lets go of the rest when its writers are gone.
func (s *Server) read(key, name string, stream logs.Stream, f *os.File) {
	h, err := watch(f)
	if err == nil {
		s.mu.Lock()
		s.files[key] = h
		s.mu.Unlock()
		if err = s.cfg.Store.OpenFD(name, stream, f); err == nil {
			s.ends.Go(func() {
				if h.awaitEnd() { // and not only of this server
					s.cfg.Hold.Drop(key)
				}
				_ = h.watch.Close()
				s.mu.Lock()
				delete(s.files, key)
				s.mu.Unlock()
			})
			return
		}
		_ = h.watch.Close()
		s.mu.Lock()
		delete(s.files, key)
		s.mu.Unlock()
	}
	_ = f.Close()
	s.cfg.Hold.Drop(key)
	s.once("open", "%s: a file of %s was not taken: %v (said once)", WriteSocket, name, err)
}

// readable says what is wrong with a descriptor as something to read lines from.
func readable(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFIFO && kind != unix.S_IFSOCK {
		return errors.New("it is neither a pipe nor a socket")
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	if flags&unix.O_ACCMODE == unix.O_WRONLY || flags&unix.O_PATH != 0 {
		return errors.New("it is the end for writing")
	}
	// Its own open file: the writer has the other end.
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("it cannot be read without waiting: %w", err)
	}
	return nil
}

// watch makes a copy of f to see its end with.
func watch(f *os.File) (*handed, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	own := -1
	if cerr := conn.Control(func(fd uintptr) { own, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	return &handed{watch: os.NewFile(uintptr(own), f.Name())}, nil
}

// awaitEnd returns true once nobody can write any more, and false if the server
// was closed before.
func (h *handed) awaitEnd() bool {
	conn, err := h.watch.SyscallConn()
	if err != nil {
		return false
	}
	return conn.Read(func(fd uintptr) bool { return ended(int(fd)) }) == nil
}

func ended(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	for {
		_, err := unix.Poll(p, 0)
		if err != syscall.EINTR {
			return err != nil || p[0].Revents != 0
		}
	}
}
