// Package kmsg takes the kernel's messages into the machine's logs, and puts those
// on the console that the kernel would have put there itself.
//
// It promises that every message since the kernel's start is in the log once,
// also after a restart of the supervisor, or counted where the kernel has thrown
// it away; and that what the command line says of the console (loglevel=, quiet)
// stays in force. The kernel writes to a serial line past whatever is being sent,
// in the middle of a line; so while we run, it leaves all but critical messages to
// us, and gets that back at the end. It must never write to the kernel's log: it
// would read that again.
package kmsg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"keelson/services/logs"
	"keelson/services/store"
)

// Store is where messages are kept; *logs.Store is one.
type Store interface {
	Append(logs.Record)
	Read(ctx context.Context, q logs.Query, give func(logs.Record) error) error
}

// Config is what a Reader needs.
type Config struct {
	Device string // /dev/kmsg
	Printk string // /proc/sys/kernel/printk
	File   string // where the next supervisor finds how far this one came
	Store  Store
	Show   func(at time.Duration, text string) // on the console
	// Message is told of each message that goes into the log; nil tells nobody.
	Message func(text string)
	Warn    func(format string, a ...any)
}

// DefaultConfig has the kernel's own paths.
func DefaultConfig() Config {
	return Config{Device: "/dev/kmsg", Printk: "/proc/sys/kernel/printk"}
}

// left is the console level that the kernel keeps to itself while we show the
// rest: only messages below it, critical ones and worse, go there directly, for
// there may be nobody left to show them.
const left = 3

// progress is how far a Reader has come.
type progress struct {
	Next  uint64 `json:"next"`  // the first message not taken
	Level int    `json:"level"` // of the kernel's console before we took over; 0 if we did not
}

// Reader takes the kernel's messages.
type Reader struct {
	cfg  Config
	file *os.File

	progress
	saved  progress
	warned string // the last failure to save, not to be said again

	expect uint64        // the number of the next message, if none is missing
	done   chan struct{} // closed when run has returned

	closing atomic.Bool // the end of reading is no failure

	// What an earlier supervisor has put into the store: everything up to a time,
	// and so many of the messages of just that time.
	storedAt time.Duration
	stored   int
	same     int // messages of that time that were seen
}

// Open begins where an earlier supervisor of this boot ended, takes the console
// over from the kernel, and takes messages until Close.
func Open(cfg Config) (*Reader, error) {
	r := &Reader{cfg: cfg, storedAt: -1, done: make(chan struct{})}
	// Reading begins with the oldest message there is.
	f, err := os.OpenFile(cfg.Device, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("the kernel's messages are not logged: %w", err)
	}
	r.file = f
	again, err := store.Load(cfg.File, &r.progress)
	if err != nil {
		cfg.Warn("%v", err)
	}
	if err := r.lookUp(); err != nil {
		cfg.Warn("the kernel's messages may be in the log twice: %v", err)
	}
	if r.storedAt >= 0 {
		r.expect = r.Next
	}
	if !again {
		r.Next = r.newest()
	}
	r.takeOver()
	r.save()
	go r.run()
	return r, nil
}

// lookUp finds out what of the kernel's messages the store has.
func (r *Reader) lookUp() error {
	q := logs.Query{Sources: []string{logs.KernelLog}, Streams: []logs.Stream{logs.Kernel}}
	err := r.cfg.Store.Read(context.Background(), q, func(rec logs.Record) error {
		switch {
		case rec.Gap:
		case rec.At > r.storedAt:
			r.storedAt, r.stored = rec.At, 1
		case rec.At == r.storedAt:
			r.stored++
		}
		return nil
	})
	if _, unknown := errors.AsType[logs.UnknownSource](err); unknown {
		return nil
	}
	return err
}

// newest is the number of the message that comes next, of which alone the console
// has to be told: the kernel has written the ones before itself.
func (r *Reader) newest() uint64 {
	fd, err := unix.Open(r.cfg.Device, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	var next uint64
	buf := make([]byte, recordBytes)
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EINTR || err == unix.EPIPE:
			continue
		case err != nil || n == 0:
			return next
		}
		if rec, err := parse(buf[:n]); err == nil {
			next = rec.seq + 1
		}
	}
}

// recordBytes is more than any record of /dev/kmsg has.
const recordBytes = 16 << 10

