package task

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"keelson/runc-shim/execreport"
	"keelson/runc-shim/oci"
	"keelson/runc-shim/reap"
	"keelson/runc-shim/seccomp"
	"keelson/runc-shim/stdio"
)

// An engine makes and controls one container. There are two kinds: libcontainer
// in this process, and a runtime binary that is run for every step.
type engine interface {
	// launch starts the init process, which then waits for start, or an
	// exec. A terminal's master end is sent to socket, if there is one. group is
	// the cgroup below the container's in which an exec is started, "" for that.
	launch(init bool, p *specs.Process, group string, s *stdio.Streams, socket *os.File) (child, int, error)
	start() error
	signal(sig unix.Signal) error    // to the init process
	signalAll(sig unix.Signal) error // to every process
	pause() error
	resume() error
	update(r *specs.LinuxResources) error
	destroy() error

	pids() ([]int, error)
	stats() (*cgroups.Stats, error)
	cgroups() (map[string]string, error)
	// cgroup is the path of the container's cgroup below which an exec can be
	// started, "" where that cannot be.
	cgroup() string
	// sharesPIDs says whether the container has no pid namespace of its own,
	// so that its processes do not end with its init.
	sharesPIDs() bool
	// owner is who root in the container is outside.
	owner() (uid, gid int)
}

// A child is a process of a container.
type child interface {
	signal(sig unix.Signal) error
	// executed waits until its command has been executed, after start if it is the
	// init, and returns why that has failed, where the engine knows.
	executed() error
	// collect waits for the end and returns the exit status. It is called
	// once.
	collect() int
	// close lets go of what executed needs.
	close()
}

// A local container is one of libcontainer in this process.
type local struct {
	c       *libcontainer.Container
	program *os.File // of its seccomp profile; nil where libcontainer makes it
}

func newLocal(o oci.Options, spec *specs.Spec) (engine, error) {
	program, err := seccomp.Program(spec)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	c, err := oci.Create(o, spec)
	if err != nil {
		return nil, err
	}
	return &local{c, program}, nil
}

func (l *local) launch(init bool, p *specs.Process, group string, s *stdio.Streams, socket *os.File) (child, int, error) {
	lp, err := oci.NewProcess(p)
	if err != nil {
		return nil, 0, err
	}
	lp.Init = init
	lp.LogLevel = strconv.Itoa(int(logrus.GetLevel()))
	lp.ConsoleSocket = socket
	report, err := execreport.New()
	if err != nil {
		return nil, 0, err
	}
	lp.ExtraFiles = append(lp.ExtraFiles, report.Passed())
	if l.program != nil {
		lp.ExtraFiles = append(lp.ExtraFiles, l.program)
	}
	if group != "" {
		lp.SubCgroupPaths = map[string]string{"": group}
	}
	// A nil file in an interface is no nil interface.
	if s.Stdin != nil {
		lp.Stdin = s.Stdin
	}
	if s.Stdout != nil {
		lp.Stdout = s.Stdout
	}
	if s.Stderr != nil {
		lp.Stderr = s.Stderr
		l.giveToUser(s.Stderr, p)
	}
	if err := l.c.Start(lp); err != nil {
		report.Close()
		return nil, 0, err
	}
	report.Started()
	pid, err := lp.Pid()
	return localChild{lp, report}, pid, err
}

// giveToUser gives the pipe of the error stream to the user that the process will be, who
// opens it as /dev/stderr. libcontainer does so for what its last stage has as os.Stderr, and
// that is the report of the exec (package execreport).
func (l *local) giveToUser(f *os.File, p *specs.Process) {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return
	}
	config := l.c.Config()
	uid, err := config.HostUID(int(p.User.UID))
	if err == nil {
		err = f.Chown(uid, -1)
	}
	if err != nil {
		logger.Warn("give the error stream to the container's user", "id", l.c.ID(), "error", err)
	}
}

type localChild struct {
	p      *libcontainer.Process
	report *execreport.Report
}

func (c localChild) signal(sig unix.Signal) error { return c.p.Signal(sig) }

func (c localChild) executed() error { return c.report.Wait() }

func (c localChild) close() { c.report.Close() }

func (c localChild) collect() int {
	st, err := c.p.Wait()
	if st == nil {
		logger.Error("collect process", "error", err)
	}
	return reap.Status(st)
}

func (l *local) start() error                         { return l.c.Exec() }
func (l *local) signal(sig unix.Signal) error         { return l.c.Signal(sig) }
func (l *local) signalAll(sig unix.Signal) error      { return oci.SignalAll(l.c, sig) }
func (l *local) pause() error                         { return l.c.Pause() }
func (l *local) resume() error                        { return l.c.Resume() }
func (l *local) update(r *specs.LinuxResources) error { return oci.Update(l.c, r) }
func (l *local) pids() ([]int, error)                 { return l.c.Processes() }

func (l *local) stats() (*cgroups.Stats, error) {
	s, err := l.c.Stats()
	if err != nil {
		return nil, err
	}
	return s.CgroupStats, nil
}

func (l *local) cgroups() (map[string]string, error) {
	st, err := l.c.State()
	if err != nil {
		return nil, err
	}
	return st.CgroupPaths, nil
}

func (l *local) cgroup() string {
	config := l.c.Config()
	if config.Cgroups == nil || config.Cgroups.Path == "" || !cgroups.IsCgroup2UnifiedMode() {
		return ""
	}
	return filepath.Join(cgroupRoot, config.Cgroups.Path)
}

func (l *local) sharesPIDs() bool {
	config := l.c.Config()
	return !config.Namespaces.IsPrivate(configs.NEWPID)
}

func (l *local) owner() (uid, gid int) {
	config := l.c.Config()
	uid, uerr := config.HostRootUID()
	gid, gerr := config.HostRootGID()
	if uerr != nil || gerr != nil {
		return 0, 0
	}
	return uid, gid
}

func (l *local) destroy() error {
	// libcontainer destroys by the state it last saw.
	if _, err := l.c.Status(); err != nil {
		logger.Warn("refresh state of container", "id", l.c.ID(), "error", err)
	}
	if err := l.c.Destroy(); err != nil && !errors.Is(err, libcontainer.ErrNotExist) {
		return err
	}
	return nil
}
