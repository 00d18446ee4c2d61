package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"keelson/services/store"
)

// spliceBytes is the most that is written at once.
const spliceBytes = 64 << 10

// timeStep is how much later bytes must have come to get a time of their own.
const timeStep = time.Millisecond

// Stream is what one source writes to one of its streams.
type Stream struct {
	spool      *Spool
	source     *source
	sourceName string
	name       string
	dir        string
	records    bool

	needed atomic.Int64 // what begins here somebody has yet to read; see Need

	writing  sync.Mutex // held by whoever writes, outside mu
	mu       sync.Mutex
	segments []*segment          // by base, guarded by mu
	live     *segment            // the last one while it is written to, guarded by mu
	moving   bool                // bytes are being moved to live without mu: it must stay; guarded by mu
	progress *progress           // of live, once a segment has been written over; guarded by mu
	next     header              // of the next segment, guarded by mu
	end      int64               // of the stream, guarded by mu
	lastCut  int64               // the line under way begins no earlier, guarded by mu
	last     entry               // the last one written, at an offset of the stream; guarded by mu
	notes    map[string]*os.File // what Remember has written, guarded by mu
}

// Source is the name of the source.
func (st *Stream) Source() string { return st.sourceName }

// Client reports whether a client made up the name of its source.
func (st *Stream) Client() bool { return st.source.client }

// Name is the stream's own.
func (st *Stream) Name() string { return st.name }

// Records reports whether it is made of records, not of lines.
func (st *Stream) Records() bool { return st.records }

// End is how many bytes have been written in all.
func (st *Stream) End() int64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.end
}

// Kept is the offset of the oldest byte there is, and how many lines ended before it.
func (st *Stream) Kept() (offset, lines int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.segments) == 0 {
		return st.end, st.next.lines
	}
	return st.segments[0].base, st.segments[0].header.lines
}

// recover takes over what an earlier process wrote.
func (st *Stream) recover() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.Need(unsaid)
	var err error
	if st.progress, err = findProgress(st.dir); err != nil {
		return err
	}
	if st.progress != nil {
		st.account(pageBytes)
	}
	all, err := find(st.dir, st.progress)
	if err != nil {
		return err
	}
	for _, g := range all {
		st.account(g.memory)
		g.found = true
	}
	st.segments = all
	if len(all) == 0 {
		return nil
	}
	g := all[len(all)-1]
	st.end, st.lastCut = g.end(), g.base-g.header.carry
	index, data, err := g.load(st.dir)
	if err != nil {
		return err
	}
	inNote := st.survey(g, index, data)
	st.end = g.end()
	if g.cold {
		st.next = st.after(g, bytes.NewReader(data))
		return nil
	}
	if err := g.open(st.dir, os.O_CREATE); err != nil {
		return err
	}
	if _, ok := st.progress.of(g.base); ok {
		st.progress.set(g.size) // the file has old bytes behind these, so it must be about this one all the time
	} else {
		st.progress.begin(g.base, g.size)
	}
	if st.records {
		if err := g.data.Truncate(g.size); err != nil {
			return err
		}
	}
	st.live = g
	st.measure(g)
	if inNote { // else what comes would be taken for more of its words
		st.lastCut = st.end
		return st.put(g, noteEnd, 0, int64(st.spool.cfg.Now()))
	}
	return nil
}

// survey takes in what the index of the last segment says. It reports whether that ends
// in a note, as its writer died.
func (st *Stream) survey(g *segment, index, data []byte) (inNote bool) {
	note := int64(0) // where its words begin
	words := func(end int64) {
		n := int64(len(data))
		st.words(g, data[min(note, n):min(end, n)])
	}
	for i := range g.entries {
		e := decodeEntry(index[headerBytes+i*entryBytes:])
		g.count(e)
		switch ends := e.kind != lostBytes && e.kind != lostLines; {
		case inNote && ends:
			words(e.off)
			inNote = false
		case !inNote && !ends:
			note, inNote = e.off, true
		}
		if e.kind == cut || e.kind == noteEnd {
			st.lastCut = g.base + e.off
		}
		if st.records {
			g.size = e.off // what has no entry behind it was not finished
		}
	}
	if st.records && g.entries == 0 {
		g.size = 0
	}
	if inNote {
		words(g.size)
	}
	return inNote
}

