// Package spool owns the bytes that were written on the machine, as long as they
// are kept: a folder of segments for each stream of each source, on a file system
// in memory, with the time at which each piece came.
//
// It promises that a byte is taken over in the same system call that keeps it,
// so that the death of the process at any moment loses, repeats and reorders
// nothing; that its successor reads the same lines with the same times; that each
// source and all of them together stay within their bounds, the oldest going
// first; and that what has gone is counted. It must never make a writer wait for
// a reader, nor hold on to what has gone because somebody still reads it.
//
// What clients of memlogd's socket write has bounds of its own, and goes before all else.
//
// On disk, DIR/SOURCE/STREAM/NUMBER is a segment's bytes, NUMBER.i its index, which says
// where in the stream they are. The number is where the first segment that had the files
// began: once a source has filled its bounds, new segments are written over old ones. How
// far the last one has come then is in the file progress. A cold segment is bytes and
// index in one compressed file, NUMBER.z.
package spool

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// SegmentBytes is the size of a segment, which goes as one: small enough for
	// that, large enough to compress well.
	SegmentBytes = 128 << 10
	// segmentEntries bounds its index.
	segmentEntries = 4096
	pageBytes      = 4096
	// maxClientStreams bounds the streams that one client makes up names for. One without
	// a name is the machine's own processes, which may speak for many containers.
	maxClientStreams  = 64
	maxMachineStreams = 512
)

// Defaults of Config.
const (
	DefaultPerSource = 1 << 20
	defaultTotal     = 32 << 20
)

// Names of streams that are made of records, which may have a priority and
// newlines; all others are made of lines.
const (
	Events = "event"
	Kernel = "kernel"
)

// Config is where a spool is and how large it may get.
type Config struct {
	Dir       string
	PerSource int64                // bytes of memory for one source; 0 is DefaultPerSource
	Total     int64                // and for all together; 0 is 32 MiB
	Now       func() time.Duration // since the machine's start
	Warn      func(format string, a ...any)
	After     func(time.Duration) <-chan time.Time // when to look for what can be compressed; nil is time.After
}

// Spool is all streams of a machine.
type Spool struct {
	cfg  Config
	used atomic.Int64 // bytes of memory

	mu      sync.Mutex
	streams map[string]*Stream // by source and name, guarded by mu
	sources map[string]*source // what shares a bound, by source or client; guarded by mu
	named   map[string]*source // the first one that had a source of that name, guarded by mu

	trimming sync.Mutex   // held by whoever makes room
	made     atomic.Int64 // how often room was made where the file system had none; changed with trimming

	waiters atomic.Int32
	signal  sync.Mutex
	changed chan struct{} // closed at the next change, guarded by signal

	cooling   atomic.Bool // the compressor runs
	coolOne   sync.Mutex
	coolError string // the last one, not to be said again; guarded by coolOne
	opened    time.Duration
	closed    chan struct{}
	over      sync.Once
	workers   sync.WaitGroup
}

// source is what the streams of one source share, or all those of one client.
type source struct {
	client  bool
	used    atomic.Int64
	streams []*Stream // guarded by the spool's mu
}

// Open opens the spool in a folder, with what an earlier process left there.
func Open(cfg Config) (*Spool, error) {
	if cfg.PerSource <= 0 {
		cfg.PerSource = DefaultPerSource
	}
	if cfg.Total <= 0 {
		cfg.Total = defaultTotal
	}
	if cfg.After == nil {
		cfg.After = time.After
	}
	if cfg.Warn == nil {
		cfg.Warn = func(string, ...any) {}
	}
	s := &Spool{
		cfg: cfg, streams: map[string]*Stream{}, sources: map[string]*source{}, named: map[string]*source{},
		changed: make(chan struct{}), closed: make(chan struct{}),
	}
	s.opened = cfg.Now()
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the logs: %w", err)
	}
	sources, err := os.ReadDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("read the folder of the logs: %w", err)
	}
	for _, e := range sources {
		name, open, err := s.opener(e.Name())
		if err != nil || !e.IsDir() {
			continue
		}
		streams, err := os.ReadDir(filepath.Join(cfg.Dir, e.Name()))
		if err != nil {
			cfg.Warn("the log of %s is lost: %v", name, err)
			continue
		}
		for _, d := range streams {
			st, err := open(d.Name())
			if err == nil {
				err = st.recover()
			}
			if err != nil {
				cfg.Warn("the log of %s is lost: %v", name, err)
			}
		}
	}
	// Nothing is let go yet: whoever needs what has still to say so.
	if s.anyWarm() {
		s.cool()
	}
	return s, nil
}

