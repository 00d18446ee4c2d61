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
)

const (
	// socketDir is where LinuxKit's programs look for memlogd's sockets.
	socketDir = "/run"
	// imageMemlogd is what an image has that brings a memlogd of its own.
	imageMemlogd = "/etc/init.d/002-logging"
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
	kept := hold.FromEnv() // first of all, so that no program which is started inherits it
	targets := s.words.forward
	if imageHasMemlogd() { // its sockets, not ours
		targets = append(targets, forward.Memlogd(filepath.Join(socketDir, memlog.WriteSocket)))
	} else {
		s.serveMemlogd(kept)
	}
	var ctx context.Context
	ctx, s.logging.cancel = context.WithCancel(context.Background())
	for _, t := range targets {
		s.logging.forwarders = append(s.logging.forwarders, forward.Start(ctx, forward.Config{
			Target: t, Store: s.logs, Dir: s.cfg.RunDir, Now: console.Now, Wall: wallAt,
			Info: func(format string, a ...any) { s.con.Line("forward", format, a...) },
			Warn: func(format string, a ...any) { s.con.Warn("forward", format, a...) },
		}))
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

// serveMemlogd opens the sockets of a memlogd.
func (s *Supervisor) serveMemlogd(kept *hold.Hold) {
	warn := func(format string, a ...any) { s.con.Warn("memlogd", format, a...) }
	_, err := memlog.Listen(memlog.Config{Dir: socketDir, Store: s.logs, Hold: kept, Wall: wallAt, Warn: warn})
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
