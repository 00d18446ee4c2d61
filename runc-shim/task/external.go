package task

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/runc-shim/oci"
	"keelson/runc-shim/reap"
	"keelson/runc-shim/stdio"
)

// commandTimeout bounds one step of a runtime binary.
const commandTimeout = 5 * time.Minute

// An external container is made by a runtime binary with runc's command line.
type external struct {
	binary   string
	options  oci.Options
	spec     *specs.Spec
	init     int // pid, 0 before launch
	launches atomic.Int64
}

func newExternal(binary string, o oci.Options, spec *specs.Spec) (engine, error) {
	path, err := exec.LookPath(binary)
	if err != nil {
		return nil, fmt.Errorf("runtime of the task option BinaryName: %w", err)
	}
	return &external{binary: path, options: o, spec: spec}, nil
}

// run runs the runtime with a command; the error is in its own words.
func (x *external) run(how func(*exec.Cmd) error, prepare func(*exec.Cmd), args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	log := filepath.Join(x.options.Bundle, "log.json")
	cmd := exec.CommandContext(ctx, x.binary, append([]string{"--root", x.options.Root, "--log", log, "--log-format", "json"}, args...)...)
	cmd.Dir = x.options.Bundle
	if prepare != nil {
		prepare(cmd)
	}
	err := how(cmd)
	if err == nil {
		return nil
	}
	if msg := lastError(log); msg != "" {
		return fmt.Errorf("%s %s: %s", x.binary, args[0], msg)
	}
	return fmt.Errorf("%s %s: %w", x.binary, args[0], err)
}

// lastError is the last error in a runtime's JSON log.
func lastError(log string) string {
	data, err := os.ReadFile(log)
	if err != nil {
		return ""
	}
	msg := ""
	for line := range bytes.Lines(data) {
		var l struct{ Level, Msg string }
		if json.Unmarshal(line, &l) == nil && l.Level == "error" {
			msg = strings.TrimSpace(l.Msg)
		}
	}
	return msg
}

func (x *external) launch(init bool, p *specs.Process, _ string, s *stdio.Streams, socket *os.File) (child, int, error) {
	n := x.launches.Add(1)
	pidFile := filepath.Join(x.options.Bundle, fmt.Sprintf("runtime-%d.pid", n))
	defer os.Remove(pidFile)
	var args []string
	if init {
		args = []string{"create", "--bundle", x.options.Bundle, "--pid-file", pidFile}
		if x.options.NoPivotRoot {
			args = append(args, "--no-pivot")
		}
		if x.options.NoNewKeyring {
			args = append(args, "--no-new-keyring")
		}
	} else {
		data, err := json.Marshal(p)
		if err != nil {
			return nil, 0, err
		}
		file := filepath.Join(x.options.Bundle, fmt.Sprintf("runtime-%d.json", n))
		if err := os.WriteFile(file, data, 0o600); err != nil {
			return nil, 0, err
		}
		defer os.Remove(file)
		args = []string{"exec", "--process", file, "--detach", "--pid-file", pidFile}
	}
	if socket != nil {
		path, done, err := passOn(socket)
		if err != nil {
			return nil, 0, fmt.Errorf("terminal socket: %w", err)
		}
		defer done()
		args = append(args, "--console-socket", path)
	}
	var pid int
	err := family.adopt(func() (int, error) {
		err := x.run(family.runHeld, func(cmd *exec.Cmd) {
			if s.Stdin != nil {
				cmd.Stdin = s.Stdin
			}
			if s.Stdout != nil {
				cmd.Stdout = s.Stdout
			}
			if s.Stderr != nil {
				cmd.Stderr = s.Stderr
			}
		}, append(args, x.options.ID)...)
		if err != nil {
			return 0, err
		}
		data, err := os.ReadFile(pidFile)
		if err != nil {
			return 0, fmt.Errorf("%s left no pid file: %w", x.binary, err)
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(data)))
		return pid, err
	})
	if err != nil {
		return nil, 0, err
	}
	if init {
		x.init = pid
	}
	return adopted(pid), pid, nil
}

