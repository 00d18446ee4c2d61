package supervise

import (
	"context"
	"io"
	"maps"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/api"
	"keelson/internal/bundle"
	"keelson/internal/console"
	"keelson/internal/policy"
	"keelson/services/control"
	"keelson/services/lifecycle"
	"keelson/services/logs"
	"keelson/services/resources"
	"keelson/services/roster"
	"keelson/services/task"
)

// known is what the machine's sockets may look at while the boot goes on.
type known struct {
	clients  *clients
	roster   atomic.Pointer[roster.Roster]
	stopping atomic.Bool
}

// sessionDir is where the pipes of processes are that were started with exec.
func (s *Supervisor) sessionDir() string { return filepath.Join(s.cfg.RunDir, "exec") }

// know gives the sockets something to look at.
func (s *Supervisor) know() {
	s.known.clients = &clients{containers: s.cfg.Containers, bundles: s.bundles, services: func() []*bundle.Bundle {
		if r := s.known.roster.Load(); r != nil {
			return r.Bundles()
		}
		return nil
	}}
}

// openControl begins to answer on the control socket. A machine without it runs on.
func (s *Supervisor) openControl() {
	_, err := control.Listen(control.Config{
		Socket:   filepath.Join(s.cfg.RunDir, filepath.Base(api.Socket)),
		Services: s.controlServices,
		Machine:  s.machine, Boot: s.bootTimes,
		Figures: func(cgroup string) (api.Figures, error) {
			return resources.Read(filepath.Join(resources.Root, cgroup))
		},
		Tail: s.tail, Logs: logs.Handler(s.logs), Events: s.hub,
		Power: func(action string) error {
			s.machineAction(policy.Action(action), "asked for on the control socket")
			return nil
		},
		Audit:  s.audit,
		Exec:   s.execIn,
		Client: s.known.clients.of, Grant: s.grant,
		Refused: func(container, text string) {
			if strings.Contains(container, " ") { // of no container of the image, or of several
				container = "keelson"
			}
			s.con.Warn(container, "refused on the control socket: %s (keelson.control)", text)
		},
		Warn: func(format string, a ...any) { s.con.Warn("keelson", format, a...) },
	})
	if err != nil {
		s.con.Error("keelson", "%v: the machine runs, but cannot be asked", err)
	}
	if s.resumed {
		go s.tasks.EndSessions(s.sessionDir())
	}
}

// controlServices returns a nil interface until the boot has come to the services.
func (s *Supervisor) controlServices() control.Services {
	if r := s.known.roster.Load(); r != nil {
		return r
	}
	return nil
}

// happened passes an event on, and notes it if it belongs to the boot.
func (s *Supervisor) happened(e api.Event) {
	s.times.note(e)
	s.hub.Publish(e)
}

// tail returns the last lines that a service wrote.
func (s *Supervisor) tail(name string, lines int) []string {
	var tail []string
	_ = s.logs.Read(context.Background(), logs.Query{Sources: []string{name}, Last: lines}, func(r logs.Record) error {
		if !r.Gap {
			tail = append(tail, string(r.Text))
		}
		return nil
	}) // there may be no log of it yet
	return tail
}

func (s *Supervisor) machine() api.Machine {
	m := api.Machine{Version: version(), Now: console.Now(), State: "booting", Containers: s.containersMayTake(), Parts: s.parts.Status()}
	if !s.cfg.Container {
		m.Watchdog = s.dog.String()
		m.Modules = s.modulesState()
	}
	if s.progress.Done("complete") {
		m.State = "running"
	}
	if s.known.stopping.Load() {
		m.State = "stopping"
	}
	if r := s.known.roster.Load(); r != nil {
		for _, svc := range r.All() {
			m.Services++
			switch lifecycle.State(svc.State) {
			case lifecycle.Ready:
				m.Ready++
			case lifecycle.Failed:
				m.Failed++
			}
		}
	}
	return m
}

// version is that of the program's module.
func version() string {
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "unknown"
}

func (s *Supervisor) bootTimes() api.Boot {
	t := s.times.times()
	b := api.Boot{InitStart: s.cfg.InitStart, InitDone: s.cfg.InitDone, Complete: t.Complete, Steps: t.Steps, Services: []api.BootService{}}
	if b.Steps == nil {
		b.Steps = []api.Step{}
	}
	r := s.known.roster.Load()
	for _, name := range slices.Sorted(maps.Keys(t.Services)) {
		svc := t.Services[name]
		if r != nil {
			if info, ok := r.Info(name); ok {
				svc.After, svc.Requires = info.After, info.Requires
			}
		}
		b.Services = append(b.Services, svc)
	}
	return b
}

// execIn starts a process in the container of a running service, as the container's
// own process is started but for what was asked otherwise.
func (s *Supervisor) execIn(ctx context.Context, svc api.Service, r control.ExecRequest) (control.Process, error) {
	b, err := bundle.Load(bundle.Services, svc.Image)
	if err != nil {
		return nil, err
	}
	p, err := s.tasks.Process(b)
	if err != nil {
		return nil, err
	}
	p.Args, p.Terminal, p.ConsoleSize = r.Args, r.TTY, nil
	if r.TTY && r.Rows > 0 && r.Cols > 0 {
		// Before its start: a program looks at the size of its terminal first of all.
		p.ConsoleSize = &specs.Box{Height: uint(r.Rows), Width: uint(r.Cols)}
	}
	p.Env = append(slices.Clone(p.Env), r.Env...)
	if r.Cwd != "" {
		p.Cwd = r.Cwd
	}
	session, err := s.tasks.StartSession(ctx, task.SessionConfig{
		Namespace: svc.Namespace, Container: b.ID, PID: svc.PID, Process: p, Stdin: r.Stdin, Dir: s.sessionDir(),
	})
	if err != nil {
		return nil, err
	}
	return execProcess{session}, nil
}

// hardening is what a service's container is hardened with.
func (s *Supervisor) hardening(b *bundle.Bundle) *api.Hardening {
	_, added, _ := s.tasks.Walls.Harden(b) // a start that fails reports what is wrong
	h := &api.Hardening{Level: string(s.tasks.Walls.Level(b.Walls()))}
	for _, a := range added {
		h.Added = append(h.Added, string(a))
	}
	return h
}

// execProcess is a session as the control socket wants it: what is not there is nil.
type execProcess struct{ s *task.Session }

func (p execProcess) Stdin() io.Writer {
	if f := p.s.Stdin(); f != nil {
		return f
	}
	return nil
}

func (p execProcess) Stdout() io.Reader { return p.s.Stdout() }

func (p execProcess) Stderr() io.Reader { return p.s.Stderr() }

func (p execProcess) CloseStdin(ctx context.Context) error { return p.s.CloseStdin(ctx) }
func (p execProcess) Resize(ctx context.Context, rows, cols uint16) error {
	return p.s.Resize(ctx, rows, cols)
}
func (p execProcess) Signal(ctx context.Context, sig unix.Signal) error { return p.s.Signal(ctx, sig) }
func (p execProcess) Wait(ctx context.Context) (int, error)             { return p.s.Wait(ctx) }
func (p execProcess) Close()                                            { p.s.Close() }
