package tasks

import (
	"context"
	"fmt"
	"time"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Kill sends a signal to a process, or with All to every process of the container.
func (s *Service) Kill(ctx context.Context, r *api.KillRequest) (*emptypb.Empty, error) {
	p, err := s.process(ctx, r.ContainerID, r.ExecID)
	if err == nil {
		err = p.Kill(ctx, r.Signal, r.All)
	}
	return done(err)
}

// Exec adds a process to a task; Start lets it run.
func (s *Service) Exec(ctx context.Context, r *api.ExecProcessRequest) (*emptypb.Empty, error) {
	if r.ExecID == "" {
		return nil, errgrpc.ToGRPC(fmt.Errorf("exec id is empty: %w", errdefs.ErrInvalidArgument))
	}
	t, err := s.task(ctx, r.ContainerID)
	if err == nil {
		_, err = t.Exec(ctx, r.ExecID, runtime.ExecOpts{
			Spec: r.Spec,
			IO:   runtime.IO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		})
	}
	return done(err)
}

// ResizePty sets the size of a process's terminal, in characters.
func (s *Service) ResizePty(ctx context.Context, r *api.ResizePtyRequest) (*emptypb.Empty, error) {
	p, err := s.process(ctx, r.ContainerID, r.ExecID)
	if err == nil {
		err = p.ResizePty(ctx, runtime.ConsoleSize{Width: r.Width, Height: r.Height})
	}
	return done(err)
}

// CloseIO closes a process's standard input.
func (s *Service) CloseIO(ctx context.Context, r *api.CloseIORequest) (*emptypb.Empty, error) {
	p, err := s.process(ctx, r.ContainerID, r.ExecID)
	if err == nil && r.Stdin {
		err = p.CloseIO(ctx)
	}
	return done(err)
}

// Pause freezes a task.
func (s *Service) Pause(ctx context.Context, r *api.PauseTaskRequest) (*emptypb.Empty, error) {
	t, err := s.task(ctx, r.ContainerID)
	if err == nil {
		err = t.Pause(ctx)
	}
	return done(err)
}

// Resume thaws a task.
func (s *Service) Resume(ctx context.Context, r *api.ResumeTaskRequest) (*emptypb.Empty, error) {
	t, err := s.task(ctx, r.ContainerID)
	if err == nil {
		err = t.Resume(ctx)
	}
	return done(err)
}

// Update changes a task's resources.
func (s *Service) Update(ctx context.Context, r *api.UpdateTaskRequest) (*emptypb.Empty, error) {
	t, err := s.task(ctx, r.ContainerID)
	if err == nil {
		err = t.Update(ctx, r.Resources, r.Annotations)
	}
	return done(err)
}

func done(err error) (*emptypb.Empty, error) {
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &emptypb.Empty{}, nil
}

// ListPids lists the processes of a task.
func (s *Service) ListPids(ctx context.Context, r *api.ListPidsRequest) (*api.ListPidsResponse, error) {
	t, err := s.task(ctx, r.ContainerID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	pids, err := t.Pids(ctx)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	resp := &api.ListPidsResponse{}
	for _, p := range pids {
		info := &task.ProcessInfo{Pid: p.Pid}
		if p.Info != nil {
			if info.Info, err = typeurl.MarshalAnyToProto(p.Info); err != nil {
				return nil, errgrpc.ToGRPC(fmt.Errorf("describe process %d: %w", p.Pid, err))
			}
		}
		resp.Processes = append(resp.Processes, info)
	}
	return resp, nil
}

// Metrics collects the cgroup counters of the namespace's tasks. A filter may
// name "id" and "namespace".
func (s *Service) Metrics(ctx context.Context, r *api.MetricsRequest) (*api.MetricsResponse, error) {
	filter, err := filters.ParseAll(r.Filters...)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	tasks, err := s.manager.Tasks(ctx, false)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	resp := &api.MetricsResponse{}
	for _, t := range tasks {
		if !filter.Match(filterable(t)) {
			continue
		}
		at := time.Now()
		stats, err := t.Stats(ctx)
		if err != nil {
			if !errdefs.IsNotFound(err) {
				log.G(ctx).WithError(err).WithField("id", t.ID()).Error("metrics of a task")
			}
			continue
		}
		resp.Metrics = append(resp.Metrics, &types.Metric{Timestamp: protobuf.ToTimestamp(at), ID: t.ID(), Data: stats})
	}
	return resp, nil
}

func filterable(t runtime.Task) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		switch path[0] {
		case "id":
			return t.ID(), true
		case "namespace":
			return t.Namespace(), true
		}
		return "", false
	})
}
