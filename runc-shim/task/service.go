// Package task is containerd's task service (version 3) on libcontainer, in
// the shim's own process: it creates, starts, watches and ends containers
// without running a runtime binary.
//
// It promises containerd what the stock runc shim promises: events in order,
// an init's exit after those of everything exec'd beside it, no exit lost. An
// exit is on disk (exit.json in the bundle) before anybody is told of it, so
// that it is known even if containerd was away and nobody listened.
//
// Every process is waited for by one goroutine, which exists from the start of
// the process to its end and does nothing in between, see package reap.
package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/cgroups"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"keelson/runc-shim/events"
	"keelson/runc-shim/oci"
	"keelson/runc-shim/oom"
	"keelson/runc-shim/stdio"
)

var logger = slog.Default()

// StateRoot is where the runtime keeps a container's state unless the task's
// options say otherwise; containerd's namespace is a folder below it. It is
// that of the stock shim: the stock `runc --root StateRoot/NAMESPACE list` works.
const StateRoot = "/run/containerd/runc"

// containerOOMScore is what a container gets that asks for nothing. The shim
// is protected from the OOM killer and its containers would inherit that.
var containerOOMScore = 0

// A Publisher takes the service's events.
type Publisher interface {
	Publish(topic string, event proto.Message)
}

// Service implements containerd's task API for every container of one shim.
type Service struct {
	namespace string
	publisher Publisher
	oom       *oom.Watcher
	// changed is told how many containers there are, whenever that changed.
	// It must not block.
	changed func(containers int)

	mu         sync.Mutex               // guards what follows
	containers map[string]*container    // nil while they are being made
	making     map[string]chan struct{} // closed when that has come to something
}

// New makes the service of one shim. changed may be nil.
func New(namespace string, p Publisher, changed func(int)) *Service {
	s := &Service{
		namespace:  namespace,
		publisher:  p,
		changed:    changed,
		containers: map[string]*container{},
		making:     map[string]chan struct{}{},
	}
	s.oom = oom.New(func(id string) {
		p.Publish(events.TopicOOM, &eventsapi.TaskOOM{ContainerID: id})
	})
	return s
}

// get finds a created container.
func (s *Service) get(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	if c == nil {
		return nil, errgrpc.ToGRPCf(errdefs.ErrNotFound, "container %q not created", id)
	}
	return c, nil
}

func (s *Service) find(id, exec string) (*container, *process, error) {
	c, err := s.get(id)
	if err != nil {
		return nil, nil, err
	}
	p, err := c.process(exec)
	if err != nil {
		return nil, nil, errgrpc.ToGRPC(err)
	}
	return c, p, nil
}

// reserve takes an id for a container that is being created. Where an earlier create has
// not come to anything yet, whose client has given it up, it waits for that.
func (s *Service) reserve(ctx context.Context, id string) error {
	for {
		s.mu.Lock()
		c, taken := s.containers[id]
		if !taken {
			s.containers[id], s.making[id] = nil, make(chan struct{})
			s.count()
			s.mu.Unlock()
			return nil
		}
		earlier := s.making[id]
		s.mu.Unlock()
		if c != nil {
			return fmt.Errorf("container %q: %w", id, errdefs.ErrAlreadyExists)
		}
		select {
		case <-earlier:
		case <-ctx.Done():
			return fmt.Errorf("container %q: an earlier create hangs: %w", id, ctx.Err())
		}
	}
}

func (s *Service) put(id string, c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if making := s.making[id]; making != nil {
		close(making)
		delete(s.making, id)
	}
	if c == nil {
		delete(s.containers, id)
	} else {
		s.containers[id] = c
	}
	s.count()
}

// count is called with s.mu held.
func (s *Service) count() {
	if s.changed != nil {
		s.changed(len(s.containers))
	}
}

// Len is the number of containers.
func (s *Service) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.containers)
}

