// Package forward sends what is logged on the machine out of it: as syslog over
// TCP, UDP or a Unix socket, as lines of JSON on a virtio-serial port, or to a
// memlogd that the image brings.
//
// It promises that a target which is slow or away holds up nobody: the store of the
// logs is the queue, each target reads it at its own speed, and what the store had
// to throw away before it was read is counted and said. It goes on after a restart
// of the supervisor where it was in each stream, by what it wrote down once a second:
// what was sent since is sent again, and nothing is passed over. It must never
// say more of a target that is away than that it is, and that it is back.
package forward

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"path/filepath"
	"sync"
	"time"

	"keelson/services/logs"
	"keelson/services/store"
)

// Store is what is read; *logs.Store is one.
type Store interface {
	Read(ctx context.Context, q logs.Query, give func(logs.Record) error) error
}

// Config is what a Forwarder needs.
type Config struct {
	Target Target
	Store  Store
	Dir    string // the supervisor's folder, where it writes down how far it came
	Now    func() time.Duration
	// Wall is what the clock showed at a time since the machine's start.
	Wall func(at time.Duration) time.Time
	Info func(format string, a ...any)
	Warn func(format string, a ...any)

	sink sink                                                 // for tests
	wait func(ctx context.Context, d time.Duration) (ok bool) // for tests
}

const (
	// A target that cannot be reached is tried again after retryMin, doubling up to
	// retryMax.
	retryMin = 100 * time.Millisecond
	retryMax = 10 * time.Second
	// patience is how long a target may take to be there for the first time without
	// a word: the network comes with a service.
	patience = time.Minute
	// steady is how long a target must have been there to be called back: a datagram
	// that nobody takes fails with the next one only.
	steady = 5 * time.Second
	// missedEvery is how often it is said at most what is missing.
	missedEvery = 30 * time.Second
	// saveEvery is what may be sent twice when the supervisor has died.
	saveEvery = time.Second
)

// Forwarder sends records to one target.
type Forwarder struct {
	cfg  Config
	file string
	done chan struct{}

	mu    sync.Mutex
	sent  logs.Positions // guarded by mu
	dirty bool           // sent is not written down, guarded by mu
	saved string         // the last failure to write it down, guarded by mu
	up    bool           // it is connected, guarded by mu
	end   string         // the text of the record that Flush waits for, guarded by mu
	ended chan struct{}

	// The rest belongs to the goroutine.
	began     time.Duration
	connected time.Duration // when it was last connected
	reached   bool          // it was connected once
	away      bool          // that it is away was said
	awaySince time.Duration
	missed    int64
	saidAt    time.Duration
}

// Start begins to forward, until the context ends.
func Start(ctx context.Context, cfg Config) *Forwarder {
	if cfg.sink == nil {
		cfg.sink = open(cfg.Target, cfg.Wall)
	}
	if cfg.wait == nil {
		cfg.wait = wait
	}
	f := &Forwarder{cfg: cfg, done: make(chan struct{}), began: cfg.Now(), saidAt: -missedEvery}
	sum := fnv.New64a()
	sum.Write([]byte(cfg.Target.String()))
	f.file = filepath.Join(cfg.Dir, "forward", fmt.Sprintf("%016x.json", sum.Sum64()))
	if _, err := store.Load(f.file, &f.sent); err != nil {
		cfg.Warn("%s: what was sent before is sent again: %v", cfg.Target, err)
	}
	if f.sent == nil {
		f.sent = logs.Positions{}
	}
	go f.run(ctx)
	return f
}

// wait returns false if the context ended before.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (f *Forwarder) run(ctx context.Context) {
	defer close(f.done)
	defer f.cfg.sink.close()
	q := logs.Query{Streams: logs.Streams, Follow: true}
	for ctx.Err() == nil {
		f.mu.Lock()
		q.After = maps.Clone(f.sent)
		f.mu.Unlock()
		err := f.cfg.Store.Read(ctx, q, func(r logs.Record) error { return f.give(ctx, r) })
		if ctx.Err() == nil && err != nil {
			f.cfg.Warn("%s: the logs cannot be read: %v", f.cfg.Target, err)
		}
		if ctx.Err() != nil || !f.cfg.wait(ctx, retryMax) {
			break
		}
	}
	f.save()
}

