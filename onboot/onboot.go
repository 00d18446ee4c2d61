// Package onboot owns the one-shot containers: those that run one after the
// other while the machine comes up (onboot) and goes down (onshutdown).
//
// It promises order, a bound for each where one is set, and a line on the
// console for how each began and ended, with its last output where it failed;
// and that a restarted supervisor neither repeats nor skips one. A one-shot
// that fails never stops the ones behind it unless its own annotation says so.
package onboot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/beneath"
	"keelson/internal/bundle"
	"keelson/internal/pidfd"
	"keelson/internal/policy"
	"keelson/services/task"
)

// Console is where a one-shot's life is shown.
type Console interface {
	Line(name, format string, a ...any)
	Warn(name, format string, a ...any)
	Error(name, format string, a ...any)
	Output(name, line string)
}

// Tasks is what a one-shot needs of the container runtime.
type Tasks interface {
	Start(ctx context.Context, b *bundle.Bundle, io task.Streams) (task.Task, error)
	Adopt(ctx context.Context, b *bundle.Bundle, was pidfd.Identity) (task.Task, *task.Exit, error)
	Remove(ctx context.Context, b *bundle.Bundle)
}

// Progress remembers, for a restarted supervisor, which one-shots are over.
type Progress interface {
	Done(id string) bool
	// SetDone is told why it failed, if it did.
	SetDone(id string, failed error)
}

// Output is where a one-shot's output goes; *capture.Output is one.
type Output interface {
	Paths() (stdout, stderr string)
	Mark()
	Drain()
	Tail(lines int) []string
	Close(keep bool)
}

// Runner runs the one-shots of a section.
type Runner struct {
	Tasks    Tasks
	Console  Console
	Progress Progress
	// OpenOutput makes the log pipes of a one-shot; onLine is nil where its
	// output is not to be shown.
	OpenOutput func(b *bundle.Bundle, onLine func(string)) (Output, error)
	// ShowOutput shows the output of those too whose annotation says not to.
	ShowOutput bool
	// Resumed says that an earlier supervisor of this boot may have started one.
	Resumed bool
	// Now is the time since the machine's start.
	Now func() time.Duration
}

const (
	// startBound ends a start that hangs in containerd or the runtime, also of a
	// one-shot without a timeout.
	startBound = 3 * time.Minute
	// removeBound is how long the removal of one that is over is waited for.
	removeBound = 30 * time.Second

	stopGrace  = 2 * time.Second // from SIGTERM to SIGKILL when a one-shot's time is up
	tailLines  = 10
	retryDelay = 100 * time.Millisecond
	retryMax   = 5 * time.Second
	// An earlier supervisor's task is looked for again after adoptDelay.
	adoptDelay = time.Second
	// What the machine waits for is said after sayFirst, then after twice as long each time.
	sayFirst = 10 * time.Second
)

// Run runs the container folders in their order. It returns what the machine
// is to do because one of them failed, ActionContinue if nothing, and an error
// only when the context ended.
func (r *Runner) Run(ctx context.Context, section bundle.Section, dirs []string) (policy.Action, error) {
	for i, dir := range dirs {
		b, loadErr := bundle.Load(section, dir)
		if r.Progress.Done(b.ID) {
			continue
		}
		for _, w := range b.Warnings {
			r.Console.Warn(b.Label(), "%s", w)
		}
		action, failed, err := r.one(ctx, b, loadErr, fmt.Sprintf("%s %d of %d", section, i+1, len(dirs)))
		if err != nil {
			return policy.ActionContinue, err
		}
		if action != policy.ActionContinue {
			// Not done: should nobody hear of the action, it is tried again.
			return action, nil
		}
		r.Progress.SetDone(b.ID, failed)
	}
	return policy.ActionContinue, nil
}