// passOn makes a named socket whose one connection's descriptor goes on to
// socket, since a runtime binary wants a path.
func passOn(socket *os.File) (path string, done func(), err error) {
	// The path of a Unix socket is short, that of the bundle may not be. Containers that
	// bind /run do not see containerd's directory.
	parent := "/run/containerd"
	if _, err := os.Stat(parent); err != nil {
		parent = "/run"
	}
	tmp, err := os.MkdirTemp(parent, "pty")
	if err != nil {
		return "", nil, err
	}
	path = filepath.Join(tmp, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		os.RemoveAll(tmp)
		return "", nil, err
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		f, err := conn.File()
		if err != nil {
			return
		}
		defer f.Close()
		pty, err := stdio.ReceiveFile(f)
		if err != nil {
			logger.Error("receive terminal from runtime", "error", err)
			return
		}
		defer pty.Close()
		if err := unix.Sendmsg(int(socket.Fd()), []byte("pty"), unix.UnixRights(int(pty.Fd())), nil, 0); err != nil {
			logger.Error("pass terminal on", "error", err)
		}
	}()
	return path, func() {
		l.Close()
		<-finished
		os.RemoveAll(tmp)
	}, nil
}

// An adopted process is one whose parent, the runtime, has gone.
type adopted int

func (a adopted) signal(sig unix.Signal) error { return unix.Kill(int(a), sig) }

// executed does not know: the runtime has seen no more of it than that it was to begin.
func (a adopted) executed() error { return nil }
func (a adopted) close()          {}

func (a adopted) collect() int {
	defer family.forget(int(a))
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(int(a), &ws, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			logger.Error("collect process", "pid", int(a), "error", err)
			return 255
		}
		return reap.WaitStatus(ws)
	}
}

func (x *external) command(args ...string) error {
	return x.run(family.run, nil, append(args, x.options.ID)...)
}

func (x *external) start() error  { return x.command("start") }
func (x *external) pause() error  { return x.command("pause") }
func (x *external) resume() error { return x.command("resume") }

func (x *external) signal(sig unix.Signal) error {
	if x.init == 0 {
		return unix.ESRCH
	}
	return unix.Kill(x.init, sig)
}

func (x *external) signalAll(sig unix.Signal) error {
	for range 100 {
		pids, err := x.pids()
		if err != nil {
			return err
		}
		left := 0
		for _, pid := range pids {
			if unix.Kill(pid, sig) == nil {
				left++
			}
		}
		if sig != unix.SIGKILL || left == 0 {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

func (x *external) update(r *specs.LinuxResources) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	stdin := func(cmd *exec.Cmd) { cmd.Stdin = bytes.NewReader(data) }
	return x.run(family.run, stdin, "update", "--resources", "-", x.options.ID)
}

func (x *external) destroy() error {
	if x.init == 0 {
		_ = x.command("delete", "--force")
		return nil
	}
	err := x.command("delete")
	if err != nil && strings.Contains(err.Error(), "does not exist") {
		return nil
	}
	return err
}

// manager reads the cgroup the init process is, or was, in.
func (x *external) manager() (cgroups.Manager, error) {
	if x.init == 0 {
		return nil, errors.New("container not created")
	}
	paths, err := cgroups.ParseCgroupFile("/proc/" + strconv.Itoa(x.init) + "/cgroup")
	if err != nil {
		return nil, err
	}
	config := &cgroups.Cgroup{Resources: &cgroups.Resources{}}
	if cgroups.IsCgroup2UnifiedMode() {
		return manager.NewWithPaths(config, map[string]string{"": filepath.Join("/sys/fs/cgroup", paths[""])})
	}
	full := map[string]string{}
	for sub, p := range paths {
		if sub != "" {
			full[sub] = filepath.Join("/sys/fs/cgroup", strings.TrimPrefix(sub, "name="), p)
		}
	}
	return manager.NewWithPaths(config, full)
}

func (x *external) pids() ([]int, error) {
	m, err := x.manager()
	if err != nil {
		return nil, err
	}
	return m.GetAllPids()
}

func (x *external) stats() (*cgroups.Stats, error) {
	m, err := x.manager()
	if err != nil {
		return nil, err
	}
	return m.GetStats()
}

func (x *external) cgroups() (map[string]string, error) {
	m, err := x.manager()
	if err != nil {
		return nil, err
	}
	return m.GetPaths(), nil
}

// cgroup is unknown: not every runtime binary starts an exec in a cgroup of its own.
func (x *external) cgroup() string { return "" }

func (x *external) sharesPIDs() bool {
	if x.spec.Linux != nil {
		for _, ns := range x.spec.Linux.Namespaces {
			if ns.Type == specs.PIDNamespace && ns.Path == "" {
				return false
			}
		}
	}
	return true
}

func (x *external) owner() (uid, gid int) {
	if l := x.spec.Linux; l != nil {
		for _, m := range l.UIDMappings {
			if m.ContainerID == 0 {
				uid = int(m.HostID)
			}
		}
		for _, m := range l.GIDMappings {
			if m.ContainerID == 0 {
				gid = int(m.HostID)
			}
		}
	}
	return uid, gid
}
