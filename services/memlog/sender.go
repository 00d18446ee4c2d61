package memlog

import (
	"errors"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"keelson/services/logs"
)

// Sender is whose process has sent a message.
type Sender struct {
	// ID is the container's: the name of its own streams. The machine's own processes
	// have none.
	ID string
	// Cgroup is the container's, or the process's where that is in none of the image.
	// The sender has exited when nothing is in it. It may be "".
	Cgroup string
}

// Unknown is the ID of all of whom no container is known: a process that had exited when
// its message was read, or one in a cgroup of somebody else's making.
const Unknown = "?"

const (
	// maxFiles bounds the files of one sender that are read at a time; the machine's own
	// processes may speak for many containers.
	maxFiles        = 32
	maxMachineFiles = 256
	// maxWaiting bounds the descriptors of one sender that nobody has looked at yet.
	maxWaiting = 256
	// endLook is how often it is looked whether senders have exited.
	endLook = 2 * time.Second
)

// sender is what there is of one sender. Its fields are guarded by the server's mu.
type sender struct {
	id      string
	reading sync.Mutex     // held while one of its sockets is read or closed; guards nothing else
	open    int            // files being read
	waiting []message      // that nobody has looked at yet
	pending int            // descriptors in those
	working bool           // somebody looks at them
	room    chan struct{}  // told when one has been taken out
	stuck   atomic.Bool    // none was, for roomBound
	refused map[string]int // how much, by what is wrong with it
}

// String is who it is, for people.
func (f *sender) String() string {
	switch f.id {
	case "":
		return "the machine's own processes"
	case Unknown:
		return "unknown processes"
	}
	return f.id
}

func (f *sender) most() int {
	if f.id == "" {
		return maxMachineFiles
	}
	return maxFiles
}

// sender returns what there is of a sender. The caller holds mu.
func (s *Server) sender(id string) *sender {
	f := s.senders[id]
	if f == nil {
		f = &sender{id: id, refused: map[string]int{}, room: make(chan struct{}, 1)}
		s.senders[id] = f
	}
	return f
}

// refuse counts what is refused of a sender, by its kind, and reports the first one, the
// hundredth and so on.
func (s *Server) refuse(f *sender, kind, format string, a ...any) {
	s.mu.Lock()
	f.refused[kind]++
	n := f.refused[kind]
	s.mu.Unlock()
	switch power := math.Log10(float64(n)) / 2; {
	case n == 1:
		s.cfg.Warn("%s: of %v: "+format+" (reported once; the rest is counted)", append([]any{WriteSocket, f}, a...)...)
	case power == math.Trunc(power):
		s.cfg.Warn("%s: of %v: refused %d times by now: "+format, append([]any{WriteSocket, f, n}, a...)...)
	}
}

// machineNames are names under which the machine's own parts log, or that stand for a
// sender which is no container.
var machineNames = []string{
	logs.Keelson, logs.KernelLog, "clock", "console", "containerd", "forward", "hardware", "init", "issue", "memlogd",
	"modules", "network", "service", "shim", "unknown", "volumes", "watchdog",
}

// mayUse reports whether a sender may use a name: it is its own, or nobody's. A name with a
// colon in it is that of a sender and what it calls itself.
func (s *Server) mayUse(id, name string) bool {
	first, _, speaks := strings.Cut(name, nameMark)
	if speaks && !s.mayUse(id, first) {
		return false
	}
	if s.cfg.Owners != nil {
		if owners := s.cfg.Owners(name); len(owners) > 0 {
			return slices.ContainsFunc(strings.Split(id, "+"), func(one string) bool { return slices.Contains(owners, one) })
		}
	}
	return !slices.Contains(machineNames, name) && !strings.HasPrefix(name, "onboot.") && !strings.HasPrefix(name, "onshutdown.")
}

// nameMark is between a sender and a name that it may not have for itself alone: no
// container's name has it.
const nameMark = ":"

// spokenBy is the name that a sender gets in place of one that is not its own.
func spokenBy(id, name string) string {
	switch id {
	case "":
		id = "memlogd"
	case Unknown:
		id = "unknown"
	}
	return id + nameMark + name
}

// group is a cgroup in which senders are. Its fields are guarded by the server's mu.
type group struct {
	events *os.File // says whether any process is in it; of this very cgroup, not of a later one of its name
	files  map[*handed]bool
}

// join makes a file end with its sender. The caller holds mu.
func (s *Server) join(h *handed, path string) {
	if path == "" || s.cfg.Cgroups == "" {
		return
	}
	dir := filepath.Join(s.cfg.Cgroups, path)
	g := s.groups[path]
	if g != nil && !g.populated() { // one of an earlier run
		s.end(path, g)
		g = nil
	}
	if g == nil {
		events, err := os.Open(filepath.Join(dir, "cgroup.events"))
		if err != nil {
			if _, err := os.Stat(filepath.Join(s.cfg.Cgroups, "cgroup.controllers")); err == nil {
				h.stop() // it has exited already
			}
			return // else cgroup v1, which does not tell
		}
		g = &group{events: events, files: map[*handed]bool{}}
		s.groups[path] = g
		if !s.watching {
			s.watching = true
			s.ends.Go(s.watchGroups)
		}
	}
	g.files[h] = true
	h.group = path
}

// leave is the reverse of join. The caller holds mu.
func (s *Server) leave(h *handed) {
	if g := s.groups[h.group]; g != nil && g.files[h] {
		if delete(g.files, h); len(g.files) == 0 {
			s.end(h.group, g)
		}
	}
}

// end ends all files of a cgroup. The caller holds mu.
func (s *Server) end(path string, g *group) {
	for h := range g.files {
		h.stop()
	}
	_ = g.events.Close()
	delete(s.groups, path)
}

// watchGroups ends what senders handed over that have exited, as long as there are any.
func (s *Server) watchGroups() {
	t := time.NewTicker(endLook)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-s.ctx.Done():
			return
		}
		s.mu.Lock()
		for path, g := range s.groups {
			if !g.populated() {
				s.end(path, g)
			}
		}
		s.watching = len(s.groups) > 0
		more := s.watching
		s.mu.Unlock()
		if !more {
			return
		}
	}
}

// populated reports whether there is a process in it. One that is gone cannot be read.
func (g *group) populated() bool {
	var text [256]byte
	n, err := g.events.ReadAt(text[:], 0)
	return n > 0 && (err == nil || errors.Is(err, io.EOF)) && strings.Contains(string(text[:n]), "populated 1")
}

// passCredentials has the kernel add to each message who has sent it.
func passCredentials(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	return errors.Join(cerr, err)
}
