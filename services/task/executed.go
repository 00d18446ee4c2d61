package task

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
	"keelson/internal/pidfd"
)

// ErrNotExecutable says that the kernel refused to execute what was to be started.
var ErrNotExecutable = errors.New("cannot be executed")

// execRefused is how the runtime reports that, with the path and the kernel's reason.
var execRefused = regexp.MustCompile(`OCI runtime (?:start|exec) failed: exec (.+): (.+)$`)

// refusal is the error of a command that could not be executed, where a start's error
// reports that; else nil. root is the container's.
func refusal(root string, p *specs.Process, err error) error {
	found := execRefused.FindStringSubmatch(err.Error())
	if found == nil {
		return nil
	}
	if why := whyNotRun(root, p); why != "" {
		return fmt.Errorf("%q %w: it %s", p.Args[0], ErrNotExecutable, why)
	}
	return fmt.Errorf("%q %w: %s", p.Args[0], ErrNotExecutable, found[2])
}

// refused is refusal for a container's own command, where the image names it.
func refused(b *bundle.Bundle, err error) error {
	config := filepath.Join(b.Dir, "config.json")
	return &startError{fmt.Sprintf("%s: process.args: %v", config, err), err}
}

// heldRoot is the root file system of a process, which can be looked at until close is
// called even when the process has exited; "" where it is gone already.
func heldRoot(pid int) (path string, closeRoot func()) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", func() {}
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), func() { _ = unix.Close(fd) }
}

// forkedOnly is the flag of a process that has not executed anything since its fork
// (PF_FORKNOEXEC, which ps shows in its column F).
const forkedOnly = 0x40

// A beginning is what can be known of a process that a runtime has started.
type beginning int

const (
	begunUnknown  beginning = iota // it has exited, and nobody can tell any more
	begunExecuted                  // its command was executed
	begunRefused                   // it has exited without that
)

// begun waits until a process, nil for one that has exited, has executed its command. Our own shim answers a start
// only then; others answer when the last stage of the runtime is told to go on.
func begun(ctx context.Context, process *pidfd.Process) (beginning, error) {
	if process == nil {
		return begunUnknown, nil
	}
	for pause := 500 * time.Microsecond; ; pause = min(2*pause, 100*time.Millisecond) {
		exited := process.Ended()
		text, err := pidfd.Stat(process.PID, 9)
		if err != nil || process.Ended() != exited {
			if exited {
				return begunUnknown, nil
			}
			continue // it exits just now
		}
		flags, err := strconv.ParseUint(text, 10, 64)
		switch {
		case err != nil:
			return begunUnknown, nil
		case flags&forkedOnly == 0:
			return begunExecuted, nil
		case exited:
			return begunRefused, nil
		}
		select {
		case <-ctx.Done():
			return begunUnknown, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// notExecuted returns why the command of a process was not executed, which a runtime
// has started; nil where it was. reason is why the kernel may have refused it; exit
// returns the exit code of one that has exited.
func notExecuted(ctx context.Context, process *pidfd.Process, p *specs.Process, reason func() string, exit func(context.Context) (int, bool)) error {
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	state, err := begun(ctx, process)
	switch {
	case err != nil:
		return fmt.Errorf("wait until %q is executed: %w", p.Args[0], err)
	case state == begunExecuted:
		return nil
	}
	code, known := exit(ctx)
	if !known || code != execFailed { // killed before it came to that, for instance
		return nil
	}
	if why := reason(); why != "" {
		return fmt.Errorf("%q %w: it %s", p.Args[0], ErrNotExecutable, why)
	}
	if state == begunRefused {
		return fmt.Errorf("%q %w: its last output has the kernel's reason", p.Args[0], ErrNotExecutable)
	}
	return nil
}
