package capture

import "path/filepath"

// Output is the two streams of one container.
type Output struct {
	stdout, stderr   *Stream
	outMark, errMark int64
}

// OpenOutput opens the pipes in a folder, PIPES/stdout and PIPES/stderr, and
// copies them to BASE.out.log and BASE.log, LinuxKit's names. onLine may be nil;
// it is called from two goroutines, one line at a time for each stream.
func OpenOutput(pipes, base string, onLine func(string), warn func(string, ...any)) (*Output, error) {
	stdout, err := Open(filepath.Join(pipes, "stdout"), base+".out.log", onLine, warn)
	if err != nil {
		return nil, err
	}
	stderr, err := Open(filepath.Join(pipes, "stderr"), base+".log", onLine, warn)
	if err != nil {
		stdout.Close(true)
		return nil, err
	}
	return &Output{stdout: stdout, stderr: stderr}, nil
}

// Paths returns the pipes a task is to write to.
func (o *Output) Paths() (stdout, stderr string) { return o.stdout.Path(), o.stderr.Path() }

// Mark makes Tail begin here.
func (o *Output) Mark() { o.outMark, o.errMark = o.stdout.Mark(), o.stderr.Mark() }

// Drain takes over what is still in the pipes.
func (o *Output) Drain() {
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
