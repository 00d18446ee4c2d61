package spool

import (
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// keepOpen is how many segments a stream has whose files stay open, at most.
const keepOpen = 32

// reuseLeast is the least that a source must have room for: a file that is written over
// is as large as a segment can be, however little there is in it.
const reuseLeast = 8 * SegmentBytes

// A stream that is written fast makes its own oldest segment its next one: the files stay
// what they are, and new bytes are written over old ones. To give their memory back and
// take new costs the kernel more than the copying does.

// spare returns the segment that has to go for a new one, if its file can be the new
// one's: nobody needs it, and none of another stream is to go before it.
func (st *Stream) spare() *segment {
	ofSource := st.source.used.Load()+SegmentBytes > st.spool.cfg.PerSource
	full := ofSource || st.spool.used.Load()+SegmentBytes > st.spool.cfg.Total
	if !full || st.records || len(st.segments) == 0 || st.spool.cfg.PerSource < reuseLeast {
		return nil
	}
	old := st.segments[0]
	if old.cold || old.found || old.size == 0 || old.readers > 0 || st.isNeeded(old) || !st.spool.isOldest(st, old, ofSource) {
		return nil
	}
	if old.index == nil && old.open(st.dir, 0) != nil {
		return nil
	}
	size, links := old.there()
	if size < old.size {
		return nil
	}
	if links == 0 {
		st.forget()
		return nil
	}
	return old
}

// isOldest reports whether a stream's first segment is the one that goes next, of its
// source or of all. The caller holds the stream's mu: that of another one is not waited
// for.
func (s *Spool) isOldest(st *Stream, first *segment, ofSource bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	older := func(other *Stream) bool {
		if st.source.client && !other.source.client {
			return false
		}
		if !other.mu.TryLock() {
			return true // as it may be
		}
		defer other.mu.Unlock()
		born, ok := other.first(false)
		return ok && (born < first.born || other.source.client != st.source.client)
	}
	others := maps.Values(s.streams)
	if ofSource {
		others = slices.Values(st.source.streams)
	}
	for other := range others {
		if other != st && older(other) {
			return false
		}
	}
	return true
}

// reuse makes the oldest segment the next one, whose header is given, when the last one
// has been finished. It reports whether it did; progress may be about the next one
// either way. Its header is written with its first entry, which comes before any byte, so
// a death on the way leaves the old one or a new one of no bytes.
func (st *Stream) reuse(old *segment, h header) (*segment, bool) {
	if st.progress == nil {
		p, err := makeProgress(st.dir)
		if err != nil {
			return nil, false
		}
		st.progress = p
		st.account(pageBytes)
	}
	st.progress.begin(h.base, 0)
	if old.mapped == nil {
		old.mapped, _ = unix.Mmap(int(old.data.Fd()), 0, SegmentBytes, unix.PROT_READ, unix.MAP_SHARED) // it goes without
	}
	g := &segment{
		header: h, name: old.name, data: old.data, index: old.index, mapped: old.mapped, memory: old.memory,
		oldSize: max(old.size, old.oldSize), oldEntries: max(old.entries, old.oldEntries),
		unwritten: true,
	}
	st.segments = append(append(st.segments[:0], st.segments[1:]...), g)
	st.live = g
	st.measure(g)
	return g, true
}

// tighten gives back what the live segment's files have behind what is written.
func (st *Stream) tighten(g *segment) {
	if g.oldSize > g.size && g.data.Truncate(g.size) == nil {
		g.oldSize = 0
	}
	if old := headerBytes + (g.oldEntries+1)*entryBytes; old > pageBytes && g.oldEntries > g.entries &&
		g.index.Truncate(headerBytes+(g.entries+1)*entryBytes) == nil {
		g.oldEntries = 0
	}
	st.measure(g)
}

// slack reports whether there is something to be given back once the stream is idle.
func (st *Stream) slack() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.live != nil && st.live.oldSize > st.live.size
}

// rest gives it back, if the stream is.
func (st *Stream) rest(now time.Duration) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.live != nil && !st.moving && st.live.idle(now) {
		st.tighten(st.live)
	}
}
