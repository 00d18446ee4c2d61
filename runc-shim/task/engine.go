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
	"keelson/runc-shim/executor"
	"keelson/runc-shim/oci"
	"keelson/runc-shim/plan"
	"keelson/runc-shim/reap"
	"keelson/runc-shim/seccomp"
	"keelson/runc-shim/stdio"
)

// An engine makes and controls one container, with libcontainer in this process.
type engine struct {
	c       *libcontainer.Container
	options oci.Options
	program *os.File // of its seccomp profile; nil where libcontainer makes it
}

func newEngine(o oci.Options, spec *specs.Spec) (*engine, error) {
	program, err := seccomp.Program(spec)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	c, err := oci.Create(o, spec)
	if err != nil {
		return nil, err
	}
	return &engine{c, o, program}, nil
}

// launch starts the init process, which then waits for start, or an exec. A terminal's
// master end is sent to socket, if there is one. group is the cgroup below the
// container's in which an exec is started, "" for that.
func (e *engine) launch(init bool, p *specs.Process, group string, s *stdio.Streams, socket *os.File) (*child, int, error) {
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
		e.giveToUser(s.Stderr, p)
	}
	planned, err := e.pass(lp)
	if err != nil {
		report.Close()
		return nil, 0, err
	}
	defer planned.Close()
	if err := e.c.Start(lp); err != nil {
		report.Close()
		return nil, 0, err
	}
	report.Started()
	pid, err := lp.Pid()
	return &child{lp, report}, pid, err
}

// pass adds to the files that are passed to the last stage of a start what is in them of
// the configuration: the plan of the whole container, as the last one, or where
// libcontainer is to make it, and for an exec, the program of its seccomp profile.
func (e *engine) pass(p *libcontainer.Process) (planned *os.File, err error) {
	if p.Init {
		if planned, err = e.plan(p); err != nil {
			return nil, err
		}
	}
	switch {
	case planned != nil:
		p.ExtraFiles = append(p.ExtraFiles, planned)
	case e.program != nil:
		p.ExtraFiles = append(p.ExtraFiles, e.program)
	}
	return planned, nil
}

// firstPassed is the descriptor of the first file that is passed to the last stage, the
// report.
const firstPassed = 3

// plan is the plan of the container, nil if it is libcontainer's.
func (e *engine) plan(p *libcontainer.Process) (*os.File, error) {
	if why := executor.Unsupported(); why != "" {
		logger.Debug("start without a plan", "id", e.c.ID(), "reason", why)
		return nil, nil
	}
	filter, err := seccomp.Code(e.program)
	if err != nil {
		return nil, err
	}
	config := e.c.Config()
	made, err := plan.Make(e.options, &config, p, filter, cgroups.IsCgroup2UnifiedMode())
	if errors.Is(err, plan.ErrUncovered) {
		logger.Debug("start without a plan", "id", e.c.ID(), "reason", err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	made.Report = firstPassed
	return made.File()
}

// giveToUser gives the pipe of the error stream to the user that the process will be, who
// opens it as /dev/stderr. libcontainer does so for what its last stage has as os.Stderr, and
// that is the report of the exec (package execreport).
func (e *engine) giveToUser(f *os.File, p *specs.Process) {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return
	}
	config := e.c.Config()
	uid, err := config.HostUID(int(p.User.UID))
	if err == nil {
		err = f.Chown(uid, -1)
	}
	if err != nil {
		logger.Warn("give the error stream to the container's user", "id", e.c.ID(), "error", err)
	}
}

// A child is a process of a container.
type child struct {
	p      *libcontainer.Process
	report *execreport.Report
}

func (c *child) signal(sig unix.Signal) error { return c.p.Signal(sig) }

// executed waits until the command of the process has been executed, after start if it
// is the init, and returns why that has failed.
func (c *child) executed() error { return c.report.Wait() }

// close lets go of what executed needs.
func (c *child) close() { c.report.Close() }

// collect waits for the exit and returns the exit status. It is called once.
func (c *child) collect() int {
	st, err := c.p.Wait()
	if st == nil {
		logger.Error("collect process", "error", err)
	}
	return reap.Status(st)
}

func (e *engine) start() error                         { return e.c.Exec() }
func (e *engine) signal(sig unix.Signal) error         { return e.c.Signal(sig) }
func (e *engine) signalAll(sig unix.Signal) error      { return oci.SignalAll(e.c, sig) }
func (e *engine) pause() error                         { return e.c.Pause() }
func (e *engine) resume() error                        { return e.c.Resume() }
func (e *engine) update(r *specs.LinuxResources) error { return oci.Update(e.c, r) }
func (e *engine) pids() ([]int, error)                 { return e.c.Processes() }

func (e *engine) stats() (*cgroups.Stats, error) {
	s, err := e.c.Stats()
	if err != nil {
		return nil, err
	}
	return s.CgroupStats, nil
}

func (e *engine) cgroups() (map[string]string, error) {
	st, err := e.c.State()
	if err != nil {
		return nil, err
	}
	return st.CgroupPaths, nil
}

// cgroup is the path of the container's cgroup below which an exec can be started, ""
// where that cannot be.
func (e *engine) cgroup() string {
	config := e.c.Config()
	if config.Cgroups == nil || config.Cgroups.Path == "" || !cgroups.IsCgroup2UnifiedMode() {
		return ""
	}
	return filepath.Join(cgroupRoot, config.Cgroups.Path)
}

// sharesPIDs says whether the container has no pid namespace of its own, so that its
// processes do not exit with its init.
func (e *engine) sharesPIDs() bool {
	config := e.c.Config()
	return !config.Namespaces.IsPrivate(configs.NEWPID)
}

// owner is the user and group that root of the container is outside of it.
func (e *engine) owner() (uid, gid int) {
	config := e.c.Config()
	uid, uerr := config.HostRootUID()
	gid, gerr := config.HostRootGID()
	if uerr != nil || gerr != nil {
		return 0, 0
	}
	return uid, gid
}

func (e *engine) destroy() error {
	// libcontainer destroys by the state it last saw.
	if _, err := e.c.Status(); err != nil {
		logger.Warn("refresh state of container", "id", e.c.ID(), "error", err)
	}
	if err := e.c.Destroy(); err != nil && !errors.Is(err, libcontainer.ErrNotExist) {
		return err
	}
	return nil
}
