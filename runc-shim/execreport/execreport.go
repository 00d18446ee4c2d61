// Package execreport tells a runtime whether the last stage of a start has become the
// command it was to start, or why not.
//
// libcontainer closes its own pipes just before it executes the command, and prints
// the error of a failed exec on the container's standard error: a script whose
// interpreter is missing looks like one that has run and failed. Here the last stage
// gets a pipe more. An exec that succeeds closes it; what libcontainer prints after
// one that fails goes into it.
//
// It promises
//   - that nothing of the pipe reaches the command;
//   - that a file which somebody else passes to the last stage is left alone.
package execreport

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// mark is the signal that the pipe is marked with, which is never sent: nobody
	// asks for signals of it.
	mark = 0x3b
	// bound is how long a last stage may take from there to its exec. The hooks of a
	// configuration run in between, and the binary may be on a slow disk.
	bound = 5 * time.Minute
	// most is how much of a report is kept.
	most = 4 << 10
)

// A Report comes from one last stage.
type Report struct {
	r, w *os.File
}

// New makes a report. It has to be closed.
func New() (*Report, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETSIG, mark); err != nil {
		r.Close()
		w.Close()
		return nil, os.NewSyscallError("fcntl(F_SETSIG)", err)
	}
	return &Report{r, w}, nil
}

// Passed returns the file to pass to the last stage.
func (p *Report) Passed() *os.File { return p.w }

// Started closes the end that now belongs to the last stage.
func (p *Report) Started() { p.w.Close() }

// Wait waits until the command has been executed, or its process has ended before, and
// returns why it could not be executed, if that was so.
func (p *Report) Wait() error {
	defer p.r.Close()
	if err := p.r.SetReadDeadline(time.Now().Add(bound)); err != nil {
		return nil // closed: it was waited for
	}
	text, _ := io.ReadAll(io.LimitReader(p.r, most)) // a process that hangs is its starter's to judge
	if reason := strings.TrimSpace(string(text)); reason != "" {
		return errors.New(reason)
	}
	return nil
}

// Close gives the report up.
func (p *Report) Close() {
	p.r.Close()
	p.w.Close()
}

// Take finds the pipe among the files that were passed to the last stage, and has
// errors that libcontainer prints go there.
func Take() {
	// Files that are passed come before libcontainer's own.
	end, err := strconv.Atoi(os.Getenv("_LIBCONTAINER_INITPIPE"))
	if err != nil {
		return
	}
	for fd := 3; fd < end; fd++ {
		if sig, err := unix.FcntlInt(uintptr(fd), unix.F_GETSIG, 0); err != nil || sig != mark {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
			continue
		}
		unix.CloseOnExec(fd)
		os.Stderr = os.NewFile(uintptr(fd), "exec report")
	}
}
