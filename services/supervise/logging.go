package supervise

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"keelson/internal/console"
	"keelson/internal/hold"
	"keelson/services/forward"
	"keelson/services/kmsg"
	"keelson/services/logs"
	"keelson/services/memlog"
	"keelson/services/refusals"
	"keelson/services/resources"
)

const (
	// socketDir is where LinuxKit's programs look for memlogd's sockets.
	socketDir = "/run"
	// imageMemlogd is what an image has that brings a memlogd of its own.
	imageMemlogd = initScripts + "/" + stepLogging
	// memlogdBound is how long the socket of the image's memlogd may take after the
	// script that starts it is over.
	memlogdBound = 5 * time.Second
	memlogdPoll  = 20 * time.Millisecond
	// Who serves memlogd's sockets, once that is known, for a next supervisor.
	memlogdOurs    = "memlogd.keelson"
	memlogdImageIs = "memlogd.image"
	// kernelAfter is when the kernel's messages are looked at: there are hundreds,
	// and no container should wait for them.
	kernelAfter = time.Second
	// forwardBound is how long the end waits until what was logged has left.
	forwardBound = 2 * time.Second
	// lastWords is the event that tells a reader outside that nothing follows.
	lastWords = "the services are down: what is logged after this stays on the machine"
)

// logging is what goes on beside the containers' own logs.
type logging struct {
	cancel     context.CancelFunc
	kernel     chan *kmsg.Reader // gets the reader once there is one, and is closed
	forwarders []*forward.Forwarder
	forward    func(forward.Target) // starts another one
	kept       *hold.Hold           // memlogd's sockets, and what was handed over
}

// startLogging lets others write to and read from the machine's logs, and sends
// them where the command line says. It is there before the first container runs.
func (s *Supervisor) startLogging() {
	var wrong []error
	s.words, wrong = readWords(s.cfg.Cmdline)
	s.con.SetLevel(s.words.level)
	s.openLogs()
	s.con.Tap(func(at time.Duration, name string, priority int, text string) {
		for line := range strings.SplitSeq(text, "\n") {
			s.logs.Append(logs.Record{At: at, Source: name, Stream: logs.Event, Text: []byte(line), Priority: priority})
		}
	})
	if !s.resumed {
		for _, err := range wrong {
			s.con.Warn("keelson", "%v", err)
		}
	}
	s.logging.kept = hold.FromEnv() // first of all, so that no program which is started inherits it
	var ctx context.Context
	ctx, s.logging.cancel = context.WithCancel(context.Background())
	s.logging.forward = func(t forward.Target) {
		s.logging.forwarders = append(s.logging.forwarders, forward.Start(ctx, forward.Config{
			Target: t, Store: s.logs, Dir: s.cfg.RunDir, Now: console.Now, Wall: wallAt,
			Info: func(format string, a ...any) { s.con.Line("forward", format, a...) },
			Warn: func(format string, a ...any) { s.con.Warn("forward", format, a...) },
		}))
	}
	for _, t := range s.words.forward {
		s.logging.forward(t)
	}
	s.logging.kernel = make(chan *kmsg.Reader, 1)
	go func() {
		defer close(s.logging.kernel)
		if s.cfg.Container { // the kernel is somebody else's
			return
		}
		t := time.NewTimer(kernelAfter)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		s.readKernel()
	}()
}

// openMemlogd serves memlogd's sockets where the image has no memlogd of its own, or
// goes on with what an earlier supervisor found out about that one. The first
// supervisor finds out in settleMemlogd.
func (s *Supervisor) openMemlogd() {
	switch {
	case !imageHasMemlogd():
		s.serveMemlogd()
	case s.progress.Done(memlogdImageIs):
		s.logging.forward(forward.Memlogd(filepath.Join(socketDir, memlog.WriteSocket)))
	case s.progress.Done(memlogdOurs):
		s.serveMemlogd()
	}
}

