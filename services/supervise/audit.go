package supervise

import (
	"context"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/api"
	"keelson/internal/audit"
	"keelson/internal/bundle"
	"keelson/internal/inspect"
	"keelson/internal/prepare"
	"keelson/services/resources"
)

// audit judges a service by its first process, beside the configuration that its
// container was made with.
func (s *Supervisor) audit(ctx context.Context, svc api.Service) (api.Audit, error) {
	b, err := bundle.Load(bundle.Services, svc.Image)
	if err != nil {
		return api.Audit{}, err
	}
	spec, err := s.tasks.Spec(ctx, b)
	if err != nil {
		return api.Audit{}, err
	}
	unpin(spec, b.Spec)
	declared := inspect.Present(inspect.Declared(b, spec))
	live, err := inspect.Live(inspect.Process{PID: svc.PID, Cgroup: filepath.Join(resources.Root, svc.Cgroup), Group: svc.Cgroup}, declared)
	if err != nil {
		return api.Audit{}, err
	}
	accepted := inspect.Accepted(spec)
	r := audit.Compare(audit.Assess(live, accepted), audit.Assess(declared, accepted))
	return api.Audit{
		Service: svc.Name, PID: svc.PID, Exposure: float64(r.Exposure) / 10, Level: r.Level(),
		Findings: r.Findings, Facts: audit.Differences(declared, live),
	}, nil
}

// unpin puts the paths of the image back in place of the pins of binds' sources.
func unpin(made, image *specs.Spec) {
	for i, m := range made.Mounts {
		if !prepare.Pinned(m.Source) {
			continue
		}
		for _, x := range image.Mounts {
			if x.Destination == m.Destination {
				made.Mounts[i].Source = x.Source
			}
		}
	}
}
