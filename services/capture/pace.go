package capture

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// A stream is heavy, and has to keep to its share of the processors, with more
	// than heavyBytes in heavyTime, where each move counts for moveBytes on top. So has
	// one that would be if it were served, as there is something in its pipe all the time.
	heavyBytes = 128 << 10
	heavyTime  = 100 * time.Millisecond
	moveBytes  = 512
	// pipeBytes is how much the pipe of a stream holds once it has been heavy: its
	// writer and we are woken less often then.
	pipeBytes = 256 << 10
	// What a heavy stream writes in small pieces is left to gather for a moment, but not
	// where fastBytes come in that time, as its writer would have to wait, unless there are
	// less than pieceBytes whenever one looks: each write is for a line then.
	smallBytes = 64 << 10
	smallRest  = time.Millisecond
	fastBytes  = pipeBytes / 2
	pieceBytes = 4 << 10
	// burstBytes is about how much is moved, and written to the file as well, before it is
	// looked at how much work that was.
	burstBytes = 1 << 20
	// linger is how long the thread of a heavy stream waits for more itself.
	linger = 2 * time.Millisecond
)

// run moves what comes until the stream is closed.
func (s *Stream) run() {
	defer close(s.done)
	w := weight{empty: true}
	for {
		select {
		case <-s.ready:
		case <-s.quit:
			return
		}
		for s.step(&w) || w.bytes > heavyBytes && s.linger() {
			select {
			case <-s.quit:
				return
			default:
			}
		}
		if err := s.sys.poller.ask(s.number, s.fifo); err != nil {
			s.src.Warn("its output is not read any more: watch the log pipe: %v", err)
			return
		}
	}
}

// weight is how much a stream has written of late.
type weight struct {
	window time.Duration // when it began to be counted
	bytes  int64
	large  bool // the pipe has been made larger
	fast   bool // so much comes that it is not left to gather, in this window
	pieces bool // what is moved at once, then, is too little for that
	empty  bool // the pipe has been, in this window
	held   bool // it was not in all of the last one: its writer has to wait for us
}

// step moves what there is once, and waits as long as its writer has to. It reports
// whether there may be more.
func (s *Stream) step(w *weight) (more bool) {
	var n int64
	var rest time.Duration
	heavy := w.bytes > heavyBytes
	if heavy || w.held {
		if heavy && !w.large { // without room for it all goes on as before
			_, _ = unix.FcntlInt(uintptr(s.fifo), unix.F_SETPIPE_SZ, pipeBytes)
			w.large = true
		}
		rest = s.sys.gate.spend(measured(func() { n, more = s.burst(w) }))
	} else {
		if n, more = s.move(false); n > 0 {
			s.export.came()
		}
		w.bytes += n + moveBytes
	}
	w.empty = w.empty || !more
	if now := s.sys.cfg.Now(); now-w.window > heavyTime {
		w.window, w.bytes, w.fast, w.pieces, w.empty, w.held = now, 0, false, false, !more, !w.empty
	}
	if s.src.Drop && rest > 0 {
		s.mu.Lock()
		if rest = 0; s.drop() { // even that has its price
			rest = gateLeast
		}
		s.mu.Unlock()
	}
	w.pieces = w.pieces || w.fast && 0 < n && n < pieceBytes
	gather := heavy && 0 < n && n < smallBytes && (!w.fast || w.pieces)
	if gather {
		rest = max(rest, smallRest)
	}
	if rest > 0 {
		began := s.sys.cfg.Now()
		s.pause(rest)
		if took := s.sys.cfg.Now() - began; gather && time.Duration(queued(s.fifo))*smallRest >= fastBytes*took {
			w.fast = true
		}
	}
	if !s.src.Drop {
		s.export.await(s.quit)
	}
	return more
}

// burst moves what there is in large pieces, as long as the file comes along. It returns how
// much the last piece was, and whether there may be more.
func (s *Stream) burst(w *weight) (n int64, more bool) {
	defer s.export.leave()
	for all := int64(0); all < burstBytes; all += n {
		n, more = s.move(n > 0)
		w.bytes += n + moveBytes
		if n < smallBytes {
			if n > 0 {
				s.export.came()
			}
			break
		}
		if !s.export.direct() {
			break
		}
	}
	return n, more
}

// linger waits for a moment until there is something in the FIFO. It reports whether there may be.
func (s *Stream) linger() bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fifo), Events: unix.POLLIN}}, int(linger/time.Millisecond))
	return n > 0 || errors.Is(err, unix.EINTR)
}

// pause waits, or until the stream is closed.
func (s *Stream) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.quit:
	}
}
