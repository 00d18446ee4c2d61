package supervise

import "context"

func (s *Supervisor) hardware(ctx context.Context) {
	if err := resolvTarget(); err != nil {
		s.con.Warn("keelson", "%v", err)
	}
}
func (s *Supervisor) watchHardware(ctx context.Context) {}
func (s *Supervisor) mountVolumes(ctx context.Context)  {}
