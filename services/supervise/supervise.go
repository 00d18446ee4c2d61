// Package supervise owns the supervisor: it brings the machine up after PID 1,
// keeps the services running, and takes them down when PID 1 asks it to.
//
// It promises that it may die at any moment: what it needs to go on is in
// containerd and under /run/keelson, so its successor takes over running tasks,
// keeps their process numbers and repeats no step of the boot. It must never
// end a task because it does not know it, and never wait without a bound.
package supervise

import (
	"context"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/api"
	"keelson/internal/beneath"
	"keelson/internal/bundle"
	"keelson/internal/console"
	"keelson/internal/garbage"
	"keelson/internal/hugepages"
	"keelson/internal/modules"
	"keelson/internal/pidfd"
	"keelson/internal/policy"
	"keelson/internal/power"
	"keelson/internal/prepare"
	"keelson/internal/rtsignal"
	"keelson/internal/safepath"
	"keelson/internal/uevent"
	"keelson/internal/workshop"
	"keelson/services/autoload"
	"keelson/services/capture"
	"keelson/services/ceiling"
	"keelson/services/daemon"
	"keelson/services/events"
	"keelson/services/logs"
	"keelson/services/parts"
	"keelson/services/resources"
	"keelson/services/roster"
	"keelson/services/runner"
	"keelson/services/store"
	"keelson/services/task"
	"keelson/services/watchdog"
)

// Config is where things are. Paths are absolute.
type Config struct {
	Containers string // the image's containers
	RunDir     string // the supervisor's own files
	LogDir     string // services' logs
	OneShotLog string // one-shots' logs
	CgroupRoot string // where cgroup2 is mounted, "" on cgroup v1
	Cmdline    string // the kernel's command line
	// StopKind is set where PID 1 is already stopping the machine: an earlier
	// supervisor died on the way down.
	StopKind string
	// Container is set where the machine is itself a container, whose kernel,
	// clock and network belong to somebody else.
	Container bool
	// InitStart and InitDone are when PID 1 began and when it started the
	// supervisor, since the machine's start.
	InitStart, InitDone time.Duration
}

// DefaultConfig is the configuration of a booted machine, from the environment
// PID 1 gives.
func DefaultConfig() Config {
	c := Config{
		Containers: "/containers",
		RunDir:     "/run/keelson",
		LogDir:     "/var/log",
		OneShotLog: "/run/log",
		StopKind:   os.Getenv("KEELSON_STOP"),
		Container:  os.Getenv("KEELSON_CONTAINER") != "",
		InitStart:  envTime("KEELSON_INIT_START"),
		InitDone:   envTime("KEELSON_INIT_DONE"),
	}
	if data, err := os.ReadFile("/proc/cmdline"); err == nil {
		c.Cmdline = strings.TrimSpace(string(data))
	}
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		c.CgroupRoot = "/sys/fs/cgroup"
	}
	return c
}

// openConsole opens what people read: a container's is its standard output, as the
// command line is that of somebody else's machine.
func openConsole(cfg Config) *console.Console {
	if cfg.Container {
		return console.New("/proc/self/fd/1")
	}
	return console.Machine(cfg.Cmdline)
}

