// Package shimtest drives a shim as containerd does, without containerd: it
// makes bundles, calls the shim's `start` and `delete`, speaks its task API and
// receives its events. It works on any runc shim, so that tests can hold ours
// against the stock one.
package shimtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// A Host stands for containerd: a state folder, a socket for events, and a
// shim binary.
type Host struct {
	Dir       string // state, bundles and sockets
	Shim      string // path of the shim binary
	Namespace string
	Options   *options.Options
	Events    *Events

	logs []*os.File

	mu      sync.Mutex // guards clients
	clients map[string]*ttrpc.Client
}

// NewHost makes a host in dir, with its event socket served.
func NewHost(dir, shim string) (*Host, error) {
	h := &Host{Dir: dir, Shim: shim, Namespace: "test", clients: map[string]*ttrpc.Client{}}
	h.Options = &options.Options{Root: filepath.Join(dir, "runc")}
	var err error
	h.Events, err = ServeEvents(h.eventSocket())
	return h, err
}

func (h *Host) eventSocket() string { return filepath.Join(h.Dir, "e.sock") }

// SocketDir is where the host's shims listen.
func (h *Host) SocketDir() string { return filepath.Join(h.Dir, "s") }

// BundleDir is where a container's bundle is.
func (h *Host) BundleDir(id string) string { return filepath.Join(h.Dir, "b", id) }

// Spec is a spec to begin with: a container like LinuxKit's, with pid and
// mount namespaces of its own, in a read-only root.
func Spec(rootfs string, args ...string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: rootfs, Readonly: true},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: &specs.LinuxCapabilities{}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "nodev", "noexec", "relatime"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}},
		},
		Annotations: map[string]string{},
	}
}

// Group puts a container into a group of the shim.
func Group(s *specs.Spec, name string) *specs.Spec {
	s.Annotations["io.containerd.runc.v2.group"] = name
	return s
}

// Bundle writes a container's bundle.
func (h *Host) Bundle(id string, s *specs.Spec) error {
	dir := h.BundleDir(id)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644); err != nil {
		return err
	}
	log := filepath.Join(dir, "log")
	if err := unix.Mkfifo(log, 0o600); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	// containerd reads the log; the stock shim waits until somebody does.
	f, err := os.OpenFile(log, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	h.logs = append(h.logs, f)
	return nil
}

// Call runs the shim binary for a container: `start` or `delete`.
func (h *Host) Call(ctx context.Context, id string, stdin []byte, args ...string) ([]byte, error) {
	all := append([]string{
		"-namespace", h.Namespace, "-address", filepath.Join(h.Dir, "c.sock"),
		"-publish-binary", "/nonexistent", "-id", id,
	}, args...)
	cmd := exec.CommandContext(ctx, h.Shim, all...)
	cmd.Dir = h.BundleDir(id)
	cmd.Env = append(os.Environ(), "TTRPC_ADDRESS="+h.eventSocket(), "GRPC_ADDRESS="+filepath.Join(h.Dir, "c.sock"), "GOMAXPROCS=2")
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", args[len(args)-1], err, stderr.String())
	}
	return out, nil
}

// Start starts the shim of a container, or joins it to that of its group, and
// returns the address.
func (h *Host) Start(ctx context.Context, id string) (string, error) {
	dir := h.SocketDir()
	opts, err := anypb.New(h.Options)
	if err != nil {
		return "", err
	}
	opts.TypeUrl = "containerd.runc.v1.Options"
	params, err := proto.Marshal(&bootapi.BootstrapParams{
		InstanceID: id, Namespace: h.Namespace,
		ContainerdTtrpcAddress: h.eventSocket(),
		ContainerdGrpcAddress:  filepath.Join(h.Dir, "c.sock"),
		SocketDir:              &dir,
		Extensions:             []*bootapi.Extension{{Value: opts}},
	})
	if err != nil {
		return "", err
	}
	out, err := h.Call(ctx, id, params, "start")
	if err != nil {
		return "", err
	}
	var r bootapi.BootstrapResult
	if err := proto.Unmarshal(out, &r); err != nil {
		return "", fmt.Errorf("answer of start: %w", err)
	}
	return r.Address, nil
}

// Dial connects to a shim.
func (h *Host) Dial(address string) (taskapi.TTRPCTaskService, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.clients[address]; c != nil {
		return taskapi.NewTTRPCTaskClient(c), nil
	}
	conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		return nil, err
	}
	var c *ttrpc.Client
	c = ttrpc.NewClient(conn, ttrpc.WithOnClose(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.clients[address] == c {
			delete(h.clients, address)
		}
	}))
	h.clients[address] = c
	return taskapi.NewTTRPCTaskClient(c), nil
}

// Create starts the shim and creates the container.
func (h *Host) Create(ctx context.Context, id string, change ...func(*taskapi.CreateTaskRequest)) (taskapi.TTRPCTaskService, uint32, error) {
	address, err := h.Start(ctx, id)
	if err != nil {
		return nil, 0, err
	}
	c, err := h.Dial(address)
	if err != nil {
		return nil, 0, err
	}
	opts, err := anypb.New(h.Options)
	if err != nil {
		return nil, 0, err
	}
	opts.TypeUrl = "containerd.runc.v1.Options"
	r := &taskapi.CreateTaskRequest{ID: id, Bundle: h.BundleDir(id), Options: opts}
	for _, f := range change {
		f(r)
	}
	resp, err := c.Create(ctx, r)
	if err != nil {
		return c, 0, err
	}
	return c, resp.Pid, nil
}

// Close lets go of the shims and of the event socket.
func (h *Host) Close() {
	h.mu.Lock()
	clients := slices.Collect(maps.Values(h.clients))
	h.mu.Unlock()
	for _, c := range clients {
		c.Close()
	}
	for _, f := range h.logs {
		f.Close()
	}
	h.Events.Close()
}

// Events receives what shims publish.
type Events struct {
	server *ttrpc.Server
	stop   context.CancelFunc

	mu   sync.Mutex
	all  []*types.Envelope
	more chan struct{}
}

// ServeEvents listens at path.
func ServeEvents(path string) (*Events, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	s, err := ttrpc.NewServer()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &Events{server: s, stop: cancel, more: make(chan struct{})}
	eventsapi.RegisterTTRPCEventsService(s, e)
	go func() { _ = s.Serve(ctx, l) }()
	return e, nil
}

// Forward implements containerd's event service.
func (e *Events) Forward(ctx context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, r.Envelope)
	close(e.more)
	e.more = make(chan struct{})
	return &emptypb.Empty{}, nil
}

// All returns what has arrived so far, in order.
func (e *Events) All() []*types.Envelope {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]*types.Envelope(nil), e.all...)
}

// Await waits until an event satisfies match.
func (e *Events) Await(ctx context.Context, match func(*types.Envelope) bool) (*types.Envelope, error) {
	seen := 0
	for {
		e.mu.Lock()
		all, more := e.all, e.more
		e.mu.Unlock()
		for ; seen < len(all); seen++ {
			if match(all[seen]) {
				return all[seen], nil
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for event: %w (%d events came)", ctx.Err(), seen)
		}
	}
}

// Close stops listening, as a containerd that is killed.
func (e *Events) Close() {
	e.stop()
	_ = e.server.Close()
}
