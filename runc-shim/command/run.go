package command

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"keelson/runc-shim/oci"
	"keelson/runc-shim/reap"
	"keelson/runc-shim/seccomp"
)

// A launch is a process that is to be started in a container.
type launch struct {
	container *libcontainer.Container
	init      bool
	run       bool // start it at once, not only make it wait
	detach    bool
	keep      bool // leave the container when its process has ended
	destroy   bool // remove the container if the start fails
	console   string
	pidfd     string
	pidFile   string
	preserve  int
	cgroups   map[string]string
	subreaper bool
	listenEnv bool
	program   *os.File // of the container's seccomp profile, if the shim compiled that
}

// createFlags are those create and run share.
func createFlags(fs *flag.FlagSet, l *launch) (bundle *string, noPivot, noKeyring, noSubreaper *bool) {
	bundle, noPivot, noKeyring, noSubreaper = new(string), new(bool), new(bool), new(bool)
	stringVar(fs, bundle, "", "path of the bundle (default the working directory)", "bundle", "b")
	fs.StringVar(&l.console, "console-socket", "", "Unix socket that is sent the master end of the terminal")
	fs.StringVar(&l.pidfd, "pidfd-socket", "", "Unix socket that is sent a pidfd of the process")
	fs.StringVar(&l.pidFile, "pid-file", "", "file to write the process id to")
	fs.BoolVar(noPivot, "no-pivot", false, "do not use pivot_root (it does not work on an initramfs root)")
	fs.BoolVar(noKeyring, "no-new-keyring", false, "do not make a session keyring")
	fs.IntVar(&l.preserve, "preserve-fds", 0, "hand on this many descriptors besides stdio")
	fs.BoolVar(noSubreaper, "no-subreaper", false, "do not become a child subreaper")
	return bundle, noPivot, noKeyring, noSubreaper
}

func createVerb(fs *flag.FlagSet, g *globals) func([]string) (int, error) {
	l := &launch{init: true, detach: true}
	bundle, noPivot, noKeyring, _ := createFlags(fs, l)
	return func(args []string) (int, error) {
		return startContainer(g, l, args[0], *bundle, *noPivot, *noKeyring)
	}
}

func runVerb(fs *flag.FlagSet, g *globals) func([]string) (int, error) {
	l := &launch{init: true, run: true}
	bundle, noPivot, noKeyring, noSubreaper := createFlags(fs, l)
	boolVar(fs, &l.detach, "do not wait for the process", "detach", "d")
	fs.BoolVar(&l.keep, "keep", false, "do not delete the container when its process has ended")
	return func(args []string) (int, error) {
		l.subreaper = !*noSubreaper && !l.detach
		return startContainer(g, l, args[0], *bundle, *noPivot, *noKeyring)
	}
}

func startContainer(g *globals, l *launch, id, bundle string, noPivot, noKeyring bool) (int, error) {
	if err := l.absPidFile(); err != nil {
		return -1, err
	}
	if bundle != "" {
		if err := os.Chdir(bundle); err != nil {
			return -1, fmt.Errorf("--bundle: %w", err)
		}
	}
	cwd, err := os.Getwd()
	if err != nil {
		return -1, err
	}
	spec, err := oci.LoadSpec(cwd)
	if err != nil {
		return -1, err
	}
	if id == "" {
		return -1, errors.New("container id cannot be empty")
	}
	l.container, err = oci.Create(oci.Options{
		Root: g.root, ID: id, Bundle: cwd,
		NoPivotRoot: noPivot, NoNewKeyring: noKeyring,
		RootlessCgroups: g.rootlessCgroups(),
	}, spec)
	if err != nil {
		return -1, err
	}
	l.destroy = true
	l.listenEnv = true
	return l.do(spec.Process)
}

func (l *launch) absPidFile() error {
	if l.pidFile == "" {
		return nil
	}
	abs, err := filepath.Abs(l.pidFile)
	l.pidFile = abs
	return err
}

func execVerb(fs *flag.FlagSet, g *globals) func([]string) (int, error) {
	l := &launch{run: true}
	var (
		o       execOptions
		cgPaths stringList
	)
	fs.StringVar(&l.console, "console-socket", "", "Unix socket that is sent the master end of the terminal")
	fs.StringVar(&l.pidfd, "pidfd-socket", "", "Unix socket that is sent a pidfd of the process")
	fs.StringVar(&l.pidFile, "pid-file", "", "file to write the process id to")
	fs.IntVar(&l.preserve, "preserve-fds", 0, "hand on this many descriptors besides stdio")
	boolVar(fs, &l.detach, "do not wait for the process", "detach", "d")
	fs.StringVar(&o.cwd, "cwd", "", "working directory in the container")
	listVar(fs, &o.env, "set an environment variable", "env", "e")
	boolVar(fs, &o.tty, "give the process a terminal", "tty", "t")
	stringVar(fs, &o.user, "", "UID[:GID]", "user", "u")
	listVar(fs, &o.gids, "additional group id", "additional-gids", "g")
	stringVar(fs, &o.process, "", "file with the process as JSON", "process", "p")
	fs.StringVar(&o.label, "process-label", "", "SELinux label")
	fs.StringVar(&o.apparmor, "apparmor", "", "AppArmor profile")
	fs.BoolVar(&o.noNewPrivs, "no-new-privs", false, "set no_new_privs")
	listVar(fs, &o.caps, "add a capability", "cap", "c")
	listVar(fs, &cgPaths, "run in a sub-cgroup: [<controller>:]<path>", "cgroup")
	fs.BoolVar(&o.ignorePaused, "ignore-paused", false, "allow it in a paused container")
	return func(args []string) (int, error) {
		fs.Visit(func(f *flag.Flag) { o.noNewPrivsSet = o.noNewPrivsSet || f.Name == "no-new-privs" })
		status, err := doExec(g, l, &o, cgPaths, args)
		if err != nil {
			return 255, fmt.Errorf("exec failed: %w", err)
		}
		return status, nil
	}
}