func envTime(name string) time.Duration {
	n, err := strconv.ParseInt(os.Getenv(name), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(n)
}

// Supervisor is the state of one supervisor process.
type Supervisor struct {
	cfg      Config
	con      *console.Console
	words    words
	logs     *logs.Store
	logging  logging
	logBytes int64 // of memory that logs may take
	capture  *capture.System
	hub      *events.Hub // what happens, for whoever follows it
	times    *timeline   // when the boot did what
	known    known
	limits   *limits
	ceiling  ceiling.Limits // what all containers together may take
	dog      *watchdog.Dog
	bundles  *bundle.Reader // of the image
	tasks    *task.Runtime
	parts    *parts.Set // containerd and the shims
	keeper   *daemon.Keeper
	progress *progress
	roster   *roster.Roster // every service; nil until the boot has come to them
	resumed  bool           // an earlier supervisor of this boot has been here
	modules  *modules.Index
	autoload *autoload.Log    // who makes the kernel load modules; nil in a container
	events   *uevent.Listener // nil where the kernel's device events cannot be had
	failed   map[string]bool  // scripts of the image that could not be run, or failed
	garbage  *garbage.Postponed
	buttons  *power.Buttons // open before anybody is told that the boot is complete; nil in a container

	mu    sync.Mutex
	acted bool // a machine action was asked for, guarded by mu
}

// containerd's places. Root and state are on a tmpfs: nothing of a task
// outlives the boot, and a disk mounted over /var/lib/containerd disturbs nothing.
const (
	containerdBinary = "/usr/bin/containerd"
	containerdSocket = "/run/containerd/containerd.sock"
	containerdRoot   = "/run/containerd/root"
	containerdState  = "/run/containerd/state"
	runcState        = "/run/containerd/runc"
	runtimeConfig    = "/etc/containerd/runtime-config.toml"
)

// Run is the supervisor's life: it returns its exit code, 0 after an orderly
// stop that PID 1 asked for with SIGTERM.
func Run(cfg Config) int {
	// Everything here can be had again; memory in use by services cannot.
	collection := garbage.Postpone(50)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM)
	// Caught by nobody rather than ignored: what is ignored stays so in every
	// program started from here, down to the containers.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE, unix.SIGHUP, unix.SIGINT)

	hands := watchdog.FromEnv()
	_ = rtsignal.Default() // PID 1 ignores them, and that is inherited
	lean := hugepages.Refuse()

	s := &Supervisor{cfg: cfg, con: openConsole(cfg), hub: events.New(console.Now), failed: map[string]bool{}, bundles: &bundle.Reader{}, garbage: collection}
	s.routeLog()
	if lean != nil {
		s.con.Warn("keelson", "the supervisor takes more memory than it needs: %v", lean)
	}
	var err error
	if s.resumed, err = resume(cfg.RunDir, bootID(cfg)); err != nil {
		s.con.Warn("keelson", "%v", err)
	}
	s.startLogging()
	writeStacksOnAbort(cfg.RunDir)
	s.beat()
	s.progress = openProgress(filepath.Join(cfg.RunDir, "boot.json"),
		func(format string, a ...any) { s.con.Warn("keelson", format, a...) })
	s.know()
	s.openMemlogd()
	s.times = openTimeline(filepath.Join(cfg.RunDir, "timeline.json"), console.Now,
		func(format string, a ...any) { s.con.Warn("keelson", format, a...) })
	s.limits = openLimits(cfg.RunDir, s.con.Warn, s.hub.Publish)
	if s.resumed {
		s.readScripts()
	}
	s.limitContainers()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := s.startContainerd(ctx); err != nil {
		s.con.Error("keelson", "%v", err)
		s.con.Flush(2 * time.Second)
		return 1
	}

	s.guardMemory(ctx)
	s.dog = s.newDog(hands)
	s.known.stopping.Store(cfg.StopKind != "")
	if !s.cfg.Container {
		s.watchAutoload(ctx)
	}
	s.openControl()

	// SIGTERM ends the boot where it stands, then everything else in order.
	bootCtx, stopBoot := context.WithCancel(ctx)
	booted := make(chan struct{})
	go func() {
		defer close(booted)
		if cfg.StopKind != "" {
			s.loadServices(ctx)
			return
		}
		s.boot(bootCtx, ctx)
	}()
	if cfg.StopKind == "" {
		s.watch(ctx, signals)
	}
	go s.beatOn(ctx)
	s.known.stopping.Store(true)
	s.hub.Publish(api.Event{Kind: "machine", To: "stopping"})
	stopBoot()
	<-booted
	s.shutdown(ctx)
	s.capture.Flush(2 * time.Second)
	s.endLogging()
	s.con.Flush(2 * time.Second)
	return 0
}