// close ends the writing.
func (st *Stream) close() {
	st.writing.Lock()
	defer st.writing.Unlock()
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, g := range st.segments {
		g.close()
	}
	st.live = nil
	st.forget()
	for _, f := range st.notes {
		_ = f.Close()
	}
	st.notes = nil
}

// forget lets go of the progress, which is of no use any more.
func (st *Stream) forget() {
	if st.progress != nil {
		st.progress.close()
		st.progress = nil
		st.account(-pageBytes)
	}
}

// account adds to what the source and all together take.
func (st *Stream) account(n int64) {
	st.source.used.Add(n)
	st.spool.used.Add(n)
}

// measure brings up to date what the last segment takes.
func (st *Stream) measure(g *segment) {
	now := g.takes()
	st.account(now - g.memory)
	g.memory = now
}

// room returns the segment to write to, with room for n bytes and a few entries.
func (st *Stream) room(n int64) (*segment, error) {
	if g := st.live; g != nil {
		if g.size+n <= SegmentBytes && g.entries+8 <= segmentEntries || g.size == 0 {
			return g, nil
		}
		st.finish()
	}
	return st.begin(st.spare())
}

// begin makes the next segment, of the files of the oldest one where that is given.
func (st *Stream) begin(old *segment) (*segment, error) {
	h := st.next
	if old != nil {
		if g, ok := st.reuse(old, h); ok {
			return g, nil
		}
	}
	g := &segment{header: h, name: h.base}
	err := store.InFolder(st.dir, 0o700, func() error {
		err := g.open(st.dir, os.O_CREATE|os.O_TRUNC)
		if errors.Is(err, os.ErrNotExist) { // the folder, with all that was in it
			st.forget()
		}
		return err
	})
	if err == nil {
		_, err = g.index.WriteAt(h.encode(), 0)
	}
	if err != nil {
		g.remove(st.dir)
		return nil, err
	}
	st.progress.begin(g.base, 0)
	st.segments = append(st.segments, g)
	st.live = g
	st.measure(g)
	return g, nil
}

// buffers are for reading a segment, in pieces that stay in a processor's cache.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// finish ends the last segment. One that may soon be written over stays open.
func (st *Stream) finish() {
	g := st.live
	st.live = nil
	st.next = st.after(g, g.data)
	st.tighten(g)
	if st.progress == nil || len(st.segments) > keepOpen {
		g.close()
	}
	st.spool.cool()
}

// after is the header of the segment that follows one with these bytes.
func (st *Stream) after(g *segment, data io.ReaderAt) header {
	h := header{base: g.end(), lines: g.header.lines + g.moreLines, bytes: g.header.bytes + g.size + g.moreBytes}
	if st.records {
		return h
	}
	begin := g.base - g.header.carry
	count := func(at int64, text []byte) {
		n, i := bytes.Count(text, []byte{'\n'}), bytes.LastIndexByte(text, '\n')
		h.lines += int64(n)
		if i >= 0 {
			begin = g.base + at + int64(i) + 1
		}
	}
	if g.mapped == nil || !unlessCutOff(func() { count(0, g.mapped[:g.size]) }) {
		buf := buffers.Get().(*[32 << 10]byte)
		defer buffers.Put(buf)
		for at := int64(0); at < g.size; {
			n, err := data.ReadAt(buf[:min(g.size-at, int64(len(buf)))], at)
			count(at, buf[:n])
			if at += int64(n); err != nil {
				break
			}
		}
	}
	h.carry = max(g.end()-max(begin, st.lastCut), 0)
	return h
}

// put writes an entry to the index: in place of the last one if that was of no
// bytes.
func (st *Stream) put(g *segment, kind uint8, prio int8, at int64) error {
	e := entry{off: g.size, kind: kind, prio: prio, at: at}
	slot := g.entries
	if kind == timed && st.last.kind == timed && st.last.off == g.end() && slot > 0 {
		slot--
	}
	if err := g.write(e, slot); err != nil {
		return err
	}
	g.entries = slot + 1
	g.count(e)
	if kind != lostBytes && kind != lostLines {
		if g.born == 0 {
			g.born = time.Duration(at)
		}
		g.closed = time.Duration(at)
	}
	st.last = e
	st.last.off = g.end()
	return nil
}

// stamp writes the time of the bytes that follow, unless it is that of the last ones.
func (st *Stream) stamp(g *segment, at time.Duration) error {
	if l := st.last; g.entries > 0 && l.kind == timed && l.off >= g.base && at >= time.Duration(l.at) && at-time.Duration(l.at) < timeStep {
		return nil
	}
	return st.put(g, timed, 0, int64(at))
}

