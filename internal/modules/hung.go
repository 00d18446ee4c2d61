package modules

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// initBound is how long the initialisation of a module may take: a driver may wait for
// its disks there, or for hardware that does not answer.
const initBound = 30 * time.Second

// ErrHangs says that the initialisation of a module does not end.
var ErrHangs = errors.New("its initialisation does not end: the hardware may not answer")

// insert hands a module to the kernel. The call cannot be taken back: one that does not
// end keeps its thread, and the module is not tried again until it has ended.
func (x *Index) insert(ctx context.Context, name, path, params string) error {
	x.mu.Lock()
	hangs := x.hung[name]
	x.mu.Unlock()
	if hangs {
		return ErrHangs
	}
	inserted := make(chan error, 1)
	go func() {
		err := x.sys.insert(path, params)
		x.mu.Lock()
		delete(x.hung, name)
		inserted <- err // has room
		x.mu.Unlock()
	}()
	bound := time.NewTimer(initBound)
	defer bound.Stop()
	var err error
	select {
	case err := <-inserted:
		return err
	case <-bound.C:
		err = fmt.Errorf("after %v %w", initBound, ErrHangs)
	case <-ctx.Done():
		err = ctx.Err()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	select {
	case err := <-inserted: // just now
		return err
	default:
	}
	if x.hung == nil {
		x.hung = map[string]bool{}
	}
	x.hung[name] = true
	return err
}
