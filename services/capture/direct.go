package capture

import (
	"math"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// What a fast stream brings is written to its file by the goroutine that has moved it to the
// ring, piece by piece: it is in that processor's cache still, and nobody has to be woken for
// it. That is for files in memory only, as a disk may let one wait. So it touches nothing but
// the file and the directory that are open: whether they are still what the path names is for
// copyAll to see, every now and then.

// direct brings the file up to date, or lets somebody else begin with what has to be done
// before. It reports whether more may be moved at once; leave has to be called before its
// caller waits for anything.
func (e *exporter) direct() bool {
	end, now := e.from.End(), e.sys.cfg.Now()
	e.mu.Lock()
	if !e.busy && (e.closed || e.stuck || e.failing || e.file == nil || !e.quick) {
		e.here = false
		e.mu.Unlock()
		e.came()
		return false
	}
	defer e.mu.Unlock()
	e.here = true
	switch {
	case e.busy:
	case e.isFull() || e.unsaved || now-e.looked > gather:
		e.start()
	default:
		e.append(end)
		e.last = now
	}
	e.count(end)
	return e.here && !e.isBehind(end, e.allowance())
}

// append writes what there is up to an offset to the end of the file, as nobody copies. The
// caller holds mu.
func (e *exporter) append(end int64) {
	e.busy = true
	pos := e.pos
	e.mu.Unlock()
	for pos < end && e.file != nil && !e.unsaved && !e.isFull() {
		n := e.appendTo(e.file, pos, min(end-pos, e.limit-e.size))
		if n == 0 {
			break
		}
		pos += n
		e.size += n
		if e.isFull() && !e.rotateHere(pos) {
			break
		}
	}
	e.mu.Lock()
	e.busy = false
	e.pos = pos
	if !e.stuck && !e.closed {
		e.from.Need(pos)
	}
	e.done()
	e.here = pos >= end || e.isFull()
	if e.again || e.isFull() || pos < end {
		e.again = false
		e.start()
	}
}

// rotateHere moves the full file aside, within the directory that is open, and begins a new
// one, if that can be done. It reports whether the full one has been moved.
func (e *exporter) rotateHere(pos int64) bool {
	if !e.isHere() {
		e.looked = never // somebody has moved it: those before it are to stay where they are
		return false
	}
	if e.shift() != nil {
		return false
	}
	e.untidy, e.rotation = true, false
	e.sys.rotated(e.path, e.size)
	_ = e.file.Close()
	e.file, e.size, e.at = nil, 0, place{}
	name := filepath.Base(e.path)
	f, err := e.dir.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return true
	}
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		_ = f.Close()
		return true
	}
	e.file, e.at = f, place{Dev: st.Dev, Ino: st.Ino}
	e.limit, e.keep = e.sys.sizes(true)
	e.sys.hold(e.path, e.limit, func(path string, i int) bool {
		if path != e.path { // those of others may be on something else by now
			e.looked = never
			return false
		}
		_ = e.dir.Remove(numbered(name, i))
		return true
	})
	e.unsaved = true
	e.save(pos)
	return true
}

// never is before all other times.
const never = time.Duration(math.MinInt64 / 2)

// leave says that whoever moves does something else now.
func (e *exporter) leave() {
	end := e.from.End()
	e.mu.Lock()
	behind := e.here && (e.pos < end || !e.busy && e.untidy)
	e.here = false
	e.mu.Unlock()
	if behind {
		e.came()
	}
}
