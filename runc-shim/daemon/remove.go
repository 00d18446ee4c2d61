package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"keelson/runc-shim/oci"
	"keelson/runc-shim/task"
	"keelson/runc-shim/version"
)

// remove kills what a dead shim has left of a container and tells containerd
// how the container ended.
func remove(f flags, out io.Writer) error {
	bundle := f.bundle
	if bundle == "" {
		cwd, err := os.Getwd()
		if err != nil {
			return err
		}
		bundle = filepath.Join(filepath.Dir(cwd), f.id)
	}
	opts := &options.Options{}
	data, err := os.ReadFile(filepath.Join(bundle, task.OptionsFile))
	if err == nil {
		err = json.Unmarshal(data, opts)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("task options: %w", err)
	}
	root := opts.Root
	if root == "" {
		root = task.StateRoot
	}
	root = filepath.Join(root, f.namespace)
	if err := oci.ForceDelete(root, f.id); err != nil {
		slog.Warn("remove container of a dead shim", "id", f.id, "error", err)
	}
	at := time.Now()
	if err := mount.UnmountRecursive(filepath.Join(bundle, "rootfs"), 0); err != nil {
		slog.Warn("unmount rootfs", "id", f.id, "error", err)
	}
	pid, status, exited, err := task.ReadExit(bundle)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			slog.Warn("read exit record", "id", f.id, "error", err)
		}
		// Nobody saw its end; we have just killed it.
		pid, status, exited = readPid(bundle), 128+int(unix.SIGKILL), at
	}
	resp, err := proto.Marshal(&taskapi.DeleteResponse{
		Pid: uint32(pid), ExitStatus: uint32(status), ExitedAt: timestamppb.New(exited),
	})
	if err != nil {
		return err
	}
	_, err = out.Write(resp)
	return err
}

func readPid(bundle string) int {
	data, err := os.ReadFile(filepath.Join(bundle, task.PidFile))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0
	}
	return pid
}

// info describes the runtime to containerd (RuntimeInfo).
func info(in io.Reader, out io.Writer) error {
	data, err := io.ReadAll(io.LimitReader(in, maxBootstrap))
	if err != nil {
		return fmt.Errorf("read runtime options: %w", err)
	}
	i := &types.RuntimeInfo{
		Name:    Name,
		Version: &types.RuntimeVersion{Version: version.Keelson()},
	}
	if len(data) > 0 {
		var o anypb.Any
		if err := proto.Unmarshal(data, &o); err != nil {
			return fmt.Errorf("read runtime options: %w", err)
		}
		if !task.IsOptions(o.TypeUrl) {
			return fmt.Errorf("runtime options are of type %q, not containerd.runc.v1.Options", o.TypeUrl)
		}
		i.Options = &o
	}
	feat, err := json.Marshal(describe())
	if err != nil {
		return err
	}
	i.Features = &anypb.Any{TypeUrl: featuresType, Value: feat}
	resp, err := proto.Marshal(i)
	if err != nil {
		return err
	}
	_, err = out.Write(resp)
	return err
}

// featuresType is the name under which containerd registered the features
// structure of the runtime-spec, which travels as JSON.
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
