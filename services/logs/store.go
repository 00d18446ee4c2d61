// Package logs owns what was written on the machine: by containers, by the
// supervisor on its console, by the kernel; and who may read it, from when to when.
//
// It promises that nothing is missing without being counted, that a reader sees
// the records of all sources in the order of their times, and that no reader and
// no disk, however slow, holds up a writer. It must never grow beyond its bounds.
// The bytes themselves, and their bounds, are package spool's.
package logs

import (
	"bytes"
	"io"
	"os"
	"sync"
	"time"

	"keelson/services/spool"
)

// Config is what a store needs to know. Times are since the machine's start.
type Config struct {
	Now  func() time.Duration
	Wall func() time.Time
	// Dir is a folder on a file system in memory. Without one the store has a
	// folder of its own among the temporary files, which Close removes.
	Dir string
	// PerSource and Total bound the memory for one source and for all; 0 is the
	// default of package spool.
	PerSource, Total int64
	Warn             func(format string, a ...any)
}

// Store keeps the logs of a machine.
type Store struct {
	cfg   Config
	spool *spool.Spool
	own   string // a folder to remove

	mu      sync.Mutex
	refused map[string]bool // sources for which there is no room, guarded by mu
}

// New opens the store in its folder, with what an earlier process left there. It
// always returns one: where the folder cannot be used that is said, and the store
// has one among the temporary files.
func New(cfg Config) *Store {
	if cfg.Warn == nil {
		cfg.Warn = func(string, ...any) {}
	}
	s := &Store{cfg: cfg, refused: map[string]bool{}}
	sc := spool.Config{Dir: cfg.Dir, PerSource: cfg.PerSource, Total: cfg.Total, Now: cfg.Now, Warn: cfg.Warn}
	var err error
	if cfg.Dir != "" {
		if s.spool, err = spool.Open(sc); err == nil {
			return s
		}
		cfg.Warn("what is logged will not outlive the supervisor: %v", err)
	}
	if s.own, err = os.MkdirTemp("", "keelson-logs-"); err == nil {
		sc.Dir = s.own
		s.spool, err = spool.Open(sc)
	}
	if err != nil {
		cfg.Warn("nothing is logged: %v", err)
		s.spool = spool.Nowhere(sc)
	}
	return s
}

// Spool is where the bytes are.
func (s *Store) Spool() *spool.Spool { return s.spool }

// Close ends the work in the background. Nothing may be added any more.
func (s *Store) Close() {
	s.spool.Close()
	if s.own != "" {
		_ = os.RemoveAll(s.own)
	}
}

// Append adds a record that came without a pipe. It never waits. At 0 is now.
func (s *Store) Append(r Record) {
	if r.At == 0 {
		r.At = s.cfg.Now()
	}
	st, err := s.spool.Stream(r.Source, string(r.Stream))
	if err == nil {
		err = add(st, r)
	}
	if err != nil {
		s.refuse(r.Source, err)
	}
}

// refuse says, once for each source, that it cannot be kept.
func (s *Store) refuse(source string, err error) {
	s.mu.Lock()
	said := s.refused[source] || len(s.refused) >= 64 // whoever makes up names is not told of each
	if !said {
		s.refused[source] = true
	}
	s.mu.Unlock()
	if !said {
		s.cfg.Warn("what %.64q writes is lost: %v", source, err)
	}
}

func add(st *spool.Stream, r Record) error {
	if r.Gap || r.Dropped > 0 || r.DroppedBytes > 0 {
		if err := st.Lost(r.DroppedBytes, r.Dropped, "whoever sent it says so"); err != nil || r.Gap {
			return err
		}
	}
	if r.Stream == Event || r.Stream == Kernel {
		for {
			piece := r.Text[:min(len(r.Text), MaxLine)]
			if err := st.Record(r.At, int8(r.Priority), piece); err != nil {
				return err
			}
			if r.Text = r.Text[len(piece):]; len(r.Text) == 0 {
				return nil
			}
		}
	}
	text := r.Text
	if !r.Continued && !r.Partial {
		text = append(bytes.Clone(text), '\n')
	}
	if err := st.Write(r.At, text); err != nil || !r.Partial {
		return err
	}
	return st.Cut()
}

// ErrTaken is the error of OpenClient where somebody else has a source of that name.
var ErrTaken = spool.ErrTaken

// OpenClient keeps what a client of memlogd's socket sends until its end, under the
// client's own name or one that it has made up. The store closes r in the end,
// unless it returns an error.
func (s *Store) OpenClient(client, source string, stream Stream, r io.ReadCloser) error {
	st, err := s.clientStream(client, source, stream)
	if err != nil {
		return err
	}
	go func() {
		defer r.Close()
		// Not larger than what one read of a pipe gives.
		if _, err := io.CopyBuffer(writer{st, s.cfg.Now}, struct{ io.Reader }{r}, make([]byte, 4<<10)); err != nil {
			s.refuse(source, err)
			_, _ = io.Copy(io.Discard, r) // it must not wait
		}
		_ = st.Cut()
	}()
	return nil
}

func (s *Store) clientStream(client, source string, stream Stream) (*spool.Stream, error) {
	if client == source {
		return s.spool.Stream(source, string(stream))
	}
	return s.spool.ClientStream(client, source, string(stream))
}

// writer adds what is written to it to a stream.
type writer struct {
	st  *spool.Stream
	now func() time.Duration
}

func (w writer) Write(p []byte) (int, error) {
	if err := w.st.Write(w.now(), p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// UnknownSource is the error of a query for a source that nobody has heard of.
type UnknownSource struct{ Name string }

func (u UnknownSource) Error() string { return "there is no log of " + u.Name }

// known returns an error if a query names a source that there is not.
func (s *Store) known(q *Query) error {
	for _, name := range q.Sources {
		found := name == Keelson || name == KernelLog
		for _, st := range s.spool.Streams() {
			found = found || st.Source() == name || plainName(st.Source()) == name
		}
		if !found {
			return UnknownSource{name}
		}
	}
	return nil
}
