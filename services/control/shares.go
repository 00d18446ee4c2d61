package control

import (
	"fmt"
	"sync"

	"keelson/internal/policy"
	"keelson/internal/steer"
)

// shares keeps containers from taking all connections: one may have so many, and those
// that may only look so many together, so that those who steer the machine get through.
type shares struct {
	mu      sync.Mutex
	of      map[string]int // connections by container, without those of the machine's own; guarded by mu
	lookers int            // connections of those that may only look; guarded by mu
}

// enter counts a connection until leave is called, or says why it is one too many.
func (s *shares) enter(c steer.Client) (leave func(), err error) {
	if c.Name == "" {
		return func() {}, nil
	}
	looks := 0
	if c.Control == policy.ControlRead {
		looks = 1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.of[c.Name] >= maxOfOne:
		return nil, fmt.Errorf("%s has %d connections, more than that of one container are not taken", c.Name, maxOfOne)
	case looks > 0 && s.lookers >= maxLookers:
		return nil, fmt.Errorf("%d connections are of containers that may only look, more than that are not taken", maxLookers)
	}
	if s.of == nil {
		s.of = map[string]int{}
	}
	s.of[c.Name]++
	s.lookers += looks
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.of[c.Name]--; s.of[c.Name] == 0 {
			delete(s.of, c.Name)
		}
		s.lookers -= looks
	}, nil
}