// give sends one record, however long it takes to reach the target.
func (f *Forwarder) give(ctx context.Context, r logs.Record) error {
	f.sayMissed(r)
	for f.wants(r) {
		if !f.isUp() {
			if err := f.connect(ctx); err != nil {
				return err
			}
		}
		err := f.cfg.sink.send(ctx, r)
		if err == nil {
			f.sayBack()
			break
		}
		f.lost(err)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	f.moveOn(ctx, r)
	return nil
}

// wants reports whether a record is sent to the target: a memlogd has only what
// containers write.
func (f *Forwarder) wants(r logs.Record) bool {
	return f.cfg.Target.Kind != kindMemlogd || r.Stream == logs.Stdout || r.Stream == logs.Stderr
}

// connect tries until it has the target, or the context ends.
func (f *Forwarder) connect(ctx context.Context) error {
	for delay := retryMin; ; delay = min(2*delay, retryMax) {
		err := f.cfg.sink.connect(ctx)
		now := f.cfg.Now()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			f.setUp(true)
			f.connected = now
			if !f.reached {
				f.cfg.Info("%s: the logs go there", f.cfg.Target)
			}
			f.reached = true
			return nil
		case !f.away && (f.reached || now-f.began >= patience):
			f.sayAway(err)
		}
		if !f.cfg.wait(ctx, delay) {
			return ctx.Err()
		}
	}
}

// lost is what happens when a send has failed.
func (f *Forwarder) lost(err error) {
	f.setUp(false)
	f.cfg.sink.close()
	if !f.away {
		f.sayAway(err)
	}
}

func (f *Forwarder) sayAway(err error) {
	f.away, f.awaySince = true, f.cfg.Now()
	f.cfg.Warn("%s: %v; it is tried again, and the logs wait for it as far as they have room", f.cfg.Target, reason(err))
}

// reason is an error without the words that Go puts before it for each layer.
func reason(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %v", connectBound)
	}
	return err
}

func (f *Forwarder) sayBack() {
	now := f.cfg.Now()
	if !f.away || f.cfg.Target.Kind == kindUDP && now-f.connected < steady {
		return
	}
	f.away = false
	f.cfg.Info("%s: back after %.1fs", f.cfg.Target, (now - f.awaySince).Seconds())
}

// sayMissed counts what the store had to throw away, and says it, but not often.
func (f *Forwarder) sayMissed(r logs.Record) {
	if f.wants(r) {
		f.missed += r.Dropped
	}
	if now := f.cfg.Now(); f.missed > 0 && now-f.saidAt >= missedEvery {
		f.cfg.Warn("%s: %d lines are missing in what is sent: the logs had no room for them", f.cfg.Target, f.missed)
		f.missed, f.saidAt = 0, now
	}
}

// moveOn takes note of a record that was sent, or need not be.
func (f *Forwarder) moveOn(ctx context.Context, r logs.Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent[logs.StreamID{Source: r.Source, Stream: r.Stream}] = r.Position
	if !f.dirty {
		f.dirty = true
		time.AfterFunc(saveEvery, f.save)
	}
	if f.ended != nil && r.Stream == logs.Event && string(r.Text) == f.end {
		if d, ok := f.cfg.sink.(interface{ drain(context.Context) }); ok {
			f.mu.Unlock()
			d.drain(ctx)
			f.mu.Lock()
		}
		close(f.ended)
		f.ended = nil
	}
}

// save writes down what was sent.
func (f *Forwarder) save() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.dirty {
		return
	}
	f.dirty = false
	if err := store.Save(f.file, f.sent); err != nil && err.Error() != f.saved {
		f.saved = err.Error()
		f.cfg.Warn("%s: a restarted supervisor would send again what is sent: %v", f.cfg.Target, err)
	}
}

func (f *Forwarder) isUp() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.up
}

func (f *Forwarder) setUp(up bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.up = up
}

// Awaiting has the channel that is returned closed once the event with this text,
// which is not logged yet, has reached the target; nil if the target is away: then
// there is nothing to wait for.
func (f *Forwarder) Awaiting(text string) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.up {
		return nil
	}
	f.end, f.ended = text, make(chan struct{})
	return f.ended
}

// Wait waits until the Forwarder has ended, after its context has.
func (f *Forwarder) Wait() { <-f.done }
