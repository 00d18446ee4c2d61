package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"keelson/internal/garbage"
	"keelson/runc-shim/devicefilter"
	"keelson/runc-shim/events"
	"keelson/runc-shim/seal"
	"keelson/runc-shim/task"
)

const (
	// linger is how long a shim without containers stays: a service that
	// ended is started again, and one-shots follow each other, without
	// paying for a new shim.
	linger = 5 * time.Second
	// quiet is after how much silence unused memory goes back to the kernel.
	quiet = 2 * time.Second
	// flush bounds how long the last events may take at the end.
	flush = 3 * time.Second
)

// The descriptors that `start` hands on: the socket, and perhaps the sealed
// program, which is of no use any more once it runs.
const (
	inheritedSocket  = 3
	inheritedProgram = 4
)

// serve is the shim: it serves the task API until it has been without
// containers for a while.
func serve(ctx context.Context, f flags) error {
	collection := tune()
	if err := openLog(logName); err != nil {
		return err
	}
	// Nobody reads the log once containerd is gone; a write must not kill us.
	signal.Ignore(syscall.SIGPIPE)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	dump := make(chan os.Signal, 1)
	signal.Notify(dump, syscall.SIGUSR1)

	l, socket, err := listener(f)
	if err != nil {
		return err
	}
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()), ttrpc.WithUnaryServerInterceptor(logCall))
	if err != nil {
		return err
	}
	publisher := events.New(f.namespace, events.NewTTRPC(os.Getenv("TTRPC_ADDRESS")))
	life := newLifetime(socket, collection.Release)
	devicefilter.Share()
	service := task.New(f.namespace, publisher, life.changed)
	taskapi.RegisterTTRPCTaskService(server, service)

	// The bundle is the first container's and goes with it.
	if err := os.Chdir("/"); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		if err := server.Serve(ctx, counted{l, life}); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, ttrpc.ErrServerClosed) {
			failed <- fmt.Errorf("serve task API: %w", err)
		}
	}()
	for {
		select {
		case <-dump:
			dumpStacks()
			continue
		case s := <-stop:
			slog.Info("shim ends", "signal", s.String())
		case <-life.over:
			slog.Debug("shim ends, no containers are left")
		case err = <-failed:
		}
		break
	}
	life.close()
	if rerr := os.Remove(socket); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		slog.Warn("remove shim socket", "error", rerr)
	}
	life.unlock()
	sctx, cancel := context.WithTimeout(ctx, flush)
	defer cancel()
	_ = server.Shutdown(sctx)
	publisher.Close(sctx)
	service.Close()
	return err
}

// logCall tells of each request in the debug log, and what came of it.
func logCall(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	if !slog.Default().Enabled(ctx, slog.LevelDebug) {
		return method(ctx, unmarshal)
	}
	began, about := time.Now(), []any{"call", path.Base(info.FullMethod)}
	answer, err := method(ctx, func(request any) error {
		err := unmarshal(request)
		if r, ok := request.(*taskapi.CreateTaskRequest); ok && err == nil {
			// containerd reads the log of a container as long as there is that
			// container: of a shim that several share, the newest one's.
			if err := openLog(filepath.Join(r.Bundle, logName)); err != nil {
				slog.Debug("the log stays where it was", "error", err)
			}
		}
		if r, ok := request.(interface{ GetID() string }); ok {
			about = append(about, "id", r.GetID())
		}
		if r, ok := request.(interface{ GetExecID() string }); ok && r.GetExecID() != "" {
			about = append(about, "exec", r.GetExecID())
		}
		return err
	})
	about = append(about, "took", time.Since(began).Round(time.Microsecond))
	if err != nil {
		about = append(about, "error", err)
	}
	slog.Debug("task", about...)
	return answer, err
}

// A counted listener tells the lifetime of every connection.
type counted struct {
	net.Listener
	life *lifetime
}

func (l counted) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.life.touch()
	}
	return conn, err
}

// tune lets the shim be quick while it works and small while it is idle, which
// it is nearly all of its life: garbage of a few creates may gather, that of the boot
// all together, and goes back to the kernel when there has been nothing to do for a while.
func tune() *garbage.Postponed {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2)
	}
	return garbage.Postpone(400)
}

// logName is the FIFO of a bundle that containerd reads.
const logName = "log"

// openLog makes standard error such a FIFO, if it is there.
func openLog(path string) error {
	// For reading too, so that it opens and stays while containerd is away;
	// nonblocking, since a containerd that stopped reading must not stop us.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open log FIFO: %w", err)
	}
	defer unix.Close(fd)
	return unix.Dup3(fd, 2, 0)
}

func listener(f flags) (net.Listener, string, error) {
	if f.socket != "" {
		path := socketPath(f.socket)
		l, err := listen(path)
		if err != nil {
			return nil, "", err
		}
		l.SetUnlinkOnClose(false)
		return l, path, nil
	}
	if seal.Sealed(inheritedProgram) {
		unix.Close(inheritedProgram)
	}
	file := os.NewFile(inheritedSocket, "socket")
	l, err := net.FileListener(file)
	if err != nil {
		return nil, "", fmt.Errorf("inherited socket: %w", err)
	}
	file.Close()
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return nil, "", errors.New("inherited socket is no Unix socket")
	}
	ul.SetUnlinkOnClose(false)
	return ul, ul.Addr().String(), nil
}

func dumpStacks() {
	buf := make([]byte, 64<<10)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			slog.Info("goroutines", "stacks", string(buf[:n]))
			return
		}
		buf = make([]byte, 2*len(buf))
	}
}

// A lifetime decides when a shim is no longer needed. It has timers only for
// a while after something happened.
type lifetime struct {
	socketDir string
	over      chan struct{}

	mu       sync.Mutex // guards what follows
	count    int
	idle     *time.Timer // runs while there are no containers
	scavenge *time.Timer
	held     func() // the socket folder's lock, once the end is decided
	closed   bool
}

// release gives unused memory back, after a while in which nobody called.
func newLifetime(socket string, release func()) *lifetime {
	t := &lifetime{socketDir: filepath.Dir(socket), over: make(chan struct{})}
	// A shim that nobody gives a container ends as well.
	t.idle = time.AfterFunc(4*linger, t.expire)
	t.scavenge = time.AfterFunc(quiet, release)
	return t
}

// changed is told the number of containers, whenever somebody called.
func (t *lifetime) changed(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.count = n
	t.scavenge.Reset(quiet)
	if n > 0 {
		t.idle.Stop()
	} else {
		t.idle.Reset(linger)
	}
}

// touch is told that somebody called.
func (t *lifetime) touch() {
	t.mu.Lock()
	n := t.count
	t.mu.Unlock()
	t.changed(n)
}

// expire ends the shim, unless a `start` is under way that may have been
// promised this shim: it holds the lock meanwhile, and calls before it lets go.
func (t *lifetime) expire() {
	unlock, ok := tryLockDir(t.socketDir)
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed || t.count > 0:
		unlock()
	case !ok:
		t.idle.Reset(linger)
	default:
		t.held = unlock
		t.closed = true
		close(t.over)
	}
}

func (t *lifetime) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	t.idle.Stop()
	t.scavenge.Stop()
}

func (t *lifetime) unlock() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held != nil {
		t.held()
		t.held = nil
	}
}

func tryLockDir(dir string) (unlock func(), ok bool) {
	d, err := os.Open(dir)
	if err != nil {
		// Without the folder there is nobody to keep apart from.
		return func() {}, true
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		d.Close()
		return func() {}, false
	}
	return func() { d.Close() }, true
}
