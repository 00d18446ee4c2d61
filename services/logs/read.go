package logs

import (
	"context"
	"errors"
	"time"

	"keelson/services/spool"
)

const (
	// followPause is how long a follower waits for more once there is something, so
	// that what comes at the same time from several sources comes in order.
	followPause = 5 * time.Millisecond
	// lookAgain is after how many records a follower looks for what has come from
	// those who had nothing.
	lookAgain = 32
)

// Read calls give with each record that is asked for, in the order of their
// times, until there is no more, or with Follow until the context ends, or until
// give returns an error, which is returned. It does not hold up whoever writes: a
// reader that is slow is given records with Gap for what has gone meanwhile.
func (s *Store) Read(ctx context.Context, q Query, give func(Record) error) error {
	return s.read(ctx, q, give, func(Begin) error { return nil }, func() {})
}

// read is Read, and calls start before the first record is given, and pause before it waits.
func (s *Store) read(ctx context.Context, q Query, give func(Record) error, start func(Begin) error, pause func()) error {
	if err := s.known(&q); err != nil {
		return err
	}
	r := s.newReading(q)
	r.start = start
	if q.Last == NoLines && !q.Follow { // not even what is unfinished
		r.look()
		return r.tell()
	}
	waiter := s.spool.Wait()
	defer waiter.Done()
	whole := ctx
	if q.Until.Set() && q.Follow {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, max(r.until-r.now, 0))
		defer cancel()
	}
	if q.Last > 0 {
		// Counted first, then read: the last of many may be more than should be
		// held in memory.
		count := 0
		if err := s.newReading(q).round(whole, true, func(rec Record) error {
			if !rec.Gap {
				count++
			}
			return nil
		}); err != nil {
			return ended(whole, err)
		}
		r.passOver = max(count-q.Last, 0)
	}
	for {
		err := ended(ctx, r.round(ctx, !q.Follow, give))
		if err != nil || !q.Follow {
			return err
		}
		r.passOver = 0 // less was there than was counted; what comes now is wanted
		pause()
		select {
		case <-waiter.C:
		case <-ctx.Done():
		}
		t := time.NewTimer(followPause)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		if whole.Err() != nil {
			return nil
		}
		if ctx.Err() != nil { // what came before the time it ends at
			r.now = r.until
			return ended(whole, r.round(whole, true, give))
		}
		waiter.Again()
	}
}

// ended makes the end of the context no error.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// reading is one reader's way through the streams.
type reading struct {
	s            *Store
	q            Query
	now          time.Duration // when it began
	since, until time.Duration
	passOver     int // records not to be given, as there are later ones enough
	streams      map[*spool.Stream]*head
	order        []*head
	begun        bool
	start        func(Begin) error // to be called yet, nil if not
}

func (s *Store) newReading(q Query) *reading {
	r := &reading{s: s, q: q, now: s.cfg.Now(), streams: map[*spool.Stream]*head{}}
	wall := s.cfg.Wall()
	if q.Since.Set() {
		r.since = q.Since.Resolve(r.now, wall)
	}
	if q.Until.Set() {
		r.until = q.Until.Resolve(r.now, wall)
	}
	return r
}

// look finds the streams there are.
func (r *reading) look() {
	for _, st := range r.s.spool.Streams() {
		if r.streams[st] != nil || !r.q.wants(st.Source(), Stream(st.Name())) {
			continue
		}
		h := r.head(st)
		r.streams[st] = h
		r.order = append(r.order, h)
	}
	r.begun = true
}

// tell says, once, where the reading begins.
func (r *reading) tell() error {
	if r.start == nil {
		return nil
	}
	at := Positions{}
	for _, h := range r.order {
		if h.done != (Position{}) {
			at[h.id] = h.done
		}
	}
	start := r.start
	r.start = nil
	return start(Begin{Positions: at, Since: r.since})
}

// round gives what there is. A last one gives unfinished lines too, and nothing
// that came after the reading began, lest it never end.
func (r *reading) round(ctx context.Context, last bool, give func(Record) error) error {
	r.look()
	for count := 0; ; count++ {
		if count%lookAgain == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			for _, h := range r.order {
				r.fill(h, last)
			}
		}
		var first *head
		for _, h := range r.order {
			if h.has && (first == nil || h.rec.At < first.rec.At) {
				first = h
			}
		}
		if first == nil {
			if last || !r.anyMore() {
				return r.tell()
			}
			continue
		}
		if r.passOver > 0 {
			if !first.rec.Gap {
				r.passOver--
			}
			first.release()
			r.fill(first, last)
			continue
		}
		if err := r.tell(); err != nil {
			return err
		}
		rec := first.release()
		r.fill(first, last)
		if err := give(rec); err != nil {
			return err
		}
	}
}

// anyMore looks once more at those who had nothing.
func (r *reading) anyMore() bool {
	any := false
	for _, h := range r.order {
		r.fill(h, false)
		any = any || h.has
	}
	return any
}

// fill gets a stream's next record that is wanted.
func (r *reading) fill(h *head, last bool) {
	for !h.has && !h.over {
		rec, ok := h.next()
		if !ok && last {
			rec, ok = h.rest()
			h.over = true
		}
		if !ok {
			return
		}
		switch {
		case !rec.Gap && (last && rec.At > r.now || r.q.Until.Set() && rec.At >= r.until): // when a gap was nobody knows
			if !h.records {
				h.over = true
				return
			}
		case r.q.Since.Set() && rec.At < r.since:
		default:
			h.rec, h.has = rec, true
			return
		}
		h.done = rec.Position
	}
}
