package capture

import (
	"path/filepath"
	"sync/atomic"
)

// Output is the two streams of one container.
type Output struct {
	sys              *System
	stdout, stderr   *Stream
	outMark, errMark int64
	warn             func(format string, a ...any)
	// The pipes were there, and nobody had one of them open: what the last task had
	// left in it is gone. It is said with the end of that task.
	unheld atomic.Bool
}

// OutputConfig says whose output it is and where it goes.
type OutputConfig struct {
	Source string
	Pipes  string // the folder of the pipes
	Base   string // stdout goes to BASE.out.log, stderr to BASE.log, LinuxKit's names
	Drop   bool   // as in Source
	// OnLine may be nil; it is called from two goroutines, one line at a time for
	// each stream.
	OnLine func(line string)
	Warn   func(format string, a ...any)
}

// OpenOutput opens a container's pipes and begins to copy.
func (y *System) OpenOutput(cfg OutputConfig) (*Output, error) {
	source := func(stream, suffix string) Source {
		return Source{
			Name: cfg.Source, Stream: stream, Pipe: filepath.Join(cfg.Pipes, stream), File: cfg.Base + suffix,
			Drop: cfg.Drop, OnLine: cfg.OnLine, Warn: cfg.Warn,
		}
	}
	both, err := y.OpenAll(source("stdout", ".out.log"), source("stderr", ".log"))
	if err != nil {
		return nil, err
	}
	o := &Output{sys: y, stdout: both[0], stderr: both[1], warn: cfg.Warn}
	o.unheld.Store(o.stdout.unheld || o.stderr.unheld)
	return o, nil
}

// Paths returns the pipes a new task is to write to.
func (o *Output) Paths() (stdout, stderr string) {
	o.unheld.Store(false) // the last one's end was told of before, and its output was read
	return o.stdout.Path(), o.stderr.Path()
}

// Intact reports whether both pipes are still where Paths says.
func (o *Output) Intact() bool { return o.stdout.intact() && o.stderr.intact() }

// Mark makes Tail and Watch begin here.
func (o *Output) Mark() { o.outMark, o.errMark = o.stdout.Mark(), o.stderr.Mark() }

// Marked returns where they begin, for MarkAt of a next supervisor.
func (o *Output) Marked() [2]int64 { return [2]int64{o.outMark, o.errMark} }

// MarkAt makes Tail and Watch begin where they did for an earlier supervisor, or with
// everything where what that one kept is gone.
func (o *Output) MarkAt(mark [2]int64) {
	o.outMark, o.errMark = 0, 0
	if mark[0] <= o.stdout.Mark() {
		o.outMark = mark[0]
	}
	if mark[1] <= o.stderr.Mark() {
		o.errMark = mark[1]
	}
}

// Drain takes over what is still in the pipes, after a task's end.
func (o *Output) Drain() {
	if o.unheld.Swap(false) {
		o.warn("what it wrote last may be missing, up to %d KiB of each stream: its shim had let go of its pipes while no supervisor read them", pipeBytes>>10)
	}
	o.stdout.Drain()
	o.stderr.Drain()
}

// Tail returns the last lines since Mark, at most so many of stdout, then of stderr.
func (o *Output) Tail(lines int) []string {
	return append(o.stdout.Tail(o.outMark, lines), o.stderr.Tail(o.errMark, lines)...)
}

// Close ends the copying. The pipes stay in their folder if keep is true.
func (o *Output) Close(keep bool) {
	o.stdout.Close(keep)
	o.stderr.Close(keep)
}
