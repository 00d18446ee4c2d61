package supervise

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ownScripts are the steps that LinuxKit has as scripts or links of these
// names, and that are built into the supervisor.
var ownScripts = map[string]bool{
	"005-volumes": true, "010-onboot": true, "020-containerd": true, "010-onshutdown": true,
}

// scripts runs the executables of a folder one after the other in lexical
// order, as LinuxKit does; one that fails stops nothing, and one that has not
// ended within the bound is left running.
func (s *Supervisor) scripts(ctx context.Context, dir string, bound time.Duration) {
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
		if ownScripts[e.Name()] {
			if to, err := os.Readlink(path); err == nil && filepath.Base(to) == "service" {
				continue
			}
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

func (s *Supervisor) script(ctx context.Context, path string, bound time.Duration) {
	began := time.Now()
	name := filepath.Base(path)
	r, w, err := os.Pipe()
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
		_ = r.Close()
		if errors.Is(err, unix.ENOENT) {
			s.con.Error(name, "%s: its interpreter is not in the image: add an init image that has it, or leave the script out", path)
			return
		}
		s.con.Error(name, "%v", err)
		return
	}
	// The supervisor is spared by the OOM killer; what a script starts is not.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte("0"), 0)
	// What a script leaves running keeps the pipe; reading it goes on.
	go func() {
		defer r.Close()
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			s.con.Line(name, "| %s", strings.TrimRight(lines.Text(), "\r"))
		}
	}()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t := time.NewTimer(bound)
	defer t.Stop()
	select {
	case err := <-ended:
		if err != nil {
			s.con.Error(name, "%s: %v after %.3fs; going on", path, err, time.Since(began).Seconds())
			return
		}
		s.con.Line(name, "%s: done in %.3fs", path, time.Since(began).Seconds())
	case <-t.C:
		s.con.Warn(name, "%s: still running after %v; going on without it", path, bound)
	case <-ctx.Done():
	}
}