func doExec(g *globals, l *launch, o *execOptions, cgPaths []string, args []string) (int, error) {
	if err := l.absPidFile(); err != nil {
		return -1, err
	}
	c, err := g.load(args[0])
	if err != nil {
		return -1, err
	}
	st, err := c.Status()
	if err != nil {
		return -1, err
	}
	switch {
	case st == libcontainer.Stopped:
		return -1, errors.New("cannot exec in a stopped container")
	case st == libcontainer.Paused && !o.ignorePaused:
		return -1, errors.New("cannot exec in a paused container (use --ignore-paused to override)")
	}
	p, err := o.spec(c, args[1:])
	if err != nil {
		return -1, err
	}
	if l.cgroups, err = subCgroups(cgPaths); err != nil {
		return -1, err
	}
	l.container = c
	if l.program, err = program(c); err != nil {
		return -1, err
	}
	return l.do(p)
}

// program returns the program of the seccomp profile of a container that the shim
// made; nil for others.
func program(c *libcontainer.Container) (*os.File, error) {
	config := c.Config()
	if p := config.Seccomp; p == nil || p.DefaultAction != configs.KillProcess || len(p.Syscalls) > 0 {
		return nil, nil // no placeholder
	}
	return seccomp.ProgramOf(config.Labels)
}

// do starts the process and, unless detached, waits for its end.
func (l *launch) do(p *specs.Process) (_ int, err error) {
	defer func() {
		if err != nil && l.destroy {
			if derr := l.container.Destroy(); derr != nil {
				logrus.Warn(derr)
			}
		}
	}()
	switch {
	case l.detach && p.Terminal && l.console == "":
		return -1, errors.New("cannot allocate tty if runc will detach without setting console socket")
	case (!l.detach || !p.Terminal) && l.console != "":
		return -1, errors.New("cannot use console socket if runc will not detach or allocate tty")
	}
	lp, err := oci.NewProcess(p)
	if err != nil {
		return -1, err
	}
	lp.Init = l.init
	lp.LogLevel = strconv.Itoa(int(logrus.GetLevel()))
	lp.SubCgroupPaths = l.cgroups
	if err := l.descriptors(lp); err != nil {
		return -1, err
	}
	if l.pidfd != "" {
		sock, err := dialSocket(l.pidfd)
		if err != nil {
			return -1, fmt.Errorf("--pidfd-socket: %w", err)
		}
		defer sock.Close()
		lp.PidfdSocket = sock
	}
	t, err := l.terminal(lp, p.Terminal)
	if err != nil {
		return -1, err
	}
	defer t.close()
	if l.subreaper {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			logrus.Warn(err)
		}
	}
	var fwd *forwarder
	if !l.detach {
		fwd = forwardSignals()
		defer fwd.stop()
	}
	if l.run {
		err = l.container.Run(lp)
	} else {
		err = l.container.Start(lp)
	}
	if err != nil {
		return -1, err
	}
	abandon := func(err error) (int, error) {
		_ = lp.Signal(unix.SIGKILL)
		_, _ = lp.Wait()
		return -1, err
	}
	if err := t.attach(); err != nil {
		return abandon(err)
	}
	pid, err := lp.Pid()
	if err != nil {
		return abandon(err)
	}
	if l.pidFile != "" {
		if err := writePidFile(l.pidFile, pid); err != nil {
			return abandon(err)
		}
	}
	if l.detach {
		return 0, nil
	}
	fwd.to(lp, t)
	st, werr := lp.Wait()
	if st == nil {
		return -1, fmt.Errorf("wait for process: %w", werr)
	}
	t.drain()
	if l.init && !l.keep {
		if _, err := l.container.Status(); err != nil {
			logrus.Warn(err)
		}
		if err := l.container.Destroy(); err != nil {
			logrus.Warn(err)
		}
	}
	return reap.Status(st), nil
}

