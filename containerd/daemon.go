package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/sys"
	"github.com/containerd/containerd/v2/pkg/timeout"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"keelson/internal/garbage"
)

// serve runs the daemon until a signal says stop. The sockets accept only
// when everything behind them is ready.
func serve(ctx context.Context, cfg *Config, warnings []string, signals <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, w := range warnings {
		log.G(ctx).Warn(w)
	}
	if err := settings(cfg); err != nil {
		return err
	}
	started := make(chan error, 1)
	d := &daemon{failed: make(chan error, 2), busy: untilQuiet(garbage.Postpone(100).Release)}
	// Beside the signals: reconnecting to a shim that does not answer takes
	// seconds, and a stop must not wait for it.
	go func() { started <- d.start(ctx, cfg) }()
	up := false
	for {
		select {
		case err := <-started:
			if err != nil {
				return err
			}
			up = true
			log.G(ctx).WithField("address", cfg.grpc().Address).Info("serving")
		case err := <-d.failed:
			return err
		case s := <-signals:
			if s == unix.SIGUSR1 {
				dumpStacks(ctx)
				continue
			}
			log.G(ctx).WithField("signal", s.String()).Info("stopping")
			if up {
				d.stop()
			}
			return nil
		}
	}
}

// settings are those that act on the process itself.
func settings(cfg *Config) error {
	if cfg.OOMScore != 0 {
		if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(cfg.OOMScore)), 0); err != nil {
			return fmt.Errorf("set oom_score %d: %w", cfg.OOMScore, err)
		}
	}
	for key, d := range cfg.timeouts {
		timeout.Set(key, d)
	}
	// The state folder is passed through by containers whose root is not
	// root outside, the metadata by nobody.
	if err := os.MkdirAll(cfg.Root, 0o700); err != nil {
		return fmt.Errorf("make the root folder: %w", err)
	}
	if err := os.MkdirAll(cfg.State, 0o711); err != nil {
		return fmt.Errorf("make the state folder: %w", err)
	}
	return nil
}

// daemon is what is running.
type daemon struct {
	grpc    *grpc.Server
	ttrpc   *ttrpc.Server
	plugins *plugin.Set
	failed  chan error // a server ended by itself
	busy    func()     // is called at each call
}

// quiet is how long nobody calls a daemon whose start, and that of the machine, is over.
const quiet = 2 * time.Second

// untilQuiet calls release once, when busy has not been called for a while.
func untilQuiet(release func()) (busy func()) {
	timer := time.AfterFunc(quiet, release)
	return func() {
		if timer.Stop() {
			timer.Reset(quiet)
		}
	}
}

func (d *daemon) start(ctx context.Context, cfg *Config) (err error) {
	d.grpc = grpc.NewServer(
		grpc.UnaryInterceptor(d.unaryNamespace), grpc.StreamInterceptor(streamNamespace),
		grpc.UnknownServiceHandler(notHere),
		grpc.MaxRecvMsgSize(cfg.grpc().MaxRecvMsgSize), grpc.MaxSendMsgSize(cfg.grpc().MaxSendMsgSize),
	)
	if d.ttrpc, err = ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser())); err != nil {
		return err
	}
	if d.plugins, err = loadPlugins(ctx, cfg); err != nil {
		return err
	}
	for _, p := range d.plugins.GetAll() {
		instance, err := p.Instance()
		if err != nil {
			return err
		}
		if s, ok := instance.(interface{ Register(*grpc.Server) error }); ok {
			if err := s.Register(d.grpc); err != nil {
				return fmt.Errorf("register %s: %w", p.Registration.URI(), err)
			}
		}
		if s, ok := instance.(interface{ RegisterTTRPC(*ttrpc.Server) error }); ok {
			if err := s.RegisterTTRPC(d.ttrpc); err != nil {
				return fmt.Errorf("register %s: %w", p.Registration.URI(), err)
			}
		}
	}
	// The shims' socket first: whoever sees the other one may start a task.
	if err := d.listen(cfg.ttrpc(), func(l net.Listener) error { return d.ttrpc.Serve(ctx, l) }); err != nil {
		return err
	}
	return d.listen(cfg.grpc(), d.grpc.Serve)
}

// listen opens a socket, in place of one that a dead daemon left, and serves
// it. Two daemons on one socket cannot be: the metadata is locked by then.
func (d *daemon) listen(s Socket, serve func(net.Listener) error) error {
	l, err := sys.GetLocalListener(s.Address, s.UID, s.GID)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", s.Address, err)
	}
	go func() {
		err := serve(l)
		if err != nil && !errors.Is(err, grpc.ErrServerStopped) && !errors.Is(err, ttrpc.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			d.failed <- fmt.Errorf("serve %s: %w", s.Address, err)
		}
	}()
	return nil
}

// stop closes the sockets and the metadata. Calls under way end with
// Unavailable; shims and containers go on.
func (d *daemon) stop() {
	d.grpc.Stop()
	_ = d.ttrpc.Close()
	for _, p := range slices.Backward(d.plugins.GetAll()) {
		if instance, err := p.Instance(); err == nil {
			if c, ok := instance.(io.Closer); ok {
				_ = c.Close()
			}
		}
	}
}

func dumpStacks(ctx context.Context) {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	log.G(ctx).Info("goroutine stacks follow on stderr")
	os.Stderr.Write(buf)
}

// notHere answers calls to the services that were left out.
func notHere(_ any, ss grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(ss)
	return status.Errorf(codes.Unimplemented, "%s: this trimmed containerd does not have it; the stock binary in its place does", strings.TrimPrefix(method, "/"))
}

// The namespace comes with a request as metadata; it has to go on with calls
// that the daemon makes on the request's behalf.
func withNamespace(ctx context.Context) context.Context {
	if ns, ok := namespaces.Namespace(ctx); ok {
		return namespaces.WithNamespace(ctx, ns)
	}
	return ctx
}

func (d *daemon) unaryNamespace(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	d.busy()
	return handler(withNamespace(ctx), req)
}

func streamNamespace(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return handler(srv, namespacedStream{ss, withNamespace(ss.Context())})
}

type namespacedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s namespacedStream) Context() context.Context { return s.ctx }
