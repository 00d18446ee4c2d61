package capture

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"keelson/internal/beneath"
	"keelson/services/spool"
)

const (
	// A file is brought up to date at most every gather, or after gatherBytes, so
	// that one line after the other costs little.
	gather      = 10 * time.Millisecond
	gatherBytes = 128 << 10
	// copyBytes is how much is copied in one step, slowBytes where a step takes longer
	// than slowStep: a disk that takes them within stuckBound is waited for.
	copyBytes  = spool.SegmentBytes
	slowBytes  = 16 << 10
	slowStep   = time.Second
	stuckBound = 5 * time.Second
	// lookTimes is how often in that time whoever waits looks whether it is over.
	lookTimes = 5
	// A file that cannot be written is tried again after retryMin, doubling up to
	// retryMax.
	retryMin = time.Second
	retryMax = 5 * time.Second
	// idleBound is how long a file that nothing is written to stays open: somebody may
	// want to unmount its disk.
	idleBound = time.Second
	// beginBound is how long the beginning of a stream waits for its file to be there.
	beginBound = time.Second
	// closeBound is how long the end of a stream waits for its file.
	closeBound = 10 * time.Second
)

// exporter copies a stream from the spool to its file. There is a goroutine only
// while there is something to copy. A writer is held up by how far the file has come,
// unless the file cannot be written at all.
type exporter struct {
	sys    *System
	source *atomic.Int64 // the sum of counted of the streams of its source
	from   *spool.Stream
	path   string
	warn   func(format string, a ...any)
	// copyTo and appendTo are from's, and bound stuckBound, but for tests.
	copyTo   func(f *os.File, from, most int64) (int64, error)
	appendTo func(f *os.File, from, most int64) int64
	bound    time.Duration

	mu      sync.Mutex
	busy    bool          // somebody copies, guarded by mu
	here    bool          // whoever moves will copy what there is before it rests; see direct; guarded by mu
	again   bool          // and is to look once more, guarded by mu
	last    time.Duration // when that ended, guarded by mu
	later   *time.Timer   // begins it again, guarded by mu
	armed   bool          // later is, guarded by mu
	closed  bool          // guarded by mu
	pos     int64         // of the next byte to copy, guarded by mu
	counted int64         // of what is behind, in the system's sum; guarded by mu
	call    diskCall      // guarded by mu
	stuck   bool          // the file cannot be written, or the disk does not answer; guarded by mu
	failing bool          // that was said, guarded by mu
	missing int64         // bytes that are missing and not yet said, guarded by mu
	wanted  int64         // the position that is waited for, guarded by mu
	hurried int           // how many wait for all of it, guarded by mu
	moved   chan struct{} // closed when wanted is reached or the copying has paused, nil where nobody waits; guarded by mu
	retry   *time.Timer   // guarded by mu
	idle    *time.Timer   // closes the file, guarded by mu

	// Of whoever copies:
	state    position
	known    bool         // state is what this process has seen itself
	file     *os.File     // nil where it is not open
	dir      *beneath.Dir // that it is in; nil where it is not open
	quick    bool         // both are on the same file system in memory
	at       place        // what was open last
	size     int64        // of it
	limit    int64
	keep     int
	memory   bool
	untidy   bool          // it was moved aside, and is not known to leave others room
	looked   time.Duration // when it was last seen that file is the one that path names
	step     int64         // how much is copied at once
	missSaid time.Duration // when it was said last that something is missing
	delay    time.Duration
	unsaved  bool
	rotation bool // that it cannot be rotated was said
	aside    aside
}

func newExporter(y *System, from *spool.Stream, path string, warn func(string, ...any)) *exporter {
	return &exporter{
		sys: y, source: y.source(from.Source()), from: from, path: path, warn: warn, copyTo: from.CopyTo, appendTo: from.AppendTo, bound: stuckBound,
		step: copyBytes, limit: rotateBytes, keep: rotateKeep,
	}
}

// begin takes over what an earlier process did, and makes the file.
func (e *exporter) begin() {
	offset, _ := e.from.Kept()
	e.pos = offset
	if data, err := e.from.Recall("export"); err == nil && json.Unmarshal(data, &e.state) == nil {
		e.pos = e.state.Pos
	}
	e.from.Need(e.pos)
	e.mu.Lock()
	e.start()
	moved := e.waiting()
	e.mu.Unlock()
	t := time.NewTimer(beginBound)
	defer t.Stop()
	e.awaitMove(moved, nil, t.C)
}

// kick sees to it that what has come is copied, at once.
func (e *exporter) kick() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.start()
}

// came is told that there is more, and lets some of it gather.
func (e *exporter) came() {
	end, now := e.from.End(), e.sys.cfg.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.count(end)
	switch {
	case e.closed || e.armed && end-e.pos < gatherBytes:
	case e.busy || end-e.pos >= gatherBytes || now-e.last >= gather:
		e.start()
	default:
		e.armed = true
		if e.later == nil {
			e.later = time.AfterFunc(gather, e.kick)
		} else {
			e.later.Reset(gather)
		}
	}
}

// count keeps the system's sum of what files have yet to get. The caller holds mu.
func (e *exporter) count(end int64) {
	behind := max(end-e.pos, 0)
	if e.stuck || e.closed {
		behind = 0
	}
	e.sys.behind.Add(behind - e.counted)
	e.source.Add(behind - e.counted)
	if was, is := e.counted > 0, behind > 0; is && !was {
		e.sys.late.Add(1)
	} else if was && !is {
		e.sys.late.Add(-1)
	}
	e.counted = behind
}

// start begins to copy. The caller holds mu.
func (e *exporter) start() {
	e.armed = false
	switch {
	case e.closed:
	case e.busy:
		e.again = true
	default:
		e.busy = true
		go e.copyAll()
	}
}

