package task

import (
	"context"
	"encoding/json"
	"fmt"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/bundle"
)

// Spec returns the configuration that a container was created with, as containerd
// keeps it.
func (r *Runtime) Spec(ctx context.Context, b *bundle.Bundle) (*specs.Spec, error) {
	ctx, cancel := call(ctx, b.Namespace(), callTimeout)
	defer cancel()
	answer, err := r.Client.containers.Get(ctx, &containersapi.GetContainerRequest{ID: b.ID})
	if err != nil {
		return nil, fmt.Errorf("ask containerd for the configuration of %s: %w", b.ID, native(err))
	}
	s := &specs.Spec{}
	if err := json.Unmarshal(answer.GetContainer().GetSpec().GetValue(), s); err != nil {
		return nil, fmt.Errorf("read the configuration of %s: %w", b.ID, err)
	}
	if s.Process == nil || s.Linux == nil {
		return nil, fmt.Errorf("the configuration of %s that containerd has is not whole", b.ID)
	}
	return s, nil
}
