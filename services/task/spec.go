package task

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"

	"github.com/containerd/containerd/api/types/runc/options"
	"google.golang.org/protobuf/types/known/anypb"

	"keelson/internal/bundle"
)

const (
	runtimeName = "io.containerd.runc.v2"
	specURL     = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

	// groupAnnotation makes the shim of one container serve others too.
	groupAnnotation = "io.containerd.runc.v2.group"
	groupName       = "keelson"

	// ShimCgroup is the shims' own cgroup, so that neither containerd's end nor
	// a container's takes them along.
	ShimCgroup = "/keelson/shim"
)

// spec returns the configuration a container is created with: its own, with
// what depends on this machine filled in.
func spec(b *bundle.Bundle) (*anypb.Any, error) {
	s := *b.Spec
	root := *s.Root
	root.Path = b.Rootfs()
	s.Root = &root
	linux := *s.Linux
	linux.CgroupsPath = b.CgroupsPath()
	s.Linux = &linux
	process := *s.Process
	if process.OOMScoreAdj == nil {
		// Unset, it would be inherited from the shim, which the OOM killer spares.
		zero := 0
		process.OOMScoreAdj = &zero
	}
	s.Process = &process
	if !b.Service.OwnShim {
		s.Annotations = maps.Clone(s.Annotations)
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
		if _, set := s.Annotations[groupAnnotation]; !set {
			s.Annotations[groupAnnotation] = groupName
		}
	}
	data, err := json.Marshal(&s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(b.Dir, "config.json"), err)
	}
	return &anypb.Any{TypeUrl: specURL, Value: data}, nil
}

// runtimeOptions are the shim's: where it lives. Stock shims honour it too.
func runtimeOptions(shimCgroup string) (*anypb.Any, error) {
	o, err := anypb.New(&options.Options{ShimCgroup: shimCgroup})
	if err != nil {
		return nil, fmt.Errorf("encode the runtime's options: %w", err)
	}
	// containerd's own type URLs have no prefix.
	o.TypeUrl = string((&options.Options{}).ProtoReflect().Descriptor().FullName())
	return o, nil
}
