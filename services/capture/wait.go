package capture

import (
	"time"

	"keelson/services/spool"
)

// behind reports whether so much has yet to be written to the file that what comes
// has to be dropped, where its writer does not wait.
func (e *exporter) behind() bool {
	end := e.from.End()
	e.mu.Lock()
	behind := e.isBehind(end, max(e.allowance(), tightBytes))
	e.mu.Unlock()
	return behind && !e.isStuck()
}

// isBehind reports whether the file lacks more than it may. The caller holds mu.
func (e *exporter) isBehind(end, allowance int64) bool {
	return end-e.pos > allowance && !e.stuck && !e.closed
}

// await holds up a writer whose file is behind for as long as the disk makes any
// progress, or until quit is closed. What it waits for is the disk: that we have to
// wait for a processor ourselves is no reason to give up.
func (e *exporter) await(quit <-chan struct{}) {
	end := e.from.End() // nobody else moves it
	for first := true; ; first = false {
		e.mu.Lock()
		allowed := e.allowance()
		if !e.isBehind(end, allowed) || !first && e.pos >= e.wanted {
			e.mu.Unlock()
			return
		}
		if first {
			e.wanted = end - allowed*3/4 // there is something left to copy until more has come
		}
		if !e.busy {
			e.start()
		}
		moved := e.waiting()
		e.mu.Unlock()
		if !e.awaitMove(moved, quit, nil) {
			return
		}
	}
}

// awaitMove waits until something has moved. It reports false where that is not to be
// waited for.
func (e *exporter) awaitMove(moved, quit <-chan struct{}, limit <-chan time.Time) bool {
	look := time.NewTicker(e.bound / lookTimes)
	defer look.Stop()
	for {
		select {
		case <-moved:
			return true
		case <-quit:
			return false
		case <-limit:
			return false
		case <-look.C:
			if e.isStuck() {
				return false
			}
		}
	}
}

// isStuck reports whether the disk has not answered for so long that nobody should
// wait for it.
func (e *exporter) isStuck() bool {
	e.mu.Lock()
	stuck := e.stuck || e.call.blockedFor() > e.bound
	said := true
	if stuck {
		said = e.giveUp()
	}
	e.mu.Unlock()
	if !said {
		e.warn("%s: its disk has not answered for %v; what comes is kept in memory for now, the newest of it", e.path, e.bound)
	}
	return stuck
}

// flush waits until the file has what there is, or cannot get it, for at most the
// given time. It returns how many bytes the file lacks.
func (e *exporter) flush(limit time.Duration) (lacks int64) {
	t := time.NewTimer(limit)
	defer t.Stop()
	e.mu.Lock()
	e.hurried++
	e.start()
	for e.busy {
		moved := e.waiting()
		e.mu.Unlock()
		more := e.awaitMove(moved, nil, t.C)
		e.mu.Lock()
		if !more {
			break
		}
	}
	e.hurried--
	defer e.mu.Unlock()
	return e.from.End() - e.pos
}

// giveUp ends the waiting for a file that cannot be written: what comes is worth more
// than what may never be written. It reports whether that was said already. The
// caller holds mu.
func (e *exporter) giveUp() (said bool) {
	said = e.failing
	e.stuck, e.failing = true, true
	e.from.Need(spool.NeedNothing)
	e.count(e.from.End())
	e.told()
	return said
}

// told tells whoever waits that something has moved. The caller holds mu.
func (e *exporter) told() {
	if e.moved != nil {
		close(e.moved)
		e.moved = nil
	}
}

// waiting returns what is closed when something has moved. The caller holds mu.
func (e *exporter) waiting() <-chan struct{} {
	if e.moved == nil {
		e.moved = make(chan struct{})
	}
	return e.moved
}
