// Package logs owns what was written on the machine: by containers, by the
// supervisor on its console, by the kernel; and who may read it, from when to when.
//
// It promises that nothing is missing without being counted, that a reader sees
// the records of all sources in the order of their times, and that no reader and
// no disk, however slow, holds up a writer. It must never grow beyond its bounds.
package logs

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

// Config is what a store needs to know. Times are since the machine's start.
type Config struct {
	Now  func() time.Duration
	Wall func() time.Time
}

// appendBytes bounds what is kept of records that came without a pipe.
const appendBytes = 1 << 20

// Store keeps the logs of a machine.
type Store struct {
	cfg Config

	mu      sync.Mutex
	ring    []entry       // guarded by mu
	size    int           // of the ring's texts, guarded by mu
	seq     uint64        // of the next record, guarded by mu
	changed chan struct{} // closed at the next record, guarded by mu
}

type entry struct {
	seq uint64
	Record
}

// New makes an empty store.
func New(cfg Config) *Store { return &Store{cfg: cfg, changed: make(chan struct{})} }

// Append adds a record that came without a pipe. It never waits. At 0 is now.
func (s *Store) Append(r Record) {
	if r.At == 0 {
		r.At = s.cfg.Now()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ring = append(s.ring, entry{s.seq, r})
	s.seq++
	s.size += len(r.Text)
	for s.size > appendBytes {
		s.size -= len(s.ring[0].Text)
		s.ring = s.ring[1:]
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// OpenFD keeps what comes from a pipe or socket until its end. The store owns f.
func (s *Store) OpenFD(source string, stream Stream, f *os.File) error {
	go func() {
		defer f.Close()
		r := bufio.NewReaderSize(f, MaxLine)
		for {
			line, err := r.ReadSlice('\n')
			rec := Record{Source: source, Stream: stream, Priority: NoPriority}
			if n := len(line); n > 0 && line[n-1] == '\n' {
				line = line[:n-1]
			} else {
				rec.Continued, rec.Partial = errors.Is(err, bufio.ErrBufferFull), errors.Is(err, io.EOF)
			}
			if rec.Text = append(rec.Text, line...); len(line) > 0 || err == nil {
				s.Append(rec)
			}
			if err != nil && !rec.Continued {
				return
			}
		}
	}()
	return nil
}

// Read calls give with each record that is asked for, in the order of their
// times, until there is no more, or with Follow until the context ends, or until
// give returns an error, which is returned.
func (s *Store) Read(ctx context.Context, q Query, give func(Record) error) error {
	return s.read(ctx, q, give, func() {})
}

// UnknownSource is the error of a query for a source that nobody has heard of.
type UnknownSource struct{ Name string }

func (u UnknownSource) Error() string { return "there is no log of " + u.Name }

// read is Read, and calls pause before it waits.
func (s *Store) read(ctx context.Context, q Query, give func(Record) error, pause func()) error {
	next := uint64(0)
	now, wall := s.cfg.Now(), s.cfg.Wall()
	first := true
	for {
		s.mu.Lock()
		changed := s.changed
		var found []Record
		for _, e := range s.ring {
			if e.seq < next || !q.wants(e.Source, e.Stream) ||
				q.Since.Set() && e.At < q.Since.Resolve(now, wall) || q.Until.Set() && e.At >= q.Until.Resolve(now, wall) {
				continue
			}
			found = append(found, e.Record)
		}
		next = s.seq
		s.mu.Unlock()
		if first && q.Last != 0 {
			found = found[max(0, len(found)-max(q.Last, 0)):]
		}
		first = false
		for _, r := range found {
			if err := give(r); err != nil {
				return err
			}
		}
		if !q.Follow {
			return nil
		}
		pause()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}
