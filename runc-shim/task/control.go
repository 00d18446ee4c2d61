package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"keelson/runc-shim/deletion"
	"keelson/runc-shim/events"
	"keelson/runc-shim/metrics"
)

type emptyMessage = emptypb.Empty

var empty = &emptyMessage{}

const killSignal = unix.SIGKILL

// State says how a process is.
func (s *Service) State(ctx context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	c, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	pid, status, at := p.exit()
	id := p.id
	if p == c.init {
		id = c.id
	}
	resp := &taskapi.StateResponse{
		ID: id, Bundle: c.bundle, Pid: uint32(pid), Status: c.status(p),
		Stdin: p.config.Stdin, Stdout: p.config.Stdout, Stderr: p.config.Stderr, Terminal: p.config.Terminal,
		ExitStatus: uint32(status), ExecID: p.id,
	}
	if !at.IsZero() {
		resp.ExitedAt = timestamppb.New(at)
	}
	return resp, nil
}

// status is containerd's name for a process's state. A container that is
// frozen is so with everything in it.
func (c *container) status(p *process) tasktypes.Status {
	st := p.is()
	c.mu.Lock()
	pausing, paused := c.pausing, c.paused
	c.mu.Unlock()
	switch {
	case st == stopped || st == deleted:
		return tasktypes.Status_STOPPED
	case pausing:
		return tasktypes.Status_PAUSING
	case paused:
		return tasktypes.Status_PAUSED
	case st == running:
		return tasktypes.Status_RUNNING
	default:
		return tasktypes.Status_CREATED
	}
}

// Wait returns when the process has ended.
func (s *Service) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	_, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := p.wait(ctx); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	_, status, at := p.exit()
	return &taskapi.WaitResponse{ExitStatus: uint32(status), ExitedAt: timestamppb.New(at)}, nil
}

// Kill sends a signal to a process, or to all of the container's.
func (s *Service) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptyMessage, error) {
	c, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	sig := unix.Signal(r.Signal)
	switch {
	case p != c.init:
		err = p.signal(sig)
	case r.All:
		err = c.engine.signalAll(sig)
	default:
		err = c.signalInit(sig)
	}
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return empty, nil
}

// signalInit signals the init process. A container without a pid namespace of
// its own has nobody to end its other processes, so SIGKILL goes to them all.
func (c *container) signalInit(sig unix.Signal) error {
	if st := c.init.is(); st == stopped || st == deleted {
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	err := c.engine.signal(sig)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, libcontainer.ErrNotRunning), errors.Is(err, os.ErrProcessDone), errors.Is(err, unix.ESRCH):
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	default:
		return err
	}
}

// Delete removes an ended process; with the init goes the container.
func (s *Service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	c, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if p == c.init {
		err = s.deleteContainer(ctx, c)
	} else {
		err = c.deleteExec(ctx, p)
	}
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	pid, status, at := p.exit()
	resp := &taskapi.DeleteResponse{Pid: uint32(pid), ExitStatus: uint32(status)}
	if !at.IsZero() {
		resp.ExitedAt = timestamppb.New(at)
	}
	return resp, nil
}

func (c *container) deleteExec(ctx context.Context, p *process) error {
	p.start.Lock()
	defer p.start.Unlock()
	if err := p.to(deleted); err != nil {
		return fmt.Errorf("cannot delete process %s: %w", p.id, err)
	}
	p.release(ctx)
	c.remove(p.id)
	return nil
}

func (s *Service) deleteContainer(ctx context.Context, c *container) error {
	p := c.init
	if p.is() == created {
		// Never started: it waits at the exec FIFO for somebody who will not
		// come. The stock shim deletes such a container too.
		if err := c.signalInit(killSignal); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			return err
		}
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
	if c.isEnding() {
		// Somebody has seen the process end, or the record of it: it is a
		// moment until the container has.
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
	if st := p.is(); st != stopped {
		return fmt.Errorf("cannot delete container %s, it is %s: %w", c.id, st, errdefs.ErrFailedPrecondition)
	}
	if err := c.destroy(ctx); err != nil {
		return fmt.Errorf("delete container %s: %w", c.id, err)
	}
	if c.rootfs != "" {
		if err := mount.UnmountRecursive(c.rootfs, 0); err != nil {
			return fmt.Errorf("unmount rootfs of %s: %w", c.id, err)
		}
	}
	if err := p.to(deleted); err != nil {
		return err
	}
	for _, e := range c.list() {
		e.release(ctx)
	}
	pid, status, at := p.exit()
	if err := deletion.Leave(c.bundle, &taskapi.DeleteResponse{Pid: uint32(pid), ExitStatus: uint32(status), ExitedAt: timestamppb.New(at)}); err != nil {
		logger.Warn("containerd's clean-up looks for what there is to remove", "id", c.id, "error", err)
	}
	s.publisher.Publish(events.TopicDelete, &eventsapi.TaskDelete{
		ContainerID: c.id, Pid: uint32(pid), ExitStatus: uint32(status), ExitedAt: timestamppb.New(at),
	})
	s.put(c.id, nil)
	return nil
}

func (c *container) list() []*process {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*process, 0, len(c.execs))
	for _, p := range c.execs {
		out = append(out, p)
	}
	return out
}