// opener returns the name of the source whose directory has a name, and what opens its
// streams.
func (s *Spool) opener(dir string) (name string, open func(stream string) (*Stream, error), err error) {
	if rest, ok := strings.CutPrefix(dir, clientMark); ok {
		escaped, rest, _ := strings.Cut(rest, clientMark)
		client, err := url.PathUnescape(escaped)
		if err != nil {
			return "", nil, err
		}
		name, err := url.PathUnescape(rest)
		return name, func(stream string) (*Stream, error) { return s.ClientStream(client, name, stream) }, err
	}
	rest, ok := strings.CutPrefix(dir, sourceMark)
	if !ok {
		return "", nil, fmt.Errorf("%q is no directory of a source", dir)
	}
	name, err = url.PathUnescape(rest)
	return name, func(stream string) (*Stream, error) { return s.Stream(name, stream) }, err
}

// How the names of directories begin: that of a source, and that of a client's, which
// has the client's name and once more the mark before it. No escaped name has a comma.
const (
	sourceMark = "_"
	clientMark = ","
)

// ErrTaken is the error of ClientStream where somebody else has a source of that name.
var ErrTaken = errors.New("somebody else has a log of that name")

// Stream returns a stream of a source, which is new if nobody has asked for it
// before. Nothing is on disk until something is written.
func (s *Spool) Stream(sourceName, name string) (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream(sourceName, name, sourceName, sourceMark, false)
}

// ClientStream is Stream for a source that a client has made up the name of. All that a
// client writes has the bound of one source, and goes first where there is no room for
// all; it has so many streams and no more.
func (s *Spool) ClientStream(client, sourceName, name string) (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bound := clientMark + client
	src := s.sources[bound]
	if owner := s.named[sourceName]; owner != nil && owner != src {
		return nil, ErrTaken
	}
	most := maxClientStreams
	if client == "" {
		most = maxMachineStreams
	}
	if src != nil && len(src.streams) >= most && s.streams[sourceName+"\x00"+name] == nil {
		return nil, fmt.Errorf("it has %d streams already, and may have no more", most)
	}
	return s.stream(sourceName, name, bound, clientMark+url.PathEscape(client)+clientMark, true)
}

// stream returns a stream that shares its bound with others. The caller holds mu.
func (s *Spool) stream(sourceName, name, bound, mark string, client bool) (*Stream, error) {
	key := sourceName + "\x00" + name
	if st := s.streams[key]; st != nil {
		return st, nil
	}
	dir := mark + url.PathEscape(sourceName)
	if len(dir) > 255 || name == "" || strings.ContainsAny(name, "/\x00") {
		return nil, fmt.Errorf("%.64q is too long for the name of a log", sourceName)
	}
	src := s.sources[bound]
	if src == nil {
		src = &source{client: client}
		s.sources[bound] = src
	}
	if s.named[sourceName] == nil {
		s.named[sourceName] = src
	}
	st := &Stream{spool: s, source: src, sourceName: sourceName, name: name, records: name == Events || name == Kernel, dir: filepath.Join(s.cfg.Dir, dir, name)}
	st.Need(NeedNothing)
	s.streams[key] = st
	src.streams = append(src.streams, st)
	return st, nil
}

// Streams returns all streams, by source and name.
func (s *Spool) Streams() []*Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*Stream, 0, len(s.streams))
	for _, st := range s.streams {
		all = append(all, st)
	}
	slices.SortFunc(all, func(a, b *Stream) int {
		if c := strings.Compare(a.sourceName, b.sourceName); c != 0 {
			return c
		}
		return strings.Compare(a.name, b.name)
	})
	return all
}

// Own is how many streams there are that are not clients'. It is asked for each file of
// each service, so it does not put them in order.
func (s *Spool) Own() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		if !st.Client() {
			n++
		}
	}
	return n
}