// watch is what the supervisor's own goroutine does while the machine runs: it
// waits for the signal to stop, and shows the watchdog and PID 1 that it goes round.
func (s *Supervisor) watch(ctx context.Context, stop <-chan os.Signal) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // from the stop on PID 1 feeds it
	go s.dog.Run(ctx)
	beats := time.NewTicker(beatEvery)
	defer beats.Stop()
	for {
		select {
		case <-stop:
			return
		case <-s.dog.Beats():
		case <-beats.C:
			s.beat()
		}
	}
}

// startContainerd begins to keep containerd, if there is anything for it to run.
func (s *Supervisor) startContainerd(ctx context.Context) error {
	needed := false
	for _, section := range []bundle.Section{bundle.Onboot, bundle.Services, bundle.Onshutdown} {
		dirs, err := bundle.List(s.cfg.Containers, section)
		needed = needed || err != nil || len(dirs) > 0
	}
	s.watchParts(ctx)
	client, err := task.Dial(containerdSocket, s.parts.Doubt)
	if err != nil {
		return err
	}
	shimCgroup := ""
	if s.ownCgroup("shim", 16<<20) != "" {
		shimCgroup = task.ShimCgroup
	}
	rc, err := daemon.ReadRuntimeConfig(runtimeConfig)
	if err != nil {
		s.con.Warn("containerd", "%v", err)
	}
	var stdout, stderr *os.File
	if needed {
		stdout, stderr = s.daemonOutput(rc)
	}
	var shop *workshop.Workshop
	if needed {
		shop = s.workshop()
	}
	s.keeper = daemon.New(daemon.Config{
		Workshop: shop,
		Binary:   containerdBinary, Options: s.words.containerdOptions(rc.Options()),
		Address: containerdSocket, Root: containerdRoot, State: containerdState,
		CgroupDir: s.ownCgroup("containerd", 24<<20),
		Frugal:    s.ceiling.Little(),
		PIDFile:   s.containerdFile(),
		Stdout:    stdout, Stderr: stderr,
		BeforeStart: func() { s.tasks.SaveExits() },
		Answers:     func(pid int) { s.watchContainerd(ctx, pid) },
		Info:        func(format string, a ...any) { s.con.Line("containerd", format, a...) },
		Warn:        func(format string, a ...any) { s.con.Warn("containerd", format, a...) },
	})
	walls, err := task.MachineWalls(s.cfg.Cmdline)
	if err != nil && !s.resumed {
		s.con.Warn("keelson", "%v", err)
	}
	s.tasks = &task.Runtime{
		Walls:  walls,
		Client: client, StateDir: containerdState, RuncState: runcState, CgroupRoot: s.cfg.CgroupRoot, ShimCgroup: shimCgroup,
		ShimLingers: ownShim(),
		Workshop:    shop,
		Ready: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, containerdBound)
			defer cancel()
			return s.keeper.Ready(ctx)
		},
		Answering: func(ctx context.Context, needs func([]string) bool) error {
			ctx, cancel := context.WithTimeout(ctx, hungBound)
			defer cancel()
			return s.parts.Answering(ctx, needs)
		},
		Writers:   sync.OnceValue(s.writers),
		Prepare:   s.loadFor,
		NotifyDir: filepath.Join(s.cfg.RunDir, "notify"), ExecDir: filepath.Join(s.cfg.RunDir, "probes"),
		Pids: s.ceiling.Pids, Limits: resources.NewWatcher(), OnHit: s.limits.hit, OnEnd: s.limits.ended,
	}
	if !needed {
		s.con.Line("keelson", "no containers in %s: containerd is not started", s.cfg.Containers)
		return nil
	}
	began := console.Now()
	go s.keeper.Run(ctx)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, containerdBound)
		defer cancel()
		s.times.step("containerd", began, s.keeper.Ready(ctx))
	}()
	return nil
}