// one runs one container, again and again where it may be retried. It returns what
// the machine is to do and why the container failed, if it did.
func (r *Runner) one(ctx context.Context, b *bundle.Bundle, loadErr error, place string) (action policy.Action, failed, err error) {
	delay := retryDelay
	for try := 0; ; try++ {
		failed, tail := loadErr, []string(nil)
		if failed == nil {
			tail, failed = r.once(ctx, b, place)
		}
		switch {
		case failed == nil:
			return policy.ActionContinue, nil, nil
		case ctx.Err() != nil:
			return policy.ActionContinue, nil, ctx.Err()
		case b.OneShot.OnFailure == policy.ActionRetry && try < b.OneShot.Retries && loadErr == nil && !errors.Is(failed, errStartHangs):
			r.Console.Error(b.Label(), "%s: %v; try %d of %d in %s", place, failed, try+2, b.OneShot.Retries+1, delay)
			r.show(b, tail)
			select {
			case <-ctx.Done():
				return policy.ActionContinue, nil, ctx.Err()
			case <-time.After(delay):
			}
			delay = min(2*delay, retryMax)
		case b.OneShot.OnFailure == policy.ActionContinue || b.OneShot.OnFailure == policy.ActionRetry:
			r.Console.Error(b.Label(), "%s: %v; going on", place, failed)
			r.show(b, tail)
			return policy.ActionContinue, failed, nil
		default:
			r.Console.Error(b.Label(), "%s: %v; keelson.on-failure: %s", place, failed, b.OneShot.OnFailure)
			r.show(b, tail)
			return b.OneShot.OnFailure, failed, nil
		}
	}
}

// show puts the last output of a one-shot under its failure.
func (r *Runner) show(b *bundle.Bundle, tail []string) {
	for _, line := range tail {
		r.Console.Line(b.Label(), "| %s", line)
	}
}

// once runs the container a single time. An error is why it failed; tail is its
// last output then, unless it has been shown as it came.
func (r *Runner) once(ctx context.Context, b *bundle.Bundle, place string) (tail []string, err error) {
	began := r.Now()
	var onLine func(string)
	shown := b.OneShot.Console || r.ShowOutput
	if shown {
		onLine = func(line string) { r.Console.Output(b.Label(), line) }
	}
	output, err := r.OpenOutput(b, onLine)
	if err != nil {
		return nil, err
	}
	defer output.Close(false)
	output.Mark()

	var t task.Task
	var exit *task.Exit
	if r.Resumed {
		if t, exit, err = r.adopt(ctx, b); err != nil {
			return nil, err
		}
	}
	if t == nil && exit == nil {
		stdout, stderr := output.Paths()
		quiet := r.sayStill(b, place, "being started")
		t, err = r.start(ctx, b, task.Streams{Stdout: stdout, Stderr: stderr})
		quiet()
		if err != nil {
			return nil, err
		}
	}
	timedOut := false
	if exit == nil {
		var e task.Exit
		quiet := r.sayStill(b, place, "running")
		e, timedOut, err = r.await(ctx, b, t, b.OneShot.Timeout-(r.Now()-began))
		quiet()
		if err != nil {
			return nil, err
		}
		exit = &e
	}
	took := r.Now() - began
	// Removing the task waits until the shim has copied its last output.
	r.remove(ctx, b)
	output.Drain()
	if !timedOut && exit.Success() {
		r.Console.Line(b.Label(), "%s: done in %.3fs", place, took.Seconds())
		return nil, nil
	}
	if !shown {
		tail = output.Tail(tailLines)
	}
	if timedOut {
		return tail, fmt.Errorf("not done after %v (keelson.timeout), %v", b.OneShot.Timeout, exit)
	}
	return tail, fmt.Errorf("%v after %.3fs", exit, took.Seconds())
}

// errStartHangs is a start that is stuck in the kernel: another try would join it there.
var errStartHangs = errors.New("its start hangs: a mount, a device or the runtime does not answer")

// start starts a one-shot. Its time goes on meanwhile: what a start mounts may be a disk
// that does not answer. A start that has been given up is undone when it comes to an end
// after all.
func (r *Runner) start(ctx context.Context, b *bundle.Bundle, io task.Streams) (task.Task, error) {
	bound := startBound
	if b.OneShot.Timeout > 0 {
		bound = min(bound, b.OneShot.Timeout)
	}
	sctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	type start struct {
		task task.Task
		err  error
	}
	starts := make(chan start, 1)
	go func() {
		t, err := r.Tasks.Start(sctx, b, io)
		starts <- start{t, err}
	}()
	over := func() error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if bound == b.OneShot.Timeout {
			return fmt.Errorf("not done after %v (keelson.timeout), it was still being started", bound)
		}
		return fmt.Errorf("not started after %v", bound)
	}
	select {
	case s := <-starts:
		switch {
		case s.err == nil:
			return s.task, nil
		case errors.Is(sctx.Err(), context.DeadlineExceeded) || ctx.Err() != nil:
			return nil, over()
		}
		return nil, fmt.Errorf("could not be started: %s", strings.TrimPrefix(s.err.Error(), b.Name+": "))
	case <-sctx.Done():
	}
	// Most starts notice that their time is over.
	select {
	case s := <-starts:
		if s.err == nil {
			r.undo(ctx, b, s.task)
		}
		return nil, over()
	case <-time.After(stopGrace):
	}
	go func() {
		if s := <-starts; s.err == nil {
			r.undo(ctx, b, s.task)
		}
	}()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, fmt.Errorf("%w: %w", over(), errStartHangs)
}