func (r *Reader) run() {
	defer close(r.done)
	conn, err := r.file.SyscallConn()
	if err == nil {
		err = conn.Read(func(fd uintptr) bool {
			return r.drain(func(b []byte) (int, error) { return unix.Read(int(fd), b) })
		})
	}
	if err != nil && !r.closing.Load() {
		r.cfg.Warn("the kernel's messages are not logged any more: %v", err)
	}
}

// Close ends the taking of messages and gives the console back to the kernel.
func (r *Reader) Close() {
	r.closing.Store(true)
	_ = r.file.Close()
	<-r.done
	r.save()
	if level, err := r.consoleLevel(); r.Level != 0 && err == nil && level == left {
		_ = r.setConsoleLevel(r.Level)
	}
}

// drain takes what there is. It reports whether there can be no more.
func (r *Reader) drain(read func([]byte) (int, error)) (over bool) {
	buf := make([]byte, recordBytes)
	for {
		n, err := read(buf)
		switch {
		case err == unix.EAGAIN:
			r.save()
			return false
		case err == unix.EINTR:
		case err == unix.EPIPE: // messages were thrown away; the next one's number tells how many
		case err != nil || n == 0:
			r.cfg.Warn("the kernel's messages are not logged any more: read %s: %v", r.cfg.Device, err)
			return true
		default:
			if rec, err := parse(buf[:n]); err == nil {
				r.take(rec)
			}
		}
	}
}

// take puts a message into the log and on the console, each unless it is there.
func (r *Reader) take(rec record) {
	show := rec.seq >= r.Next
	out := logs.Record{At: max(rec.at, 1), Source: logs.KernelLog, Stream: logs.Kernel, Text: rec.text, Priority: rec.priority}
	lost := int64(0)
	if rec.seq > r.expect {
		lost = int64(rec.seq - r.expect)
	}
	r.expect, r.Next = max(r.expect, rec.seq+1), max(r.Next, rec.seq+1)
	if r.unknown(out.At) {
		if lost > 0 {
			r.cfg.Store.Append(logs.Record{At: out.At, Source: out.Source, Stream: out.Stream, Gap: true, Dropped: lost, Priority: logs.NoPriority})
		}
		r.cfg.Store.Append(out)
		if r.cfg.Message != nil {
			r.cfg.Message(string(rec.text))
		}
	}
	if show && rec.priority >= left && rec.priority < r.Level && r.takenOver() {
		r.cfg.Show(rec.at, string(rec.text))
	}
}

// unknown reports whether a message is not in the store.
func (r *Reader) unknown(at time.Duration) bool {
	if at == r.storedAt {
		r.same++
		return r.same > r.stored
	}
	return at > r.storedAt
}

// takeOver has the kernel leave its console to us, if it would write there at all.
func (r *Reader) takeOver() {
	level, err := r.consoleLevel()
	switch {
	case err != nil || level < left:
		r.Level = 0
	case level == left: // an earlier supervisor's doing, or nothing to take over
	default:
		if r.Level = level; r.setConsoleLevel(left) != nil {
			r.Level = 0
		}
	}
}

// takenOver reports whether the kernel leaves its messages to us still: somebody
// may have set another level since, as dmesg -n does.
func (r *Reader) takenOver() bool {
	level, err := r.consoleLevel()
	return err == nil && level == left
}

func (r *Reader) consoleLevel() (int, error) {
	data, err := os.ReadFile(r.cfg.Printk)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(data))
	if len(fields) == 0 {
		return 0, fmt.Errorf("%s is empty", r.cfg.Printk)
	}
	return strconv.Atoi(fields[0])
}

func (r *Reader) setConsoleLevel(level int) error {
	return os.WriteFile(r.cfg.Printk, []byte(strconv.Itoa(level)), 0o644)
}

// save tells the next supervisor how far this one came.
func (r *Reader) save() {
	if r.progress == r.saved {
		return
	}
	if err := store.Save(r.cfg.File, r.progress); err != nil {
		if err.Error() != r.warned {
			r.warned = err.Error()
			r.cfg.Warn("a restarted supervisor would show messages of the kernel again: %v", err)
		}
		return
	}
	r.saved = r.progress
}

// FileIn is where a Reader's progress is kept below the supervisor's folder.
func FileIn(dir string) string { return filepath.Join(dir, "kmsg.json") }
