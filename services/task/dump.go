package task

import (
	"keelson/internal/bundle"
	"keelson/internal/steer"
)

// Spec returns the runtime configuration, as JSON, that a container's folder comes
// to on this machine. notifyDir is the supervisor's NotifyDir.
func Spec(b *bundle.Bundle, walls Walls, notifyDir string) ([]byte, error) {
	folder := ""
	if Notifies(b.Service) {
		folder = (&Runtime{NotifyDir: notifyDir}).NotifyFolder(b)
	}
	hardened, err := walls.hardened(b, false)
	if err != nil {
		return nil, err
	}
	s, err := spec(hardened, !b.Service.OwnShim, folder, steer.Hides(b), (&Runtime{}).hierarchyOptions())
	if err != nil {
		return nil, err
	}
	return s.Value, nil
}
