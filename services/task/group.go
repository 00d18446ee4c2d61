package task

import (
	"context"
	"sync"
)

// group keeps the shared shim whole: two shims started at once for one group
// fight over its socket, and a shim whose last member is deleted ends even while
// it makes the next one. So the first create and the last delete have it alone;
// the others may go side by side. A wait for it ends with its context, because
// whoever has it may wait for a containerd that is stuck.
type group struct {
	mu      sync.Mutex
	shared  int           // holders side by side, guarded by mu
	alone   bool          // one has it alone, guarded by mu
	changed chan struct{} // closed when somebody lets go; nil if nobody waits; guarded by mu
}

// lock takes the group, alone or side by side with others, and returns what
// lets go of it, or the context's error.
func (g *group) lock(ctx context.Context, alone bool) (unlock func(), err error) {
	for {
		g.mu.Lock()
		if !g.alone && (!alone || g.shared == 0) {
			if alone {
				g.alone = true
			} else {
				g.shared++
			}
			g.mu.Unlock()
			return func() { g.unlock(alone) }, nil
		}
		if g.changed == nil {
			g.changed = make(chan struct{})
		}
		changed := g.changed
		g.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (g *group) unlock(alone bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if alone {
		g.alone = false
	} else {
		g.shared--
	}
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}
