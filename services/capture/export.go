package capture

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"keelson/services/spool"
)

const (
	rotateBytes = 1 << 20
	rotateKeep  = 10 // with the one that is written
	copyBytes   = 256 << 10
	// A file is brought up to date at most every gather, or after gatherBytes, so
	// that one line after the other costs little.
	gather      = 10 * time.Millisecond
	gatherBytes = 128 << 10
	// behindBytes is how far a file may be behind before its writer waits, and the
	// bounds how long it then waits: for a disk that does nothing, for one that is slow.
	behindBytes = 256 << 10
	behindBound = time.Second
	slowBound   = 5 * time.Second
	// A file that cannot be written is tried again after retryMin, doubling up to
	// retryMax.
	retryMin = time.Second
	retryMax = 5 * time.Second
	// knownFiles is how many files a stream remembers: one for each disk that was
	// mounted over another.
	knownFiles = 4
)

// place is a file that a stream's bytes were appended to: byte base+n of the stream
// is byte n of the file.
type place struct {
	Dev  uint64 `json:"dev"`
	Ino  uint64 `json:"ino"`
	Base int64  `json:"base"`
}

// position is what the next supervisor has to know: how far a file has come is then
// its size. The newest place is the last one.
type position struct {
	Places []place `json:"places"`
	Pos    int64   `json:"pos"` // of the stream, when this was written
}

// exporter copies a stream from the spool to its file. There is a goroutine only
// while there is something to copy.
type exporter struct {
	sys  *System
	from *spool.Stream
	path string
	warn func(format string, a ...any)

	mu     sync.Mutex
	busy   bool          // somebody copies, guarded by mu
	again  bool          // and is to look once more, guarded by mu
	last   time.Duration // when that ended, guarded by mu
	later  *time.Timer   // begins it again, guarded by mu
	armed  bool          // later is, guarded by mu
	wanted int64         // somebody waits for this position, guarded by mu
	closed bool          // guarded by mu
	pos    int64         // of the next byte to copy, guarded by mu
	stuck  bool          // the file cannot be written, or the disk does not answer, guarded by mu
	moved  chan struct{} // told when pos has moved or the copying has paused
	retry  *time.Timer   // guarded by mu

	// Of whoever copies:
	state    position
	known    bool     // state is what this process has seen itself
	file     *os.File // nil where there is none
	size     int64    // of it
	limit    int64
	keep     int
	memory   bool
	failing  bool
	missing  int64         // bytes that are missing and not yet said
	missSaid time.Duration // when that was said last
	delay    time.Duration
	unsaved  bool
	rotation bool // that it cannot be rotated was said
}

func newExporter(y *System, from *spool.Stream, path string, warn func(string, ...any)) *exporter {
	return &exporter{sys: y, from: from, path: path, warn: warn, moved: make(chan struct{}, 1), limit: rotateBytes, keep: rotateKeep}
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
	e.busy = true
	e.mu.Unlock()
	e.copyAll() // here, so that the file is there when a stream has been opened
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
			e.stuck = true
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
			e.delay, e.stuck = 0, false
		}
		if !e.again || e.closed || err != nil {
			e.busy, e.again = false, false
			e.last = e.sys.cfg.Now()
			if e.closed {
				e.letGo()
			}
			e.mu.Unlock()
			e.told()
			return
		}
		e.again = false
		e.mu.Unlock()
	}
}

// told tells whoever waits that something has moved.
func (e *exporter) told() {
	select {
	case e.moved <- struct{}{}:
	default:
	}
}