// copyAll copies until there is nothing left, or it cannot.
func (e *exporter) copyAll() {
	for {
		err := e.copySome()
		e.mu.Lock()
		if err != nil {
			e.delay = min(max(2*e.delay, retryMin), retryMax)
			if !e.closed && e.retry == nil && e.pos < e.from.End() {
				e.retry = time.AfterFunc(e.delay, func() {
					e.mu.Lock()
					e.retry = nil
					e.mu.Unlock()
					e.kick()
				})
			}
		} else {
			e.delay = 0
		}
		if !e.again || e.closed || err != nil {
			e.busy, e.again = false, false
			e.last = e.sys.cfg.Now()
			e.done()
			e.mu.Unlock()
			return
		}
		e.again = false
		e.mu.Unlock()
	}
}

// done is for whoever has copied for now: the file is closed, at once or when nothing
// comes, and whoever waits looks again. The caller holds mu.
func (e *exporter) done() {
	if e.closed {
		e.letGo()
	} else {
		e.rest()
	}
	e.told()
}

// rest has the file closed, if nothing comes. The caller holds mu.
func (e *exporter) rest() {
	if e.file == nil {
		return
	}
	if e.idle == nil {
		e.idle = time.AfterFunc(idleBound, func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			if left := idleBound - (e.sys.cfg.Now() - e.last); !e.busy && left > 0 && e.file != nil {
				e.idle.Reset(left)
			} else if !e.busy {
				e.letGo()
				e.idle = nil
			} else {
				e.idle = nil
			}
		})
	}
}

// letGo closes the file. The caller holds mu, and nobody copies.
func (e *exporter) letGo() {
	if e.file != nil {
		_ = e.file.Close()
		e.file = nil
	}
	if e.dir != nil {
		_ = e.dir.Close()
		e.dir, e.quick = nil, false
	}
}

// release closes the file, if nobody writes it.
func (e *exporter) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.busy {
		e.letGo()
	}
}

// copySome copies what there is.
func (e *exporter) copySome() error {
	var err error
	e.onDisk(func() {
		if err = e.ensure(); err == nil && e.untidy {
			e.tidy()
		}
	})
	if err != nil {
		return e.fail(err)
	}
	for {
		if e.isFull() {
			if e.onDisk(func() { err = e.rotate() }); err != nil {
				return e.fail(err)
			}
		}
		e.mu.Lock()
		pos, over := e.pos, e.closed && e.stuck
		here := e.here && e.quick && e.hurried == 0 && !e.failing
		e.mu.Unlock()
		if over || pos >= e.from.End() {
			e.caughtUp()
			return nil
		}
		if e.unsaved {
			e.onDisk(func() { e.save(pos) })
		}
		if here && !e.unsaved {
			return nil
		}
		if kept, _ := e.from.Kept(); kept > pos {
			if e.onDisk(func() { err = e.skip(pos, kept) }); err != nil {
				return e.fail(err)
			}
			continue
		}
		var n int64
		began := time.Now()
		rest := e.onDisk(func() {
			if _, err = e.file.Seek(e.size, 0); err == nil {
				n, err = e.copyTo(e.file, pos, min(e.step, max(e.limit-e.size, 1)))
			}
		})
		if e.step = copyBytes; time.Since(began) > slowStep {
			e.step = slowBytes
		}
		e.size += n
		hurried := e.move(pos + n)
		if errors.Is(err, spool.ErrGone) {
			continue
		}
		if named := (*os.PathError)(nil); errors.As(err, &named) {
			return e.fail(err)
		} else if err != nil {
			return e.fail(fmt.Errorf("write %s: %w", e.path, err))
		}
		if n >= spliceBytes && !hurried && rest > 0 {
			time.Sleep(min(rest, gateMost))
		}
	}
}

// isFull reports whether the file has to be moved aside. For whoever has busy.
func (e *exporter) isFull() bool { return e.size >= e.limit }

// move notes how far the file has come, which it can be written for. It reports
// whether somebody waits for all of it.
func (e *exporter) move(pos int64) (hurried bool) {
	end := e.from.End()
	e.mu.Lock()
	defer e.mu.Unlock()
	if pos > e.pos {
		e.stuck = false
	}
	e.pos = pos
	e.count(end)
	if pos >= e.wanted {
		e.told()
	}
	if !e.stuck && !e.closed {
		e.from.Need(pos)
	}
	return e.hurried > 0
}

// caughtUp says that a file that could not be written has all there is again.
func (e *exporter) caughtUp() {
	e.mu.Lock()
	failing, missing := e.failing, e.missing
	e.stuck = false
	if failing {
		e.failing, e.missing = false, 0
	}
	e.mu.Unlock()
	switch {
	case failing && missing > 0:
		e.warn("%s is written again; %d bytes are missing in it", e.path, missing)
	case failing:
		e.warn("%s is written again; nothing is missing in it", e.path)
	}
}

// fail says once why the file cannot be written. Nobody waits for it from here on.
func (e *exporter) fail(reason error) error {
	e.mu.Lock()
	said := e.giveUp()
	e.mu.Unlock()
	if !said {
		e.warn("%v; what comes is kept in memory for now, the newest of it", reason)
	}
	return reason
}

// close waits for the last bytes, within a bound, and lets go of the file.
func (e *exporter) close(limit time.Duration) {
	e.flush(limit)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	e.count(0)
	e.from.Need(spool.NeedNothing)
	for _, t := range []*time.Timer{e.later, e.retry, e.idle} {
		if t != nil {
			t.Stop()
		}
	}
	if !e.busy {
		e.letGo()
	}
}
