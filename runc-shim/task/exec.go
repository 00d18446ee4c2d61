package task

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"keelson/runc-shim/events"
	"keelson/runc-shim/oci"
	"keelson/runc-shim/stdio"
)

// Exec adds a process to a container. Start runs it.
func (s *Service) Exec(ctx context.Context, r *taskapi.ExecProcessRequest) (*emptyMessage, error) {
	c, err := s.get(r.ID)
	if err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		return nil, errgrpc.ToGRPCf(errdefs.ErrInvalidArgument, "exec in container %q: empty exec id", r.ID)
	}
	var spec specs.Process
	if err := json.Unmarshal(r.Spec.GetValue(), &spec); err != nil {
		return nil, errgrpc.ToGRPCf(errdefs.ErrInvalidArgument, "exec %q: process spec: %v", r.ExecID, err)
	}
	spec.Terminal = r.Terminal
	if err := oci.CheckProcess(&spec); err != nil {
		return nil, errgrpc.ToGRPCf(errdefs.ErrInvalidArgument, "exec %q: %v", r.ExecID, err)
	}
	p := newProcess(r.ExecID, stdio.Config{
		ID: r.ExecID, Namespace: s.namespace,
		Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal,
		UID: c.init.config.UID, GID: c.init.config.GID,
	})
	p.spec = &spec
	if err := c.add(p); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	s.publisher.Publish(events.TopicExecAdded, &eventsapi.TaskExecAdded{ContainerID: c.id, ExecID: p.id})
	return empty, nil
}

func (s *Service) startExec(c *container, p *process) error {
	p.start.Lock()
	defer p.start.Unlock()
	if st := p.is(); st != added {
		return fmt.Errorf("process %s is %s and cannot be started: %w", p.id, st, errdefs.ErrFailedPrecondition)
	}
	if st := c.init.is(); st != running && st != created {
		return fmt.Errorf("container %s init process is not running: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	if err := c.beginExec(); err != nil {
		return err
	}
	if strings.HasPrefix(p.id, leavesNothing) {
		p.group = newExecGroup(c.engine, p.id)
	}
	if err := c.launch(p, p.spec, running); err != nil {
		p.group.end()
		c.endExec()
		if serr := p.to(stopped); serr != nil {
			logger.Error("failed exec", "id", c.id, "exec", p.id, "error", serr)
		}
		return fmt.Errorf("OCI runtime exec failed: %w", err)
	}
	p.spec = nil
	s.publisher.Publish(events.TopicExecStarted, &eventsapi.TaskExecStarted{
		ContainerID: c.id, ExecID: p.id, Pid: uint32(p.getPid()),
	})
	go s.watchExec(c, p)
	return nil
}

// watchExec makes the end of an exec known.
func (s *Service) watchExec(c *container, p *process) {
	defer c.endExec()
	status, at := await(p)
	p.group.end()
	if st := p.getStreams(); st != nil {
		st.Ended()
	}
	p.start.Lock()
	defer p.start.Unlock()
	if err := p.ended(status, at); err != nil {
		logger.Error("end of exec", "id", c.id, "exec", p.id, "error", err)
	}
	s.publisher.Publish(events.TopicExit, &eventsapi.TaskExit{
		ContainerID: c.id, ID: p.id,
		Pid: uint32(p.getPid()), ExitStatus: uint32(status), ExitedAt: timestamppb.New(at),
	})
}