// copySome copies what there is.
func (e *exporter) copySome() error {
	if err := e.ensure(); err != nil {
		return e.fail(err)
	}
	for {
		e.mu.Lock()
		pos, over := e.pos, e.closed && e.stuck
		e.mu.Unlock()
		if over || pos >= e.from.End() {
			if e.failing {
				e.failing = false
				if e.missing > 0 {
					e.warn("%s is written again; %d bytes are missing in it", e.path, e.missing)
				} else {
					e.warn("%s is written again; nothing is missing in it", e.path)
				}
				e.missing = 0
			}
			return nil
		}
		if e.unsaved {
			e.save(pos)
		}
		if kept, _ := e.from.Kept(); kept > pos {
			if err := e.skip(pos, kept); err != nil {
				return e.fail(err)
			}
			continue
		}
		var n int64
		var err error
		work := measured(func() {
			if _, err = e.file.Seek(e.size, 0); err == nil {
				n, err = e.from.CopyTo(e.file, pos, min(copyBytes, max(e.limit-e.size, 1)))
			}
		})
		e.size += n
		e.move(pos + n)
		if errors.Is(err, spool.ErrGone) {
			continue
		}
		if named := (*os.PathError)(nil); errors.As(err, &named) {
			return e.fail(err)
		} else if err != nil {
			return e.fail(fmt.Errorf("write %s: %w", e.path, err))
		}
		if e.size >= e.limit {
			if err := e.rotate(); err != nil {
				return e.fail(err)
			}
		}
		if n >= spliceBytes {
			if rest := e.sys.gate.spend(work); rest > 0 {
				time.Sleep(rest)
			}
		}
	}
}

func (e *exporter) move(pos int64) {
	e.mu.Lock()
	e.pos = pos
	wanted := e.wanted > 0 && pos >= e.wanted
	if wanted {
		e.wanted = 0
	}
	e.mu.Unlock()
	e.from.Need(pos)
	if wanted {
		e.told()
	}
}

// fail says once why the file cannot be written.
func (e *exporter) fail(reason error) error {
	e.from.Need(spool.NeedNothing) // the newest is worth more than what may never be written
	if !e.failing {
		e.warn("%v; what comes is kept in memory for now, the newest of it", reason)
		e.failing = true
	}
	return reason
}

// skip notes in the file that the spool has lost what the file should have had.
func (e *exporter) skip(pos, kept int64) error {
	note := fmt.Sprintf("[keelson: %d bytes are missing here: the file could not be written in time]\n", kept-pos)
	n, err := e.file.WriteAt([]byte(note), e.size)
	if err != nil {
		_ = e.file.Truncate(e.size)
		return fmt.Errorf("write %s: %w", e.path, err)
	}
	e.size += int64(n)
	e.missing += kept - pos
	if now := e.sys.cfg.Now(); !e.failing && (e.missSaid == 0 || now-e.missSaid >= dropWord) {
		e.warn("%d bytes are missing in %s: it could not be written in time", e.missing, e.path)
		e.missing, e.missSaid = 0, now
	}
	e.move(kept)
	e.save(kept)
	return nil
}

// ensure sees to it that file is the one that path names, and that size is its own.
// Somebody may have moved it away, removed or truncated it, appended to it, or
// mounted a disk over its folder.
func (e *exporter) ensure() error {
	if e.file != nil {
		var open, named unix.Stat_t
		if err := unix.Fstat(int(e.file.Fd()), &open); err == nil {
			err = unix.Stat(e.path, &named)
			if err == nil && open.Dev == named.Dev && open.Ino == named.Ino || err != nil && !errors.Is(err, unix.ENOENT) {
				if open.Size != e.size { // somebody else's doing
					e.size = open.Size
					e.unsaved = true
				}
				return nil
			}
		}
		_ = e.file.Close()
		e.file = nil
	}
	if err := os.MkdirAll(filepath.Dir(e.path), 0o755); err != nil {
		return err
	}
	// Without O_APPEND: sendfile refuses it.
	f, err := os.OpenFile(e.path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		_ = f.Close()
		return fmt.Errorf("look at %s: %w", e.path, err)
	}
	e.file, e.size = f, st.Size
	e.place(st)
	e.measure()
	return nil
}

// place decides where in the stream the file that was opened goes on.
func (e *exporter) place(st unix.Stat_t) {
	e.mu.Lock()
	defer e.mu.Unlock()
	defer func() { e.known, e.unsaved = true, true }()
	kept, _ := e.from.Kept()
	places := e.state.Places
	for i := len(places) - 1; i >= 0; i-- {
		p := places[i]
		last := i == len(places)-1
		switch {
		case p.Dev == st.Dev && p.Ino == st.Ino:
			// It was written to before: by an earlier process, or until something was
			// mounted over it.
			if !e.known || !last {
				e.pos = min(p.Base+st.Size, e.from.End())
			}
			return
		case p.Dev != st.Dev:
			continue
		case last && e.known: // somebody moved the old one away; it goes on
			return
		case last:
			// The earlier process may have died in the middle of a rotation.
			var old unix.Stat_t
			if unix.Stat(numbered(e.path, 1), &old) == nil && old.Dev == p.Dev && old.Ino == p.Ino {
				e.pos = min(p.Base+old.Size, e.from.End())
			}
			return
		}
	}
	if len(places) > 0 {
		e.pos = kept // another disk: it gets all there is
	}
}

