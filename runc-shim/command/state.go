package command

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/opencontainers/runtime-spec/specs-go"

	"keelson/runc-shim/oci"
	"keelson/runc-shim/version"
)

// containerState is the state as runc prints it.
type containerState struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

func stateOf(c *libcontainer.Container) (*containerState, error) {
	status, err := c.Status()
	if err != nil {
		return nil, err
	}
	st, err := c.State()
	if err != nil {
		return nil, err
	}
	s := &containerState{
		Version: st.Config.Version,
		ID:      st.ID,
		Pid:     st.InitProcessPid,
		Status:  status.String(),
		Rootfs:  st.Config.Rootfs,
		Created: st.Created,
	}
	s.Bundle, s.Annotations = utils.Annotations(st.Config.Labels)
	if status == libcontainer.Stopped {
		s.Pid = 0
	}
	return s, nil
}

func stateVerb(fs *flag.FlagSet, g *globals) func([]string) (int, error) {
	return func(args []string) (int, error) {
		c, err := g.load(args[0])
		if err != nil {
			return -1, err
		}
		s, err := stateOf(c)
		if err != nil {
			return -1, err
		}
		data, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			return -1, err
		}
		_, err = os.Stdout.Write(data)
		return 0, err
	}
}

func listVerb(fs *flag.FlagSet, g *globals) func([]string) (int, error) {
	var format string
	var quiet bool
	stringVar(fs, &format, "table", "table or json", "format", "f")
	boolVar(fs, &quiet, "print ids only", "quiet", "q")
	return func([]string) (int, error) {
		list, err := g.list()
		if err != nil {
			return -1, err
		}
		switch {
		case quiet:
			for _, s := range list {
				fmt.Println(s.ID)
			}
			return 0, nil
		case format == "json":
			return 0, json.NewEncoder(os.Stdout).Encode(list)
		case format == "table":
			w := tabwriter.NewWriter(os.Stdout, 12, 1, 3, ' ', 0)
			fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
			for _, s := range list {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.Pid, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
			}
			return 0, w.Flush()
		default:
			return -1, fmt.Errorf("--format %q: neither table nor json", format)
		}
	}
}

func (g *globals) list() ([]*containerState, error) {
	entries, err := os.ReadDir(g.root)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) && !g.rootSet {
			return nil, nil // nothing was ever created
		}
		return nil, err
	}
	var out []*containerState
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		c, err := libcontainer.Load(g.root, e.Name())
		if err != nil {
			fmt.Fprintf(os.Stderr, "load container %s: %v\n", e.Name(), err)
			continue
		}
		s, err := stateOf(c)
		if err != nil {
			fmt.Fprintf(os.Stderr, "state of %s: %v\n", e.Name(), err)
			continue
		}
		s.Owner = owner(filepath.Join(g.root, e.Name()))
		out = append(out, s)
	}
	return out, nil
}

func owner(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return ""
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	uid := strconv.Itoa(int(sys.Uid))
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return "#" + uid
}

func startVerb(fs *flag.FlagSet, g *globals) func([]string) (int, error) {
	return func(args []string) (int, error) {
		c, err := g.load(args[0])
		if err != nil {
			return -1, err
		}
		status, err := c.Status()
		if err != nil {
			return -1, err
		}
		switch status {
		case libcontainer.Created:
			return 0, c.Exec()
		case libcontainer.Stopped:
			return -1, errors.New("cannot start a container that has stopped")
		case libcontainer.Running:
			return -1, errors.New("cannot start an already running container")
		default:
			return -1, fmt.Errorf("cannot start a container in the %s state", status)
		}
	}
}

func killVerb(fs *flag.FlagSet, g *globals) func([]string) (int, error) {
	var all bool
	boolVar(fs, &all, "signal every process of the container", "all", "a")
	return func(args []string) (int, error) {
		name := "SIGTERM"
		if len(args) > 1 {
			name = args[1]
		}
		sig, err := oci.ParseSignal(name)
		if err != nil {
			return -1, err
		}
		c, err := g.load(args[0])
		if err != nil {
			return -1, err
		}
		if all {
			return 0, oci.SignalAll(c, sig)
		}
		return 0, c.Signal(sig)
	}
}

