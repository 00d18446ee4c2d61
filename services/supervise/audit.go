package supervise

import (
	"context"
	"path/filepath"

	"keelson/internal/api"
	"keelson/internal/audit"
	"keelson/internal/bundle"
	"keelson/internal/inspect"
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
