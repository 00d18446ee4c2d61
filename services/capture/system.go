// Package capture owns the way of a container's output from its pipe to the spool,
// and from there to its file.
//
// Each stream is a FIFO that the supervisor and the shim both hold open, so a
// writer gets no SIGPIPE and a reader's death loses nothing: what is in the
// pipe stays there. Bytes go from FIFO to spool by splice(2), in one step that
// cannot be cut in two by a kill, and from the spool to the file beside that, or right
// behind it where they are many and the file is in memory. A
// writer waits for its file, so that neither loses anything, but not for a disk that
// does nothing. It must never hold up the supervisor, use more than its share of the processors,
// nor let files fill the machine's memory; what does not reach spool or file is
// counted and said.
package capture

import (
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/beneath"
	"keelson/services/spool"
)

// mostBehind is how many bytes a file may be behind, at most, before its writer waits.
const mostBehind = 240 << 10

// tightBytes is how much is moved at once where there are many such files.
const tightBytes = 16 << 10

// Config is what the streams of a machine have in common.
type Config struct {
	Spool *spool.Spool
	Now   func() time.Duration // since the machine's start
	// Memory bounds all files together that are on file systems in memory; 0 is 32 MiB.
	Memory int64
	// Links may be followed on the way to a file; nil are those of PID 1.
	Links beneath.Links
}

// System is all streams of a machine.
type System struct {
	cfg    Config
	gate   *gate
	poller poller
	behind atomic.Int64                                    // bytes that files have yet to get
	late   atomic.Int64                                    // how many files those are
	room   func(*beneath.Dir) (free, all int64, err error) // roomOf, but for tests

	mu      sync.Mutex
	streams map[*Stream]bool         // open ones, guarded by mu
	sources map[string]*atomic.Int64 // bytes that files have yet to get, by source; guarded by mu
	held    map[string]*onRAM        // what files take of the memory, by path; guarded by mu
}

// onRAM is a file on a file system in memory, with those it was before.
type onRAM struct {
	size int64
	old  []int64 // of PATH.1 and so on
}

// New makes a system without streams.
func New(cfg Config) *System {
	if cfg.Memory <= 0 {
		cfg.Memory = 32 << 20
	}
	if cfg.Links == nil {
		cfg.Links = beneath.Machine
	}
	return &System{
		cfg: cfg, gate: newGate(gateShare(runtime.NumCPU()), cfg.Now),
		streams: map[*Stream]bool{}, sources: map[string]*atomic.Int64{}, held: map[string]*onRAM{}, room: roomOf,
	}
}

// Recheck looks at every file again, as is needed when a disk may have been
// mounted over their folder: it gets what was logged before.
func (y *System) Recheck() {
	for _, s := range y.open() {
		s.export.kick()
	}
}

// Flush waits until the files hold what was written, or cannot be written, for at
// most the given time, and says what they lack. It closes them: they are opened again
// when there is more, and whoever unmounts their disk finds it unused.
func (y *System) Flush(limit time.Duration) {
	deadline := time.Now().Add(limit)
	for _, s := range y.open() {
		if lacks := s.export.flush(time.Until(deadline)); lacks > 0 {
			s.src.Warn("%s lacks the last %d bytes: it could not be written in time", s.src.File, lacks)
		}
		s.export.release()
	}
}

func (y *System) open() []*Stream {
	y.mu.Lock()
	defer y.mu.Unlock()
	all := make([]*Stream, 0, len(y.streams))
	for s := range y.streams {
		all = append(all, s)
	}
	return all
}

// tight reports whether so many files are behind that what they have yet to get might
// not all stay in the spool: each keeps two segments from going on top of it.
func (y *System) tight() bool {
	_, total := y.cfg.Spool.Bounds()
	return y.behind.Load()+2*spool.SegmentBytes*y.late.Load() > total*3/4
}