// write does something that writes to the stream.
func (st *Stream) write(do func() error) error {
	return st.retry(func() error {
		st.writing.Lock()
		defer st.writing.Unlock()
		st.mu.Lock()
		defer st.mu.Unlock()
		return do()
	})
}

// roomTries is how often something that needs room is tried again: what was made may be
// taken by others.
const roomTries = 4

// retry does something that needs room, and again when room has been made.
func (st *Stream) retry(do func() error) error {
	made := st.spool.made.Load()
	err := do()
	for n := 0; n < roomTries && errors.Is(err, unix.ENOSPC); n++ {
		st.spool.makeRoom(made)
		made = st.spool.made.Load()
		err = do()
	}
	if st.source.used.Load() > st.spool.cfg.PerSource || st.spool.used.Load() > st.spool.cfg.Total {
		st.spool.trim()
	}
	st.spool.tell()
	return err
}

// Splice moves what is in a pipe to the stream's end, without a copy of it ever
// being in the process: a death leaves it in the one or in the other. It is no more
// than most, and where it is to be apart, in a segment that begins with it: that can
// stay while all before it goes.
func (st *Stream) Splice(pipe int, most int64, apart bool) (n int64, err error) {
	err = st.write(func() error {
		g, err := st.room(pageBytes)
		if err == nil && apart && g.size > 0 {
			st.finish()
			g, err = st.begin(st.spare())
		}
		if err != nil {
			return err
		}
		if err := st.stamp(g, st.spool.cfg.Now()); err != nil {
			return err
		}
		n, err = st.move(g, pipe, most)
		st.grow(g, max(n, 0))
		return err
	})
	return max(n, 0), err
}

// move moves bytes from a pipe to behind those of the live segment. Whoever reads need
// not wait for it. The caller holds mu.
func (st *Stream) move(g *segment, pipe int, most int64) (int64, error) {
	off := g.size
	to := &off
	if st.progress != nil {
		to = st.progress.size() // as it is in the file, so that it is known after a death
	}
	most = min(most, SegmentBytes-g.size)
	st.moving = true
	st.mu.Unlock()
	n, err := unix.Splice(pipe, nil, int(g.data.Fd()), to, int(most), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	st.mu.Lock()
	st.moving = false
	return n, err
}

// unlessCutOff reads a mapped file. It reports false where somebody has cut that off, which
// ends the reading where the file does.
func unlessCutOff(do func()) (done bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch reason := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }:
			done = false
		default:
			panic(reason)
		}
	}()
	do()
	return true
}

func (st *Stream) grow(g *segment, n int64) {
	g.size += n
	st.end += n
	st.progress.set(g.size)
	st.measure(g)
}

// Write adds bytes that came without a pipe, at a time since the machine's start.
func (st *Stream) Write(at time.Duration, p []byte) error {
	for len(p) > 0 {
		piece := p[:min(len(p), spliceBytes)]
		if err := st.write(func() error {
			g, err := st.room(int64(len(piece)))
			if err != nil {
				return err
			}
			if err := st.stamp(g, at); err != nil {
				return err
			}
			return st.add(g, piece)
		}); err != nil {
			return err
		}
		p = p[len(piece):]
	}
	return nil
}

// add adds all of p or nothing.
func (st *Stream) add(g *segment, p []byte) error {
	if n, err := g.data.WriteAt(p, g.size); err != nil {
		if n > 0 {
			_ = g.data.Truncate(g.size)
			g.oldSize = 0
		}
		return err
	}
	st.grow(g, int64(len(p)))
	return nil
}

// takeBack takes off what was added to a segment of this size.
func (st *Stream) takeBack(g *segment, size int64) {
	if g.size > size {
		_ = g.data.Truncate(size)
		g.oldSize = 0
		st.grow(g, size-g.size)
	}
}

// Record adds a record to a stream of records.
func (st *Stream) Record(at time.Duration, prio int8, text []byte) error {
	text = text[:min(len(text), spliceBytes)]
	return st.write(func() error {
		g, err := st.room(int64(len(text)))
		if err != nil {
			return err
		}
		before := g.size
		if err := st.add(g, text); err != nil {
			return err
		}
		if err := st.put(g, record, prio, int64(at)); err != nil {
			st.takeBack(g, before)
			return err
		}
		return nil
	})
}

