package spool

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// coolAfter is how long a full segment is left as it is: of a stream that is
	// written fast it will soon be gone.
	coolAfter = 2 * time.Second
	// coolShare is how much longer than it works the compressor pauses.
	coolShare = 10
)

// cool compresses, in the background, what has been full for a while.
func (s *Spool) cool() {
	if !s.cooling.CompareAndSwap(false, true) {
		return
	}
	s.workers.Add(1)
	go func() {
		defer s.workers.Done()
		for {
			select {
			case <-s.cfg.After(coolAfter):
			case <-s.closed:
				return
			}
			s.coolAll()
			s.cooling.Store(false)
			if !s.anyWarm() || !s.cooling.CompareAndSwap(false, true) {
				return // or another one has begun
			}
		}
	}()
}

// anyWarm reports whether there are segments that will be cold.
func (s *Spool) anyWarm() bool {
	for _, st := range s.Streams() {
		if st.warm(func(*segment) bool { return true }) != nil || st.slack() {
			return true
		}
	}
	return false
}

// warm returns a full segment that is not compressed yet.
func (st *Stream) warm(wanted func(*segment) bool) *segment {
	st.mu.Lock()
	defer st.mu.Unlock()
	for i, g := range st.segments {
		if i < len(st.segments)-1 && !g.cold && wanted(g) {
			return g
		}
	}
	return nil
}

// idle reports whether nothing has come for a while.
func (g *segment) idle(now time.Duration) bool { return now-g.closed >= coolAfter || now < g.closed }

func (s *Spool) coolAll() {
	s.coolOne.Lock()
	defer s.coolOne.Unlock()
	var w *flate.Writer // large, so only for as long as there is work
	for _, st := range s.Streams() {
		st.rest(s.cfg.Now())
		for {
			now := s.cfg.Now()
			g := st.warm(func(g *segment) bool { return g.idle(now) })
			if g == nil {
				break
			}
			if w == nil {
				w, _ = flate.NewWriter(nil, flate.BestSpeed) // the level is one there is
			}
			began := time.Now()
			if err := st.compress(g, w); err != nil {
				// Where there is no room it will soon be gone as it is.
				if err.Error() != s.coolError && !errors.Is(err, unix.ENOSPC) {
					s.coolError = err.Error()
					s.cfg.Warn("logs are not compressed: %v", err)
				}
				return
			}
			select {
			case <-s.closed:
				return
			case <-time.After(coolShare * time.Since(began)):
			}
		}
	}
}

// compress replaces a segment's files by one.
func (st *Stream) compress(g *segment, w *flate.Writer) error {
	index, data, err := g.load(st.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it has gone meanwhile
	}
	if err != nil {
		return err
	}
	var out bytes.Buffer
	var sizes [8]byte
	binary.LittleEndian.PutUint32(sizes[:], uint32(len(index)))
	binary.LittleEndian.PutUint32(sizes[4:], uint32(len(data)))
	out.Write(sizes[:])
	w.Reset(&out)
	for _, part := range [][]byte{index, data} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	path := g.path(st.dir)
	if err := os.WriteFile(path+".z.new", out.Bytes(), 0o600); err != nil {
		_ = os.Remove(path + ".z.new")
		return err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, still := range st.segments {
		if still != g {
			continue
		}
		if err := os.Rename(path+".z.new", path+".z"); err != nil {
			return err
		}
		g.remove(st.dir)
		g.cold = true
		memory := pages(int64(out.Len()))
		st.account(memory - g.memory)
		g.memory = memory
		return nil
	}
	_ = os.Remove(path + ".z.new") // it has gone meanwhile
	return nil
}

// readCold reads what compress wrote.
func readCold(path string) (index, data []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	var sizes [8]byte
	if _, err := io.ReadFull(f, sizes[:]); err != nil {
		return nil, nil, fmt.Errorf("read a compressed log: %w", err)
	}
	n, m := binary.LittleEndian.Uint32(sizes[:]), binary.LittleEndian.Uint32(sizes[4:])
	if n > headerBytes+segmentEntries*entryBytes || m > SegmentBytes+spliceBytes {
		return nil, nil, errors.New("read a compressed log: it is damaged")
	}
	r := flate.NewReader(f)
	defer r.Close()
	buf := make([]byte, n+m)
	if _, err := io.ReadFull(r, buf); err != nil {
		return nil, nil, fmt.Errorf("read a compressed log: %w", err)
	}
	return buf[:n:n], buf[n:], nil
}