// containerdFile is where containerd's process is remembered.
func (s *Supervisor) containerdFile() string { return filepath.Join(s.cfg.RunDir, "containerd.json") }

// workshop opens the mount namespace that containers are made in.
func (s *Supervisor) workshop() (shop *workshop.Workshop) {
	if s.resumed {
		defer func() {
			if err := shop.Do(prepare.Unpin); err != nil {
				s.con.Warn("keelson", "%v", err)
			}
		}()
	}
	if s.cfg.Container {
		return nil // its mounts are somebody else's
	}
	var process pidfd.Identity
	_, err := store.Load(s.containerdFile(), &process)
	if p, gone := pidfd.OpenSame(process); err != nil || gone != nil {
		process.PID = 0
	} else {
		defer p.Close()
	}
	var private []string
	for _, section := range []bundle.Section{bundle.Onboot, bundle.Services, bundle.Onshutdown} {
		dir := filepath.Join(s.cfg.Containers, string(section))
		if _, err := os.Stat(dir); err == nil {
			private = append(private, dir)
		}
	}
	shop, err = workshop.Open(s.logging.kept, process.PID, private...)
	if err != nil {
		s.con.Warn("keelson", "containers are made in the machine's mount namespace, and start the slower the more of them there are: %v", err)
	}
	return shop
}

// writers finds out what the services of the image can write on the machine.
func (s *Supervisor) writers() *safepath.Writers {
	var all []*bundle.Bundle
	for _, section := range []bundle.Section{bundle.Onboot, bundle.Services, bundle.Onshutdown} {
		dirs, _ := bundle.List(s.cfg.Containers, section) // an error is reported where they are run
		for _, dir := range dirs {
			b, _ := s.bundles.Load(section, dir) // what is wrong with one keeps it from being started
			all = append(all, b)
		}
	}
	return safepath.WritersOf(all)
}

// ownShim reports whether the image's shim is ours: then its name is a link to our
// file, which another shim replaces.
func ownShim() bool {
	to, err := os.Readlink("/usr/bin/containerd-shim-runc-v2")
	return err == nil && filepath.Base(to) == "runc-shim"
}

// containerdBound is how long a single start waits for containerd.
const containerdBound = 60 * time.Second

// hungBound is how long a single start waits for who hangs: longer than it takes to find
// that out and to start it again, unless the kernel does not let it exit.
const hungBound = 3 * time.Minute

// ownPipes is where the pipes of what is no container are: no container has a name
// that begins with a dot.
const ownPipes = ".keelson"

// daemonOutput returns what containerd writes to: where runtime-config.toml
// says, or else a pipe whose lines go to a file and to the console.
func (s *Supervisor) daemonOutput(rc daemon.RuntimeConfig) (stdout, stderr *os.File) {
	files := map[string]*os.File{}
	var pipes []capture.Source
	for name, path := range map[string]string{"stdout": rc.Stdout, "stderr": rc.Stderr} {
		if filepath.IsAbs(path) {
			f, err := beneath.Machine.Writable(path, 0o644)
			if err == nil {
				files[name] = f
				continue
			}
			s.con.Warn("containerd", "%s: %s: %v", runtimeConfig, name, err)
		}
		pipes = append(pipes, capture.Source{
			Name: "containerd", Stream: name, Pipe: filepath.Join(s.cfg.RunDir, "io", ownPipes, "containerd", name),
			File:   filepath.Join(s.cfg.LogDir, "containerd."+name+".log"),
			OnLine: func(line string) { s.con.Output("containerd", line) },
			Warn:   func(format string, a ...any) { s.con.Warn("containerd", format, a...) },
		})
	}
	streams, err := s.capture.OpenAll(pipes...)
	for i, stream := range streams {
		f, failed := os.OpenFile(stream.Path(), os.O_RDWR, 0)
		if failed != nil {
			err = failed
			continue
		}
		files[pipes[i].Stream] = f
	}
	if err != nil {
		s.con.Warn("containerd", "output of it goes nowhere: %v", err)
	}
	return files["stdout"], files["stderr"]
}