// Pause freezes a container.
func (s *Service) Pause(ctx context.Context, r *taskapi.PauseRequest) (*emptyMessage, error) {
	c, err := s.get(r.ID)
	if err != nil {
		return nil, err
	}
	c.setPause(true, false)
	err = c.engine.pause()
	c.setPause(false, err == nil)
	if err != nil {
		return nil, errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "pause container %s: %v", c.id, err)
	}
	s.publisher.Publish(events.TopicPaused, &eventsapi.TaskPaused{ContainerID: c.id})
	return empty, nil
}

// Resume thaws a container.
func (s *Service) Resume(ctx context.Context, r *taskapi.ResumeRequest) (*emptyMessage, error) {
	c, err := s.get(r.ID)
	if err != nil {
		return nil, err
	}
	if err := c.engine.resume(); err != nil {
		return nil, errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "resume container %s: %v", c.id, err)
	}
	c.setPause(false, false)
	s.publisher.Publish(events.TopicResumed, &eventsapi.TaskResumed{ContainerID: c.id})
	return empty, nil
}

func (c *container) setPause(pausing, paused bool) {
	c.mu.Lock()
	c.pausing, c.paused = pausing, paused
	c.mu.Unlock()
}

// Pids lists the processes in a container's cgroup.
func (s *Service) Pids(ctx context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	c, err := s.get(r.ID)
	if err != nil {
		return nil, err
	}
	pids, err := c.engine.pids()
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	execs := map[int]string{}
	for _, p := range c.list() {
		execs[p.getPid()] = p.id
	}
	resp := &taskapi.PidsResponse{}
	for _, pid := range pids {
		info := &tasktypes.ProcessInfo{Pid: uint32(pid)}
		if id, ok := execs[pid]; ok {
			if info.Info, err = events.Any(&options.ProcessDetails{ExecID: id}); err != nil {
				return nil, errgrpc.ToGRPC(err)
			}
		}
		resp.Processes = append(resp.Processes, info)
	}
	return resp, nil
}

// Update changes a container's limits. The resources are runtime-spec JSON.
func (s *Service) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*emptyMessage, error) {
	c, err := s.get(r.ID)
	if err != nil {
		return nil, err
	}
	var res specs.LinuxResources
	if err := json.Unmarshal(r.Resources.GetValue(), &res); err != nil {
		return nil, errgrpc.ToGRPCf(errdefs.ErrInvalidArgument, "update container %s: resources: %v", c.id, err)
	}
	if err := c.engine.update(&res); err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("update container %s: %w", c.id, err))
	}
	return empty, nil
}

// Stats reads a container's cgroup.
func (s *Service) Stats(ctx context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	c, err := s.get(r.ID)
	if err != nil {
		return nil, err
	}
	st, err := c.engine.stats()
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	var resp taskapi.StatsResponse
	if cgroups.IsCgroup2UnifiedMode() {
		paths, perr := c.engine.cgroups()
		if perr != nil {
			return nil, errgrpc.ToGRPC(perr)
		}
		resp.Stats, err = events.Any(metrics.V2(st, memoryEvents(paths[""])))
	} else {
		resp.Stats, err = events.Any(metrics.V1(st))
	}
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &resp, nil
}

// memoryEvents reads memory.events, empty where there is none.
func memoryEvents(cgroup string) map[string]uint64 {
	out := map[string]uint64{}
	data, err := os.ReadFile(filepath.Join(cgroup, "memory.events"))
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); ok && err == nil {
			out[key] = n
		}
	}
	return out
}

// ResizePty sets the size of a process's terminal.
func (s *Service) ResizePty(ctx context.Context, r *taskapi.ResizePtyRequest) (*emptyMessage, error) {
	_, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	// A process without a terminal is no error, as with the stock shim.
	if st := p.getStreams(); st != nil && p.config.Terminal {
		if err := st.Resize(uint16(r.Width), uint16(r.Height)); err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
	}
	return empty, nil
}

// CloseIO closes a process's standard input.
func (s *Service) CloseIO(ctx context.Context, r *taskapi.CloseIORequest) (*emptyMessage, error) {
	_, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if st := p.getStreams(); st != nil && r.Stdin {
		if err := st.CloseStdin(); err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
	}
	return empty, nil
}

// Checkpoint is refused.
func (s *Service) Checkpoint(ctx context.Context, r *taskapi.CheckpointTaskRequest) (*emptyMessage, error) {
	return nil, errgrpc.ToGRPCf(errdefs.ErrNotImplemented, "checkpoint container %s: not supported by this runtime", r.ID)
}

// Connect says which processes serve a container.
func (s *Service) Connect(ctx context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	resp := &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid())}
	if c, err := s.get(r.ID); err == nil {
		resp.TaskPid = uint32(c.init.getPid())
	}
	return resp, nil
}
