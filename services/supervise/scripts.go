package supervise

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/console"
	"keelson/services/capture"
	"keelson/services/task"
)

// The steps that LinuxKit has as links of these names to /usr/bin/service are built
// into the supervisor. The image's own scripts are run between them, where their
// names put them.
const (
	initScripts     = "/etc/init.d"
	stepLogging     = "002-logging"
	stepVolumes     = "005-volumes"
	stepOnboot      = "010-onboot"
	stepServices    = "020-containerd"
	shutdownScripts = "/etc/shutdown.d"
	stepOnshutdown  = "010-onshutdown"
)

// scripts runs the executables of a folder one after the other in lexical order, as
// LinuxKit does, of which the names lie between those of two steps; "" is no bound.
// One that fails stops nothing, and one that has not ended within the bound is left
// running.
func (s *Supervisor) scripts(ctx context.Context, dir, after, before string, bound time.Duration) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		s.con.Error("keelson", "%v", err)
		return
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if ctx.Err() != nil {
			return
		}
		if !between(e.Name(), after, before) || ownStep(path) {
			continue
		}
		if fi, err := os.Stat(path); err != nil || !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0 {
			continue
		}
		if s.progress.Done(path) {
			continue
		}
		s.progress.SetDone(path)
		s.script(ctx, path, bound)
	}
}

// between reports whether a script's turn is after one step and before another. One
// that has a step's own name and is not the link has its turn before the step.
func between(name, after, before string) bool {
	return name > after && (before == "" || name <= before)
}

// ownStep reports whether a path is the link for a step of the supervisor's own.
func ownStep(path string) bool {
	switch filepath.Base(path) {
	case stepVolumes, stepOnboot, stepServices, stepOnshutdown:
		to, err := os.Readlink(path)
		return err == nil && filepath.Base(to) == "service"
	}
	return false
}

func (s *Supervisor) script(ctx context.Context, path string, bound time.Duration) {
	began, boot := time.Now(), console.Now()
	name := filepath.Base(path)
	out, w, err := s.scriptOutput(path)
	if err != nil {
		s.con.Error(name, "%s: %v", path, err)
		return
	}
	cmd := exec.Command(path)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		out.Close(false)
		s.cannotRun(path, err)
		return
	}
	// The supervisor is spared by the OOM killer; what a script starts is not.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte("0"), 0)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t := time.NewTimer(bound)
	defer t.Stop()
	select {
	case err := <-ended:
		out.Drain()
		s.scriptOver(path, boot, err)
		if err != nil {
			s.failed[path] = true
			s.con.Error(name, "%s: %v after %.3fs; going on", path, err, time.Since(began).Seconds())
			return
		}
		s.con.Line(name, "%s: done in %.3fs", path, time.Since(began).Seconds())
	case <-t.C:
		s.scriptOver(path, boot, fmt.Errorf("still running after %v", bound))
		s.con.Warn(name, "%s: still running after %v; going on without it", path, bound)
	case <-ctx.Done():
	}
}

// instead is what becomes of the work of LinuxKit's own scripts, which are known by
// their names, where one cannot be run.
var instead = map[string]string{
	"000-issue": "the banner is shown all the same",
	"001-getty": "it starts no login: run getty as a service",
	stepLogging: "keelson serves memlogd's sockets itself",
}

// shellRemedy is given once: there may be many scripts.
const shellRemedy = "; scripts take an image with their interpreter in init:, such as busybox for /bin/sh"

// cannotRun reports a script that could not be started, and what that means.
func (s *Supervisor) cannotRun(path string, err error) {
	name := filepath.Base(path)
	text := path + ": " + whyNotRun(path, err)
	what, known := instead[name]
	if known {
		text += ": " + what
	}
	if !errors.Is(err, unix.EACCES) && len(s.failed) == 0 {
		text += shellRemedy
	}
	s.failed[path] = true
	if known {
		s.con.Warn(name, "%s", text)
		return
	}
	s.con.Error(name, "%s", text)
}

// whyNotRun is why a script could not be started, in words.
func whyNotRun(path string, err error) string {
	switch {
	case errors.Is(err, unix.ENOENT):
		if interpreter := task.Interpreter(path); interpreter != "" {
			return "needs " + interpreter + ", which is not in the machine's root"
		}
		return "needs a loader or libraries that are not in the machine's root: link it statically"
	case errors.Is(err, unix.ENOEXEC):
		return "is neither a binary for this machine nor a script whose first line names its interpreter, such as #!/bin/sh"
	}
	return err.Error()
}

// scriptOver notes when a script of the boot began and that it is over.
func (s *Supervisor) scriptOver(path string, began time.Duration, err error) {
	if dir, name := filepath.Split(path); filepath.Base(dir) == "init.d" {
		s.times.step("script."+name, began, err)
	}
}

// scriptOutput makes the pipe of a script, and opens it for the script. What a
// script leaves running has it as well, for reading too: so it may write whatever
// becomes of the supervisor, and the pipe is read for the rest of the boot.
func (s *Supervisor) scriptOutput(path string) (*capture.Stream, *os.File, error) {
	pipe := filepath.Join(s.cfg.RunDir, "io", ownPipes, filepath.Base(filepath.Dir(path)), filepath.Base(path))
	out, err := s.readScript(pipe)
	if err != nil {
		return nil, nil, err
	}
	w, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		out.Close(false)
		return nil, nil, fmt.Errorf("open its log pipe: %w", err)
	}
	return out, w, nil
}

// readScripts goes on reading what scripts of an earlier supervisor left running.
func (s *Supervisor) readScripts() {
	for _, dir := range []string{"init.d", "shutdown.d"} {
		pipes, _ := filepath.Glob(filepath.Join(s.cfg.RunDir, "io", ownPipes, dir, "*"))
		for _, pipe := range pipes {
			if _, err := s.readScript(pipe); err != nil {
				s.con.Warn(filepath.Base(pipe), "its output goes nowhere: %v", err)
			}
		}
	}
}

func (s *Supervisor) readScript(pipe string) (*capture.Stream, error) {
	name := filepath.Base(pipe)
	file := filepath.Join(s.cfg.OneShotLog, filepath.Base(filepath.Dir(pipe)), name+".log")
	return s.capture.Open(capture.Source{
		Name: filepath.Base(filepath.Dir(pipe)) + "." + name, Stream: "stdout", Pipe: pipe, File: file,
		OnLine: func(line string) { s.con.Output(name, line) },
		Warn:   func(format string, a ...any) { s.con.Warn(name, format, a...) },
	})
}
