// Package oci turns an OCI bundle into a libcontainer container. It is the one
// place where config.json meets libcontainer.
//
// It promises not to depend on the process's working directory, which the shim
// shares between containers, and it keeps no state of its own.
package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
)

// SpecFile is the name of the runtime-spec file in a bundle.
const SpecFile = "config.json"

// LoadSpec reads and checks config.json of the bundle folder.
func LoadSpec(bundle string) (*specs.Spec, error) {
	path := filepath.Join(bundle, SpecFile)
	data, err := os.ReadFile(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("JSON specification file %s not found", path)
		}
		return nil, err
	}
	spec := &specs.Spec{}
	if err := json.Unmarshal(data, spec); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if spec.Root == nil {
		return nil, fmt.Errorf("%s: root must be specified", path)
	}
	if err := CheckProcess(spec.Process); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return spec, nil
}

// CheckProcess says what a process needs before it can be started and p lacks.
func CheckProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return errors.New("process property must not be empty")
	case p.Cwd == "":
		return errors.New("process.cwd must not be empty")
	case !filepath.IsAbs(p.Cwd):
		return fmt.Errorf("process.cwd must be an absolute path, not %q", p.Cwd)
	case len(p.Args) == 0:
		return errors.New("process.args must not be empty")
	case p.SelinuxLabel != "" && !selinux.GetEnabled():
		return errors.New("process.selinuxLabel is set, but SELinux is disabled or not supported by this kernel")
	}
	return nil
}

// Options are what a caller decides about a container besides its bundle.
type Options struct {
	Root         string // folder of the state directories, one per container
	ID           string
	Bundle       string // absolute path
	NoPivotRoot  bool
	NoNewKeyring bool
	// DefaultOOMScoreAdj is given to a container whose config.json has no
	// oomScoreAdj. Nil lets it inherit that of the shim, which is protected.
	DefaultOOMScoreAdj *int
}

// Create makes the container's state directory and cgroup manager. Nothing
// runs yet. It must be called inside the bundle, see In.
func Create(o Options, spec *specs.Spec) (*libcontainer.Container, error) {
	config, err := Config(o, spec)
	if err != nil {
		return nil, err
	}
	return libcontainer.Create(o.Root, o.ID, config)
}

// Config is the container's configuration as libcontainer has it. It must be called
// inside the bundle, see In.
func Config(o Options, spec *specs.Spec) (*configs.Config, error) {
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName:   o.ID,
		NoPivotRoot:  o.NoPivotRoot,
		NoNewKeyring: o.NoNewKeyring,
		Spec:         spec,
		RootlessEUID: os.Geteuid() != 0,
	})
	if err != nil {
		return nil, err
	}
	if config.OomScoreAdj == nil {
		config.OomScoreAdj = o.DefaultOOMScoreAdj
	}
	return config, nil
}

// In runs f on a thread whose working directory is dir, and that thread's
// alone. The OCI runtime specification resolves relative paths against the
// bundle, libcontainer takes the bundle from getcwd(2), and hooks inherit it;
// a shim with several containers cannot change directory for all of them.
func In(dir string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Not unlocked: the thread has left the shared file system state
		// and ends with this goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- os.NewSyscallError("unshare(CLONE_FS)", err)
			return
		}
		if err := unix.Chdir(dir); err != nil {
			done <- fmt.Errorf("enter bundle: %w", &os.PathError{Op: "chdir", Path: dir, Err: err})
			return
		}
		done <- f()
	}()
	return <-done
}

// NewProcess converts a process of the runtime-spec. The caller sets Init,
// stdio and log level.
func NewProcess(p *specs.Process) (*libcontainer.Process, error) {
	lp := &libcontainer.Process{
		Args:            p.Args,
		Env:             p.Env,
		UID:             int(p.User.UID),
		GID:             int(p.User.GID),
		Cwd:             p.Cwd,
		Label:           p.SelinuxLabel,
		NoNewPrivileges: &p.NoNewPrivileges,
		AppArmorProfile: p.ApparmorProfile,
		Scheduler:       p.Scheduler,
		IOPriority:      p.IOPriority,
	}
	if s := p.ConsoleSize; s != nil {
		lp.ConsoleWidth, lp.ConsoleHeight = uint16(s.Width), uint16(s.Height)
	}
	if c := p.Capabilities; c != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding:    c.Bounding,
			Effective:   c.Effective,
			Inheritable: c.Inheritable,
			Permitted:   c.Permitted,
			Ambient:     c.Ambient,
		}
	}
	for _, g := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	for _, r := range p.Rlimits {
		kind, err := rlimitType(r.Type)
		if err != nil {
			return nil, err
		}
		lp.Rlimits = append(lp.Rlimits, configs.Rlimit{Type: kind, Hard: r.Hard, Soft: r.Soft})
	}
	aff, err := configs.ConvertCPUAffinity(p.ExecCPUAffinity)
	if err != nil {
		return nil, fmt.Errorf("process.execCPUAffinity: %w", err)
	}
	lp.CPUAffinity = aff
	return lp, nil
}

var rlimits = map[string]int{
	"RLIMIT_CPU":        unix.RLIMIT_CPU,
	"RLIMIT_FSIZE":      unix.RLIMIT_FSIZE,
	"RLIMIT_DATA":       unix.RLIMIT_DATA,
	"RLIMIT_STACK":      unix.RLIMIT_STACK,
	"RLIMIT_CORE":       unix.RLIMIT_CORE,
	"RLIMIT_RSS":        unix.RLIMIT_RSS,
	"RLIMIT_NPROC":      unix.RLIMIT_NPROC,
	"RLIMIT_NOFILE":     unix.RLIMIT_NOFILE,
	"RLIMIT_MEMLOCK":    unix.RLIMIT_MEMLOCK,
	"RLIMIT_AS":         unix.RLIMIT_AS,
	"RLIMIT_LOCKS":      unix.RLIMIT_LOCKS,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_MSGQUEUE":   unix.RLIMIT_MSGQUEUE,
	"RLIMIT_NICE":       unix.RLIMIT_NICE,
	"RLIMIT_RTPRIO":     unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME":     unix.RLIMIT_RTTIME,
}

func rlimitType(name string) (int, error) {
	kind, ok := rlimits[name]
	if !ok {
		return 0, fmt.Errorf("process.rlimits: unknown type %q (see getrlimit(2))", name)
	}
	return kind, nil
}