// Cut says that whoever wrote has ended: a line without a newline is over.
func (st *Stream) Cut() error {
	st.mu.Lock()
	under := st.underWay()
	st.mu.Unlock()
	if !under {
		return nil
	}
	return st.write(func() error {
		g, err := st.room(0)
		if err != nil {
			return err
		}
		st.lastCut = st.end
		return st.put(g, cut, 0, int64(st.spool.cfg.Now()))
	})
}

// underWay reports whether the last line has no newline yet.
func (st *Stream) underWay() bool {
	if st.end <= st.lastCut {
		return false
	}
	g := st.live
	if g == nil {
		return st.next.carry > 0
	}
	if g.size == 0 {
		return g.header.carry > 0
	}
	var b [1]byte
	if _, err := g.data.ReadAt(b[:], g.size-1); err != nil {
		return true
	}
	return b[0] != '\n'
}

// Lost says that bytes were dropped here, and lines if that is known, for a
// reason, which is in the text in words.
func (st *Stream) Lost(dropped, lines int64, reason string) error {
	now := st.spool.cfg.Now()
	note := fmt.Sprintf("[keelson: %d bytes are missing here: %s]\n", dropped, reason)
	return st.write(func() error {
		g, err := st.room(int64(len(note)) + 1)
		if err != nil {
			return err
		}
		text := []byte(note)
		if st.underWay() {
			text = append([]byte{'\n'}, text...)
		}
		was, last := *g, st.last
		for _, do := range []func() error{
			func() error { return st.put(g, lostBytes, 0, dropped) },
			func() error { return st.put(g, lostLines, 0, lines) },
			func() error { return st.add(g, text) },
			func() error { return st.put(g, noteEnd, 0, int64(now)) },
		} {
			if err := do(); err != nil { // it will be said again, and is to count once
				g.entries, g.moreLines, g.moreBytes, st.last = was.entries, was.moreLines, was.moreBytes, last
				_ = g.write(entry{}, g.entries)
				st.takeBack(g, was.size)
				return err
			}
		}
		st.words(g, text)
		st.lastCut = st.end
		return nil
	})
}

// words takes note of bytes of a segment that are the words of a note: nobody wrote them.
func (st *Stream) words(g *segment, text []byte) {
	g.moreBytes -= int64(len(text))
	if !st.records {
		g.moreLines -= int64(bytes.Count(text, []byte{'\n'}))
	}
}

// Need says that somebody has yet to read what begins at an offset, so that others'
// older segments should go first, if there are any; NeedNothing is that nobody has.
func (st *Stream) Need(from int64) { st.needed.Store(from) }

const (
	// NeedNothing is for Need.
	NeedNothing = math.MaxInt64
	// unsaid is what is needed of a stream that an earlier process has left: all, until
	// somebody says so, but for no longer than unsaidBound.
	unsaid      = -1
	unsaidBound = time.Minute
)

// isNeeded reports whether somebody has yet to read what is in a segment.
func (st *Stream) isNeeded(g *segment) bool {
	from := st.needed.Load()
	if from == unsaid && st.spool.cfg.Now()-st.spool.opened > unsaidBound {
		from = NeedNothing
	}
	return g.end() > from
}

// oldest returns when the oldest segment that can go began; one that is needed only
// can where there is no other way.
func (st *Stream) oldest(neededToo bool) (time.Duration, bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.first(neededToo)
}

// first is oldest for whoever holds mu.
func (st *Stream) first(neededToo bool) (time.Duration, bool) {
	if len(st.segments) == 0 || st.segments[0].size == 0 || st.moving && len(st.segments) == 1 || !neededToo && st.isNeeded(st.segments[0]) {
		return 0, false
	}
	return st.segments[0].born, true
}

// drop removes the oldest segment, if it can go; see oldest.
func (st *Stream) drop(neededToo bool) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if _, ok := st.first(neededToo); !ok {
		return false
	}
	g := st.segments[0]
	if len(st.segments) == 1 {
		if st.live != nil {
			st.finish()
		}
		// Where the stream goes on is in the next one's header.
		if _, err := st.begin(nil); err != nil {
			g.remove(st.dir)
			st.segments = st.segments[:0]
			st.account(-g.memory)
			_, _ = st.begin(nil) // in the room that it had
			return true
		}
	}
	g.remove(st.dir)
	st.segments = append(st.segments[:0], st.segments[1:]...)
	st.account(-g.memory)
	return true
}