// ownCgroup makes a cgroup beside the supervisor's, with that much memory
// spared from reclaim, and returns its folder; "" where there is none, as in a
// container, whose cgroups are somebody else's.
func (s *Supervisor) ownCgroup(name string, memoryMin int) string {
	if s.cfg.CgroupRoot == "" || s.cfg.Container {
		return ""
	}
	dir := filepath.Join(s.cfg.CgroupRoot, "keelson", name)
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		s.con.Warn("keelson", "make the cgroup of %s: %v", name, err)
		return ""
	}
	// Without the memory controller there is nothing to protect it with.
	_ = os.WriteFile(filepath.Join(dir, "memory.min"), []byte(strconv.Itoa(memoryMin)), 0)
	return dir
}

// loadServices begins to keep every service of the image.
func (s *Supervisor) loadServices(ctx context.Context) {
	dirs, err := bundle.List(s.cfg.Containers, bundle.Services)
	if err != nil {
		s.con.Error("keelson", "%v", err)
	}
	cfg := runner.Config{
		Tasks: s.tasks, Console: s.con, MemoryDir: filepath.Join(s.cfg.RunDir, "services"), Now: console.Now, After: time.After,
		Jitter:     func() float64 { return 2*rand.Float64() - 1 },
		Act:        s.machineAction,
		Resumed:    s.resumed,
		Leaving:    s.cfg.StopKind != "",
		OpenOutput: s.serviceOutput,
		Events:     s.happened,
		OOMKills:   s.limits.oomKills,
		Hardening:  s.hardening,
		Probe:      look,
		Notify:     s.listen,
	}
	s.tasks.ClearExecs()
	var loaded []roster.Loaded
	var warnings []roster.Warning
	for _, dir := range dirs {
		b, err := s.bundles.Load(bundle.Services, dir)
		loaded = append(loaded, roster.Loaded{Bundle: b, Err: err})
		for _, text := range b.Warnings {
			warnings = append(warnings, roster.Warning{Service: b.Name, Text: text})
		}
	}
	services, wrong := roster.New(cfg, s.queues(), loaded)
	if !s.progress.Done("services") && !cfg.Leaving {
		for _, w := range append(warnings, wrong...) {
			s.con.Warn(w.Service, "%s", w.Text)
		}
	}
	s.roster = services
	s.known.roster.Store(services)
	services.Run(ctx)
}

// serviceOutput opens a service's logs.
func (s *Supervisor) serviceOutput(b *bundle.Bundle) (runner.Output, error) {
	var onLine func(string)
	if b.Service.Console || s.words.runcConsole {
		onLine = func(line string) { s.con.Output(b.Name, line) }
	}
	return s.openOutput(b, filepath.Join(s.cfg.LogDir, b.Name), b.Service.LogDrop, onLine)
}

// machineAction asks PID 1 for the end of the machine, in the way its own
// signals say. The first one counts.
func (s *Supervisor) machineAction(a policy.Action, why string) {
	sig, ok := map[policy.Action]unix.Signal{
		policy.ActionHalt: unix.SIGUSR1, policy.ActionPoweroff: unix.SIGUSR2, policy.ActionReboot: unix.SIGTERM,
	}[a]
	if !ok {
		return
	}
	s.mu.Lock()
	first := !s.acted
	s.acted = true
	s.mu.Unlock()
	if !first {
		return
	}
	s.con.Line("keelson", "%s: %s", a, why)
	if err := unix.Kill(1, sig); err != nil {
		s.con.Error("keelson", "ask PID 1 to %s: %v", a, err)
	}
}