// settleMemlogd finds out, once the image's script has had its turn, whether its
// memlogd listens, and serves the sockets where it does not: programs that log to
// them must find somebody.
func (s *Supervisor) settleMemlogd(ctx context.Context) {
	if !imageHasMemlogd() || s.progress.Done(memlogdImageIs) || s.progress.Done(memlogdOurs) {
		return
	}
	socket := filepath.Join(socketDir, memlog.WriteSocket)
	bound := memlogdBound
	if s.failed[imageMemlogd] {
		bound = 0
	}
	if awaitSocket(ctx, socket, bound) {
		s.progress.SetDone(memlogdImageIs)
		s.logging.forward(forward.Memlogd(socket))
		return
	}
	if ctx.Err() != nil {
		return // the shutdown comes first
	}
	if bound > 0 { // else its failure has been reported
		s.con.Warn("memlogd", "%s has not made %s within %v: keelson serves it", imageMemlogd, socket, bound)
	}
	s.progress.SetDone(memlogdOurs)
	s.serveMemlogd()
}

// awaitSocket reports whether there is a socket of that path within the bound.
func awaitSocket(ctx context.Context, path string, bound time.Duration) bool {
	late := time.NewTimer(bound)
	defer late.Stop()
	again := time.NewTicker(memlogdPoll)
	defer again.Stop()
	for {
		if fi, err := os.Lstat(path); err == nil && fi.Mode()&os.ModeSocket != 0 {
			return true
		}
		select {
		case <-again.C:
		case <-late.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// serveMemlogd opens the sockets of a memlogd.
func (s *Supervisor) serveMemlogd() {
	warn := func(format string, a ...any) { s.con.Warn("memlogd", format, a...) }
	_, err := memlog.Listen(memlog.Config{
		Dir: socketDir, Store: s.logs, Hold: s.logging.kept, Wall: wallAt, Warn: warn,
		Sender: s.known.clients.sender, Owners: s.known.clients.owners, Cgroups: resources.Root,
	})
	if err != nil {
		warn("%v", err)
	}
}

// readKernel takes the kernel's messages from now on.
func (s *Supervisor) readKernel() {
	cfg := kmsg.DefaultConfig()
	cfg.File, cfg.Store, cfg.Show = kmsg.FileIn(s.cfg.RunDir), s.logs, s.con.Kernel
	cfg.Warn = func(format string, a ...any) { s.con.Warn("kernel", format, a...) }
	cfg.Message = refusals.New(refusals.Config{Container: containerOf(s.cfg.Containers, "/proc"), Warn: s.con.Warn}).Message
	r, err := kmsg.Open(cfg)
	if err != nil {
		cfg.Warn("%v", err)
		return
	}
	s.logging.kernel <- r
}

// endLogging gives the console back to the kernel, and lets what was logged leave
// the machine where somebody is there to take it.
func (s *Supervisor) endLogging() {
	var waiting []<-chan struct{}
	for _, f := range s.logging.forwarders {
		if end := f.Awaiting(lastWords); end != nil {
			waiting = append(waiting, end)
		}
	}
	if len(waiting) > 0 {
		s.logs.Append(logs.Record{Source: logs.Keelson, Stream: logs.Event, Text: []byte(lastWords), Priority: 6})
	}
	t := time.NewTimer(forwardBound)
	defer t.Stop()
	for _, end := range waiting {
		select {
		case <-end:
			continue
		case <-t.C:
			s.con.Warn("forward", "the last of the logs did not leave the machine within %v", forwardBound)
		}
		break
	}
	s.logging.cancel()
	if r := <-s.logging.kernel; r != nil {
		r.Close()
	}
}

// imageHasMemlogd reports whether the image starts a memlogd of its own.
func imageHasMemlogd() bool {
	fi, err := os.Stat(imageMemlogd)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

// wallAt is what the wall clock would have shown at a time since the machine's
// start, as it goes now.
func wallAt(at time.Duration) time.Time { return time.Now().Add(at - console.Now()) }
