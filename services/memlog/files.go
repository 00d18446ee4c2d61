package memlog

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/hold"
	"keelson/services/logs"
)

const (
	// maxRights is how many files a message may bring, scmMaxFD how many the kernel lets
	// it bring: whatever there is no room for would be closed by the kernel, in the
	// receiving loop.
	maxRights = 16
	scmMaxFD  = 253
	// receivePause follows an error of receiving that is none of a message's.
	receivePause = time.Second
	// roomBound is how long a sender's messages may hold up those of others.
	roomBound = time.Second
)

// message is what a client has sent.
type message struct {
	from   Sender
	name   string
	stream logs.Stream
	fds    []int
	err    error // what is wrong with it
}

// receive takes messages until the socket is closed.
func (s *Server) receive() {
	text := make([]byte, maxName+1) // one more, to see what is too long
	control := make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(4*scmMaxFD))
	for {
		n, c, flags, _, err := s.write.ReadMsgUnix(text, control)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			s.once("receive", "%s: %v", WriteSocket, err)
			t := time.NewTimer(receivePause)
			<-t.C
			continue
		}
		m := message{from: s.from(control[:c]), fds: hold.Descriptors(control[:c])}
		m.name, m.stream, m.err = source(text[:n])
		switch {
		case m.err != nil:
		case flags&unix.MSG_CTRUNC != 0 && len(m.fds) == 0:
			m.err = errors.New("there is no room for the files it brought")
		case len(m.fds) == 0:
			m.err = errors.New("it brought no file to read from")
		}
		s.pass(m)
	}
}

// from returns whose process has sent a message.
func (s *Server) from(control []byte) Sender {
	if s.cfg.Sender == nil {
		return Sender{}
	}
	messages, _ := unix.ParseSocketControlMessage(control)
	for _, m := range messages {
		if c, err := unix.ParseUnixCredentials(&m); err == nil && c.Pid > 0 {
			return s.cfg.Sender(int(c.Pid))
		}
	}
	return Sender{ID: Unknown}
}

// pass gives a message to whoever looks at those of its sender. A sender that is faster
// than that is waited for a moment, one whose descriptor holds us up is not.
func (s *Server) pass(m message) {
	f, ok := s.enqueue(m)
	if !ok && !f.stuck.Load() {
		t := time.NewTimer(roomBound)
		for !ok && !f.stuck.Load() {
			select {
			case <-f.room:
				_, ok = s.enqueue(m)
			case <-t.C:
				f.stuck.Store(true)
			}
		}
		t.Stop()
	}
	if !ok {
		discard(m.fds...)
		s.refuse(f, "flood", "a message was thrown away: it sends more than can be looked at")
	}
}

// enqueue reports whether there is room for one more message of its sender.
func (s *Server) enqueue(m message) (*sender, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.sender(m.from.ID)
	if len(f.waiting) > 0 && (f.pending+len(m.fds) > maxWaiting || len(f.waiting) >= maxWaiting) {
		return f, false
	}
	f.waiting = append(f.waiting, m)
	f.pending += len(m.fds)
	if !f.working {
		f.working = true
		s.ends.Go(func() { s.work(f) })
	}
	return f, true
}

// work looks at a sender's messages until there are none.
func (s *Server) work(f *sender) {
	looked := 0 // descriptors of the last one
	for {
		s.mu.Lock()
		f.pending -= looked
		if len(f.waiting) == 0 {
			f.waiting, f.working = nil, false
			s.mu.Unlock()
			return
		}
		m := f.waiting[0]
		f.waiting = f.waiting[1:]
		s.mu.Unlock()
		select {
		case f.room <- struct{}{}:
		default:
		}
		s.look(f, m)
		f.stuck.Store(false)
		looked = len(m.fds)
	}
}

func (s *Server) look(f *sender, m message) {
	if m.err != nil {
		discard(m.fds...)
		s.refuse(f, "junk", "a message was thrown away: %v", m.err)
		return
	}
	if len(m.fds) > maxRights {
		discard(m.fds[maxRights:]...)
		s.refuse(f, "many", "files of %.64s were not taken: a message brings at most %d", m.name, maxRights)
		m.fds = m.fds[:maxRights]
	}
	for _, fd := range m.fds {
		s.take(f, m, fd)
	}
}

