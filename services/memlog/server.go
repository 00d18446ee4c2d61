// Package memlog speaks the protocol of LinuxKit's memlogd, so that programs
// which were made for it find it: one socket takes open files to read lines from,
// the other gives out what was logged.
//
//   - The sockets are there before the first container runs, and they and the files
//     handed over outlive the supervisor where PID 1 holds them.
//   - Who sends is known by the kernel (SCM_CREDENTIALS, then the cgroup), never by the
//     name that is sent: nobody gets a name that is another container's or the machine's.
//   - Each sender has bounds of its own, so that none takes another's room, and what it
//     handed over is let go when it has exited. What is refused is closed, counted and
//     reported.
//   - The receiving loop makes no system call on a descriptor that it was given: each
//     sender's are looked at, read and closed beside it.
//   - It must never change a file that others have open: no flag is set on it, and a
//     flag that they set makes nobody here wait.
package memlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/beneath"
	"keelson/internal/hold"
	"keelson/services/logs"
)

// The sockets' names in their folder, as LinuxKit has them.
const (
	WriteSocket = "linuxkit-external-logging.sock"
	QuerySocket = "memlogdq.sock"
)

// Store is where lines are kept; *logs.Store is one.
type Store interface {
	OpenClient(client, source string, stream logs.Stream, r io.ReadCloser) error
	Read(ctx context.Context, q logs.Query, give func(logs.Record) error) error
}

// Config is what a server needs.
type Config struct {
	Dir   string // of the sockets: /run
	Store Store
	Hold  *hold.Hold // nil where nothing outlives this process
	Warn  func(format string, a ...any)
	// Wall is what the clock showed at a time since the machine's start.
	Wall func(at time.Duration) time.Time
	// Sender returns whose a process is; nil where all are the machine's own.
	Sender func(pid int) Sender
	// Owners returns the IDs of the containers that a name belongs to.
	Owners func(name string) []string
	// Cgroups is where cgroup v2 is mounted; "" where no end of a sender is looked for.
	Cgroups string
}

// Server serves both sockets.
type Server struct {
	cfg    Config
	write  *net.UnixConn
	query  *net.UnixListener
	ctx    context.Context // until Close
	cancel context.CancelFunc
	ends   sync.WaitGroup // goroutines of the server

	mu       sync.Mutex
	files    map[*handed]bool   // being read, guarded by mu
	senders  map[string]*sender // by ID, guarded by mu
	groups   map[string]*group  // by path, guarded by mu
	watching bool               // that is looked whether they are empty, guarded by mu
	last     int                // number of the last file, guarded by mu
	readers  int                // guarded by mu
	said     map[string]bool    // warnings that are given once, guarded by mu
	closed   bool               // guarded by mu
}

// Names of what is held.
const (
	heldWrite = "memlogd.write"
	heldQuery = "memlogd.query"
	heldFile  = "memlogd.file." // and what heldKey adds
)

// Listen opens the sockets, or takes them over from an earlier supervisor with
// the files it had been given, and begins to serve them until Close.
func Listen(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, files: map[*handed]bool{}, senders: map[string]*sender{}, groups: map[string]*group{}, said: map[string]bool{}}
	held, err := cfg.Hold.Files()
	if err != nil {
		cfg.Warn("what an earlier supervisor was given is lost: %v", err)
	}
	var writing, querying *os.File
	var files []hold.File
	for _, f := range held {
		switch {
		case f.Name == heldWrite && writing == nil:
			writing = f.File
		case f.Name == heldQuery && querying == nil:
			querying = f.File
		case len(f.Name) > len(heldFile) && f.Name[:len(heldFile)] == heldFile:
			files = append(files, f)
		default:
			_ = f.Close()
		}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.open(writing, querying); err != nil {
		s.cancel()
		for _, f := range files {
			_ = f.Close()
		}
		return nil, err
	}
	for _, f := range files {
		s.takeOver(f)
	}
	s.ends.Go(s.receive)
	s.ends.Go(func() { s.accept(s.ctx) })
	return s, nil
}

// open takes over what was held, or binds anew.
func (s *Server) open(writing, querying *os.File) error {
	conn, err := s.socket(WriteSocket, heldWrite, unix.SOCK_DGRAM, writing)
	if err != nil {
		if querying != nil {
			_ = querying.Close()
		}
		return err
	}
	packets, err := net.FilePacketConn(conn)
	_ = conn.Close()
	if err != nil {
		if querying != nil {
			_ = querying.Close()
		}
		return fmt.Errorf("serve %s: %w", WriteSocket, err)
	}
	s.write = packets.(*net.UnixConn)
	if err := passCredentials(s.write); err != nil {
		s.cfg.Warn("%s: whose the clients are is not known: %v", WriteSocket, err)
	}
	conn, err = s.socket(QuerySocket, heldQuery, unix.SOCK_STREAM, querying)
	if err != nil {
		_ = s.write.Close()
		return err
	}
	l, err := net.FileListener(conn)
	_ = conn.Close()
	if err != nil {
		_ = s.write.Close()
		return fmt.Errorf("serve %s: %w", QuerySocket, err)
	}
	s.query = l.(*net.UnixListener)
	return nil
}

// socket returns the socket that was held if its name still leads to it, else a
// new one, which is held from now on.
func (s *Server) socket(name, heldAs string, kind int, held *os.File) (*os.File, error) {
	path := filepath.Join(s.cfg.Dir, name)
	if held != nil {
		if fi, err := os.Lstat(path); err == nil && fi.Mode()&fs.ModeSocket != 0 {
			return held, nil
		}
		_ = held.Close()
		s.cfg.Hold.Drop(heldAs)
	}
	if err := s.clear(name); err != nil {
		return nil, fmt.Errorf("make the socket %s: %w", path, err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make the socket %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, 64)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("make the socket %s: %w", path, err)
	}
	if err := s.cfg.Hold.Put(heldAs, fd); err != nil && !errors.Is(err, hold.ErrNone) {
		s.once("hold", "%s will be made anew if the supervisor is: %v", path, err)
	}
	return f, nil
}

// clear frees a socket's name, under which a container may have put anything.
func (s *Server) clear(name string) error {
	dir, err := beneath.Open(s.cfg.Dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = dir.Remove(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, failed := dir.PutAside(name); failed != nil { // a directory, which has something in it
		return err
	}
	return nil
}

// once warns, but of one thing a single time.
func (s *Server) once(what, format string, a ...any) {
	s.mu.Lock()
	first := !s.said[what]
	s.said[what] = true
	s.mu.Unlock()
	if first {
		s.cfg.Warn(format, a...)
	}
}

// Close ends serving. What is held stays held, for the next server.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	files := maps.Clone(s.files)
	s.mu.Unlock()
	s.cancel()
	_ = s.write.Close()
	_ = s.query.Close()
	for h := range files {
		h.stop()
	}
	s.ends.Wait()
}