// Bounds returns how much memory one source may take, and all together.
func (s *Spool) Bounds() (perSource, total int64) { return s.cfg.PerSource, s.cfg.Total }

// Used returns how much memory the spool takes.
func (s *Spool) Used() int64 { return s.used.Load() }

// Close ends the work in the background; the streams must not be written any more.
func (s *Spool) Close() {
	s.over.Do(func() { close(s.closed) })
	s.workers.Wait()
	for _, st := range s.Streams() {
		st.close()
	}
}

// Waiter tells of changes: C is closed at the next one. It must be made before one
// looks at what there is, and Done called in the end.
type Waiter struct {
	s *Spool
	C <-chan struct{}
}

// Wait begins to wait for a change.
func (s *Spool) Wait() *Waiter {
	s.waiters.Add(1)
	w := &Waiter{s: s}
	w.Again()
	return w
}

// Again makes C tell of the next change from now on.
func (w *Waiter) Again() {
	w.s.signal.Lock()
	w.C = w.s.changed
	w.s.signal.Unlock()
}

// Done ends the waiting.
func (w *Waiter) Done() { w.s.waiters.Add(-1) }

// tell wakes whoever waits for a change.
func (s *Spool) tell() {
	if s.waiters.Load() == 0 {
		return
	}
	s.signal.Lock()
	close(s.changed)
	s.changed = make(chan struct{})
	s.signal.Unlock()
}

// makeRoom makes room where the file system has none, unless somebody has done so since
// it was made the given number of times: many may find it full at the same time.
func (s *Spool) makeRoom(made int64) {
	s.trimming.Lock()
	defer s.trimming.Unlock()
	if s.made.Load() == made {
		s.trimLocked(4 * SegmentBytes)
		s.made.Add(1)
	}
}

// trim keeps the bounds: a source that is over its own loses its oldest segments, then
// whoever has the oldest of all.
func (s *Spool) trim() {
	s.trimming.Lock()
	defer s.trimming.Unlock()
	s.trimLocked(0)
}

// trimLocked is trim, with extra room on top. The caller holds trimming.
func (s *Spool) trimLocked(extra int64) {
	limit := s.cfg.Total
	if extra > 0 {
		limit = min(limit, s.used.Load()) - extra
	}
	if s.used.Load() <= limit && !s.anyOver() {
		return
	}
	all := s.Streams()
	for _, st := range all {
		for st.source.used.Load() > s.cfg.PerSource && dropOldest(all, st.source) {
		}
	}
	for s.used.Load() > limit && dropOldest(all, nil) {
	}
}

func (s *Spool) anyOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, src := range s.sources {
		if src.used.Load() > s.cfg.PerSource {
			return true
		}
	}
	return false
}

// dropOldest removes the oldest segment of a source, or of all: one of a client, if
// there is one, and of those one that nobody needs. It reports whether there was any.
func dropOldest(all []*Stream, of *source) bool {
	for _, clients := range []bool{true, false} {
		for _, neededToo := range []bool{false, true} {
			var victim *Stream
			oldest := time.Duration(math.MaxInt64)
			for _, st := range all {
				if of != nil && st.source != of || st.source.client != clients {
					continue
				}
				if born, ok := st.oldest(neededToo); ok && born < oldest {
					victim, oldest = st, born
				}
			}
			if victim != nil {
				return victim.drop(neededToo) || dropOldest(all, of) // it is written to since, or another one is the first
			}
		}
	}
	return false
}

// pages is the memory that so many bytes of a file take: whole pages.
func pages(n int64) int64 { return (n + pageBytes - 1) / pageBytes * pageBytes }

// Nowhere makes a spool that keeps nothing: whatever is written is an error.
func Nowhere(cfg Config) *Spool {
	if cfg.Warn == nil {
		cfg.Warn = func(string, ...any) {}
	}
	cfg.Dir = "/dev/null"
	return &Spool{
		cfg: cfg, streams: map[string]*Stream{}, sources: map[string]*source{}, named: map[string]*source{},
		changed: make(chan struct{}), closed: make(chan struct{}),
	}
}