// discard closes descriptors that were handed over. A socket does not linger.
func discard(fds ...int) {
	for _, fd := range fds {
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{})
		_ = unix.Close(fd)
	}
}

// take begins to read a file that was handed over, and owns it.
func (s *Server) take(f *sender, m message, fd int) {
	s.mu.Lock()
	full := f.open >= f.most()
	s.mu.Unlock()
	if full {
		discard(fd)
		s.refuse(f, "full", "a file of %.64s was not taken: %d are open already", m.name, f.most())
		return
	}
	h, err := open(fd)
	if err != nil {
		s.refuse(f, "kind", "a file of %.64s was not taken: %v", m.name, err)
		return
	}
	name := m.name
	if !s.mayUse(f.id, name) {
		name = spokenBy(f.id, name)
		s.refuse(f, "name", "it may not speak as %.64s: that is logged as %.128s", m.name, name)
	}
	s.mu.Lock()
	s.last++
	h.key = heldKey(s.last, m.from, name, m.stream)
	s.mu.Unlock()
	if err := h.control(func(fd int) error { return s.cfg.Hold.Put(h.key, fd) }); err != nil && !errors.Is(err, hold.ErrNone) {
		s.once("hold", "what %.64s writes is cut off if the supervisor dies: %v (reported once)", name, err)
	}
	s.read(h, m.from, name, m.stream)
}

// heldKey is the name under which a file is held: a number, its sender, its source and
// the sender's cgroup, which begins with a slash. The others have none.
func heldKey(number int, from Sender, name string, stream logs.Stream) string {
	return heldFile + strconv.Itoa(number) + "/" + from.ID + "/" + sourceName(logs.Record{Source: name, Stream: stream}) + from.Cgroup
}

// takeOver goes on reading a file that an earlier supervisor was given.
func (s *Server) takeOver(file hold.File) {
	fields := strings.SplitN(strings.TrimPrefix(file.Name, heldFile), "/", 4)
	n, err := strconv.Atoi(fields[0])
	if err != nil || len(fields) < 3 {
		_ = file.Close()
		s.cfg.Hold.Drop(file.Name)
		return
	}
	from, name, stream := Sender{ID: fields[1]}, fields[2], logs.Stderr
	if len(fields) == 4 {
		from.Cgroup = "/" + fields[3]
	}
	if out, ok := strings.CutSuffix(name, outSuffix); ok {
		name, stream = out, logs.Stdout
	}
	s.mu.Lock()
	s.last = max(s.last, n)
	s.mu.Unlock()
	fd, err := duplicate(file.File)
	_ = file.Close()
	var h *handed
	if err == nil {
		h, err = open(fd)
	}
	if err != nil {
		s.cfg.Hold.Drop(file.Name)
		s.once("open", "%s: what %.64s writes is lost: %v (reported once)", WriteSocket, name, err)
		return
	}
	h.key = file.Name
	s.read(h, from, name, stream)
}

// read gives a file to the store.
func (s *Server) read(h *handed, from Sender, name string, stream logs.Stream) {
	s.mu.Lock()
	f := s.sender(from.ID)
	h.server, h.from = s, f
	f.open++
	s.files[h] = true
	if s.closed {
		h.stop()
	}
	s.join(h, from.Cgroup)
	s.mu.Unlock()
	err := s.cfg.Store.OpenClient(from.ID, name, stream, h)
	if err == nil {
		return
	}
	if other := spokenBy(from.ID, name); errors.Is(err, logs.ErrTaken) && other != name {
		if err = s.cfg.Store.OpenClient(from.ID, other, stream, h); err == nil {
			return
		}
	}
	_ = h.Close()
	s.refuse(f, "open", "a file of %.64s was not taken: %v", name, err)
}

// describe returns an error that names what a descriptor is.
func describe(what string) error {
	return fmt.Errorf("it is %s: hand over a pipe or a connected stream socket (unix)", what)
}