// undo ends a task whose start took too long.
func (r *Runner) undo(ctx context.Context, b *bundle.Bundle, t task.Task) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	if err := t.Kill(); err == nil {
		_, _ = t.Wait(ctx)
	}
	r.remove(ctx, b)
}

// remove removes what is left of a one-shot. What hangs there holds nobody up.
func (r *Runner) remove(ctx context.Context, b *bundle.Bundle) {
	removed := make(chan struct{})
	go func() {
		defer close(removed)
		r.Tasks.Remove(context.WithoutCancel(ctx), b)
	}()
	bound := time.NewTimer(removeBound)
	defer bound.Stop()
	select {
	case <-removed:
	case <-bound.C:
		r.Console.Error(b.Label(), "its removal hangs: a mount, a device or the runtime does not answer; going on")
	}
}

// adopt looks for the task that an earlier supervisor may have left, until that
// is known: another one must not be started beside it.
func (r *Runner) adopt(ctx context.Context, b *bundle.Bundle) (task.Task, *task.Exit, error) {
	said := ""
	for {
		t, exit, err := r.Tasks.Adopt(ctx, b, pidfd.Identity{})
		if err == nil {
			return t, exit, nil
		}
		if err.Error() != said {
			said = err.Error()
			r.Console.Warn(b.Label(), "it is not known whether it runs: %v; asking again", err)
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(adoptDelay):
		}
	}
}

// sayStill tells people what the machine is waiting for, every now and then
// until the returned function is called.
func (r *Runner) sayStill(b *bundle.Bundle, place, what string) (quiet func()) {
	began, done, over := r.Now(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		wait := sayFirst
		t := time.NewTimer(wait)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
				r.Console.Line(b.Label(), "%s: still %s after %s", place, what, (r.Now() - began).Round(time.Second))
				wait *= 2
				t.Reset(wait)
			}
		}
	}()
	return func() { close(done); <-over }
}

// await waits for the task to end, or ends it when its time or the caller's is up.
// left is what there is left of its time, if it has one.
func (r *Runner) await(ctx context.Context, b *bundle.Bundle, t task.Task, left time.Duration) (e task.Exit, timedOut bool, err error) {
	wait, cancel := ctx, context.CancelFunc(func() {})
	if b.OneShot.Timeout > 0 {
		wait, cancel = context.WithTimeout(ctx, left)
	}
	defer cancel()
	e, err = t.Wait(wait)
	if err == nil {
		return e, false, nil
	}
	if !errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return e, false, err
	}
	// Past here the caller's context may be over; stopping has its own bounds.
	grace, cancelGrace := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancelGrace()
	heard, err := t.Stop(unix.SIGTERM)
	if heard {
		e, err = t.Wait(grace)
	}
	if !heard || err != nil {
		if err := t.Kill(); err != nil {
			return e, true, err
		}
		killed, cancelKilled := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
		defer cancelKilled()
		if e, err = t.Wait(killed); err != nil {
			err = fmt.Errorf("it cannot be killed: its processes are stuck in the kernel")
			return e, true, err
		}
	}
	if ctx.Err() != nil {
		r.remove(ctx, b)
		return e, false, ctx.Err()
	}
	return e, true, nil
}

// LinkLogs makes the folder of a section's logs visible under /var/log, where
// people look for it. Links may be followed on the way.
func LinkLogs(links beneath.Links, logDir, varLog string, section bundle.Section) error {
	dir := filepath.Join(logDir, string(section))
	logs, err := links.Make(dir, 0o755)
	if err != nil {
		return fmt.Errorf("make the directory of the %s logs: %w", section, err)
	}
	_ = logs.Close()
	in, err := links.Open(varLog)
	if err != nil {
		return fmt.Errorf("link the %s logs: %w", section, err)
	}
	defer in.Close()
	if _, err := in.Stat(string(section)); err == nil {
		return nil // a disk that does not answer would not even say that it is there
	}
	if err := in.Symlink(dir, string(section)); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("link the %s logs: %w", section, err)
	}
	return nil
}
