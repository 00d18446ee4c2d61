// Package tasks is the containerd tasks service over the runtime v2 task
// manager.
//
// It owns the translation between the API's messages and the manager's calls,
// and promises the API's error codes. It holds no state of its own. It is here
// in place of containerd's own service because that one brings block I/O and
// cache classes, the content store and checkpoint images with it: 1.8 MB of
// program for things that an image of this system cannot use. Checkpoint and
// restore therefore answer Unimplemented.
package tasks

import (
	"context"
	"fmt"
	"time"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/containerd/v2/pkg/timeout"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"google.golang.org/grpc"

	// The options a runc container may carry: registered, so that they can be decoded.
	_ "github.com/containerd/containerd/api/types/runc/options"
)

// stateTimeout is containerd's own name for how long a shim may take to tell
// the state of a task.
const stateTimeout = "io.containerd.timeout.task.state"

func init() {
	timeout.Set(stateTimeout, 2*time.Second)
	registry.Register(&plugin.Registration{
		Type:     plugins.GRPCPlugin,
		ID:       "tasks",
		Requires: []plugin.Type{plugins.RuntimePluginV2, plugins.MetadataPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			manager, err := ic.GetByID(plugins.RuntimePluginV2, "task")
			if err != nil {
				return nil, err
			}
			db, err := ic.GetSingle(plugins.MetadataPlugin)
			if err != nil {
				return nil, err
			}
			return &Service{
				containers: metadata.NewContainerStore(db.(*metadata.DB)),
				manager:    manager.(runtime.PlatformRuntime),
			}, nil
		},
	})
}

// Service implements containerd.services.tasks.v1.Tasks.
type Service struct {
	api.UnimplementedTasksServer
	containers containers.Store
	manager    runtime.PlatformRuntime
	groups     groups
}

// Register adds the service to a server.
func (s *Service) Register(server *grpc.Server) error {
	api.RegisterTasksServer(server, s)
	return nil
}

// task is the running task of a container. A task without a container is not
// shown: its container was deleted, and it is about to follow.
func (s *Service) task(ctx context.Context, id string) (runtime.Task, error) {
	if _, err := s.containers.Get(ctx, id); err != nil {
		return nil, err
	}
	t, err := s.manager.Get(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("task %s: %w", id, errdefs.ErrNotFound)
	}
	return t, nil
}

// process is the task's own process, or one that was exec'ed in it.
func (s *Service) process(ctx context.Context, id, exec string) (runtime.Process, error) {
	t, err := s.task(ctx, id)
	if err != nil || exec == "" {
		return t, err
	}
	return t.Process(ctx, exec)
}

// Create makes a task of a container. The container's process exists
// afterwards but waits for Start.
func (s *Service) Create(ctx context.Context, r *api.CreateTaskRequest) (*api.CreateTaskResponse, error) {
	if r.Checkpoint != nil {
		return nil, notImplemented("restoring a checkpoint")
	}
	c, err := s.containers.Get(ctx, r.ContainerID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	if _, err := s.manager.Get(ctx, r.ContainerID); err == nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("task %s: %w", r.ContainerID, errdefs.ErrAlreadyExists))
	} else if !errdefs.IsNotFound(err) {
		return nil, errgrpc.ToGRPC(err)
	}
	opts := runtime.CreateOpts{
		Spec:           c.Spec,
		IO:             runtime.IO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		Runtime:        c.Runtime.Name,
		RuntimeOptions: c.Runtime.Options,
		TaskOptions:    r.Options,
		SandboxID:      c.SandboxID,
		Address:        r.TaskApiAddress,
		Version:        r.TaskApiVersion,
	}
	if r.RuntimePath != "" {
		opts.Runtime = r.RuntimePath
	}
	for _, m := range r.Rootfs {
		opts.Rootfs = append(opts.Rootfs, mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	t, err := s.create(ctx, c, opts)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	pid, err := t.PID(ctx)
	if err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("pid of task %s: %w", r.ContainerID, err))
	}
	return &api.CreateTaskResponse{ContainerID: r.ContainerID, Pid: pid}, nil
}

// create has the shim of the container's group take it where that one is known.
func (s *Service) create(ctx context.Context, c containers.Container, opts runtime.CreateOpts) (runtime.Task, error) {
	key, grouped := keyOf(ctx, c, opts.Runtime)
	if !grouped {
		return s.manager.Create(ctx, c.ID, opts)
	}
	if address, version, ok := s.groups.find(ctx, key, s.manager); ok {
		direct := opts
		direct.SandboxID, direct.Address, direct.Version = groupPrefix+key.name, address, uint32(version)
		t, err := s.manager.Create(ctx, c.ID, direct)
		if err == nil {
			s.groups.add(key, c.ID, t)
			return t, nil
		}
		if accepts(ctx, address) {
			return nil, err
		}
		log.G(ctx).WithError(err).WithField("id", c.ID).Info("the group's shim has gone, starting another")
	}
	t, err := s.manager.Create(ctx, c.ID, opts)
	if err == nil {
		s.groups.add(key, c.ID, t)
	}
	return t, err
}