// most is how much is moved from a pipe at once.
func (y *System) most() int64 {
	perSource, _ := y.cfg.Spool.Bounds()
	if y.tight() {
		return tightBytes
	}
	return min(perSource/8, spool.SegmentBytes)
}

// allowance is how many bytes a file may be behind before its writer waits: so many
// that none of them has to go from the spool, where those that the source's other stream
// is behind are kept as well. A stream takes more of it than that: what is moved at once,
// the rest of the segment in which they begin, and half of one for what else there is. Of
// what is left for both, five eighths are for one, and never less than three sixteenths
// for the other: with that the segments they touch, seven of eight, fit in as a whole. The
// caller holds mu.
func (e *exporter) allowance() int64 {
	if e.sys.tight() {
		return 0
	}
	perSource, _ := e.sys.cfg.Spool.Bounds()
	both := perSource - 2*(min(perSource/8, spool.SegmentBytes)+3*spool.SegmentBytes/2)
	return min(max(both*5/8-(e.source.Load()-e.counted), both*3/16, perSource/16), mostBehind)
}

// source is what the files of a source have yet to get.
func (y *System) source(name string) *atomic.Int64 {
	y.mu.Lock()
	defer y.mu.Unlock()
	n := y.sources[name]
	if n == nil {
		n = new(atomic.Int64)
		y.sources[name] = n
	}
	return n
}

// sizes is how large a file may get, and how many there are with those it was.
func (y *System) sizes(memory bool) (size int64, keep int) {
	if !memory {
		return rotateBytes, rotateKeep
	}
	// A quarter of the bound is for the files under way; the rest is whose it may be.
	n := y.cfg.Spool.Own() // what clients write has no file of ours
	return min(rotateBytes, max(y.cfg.Memory/4/max(n, 1), 4<<10)), rotateKeep
}

// hold takes note of what a file and those it was take of the memory, and removes
// old ones, of whoever has most, where all together are too many, for as long as remove
// says that it could.
func (y *System) hold(path string, size int64, remove func(path string, i int) bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	h := y.held[path]
	if h == nil {
		h = &onRAM{old: y.older(path)}
		y.held[path] = h
	}
	h.size = size // with what it may still grow by
	for {
		all, most := int64(0), ""
		for p, h := range y.held {
			all += h.total()
			if len(h.old) > 0 && (most == "" || h.total() > y.held[most].total()) {
				most = p
			}
		}
		if all <= y.cfg.Memory || most == "" {
			return
		}
		h := y.held[most]
		if !remove(most, len(h.old)) {
			return
		}
		h.old = h.old[:len(h.old)-1]
	}
}

// older is how large the files are that a file was before, of which nothing else that has
// their name is one.
func (y *System) older(path string) (sizes []int64) {
	dir, err := y.cfg.Links.Open(filepath.Dir(path))
	if err != nil {
		return nil
	}
	defer dir.Close()
	for i := 1; i < rotateKeep; i++ {
		st, err := dir.Stat(numbered(filepath.Base(path), i))
		switch {
		case err != nil:
			return sizes
		case st.Mode&unix.S_IFMT == unix.S_IFREG:
			sizes = append(sizes, st.Size)
		default:
			sizes = append(sizes, 0)
		}
	}
	return sizes
}

// rotated says that a file has become its own PATH.1.
func (y *System) rotated(path string, size int64) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if h := y.held[path]; h != nil {
		h.old = slices.Insert(h.old, 0, size)
		h.old = h.old[:min(len(h.old), rotateKeep-1)]
		h.size = 0
	}
}

// shed says that PATH.I, the last one, was removed.
func (y *System) shed(path string, i int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if h := y.held[path]; h != nil && len(h.old) >= i {
		h.old = h.old[:i-1]
	}
}

// released says that a path is on a disk now.
func (y *System) released(path string) {
	y.mu.Lock()
	delete(y.held, path)
	y.mu.Unlock()
}

func (h *onRAM) total() int64 {
	sum := h.size
	for _, n := range h.old {
		sum += n
	}
	return sum
}
