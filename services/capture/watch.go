package capture

import (
	"sync"

	"keelson/services/spool"
)

// Watch calls see with the lines written since Mark, of both streams, and with
// those that come, one at a time, until cancel is called, which does not wait for
// a call under way. It reads what is kept, so a watcher that is slow holds nobody up.
func (o *Output) Watch(see func(line []byte)) (cancel func()) {
	cursors := []*spool.Cursor{o.stdout.spool.CursorFrom(o.outMark), o.stderr.spool.CursorFrom(o.errMark)}
	done := make(chan struct{})
	waiter := o.sys.cfg.Spool.Wait()
	go func() {
		defer waiter.Done()
		for {
			for _, c := range cursors {
				for {
					line, ok := c.Next()
					if !ok {
						break
					}
					select {
					case <-done:
						return
					default:
					}
					if !line.Gap {
						see(line.Text)
					}
				}
			}
			select {
			case <-done:
				return
			case <-waiter.C:
				waiter.Again()
			}
		}
	}()
	return sync.OnceFunc(func() { close(done) })
}