func deleteVerb(fs *flag.FlagSet, g *globals) func([]string) (int, error) {
	var force bool
	boolVar(fs, &force, "kill the container if it still runs", "force", "f")
	return func(args []string) (int, error) {
		id := args[0]
		if force {
			return 0, oci.ForceDelete(g.root, id)
		}
		c, err := g.load(id)
		if err != nil {
			return -1, err
		}
		status, err := c.Status()
		if err != nil {
			return -1, err
		}
		switch status {
		case libcontainer.Stopped:
			return 0, c.Destroy()
		case libcontainer.Created:
			return 0, oci.Kill(c)
		default:
			return -1, fmt.Errorf("cannot delete container %s that is not stopped: %s", id, status)
		}
	}
}

func pauseVerb(fs *flag.FlagSet, g *globals) func([]string) (int, error) {
	return func(args []string) (int, error) {
		c, err := g.load(args[0])
		if err != nil {
			return -1, err
		}
		return 0, c.Pause()
	}
}

func resumeVerb(fs *flag.FlagSet, g *globals) func([]string) (int, error) {
	return func(args []string) (int, error) {
		c, err := g.load(args[0])
		if err != nil {
			return -1, err
		}
		return 0, c.Resume()
	}
}

func psVerb(fs *flag.FlagSet, g *globals) func([]string) (int, error) {
	var format string
	stringVar(fs, &format, "table", "table or json", "format", "f")
	return func(args []string) (int, error) {
		c, err := g.load(args[0])
		if err != nil {
			return -1, err
		}
		pids, err := c.Processes()
		if err != nil {
			return -1, err
		}
		switch format {
		case "json":
			return 0, json.NewEncoder(os.Stdout).Encode(pids)
		case "table":
			return 0, psTable(pids, args[1:])
		default:
			return -1, fmt.Errorf("--format %q: neither table nor json", format)
		}
	}
}

// psTable prints the lines of ps(1) that are about pids.
func psTable(pids []int, args []string) error {
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	out, err := exec.Command("ps", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s (--format json needs no ps)", err, out)
	}
	head, lines, _ := strings.Cut(string(out), "\n")
	column := slices.Index(strings.Fields(head), "PID")
	if column < 0 {
		return errors.New("couldn't find PID field in ps output")
	}
	fmt.Println(head)
	for line := range strings.Lines(lines) {
		fields := strings.Fields(line)
		if len(fields) <= column {
			continue
		}
		pid, err := strconv.Atoi(fields[column])
		if err != nil {
			return fmt.Errorf("unable to parse pid: %w", err)
		}
		if slices.Contains(pids, pid) {
			fmt.Print(line)
		}
	}
	return nil
}

func specVerb(fs *flag.FlagSet, g *globals) func([]string) (int, error) {
	var bundle string
	var rootless bool
	stringVar(fs, &bundle, "", "path of the bundle", "bundle", "b")
	fs.BoolVar(&rootless, "rootless", false, "for a rootless container")
	return func([]string) (int, error) {
		spec := specconv.Example()
		if rootless {
			specconv.ToRootless(spec)
		}
		data, err := json.MarshalIndent(spec, "", "\t")
		if err != nil {
			return -1, err
		}
		path := filepath.Join(bundle, oci.SpecFile)
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if errors.Is(err, os.ErrExist) {
			return -1, fmt.Errorf("file %s exists, remove it first", path)
		}
		if err != nil {
			return -1, err
		}
		_, err = f.Write(data)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		return 0, err
	}
}

func printVersion(w io.Writer) {
	fmt.Fprintln(w, "runc version", version.Runc())
	fmt.Fprintln(w, "spec:", specs.Version)
	fmt.Fprintln(w, "go:", runtime.Version())
	if major, minor, micro := seccomp.Version(); major+minor+micro > 0 {
		fmt.Fprintf(w, "libseccomp: %d.%d.%d\n", major, minor, micro)
	}
	fmt.Fprintln(w, "keelson:", version.Keelson())
}