// taskOptions decodes the runtime options of a create request.
func taskOptions(a *anypb.Any) (*options.Options, error) {
	o := &options.Options{}
	if len(a.GetValue()) == 0 {
		return o, nil
	}
	if !IsOptions(a.GetTypeUrl()) {
		return nil, fmt.Errorf("task options are of type %q, not containerd.runc.v1.Options: %w", a.GetTypeUrl(), errdefs.ErrInvalidArgument)
	}
	if err := proto.Unmarshal(a.GetValue(), o); err != nil {
		return nil, fmt.Errorf("task options: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return o, nil
}

// IsOptions says whether a type URL is that of runc's task options.
func IsOptions(url string) bool {
	return url[strings.LastIndexByte(url, '/')+1:] == "containerd.runc.v1.Options"
}

// CheckOptions refuses the task options that this runtime cannot follow.
func CheckOptions(o *options.Options) error {
	switch {
	case o.GetSystemdCgroup():
		return fmt.Errorf("task option SystemdCgroup: there is no systemd here; cgroups are made directly: %w", errdefs.ErrInvalidArgument)
	case o.GetBinaryName() != "":
		return fmt.Errorf("task option BinaryName %q: this shim runs no other runtime; bring the stock containerd-shim-runc-v2, and that runtime, in an image of init: %w",
			o.GetBinaryName(), errdefs.ErrInvalidArgument)
	}
	return nil
}

// Create makes a container of a bundle. Its init process waits to be started.
func (s *Service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	pid, err := s.create(ctx, r)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &taskapi.CreateTaskResponse{Pid: uint32(pid)}, nil
}

func (s *Service) create(ctx context.Context, r *taskapi.CreateTaskRequest) (_ int, err error) {
	if r.Checkpoint != "" {
		return 0, fmt.Errorf("restore from a checkpoint: not supported by this runtime: %w", errdefs.ErrNotImplemented)
	}
	opts, err := taskOptions(r.Options)
	if err != nil {
		return 0, err
	}
	if err := CheckOptions(opts); err != nil {
		return 0, err
	}
	if err := s.reserve(ctx, r.ID); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			s.put(r.ID, nil)
		}
	}()

	c := &container{
		id:      r.ID,
		bundle:  r.Bundle,
		options: opts,
		execs:   map[string]*process{},
		settled: make(chan struct{}),
		init: newProcess("", stdio.Config{
			ID: r.ID, Namespace: s.namespace,
			Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal,
			UID: int(opts.IoUid), GID: int(opts.IoGid),
		}),
	}
	if err := writeOptions(r.Bundle, opts); err != nil {
		return 0, err
	}
	unmount, err := c.mount(r)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			unmount()
		}
	}()
	if err := oci.In(r.Bundle, func() error { return s.build(c) }); err != nil {
		return 0, fmt.Errorf("OCI runtime create failed: %w", err)
	}
	if ctx.Err() != nil {
		// Nobody knows of it: the next create of that name would find it in its way.
		s.abandon(ctx, c)
		return 0, fmt.Errorf("create container %s: it took too long: %w", c.id, ctx.Err())
	}
	pid := c.init.getPid()
	if werr := c.writePid(); werr != nil {
		logger.Warn("write pid file", "id", c.id, "error", werr)
	}
	s.watchOOM(c)
	s.put(r.ID, c)
	s.publisher.Publish(events.TopicCreate, &eventsapi.TaskCreate{
		ContainerID: r.ID,
		Bundle:      r.Bundle,
		Rootfs:      r.Rootfs,
		IO:          &eventsapi.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		Pid:         uint32(pid),
	})
	go s.watchInit(c)
	return pid, nil
}

// abandon removes a container that has just been made.
func (s *Service) abandon(ctx context.Context, c *container) {
	if err := c.signalInit(killSignal); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		logger.Warn("kill an abandoned container", "id", c.id, "error", err)
	}
	_, _ = await(c.init)
	if err := c.destroy(context.WithoutCancel(ctx)); err != nil {
		logger.Warn("remove an abandoned container", "id", c.id, "error", err)
	}
}

// build makes the container and its waiting init, or leaves nothing behind.
func (s *Service) build(c *container) error {
	spec, err := oci.LoadSpec(c.bundle)
	if err != nil {
		return err
	}
	spec.Process.Terminal = c.init.config.Terminal
	o := oci.Options{
		Root:               s.stateRoot(c.options),
		ID:                 c.id,
		Bundle:             c.bundle,
		NoPivotRoot:        c.options.NoPivotRoot,
		NoNewKeyring:       c.options.NoNewKeyring,
		DefaultOOMScoreAdj: &containerOOMScore,
	}
	if c.engine, err = newEngine(o, spec); err != nil {
		return err
	}
	if c.init.config.UID == 0 && c.init.config.GID == 0 {
		// In a user namespace root is somebody else, who must be able to
		// open his own /dev/stdout.
		c.init.config.UID, c.init.config.GID = c.engine.owner()
	}
	if err := c.launch(c.init, spec.Process, created); err != nil {
		if derr := c.engine.destroy(); derr != nil {
			logger.Warn("clean up after failed create", "id", c.id, "error", derr)
		}
		return err
	}
	return nil
}

