package task

import (
	"errors"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/beneath"
	"keelson/internal/bundle"
	"keelson/internal/policy"
	"keelson/services/notify"
)

// Notifies reports whether a service says itself how it is, and so gets a socket
// to say it on.
func Notifies(p policy.Service) bool {
	return p.Ready.Kind == policy.ProbeNotify || p.Health.Check.Kind == policy.ProbeNotify
}

// NotifyFolder is where a service's socket lies on the machine. The folder is
// what the container gets: a supervisor that comes back makes a new socket in it.
func (r *Runtime) NotifyFolder(b *bundle.Bundle) string {
	return filepath.Join(r.NotifyDir, b.Name)
}

// notifyMount is what the folder is called in the container, below a directory
// that can be written to when the container is made.
const notifyMount = "keelson-notify"

// withNotify adds to a container's configuration what sd_notify(3) and
// sd_watchdog_enabled(3) look for: the socket's folder and the variables that name it.
func withNotify(s *specs.Spec, p policy.Service, folder string) {
	parent := "/run"
	for _, dir := range []string{"/dev", "/run"} {
		// Nothing has to be made in the image where there is a fresh tmpfs; the
		// image may be read-only all the way down.
		if slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "tmpfs" && path.Clean(m.Destination) == dir }) {
			parent = dir
			break
		}
	}
	at := path.Join(parent, notifyMount)
	s.Mounts = append(slices.Clone(s.Mounts), specs.Mount{
		Destination: at, Source: folder, Type: "bind",
		Options: []string{"bind", "ro", "nosuid", "nodev", "noexec"}, // a socket is written to all the same
	})
	set := map[string]string{"NOTIFY_SOCKET": path.Join(at, notify.SocketName)}
	if p.Health.Check.Kind == policy.ProbeNotify {
		set["WATCHDOG_USEC"] = strconv.FormatInt(p.Health.Interval.Microseconds(), 10)
	}
	process := *s.Process
	process.Env = slices.DeleteFunc(slices.Clone(process.Env), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return name == "NOTIFY_SOCKET" || name == "WATCHDOG_USEC" || name == "WATCHDOG_PID"
	})
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC"} {
		if value, ok := set[name]; ok {
			process.Env = append(process.Env, name+"="+value)
		}
	}
	s.Process = &process
}

// makeNotifyFolder sees to it that there is something to bind, even where the
// socket could not be made.
func (r *Runtime) makeNotifyFolder(b *bundle.Bundle) error {
	all, err := beneath.Make(r.NotifyDir, 0o700)
	if err != nil {
		return err
	}
	defer all.Close()
	if err := all.Mkdir(b.Name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	own, err := all.Sub(b.Name) // a directory, and no link to one
	if err != nil {
		return err
	}
	return own.Close()
}