// Start lets a created process run.
func (s *Service) Start(ctx context.Context, r *api.StartRequest) (*api.StartResponse, error) {
	p, err := s.process(ctx, r.ContainerID, r.ExecID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	if err := p.Start(ctx); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	state, err := p.State(ctx)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &api.StartResponse{Pid: state.Pid}, nil
}

// Delete removes a task that has ended, and its shim unless that serves others.
func (s *Service) Delete(ctx context.Context, r *api.DeleteTaskRequest) (*api.DeleteResponse, error) {
	t, err := s.task(ctx, r.ContainerID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	if _, err := state(ctx, t); errdefs.IsNotFound(err) && s.awaitGone(ctx, r.ContainerID) {
		return nil, errgrpc.ToGRPC(fmt.Errorf("task %s: %w", r.ContainerID, errdefs.ErrNotFound))
	}
	exit, err := s.manager.Delete(ctx, r.ContainerID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return deleted("", exit), nil
}

// The bounds of awaitGone.
const (
	goneBound = 30 * time.Second
	goneSpare = 2 * time.Second // of the caller's time, for what follows
)

// awaitGone waits until the manager has removed a task whose shim is dead, and reports
// whether it has. It does so by itself, at the end of a clean-up by name: a task of that
// name that was made before that end, as is possible once this one is deleted, would be
// taken from its list in this one's place, and run on unknown to it.
func (s *Service) awaitGone(ctx context.Context, id string) bool {
	bound := goneBound
	if deadline, ok := ctx.Deadline(); ok {
		bound = min(bound, time.Until(deadline)-goneSpare)
	}
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		if _, err := s.manager.Get(ctx, id); errdefs.IsNotFound(err) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-look.C:
		}
	}
}

// DeleteProcess removes an exec'ed process that has ended.
func (s *Service) DeleteProcess(ctx context.Context, r *api.DeleteProcessRequest) (*api.DeleteResponse, error) {
	t, err := s.task(ctx, r.ContainerID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	p, err := t.Process(ctx, r.ExecID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	exit, err := p.Delete(ctx)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return deleted(r.ExecID, exit), nil
}

func deleted(id string, exit *runtime.Exit) *api.DeleteResponse {
	return &api.DeleteResponse{ID: id, Pid: exit.Pid, ExitStatus: exit.Status, ExitedAt: protobuf.ToTimestamp(exit.Timestamp)}
}

// Get tells the state of one process.
func (s *Service) Get(ctx context.Context, r *api.GetRequest) (*api.GetResponse, error) {
	p, err := s.process(ctx, r.ContainerID, r.ExecID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	state, err := state(ctx, p)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &api.GetResponse{Process: state}, nil
}

// List tells the state of every task of the namespace.
func (s *Service) List(ctx context.Context, _ *api.ListTasksRequest) (*api.ListTasksResponse, error) {
	tasks, err := s.manager.Tasks(ctx, false)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	resp := &api.ListTasksResponse{}
	for _, t := range tasks {
		p, err := state(ctx, t)
		switch {
		case err == nil:
			resp.Tasks = append(resp.Tasks, p)
		case !errdefs.IsNotFound(err): // deleted since the list was made
			log.G(ctx).WithError(err).WithField("id", t.ID()).Error("state of a task")
		}
	}
	return resp, nil
}

var statusOf = map[runtime.Status]task.Status{
	runtime.CreatedStatus: task.Status_CREATED,
	runtime.RunningStatus: task.Status_RUNNING,
	runtime.StoppedStatus: task.Status_STOPPED,
	runtime.PausedStatus:  task.Status_PAUSED,
	runtime.PausingStatus: task.Status_PAUSING,
}

// state asks the shim. A shim that answers with something odd leaves the
// status unknown; one that does not answer is an error.
func state(ctx context.Context, p runtime.Process) (*task.Process, error) {
	ctx, cancel := timeout.WithContext(ctx, stateTimeout)
	defer cancel()
	st, err := p.State(ctx)
	if err != nil {
		if errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) || errdefs.IsDeadlineExceeded(err) {
			return nil, err
		}
		log.G(ctx).WithError(err).WithField("id", p.ID()).Error("state of a process")
	}
	return &task.Process{
		ID: p.ID(), Pid: st.Pid, Status: statusOf[st.Status],
		Stdin: st.Stdin, Stdout: st.Stdout, Stderr: st.Stderr, Terminal: st.Terminal,
		ExitStatus: st.ExitStatus, ExitedAt: protobuf.ToTimestamp(st.ExitedAt),
	}, nil
}

// Wait returns when the process has ended.
func (s *Service) Wait(ctx context.Context, r *api.WaitRequest) (*api.WaitResponse, error) {
	p, err := s.process(ctx, r.ContainerID, r.ExecID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	exit, err := p.Wait(ctx)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &api.WaitResponse{ExitStatus: exit.Status, ExitedAt: protobuf.ToTimestamp(exit.Timestamp)}, nil
}

// Checkpoint is not there: it needs criu and a content store.
func (s *Service) Checkpoint(context.Context, *api.CheckpointTaskRequest) (*api.CheckpointTaskResponse, error) {
	return nil, notImplemented("checkpoint")
}

func notImplemented(what string) error {
	return errgrpc.ToGRPC(fmt.Errorf("%s needs the stock containerd: %w", what, errdefs.ErrNotImplemented))
}