func (s *Service) stateRoot(o *options.Options) string {
	root := o.Root
	if root == "" {
		root = StateRoot
	}
	return filepath.Join(root, s.namespace)
}

// OptionsFile keeps a task's options in its bundle, for the clean-up of a shim
// that died.
const OptionsFile = "options.json"

func writeOptions(bundle string, o *options.Options) error {
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(bundle, OptionsFile), data, 0o600); err != nil {
		return fmt.Errorf("keep task options: %w", err)
	}
	return nil
}

// mount mounts what containerd wants as the root file system.
func (c *container) mount(r *taskapi.CreateTaskRequest) (unmount func(), err error) {
	if len(r.Rootfs) == 0 {
		return func() {}, nil
	}
	c.rootfs = filepath.Join(r.Bundle, "rootfs")
	if err := os.Mkdir(c.rootfs, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	var mounts []mount.Mount
	for _, m := range r.Rootfs {
		mounts = append(mounts, mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	unmount = func() {
		if err := mount.UnmountMounts(mounts, c.rootfs, 0); err != nil {
			logger.Warn("unmount rootfs", "id", c.id, "error", err)
		}
	}
	if err := mount.All(mounts, c.rootfs); err != nil {
		unmount()
		return nil, fmt.Errorf("mount rootfs: %w", err)
	}
	return unmount, nil
}

// watchOOM begins to watch a container's memory. A host without the memory
// controller has nothing to watch.
func (s *Service) watchOOM(c *container) {
	paths, err := c.engine.cgroups()
	if err == nil {
		if cgroups.IsCgroup2UnifiedMode() {
			err = s.oom.AddV2(c.id, paths[""])
		} else if path := paths["memory"]; path != "" {
			err = s.oom.AddV1(c.id, path)
		}
	}
	if err != nil {
		logger.Warn("watch for out of memory", "id", c.id, "error", err)
	}
}

// Start starts the waiting init process, or an exec that was added.
func (s *Service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	c, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if p == c.init {
		err = s.startInit(c)
	} else {
		err = s.startExec(c, p)
	}
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &taskapi.StartResponse{Pid: uint32(p.getPid())}, nil
}

func (s *Service) startInit(c *container) error {
	p := c.init
	p.start.Lock()
	defer p.start.Unlock()
	if st := p.is(); st != created {
		return fmt.Errorf("container %s is %s and cannot be started: %w", c.id, st, errdefs.ErrFailedPrecondition)
	}
	if err := c.engine.start(); err != nil {
		return fmt.Errorf("OCI runtime start failed: %w", err)
	}
	if err := p.executed(); err != nil {
		return fmt.Errorf("OCI runtime start failed: %w", err)
	}
	if err := p.to(running); err != nil {
		return err
	}
	s.publisher.Publish(events.TopicStart, &eventsapi.TaskStart{ContainerID: c.id, Pid: uint32(p.getPid())})
	return nil
}

// watchInit makes the end of a container's init process known.
func (s *Service) watchInit(c *container) {
	p := c.init
	status, at := await(p)
	pid := p.getPid()
	c.endsNow() // before the record is there, for whoever reads it and deletes at once
	if err := writeExit(c.bundle, c.id, pid, status, at); err != nil {
		logger.Error("write exit record", "id", c.id, "error", err)
	}
	if c.engine.sharesPIDs() {
		if err := c.engine.signalAll(killSignal); err != nil {
			logger.Error("kill what the container left", "id", c.id, "error", err)
		}
	}
	<-c.initEnded()
	s.oom.Remove(c.id)
	if st := p.getStreams(); st != nil {
		st.Ended()
	}
	// Whoever is starting it says so first.
	p.start.Lock()
	defer p.start.Unlock()
	if err := p.ended(status, at); err != nil {
		logger.Error("end of container", "id", c.id, "error", err)
	}
	s.publisher.Publish(events.TopicExit, &eventsapi.TaskExit{
		ContainerID: c.id, ID: c.id,
		Pid: uint32(pid), ExitStatus: uint32(status), ExitedAt: timestamppb.New(at),
	})
}

// Shutdown is containerd's wish that a shim without containers ends. It ends
// by itself, some time after its last container.
func (s *Service) Shutdown(ctx context.Context, r *taskapi.ShutdownRequest) (*emptyMessage, error) {
	return empty, nil
}

// Close ends the watching. The containers are left alone.
func (s *Service) Close() { s.oom.Close() }