// descriptors hands on what socket activation and --preserve-fds ask for.
func (l *launch) descriptors(lp *libcontainer.Process) error {
	next := 3
	if n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS")); l.listenEnv && n > 0 && os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) {
		for range n {
			lp.ExtraFiles = append(lp.ExtraFiles, os.NewFile(uintptr(next), "LISTEN_FD"))
			next++
		}
		lp.Env = append(lp.Env, "LISTEN_FDS="+strconv.Itoa(n), "LISTEN_PID=1")
	}
	for i := range l.preserve {
		fd := next + i
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return fmt.Errorf("--preserve-fds %d: descriptor %d is not open: %w", l.preserve, fd, err)
		}
		lp.ExtraFiles = append(lp.ExtraFiles, os.NewFile(uintptr(fd), "preserved"))
	}
	if l.program != nil {
		lp.ExtraFiles = append(lp.ExtraFiles, l.program)
	}
	return nil
}

func dialSocket(path string) (*os.File, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.File()
}

// writePidFile makes the file appear with its content.
func writePidFile(path string, pid int) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_SYNC, 0o666)
	if err != nil {
		return fmt.Errorf("--pid-file: %w", err)
	}
	_, err = f.WriteString(strconv.Itoa(pid))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("--pid-file: %w", err)
	}
	return nil
}

// execOptions are the flags that describe the process of an exec.
type execOptions struct {
	cwd, user, process, label, apparmor string
	env, gids, caps                     stringList
	tty, noNewPrivs, noNewPrivsSet      bool
	ignorePaused                        bool
}

// spec makes the process: that of a file, or that of the bundle with the
// flags' changes.
func (o *execOptions) spec(c *libcontainer.Container, args []string) (*specs.Process, error) {
	if o.process != "" {
		data, err := os.ReadFile(o.process)
		if err != nil {
			return nil, fmt.Errorf("--process: %w", err)
		}
		p := &specs.Process{}
		if err := json.Unmarshal(data, p); err != nil {
			return nil, fmt.Errorf("--process %s: %w", o.process, err)
		}
		return p, oci.CheckProcess(p)
	}
	if len(args) == 0 {
		return nil, errors.New("exec args cannot be empty")
	}
	bundle, ok := oci.Bundle(c)
	if !ok {
		return nil, errors.New("bundle not found in labels")
	}
	spec, err := oci.LoadSpec(bundle)
	if err != nil {
		return nil, err
	}
	p := spec.Process
	p.Args = args
	p.Env = append(p.Env, o.env...)
	p.Terminal = o.tty
	if o.cwd != "" {
		p.Cwd = o.cwd
	}
	if o.apparmor != "" {
		p.ApparmorProfile = o.apparmor
	}
	if o.label != "" {
		p.SelinuxLabel = o.label
	}
	if o.noNewPrivsSet {
		p.NoNewPrivileges = o.noNewPrivs
	}
	if len(o.caps) > 0 {
		addCapabilities(p, o.caps)
	}
	if err := o.setUser(p); err != nil {
		return nil, err
	}
	return p, oci.CheckProcess(p)
}

func addCapabilities(p *specs.Process, caps []string) {
	if p.Capabilities == nil {
		p.Capabilities = &specs.LinuxCapabilities{}
	}
	c := p.Capabilities
	c.Bounding = append(c.Bounding, caps...)
	c.Effective = append(c.Effective, caps...)
	c.Permitted = append(c.Permitted, caps...)
	// Ambient capabilities need inheritable ones, which --cap does not add.
	if c.Inheritable != nil {
		c.Ambient = append(c.Ambient, caps...)
	}
}

func (o *execOptions) setUser(p *specs.Process) error {
	if o.user != "" {
		uid, gid, both := strings.Cut(o.user, ":")
		n, err := strconv.ParseUint(uid, 10, 32)
		if err != nil {
			return fmt.Errorf("--user %q: not UID[:GID]: %w", o.user, err)
		}
		p.User.UID = uint32(n)
		if both {
			if n, err = strconv.ParseUint(gid, 10, 32); err != nil {
				return fmt.Errorf("--user %q: not UID[:GID]: %w", o.user, err)
			}
			p.User.GID = uint32(n)
		}
	}
	for _, s := range o.gids {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return fmt.Errorf("--additional-gids %q: %w", s, err)
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(n))
	}
	return nil
}

// subCgroups reads --cgroup: one path for cgroup v2, controllers and paths for
// v1.
func subCgroups(args []string) (map[string]string, error) {
	if len(args) == 0 {
		return nil, nil
	}
	paths := map[string]string{}
	for _, a := range args {
		controllers, path, ok := strings.Cut(a, ":")
		if !ok {
			if len(args) != 1 {
				return nil, fmt.Errorf("--cgroup %q: missing <controller>: prefix", a)
			}
			paths[""] = a
			continue
		}
		for c := range strings.SplitSeq(controllers, ",") {
			if c == "" {
				return nil, fmt.Errorf("--cgroup %q: empty <controller> prefix", a)
			}
			if _, dup := paths[c]; dup {
				return nil, fmt.Errorf("--cgroup: controller %s given twice", c)
			}
			paths[c] = path
		}
	}
	return paths, nil
}