// save remembers where the file's bytes are in the stream.
func (e *exporter) save(pos int64) {
	var st unix.Stat_t
	if unix.Fstat(int(e.file.Fd()), &st) != nil {
		return
	}
	places := e.state.Places[:0:0]
	for _, p := range e.state.Places {
		if p.Dev != st.Dev { // one for each disk
			places = append(places, p)
		}
	}
	places = append(places, place{st.Dev, st.Ino, pos - e.size})
	e.state = position{Places: places[max(len(places)-knownFiles, 0):], Pos: pos}
	if data, err := json.Marshal(e.state); err == nil && e.from.Remember("export", data) == nil {
		e.unsaved = false
	}
}

// measure finds out how large the file may get where it is.
func (e *exporter) measure() {
	var fs unix.Statfs_t
	e.memory = unix.Fstatfs(int(e.file.Fd()), &fs) == nil && (fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC)
	e.limit, e.keep = e.sys.sizes(e.memory)
	if e.memory {
		e.sys.hold(e.path, max(e.size, e.limit))
	} else {
		e.sys.released(e.path)
	}
}

// numbered is the name of an old file: PATH.1 is the newest one.
func numbered(path string, i int) string { return fmt.Sprintf("%s.%d", path, i) }

// rotate moves the full file aside.
func (e *exporter) rotate() error {
	_ = os.Remove(numbered(e.path, e.keep-1))
	for i := e.keep - 2; i >= 1; i-- {
		_ = os.Rename(numbered(e.path, i), numbered(e.path, i+1))
	}
	if err := os.Rename(e.path, numbered(e.path, 1)); err != nil && !errors.Is(err, unix.ENOENT) { // somebody removed it
		if !e.rotation {
			e.warn("the log grows on: %v", err)
			e.rotation = true
		}
		e.limit = e.size + rotateBytes
		return nil
	}
	e.rotation = false
	if e.memory {
		e.sys.rotated(e.path, e.size)
	}
	_ = e.file.Close()
	e.file, e.size = nil, 0
	return e.ensure()
}

// await holds up a writer that is faster than its file, for a moment at most: a disk
// that does not answer is not waited for again until it does.
func (e *exporter) await() {
	var t *time.Timer
	var was int64
	began := e.sys.cfg.Now()
	for {
		e.mu.Lock()
		end := e.from.End()
		behind := end-e.pos > behindBytes
		stuck, busy := e.stuck, e.busy
		if behind && busy {
			e.wanted = end - behindBytes/4
		}
		pos := e.pos
		e.mu.Unlock()
		if !behind || stuck || !busy {
			return
		}
		if t == nil {
			t = time.NewTimer(behindBound)
			defer t.Stop()
			was = pos
		}
		select {
		case <-e.moved:
		case <-t.C:
			if pos > was && e.sys.cfg.Now()-began < slowBound { // it is slow, or we are
				was = pos
				t.Reset(behindBound)
				continue
			}
			e.mu.Lock()
			e.stuck = true
			e.mu.Unlock()
			return
		}
	}
}

// flush waits until the file has what there is, for at most the given time.
func (e *exporter) flush(limit time.Duration) {
	e.kick()
	t := time.NewTimer(limit)
	defer t.Stop()
	for {
		e.mu.Lock()
		busy := e.busy
		e.mu.Unlock()
		if !busy {
			return
		}
		select {
		case <-e.moved:
		case <-t.C:
			return
		}
	}
}

// close waits for the last bytes, within a bound, and lets go of the file.
func (e *exporter) close(limit time.Duration) {
	e.flush(limit)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	e.from.Need(spool.NeedNothing)
	if e.later != nil {
		e.later.Stop()
	}
	if e.retry != nil {
		e.retry.Stop()
		e.retry = nil
	}
	if !e.busy {
		e.letGo()
	}
}

// letGo closes the file. The caller holds mu, and nobody copies.
func (e *exporter) letGo() {
	if e.file != nil {
		_ = e.file.Close()
		e.file = nil
	}
}
