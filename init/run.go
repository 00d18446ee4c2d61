package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"keelson/init/boot"
	"keelson/init/cgroups"
	"keelson/init/children"
	"keelson/init/kernel"
	"keelson/init/lifecycle"
	"keelson/init/shutdown"
	"keelson/init/watchdog"
	"keelson/internal/console"
	"keelson/internal/cputime"
	"keelson/internal/hold"
)

const (
	service     = "/usr/bin/service"
	defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// supervisorOOM keeps the kernel from choosing the supervisor when memory
	// runs out; the bundles' own value counts for containers.
	supervisorOOM = "-999"
)

// pid1 is the event loop. All of it belongs to the main goroutine.
type pid1 struct {
	kernel  kernel.Calls
	console *console.Console
	boot    boot.Result
	signals signals
	machine *lifecycle.Machine
	dog     *watchdog.Holder
	pause   func(time.Duration) // after a panic

	started  time.Duration   // of PID 1, since the kernel's start
	launched time.Duration   // of the first supervisor
	settle   time.Time       // when to do what can wait; zero once done
	look     time.Time       // when to look at the supervisor
	dying    int             // the supervisor that was about to end at the last look
	busy     *cputime.Sample // what it had had of the processors at the last look, where that found no beat
	hold     []int           // the pair that keeps the supervisor's open files and brings its beats; empty if it cannot be had
}

// run supervises until the machine ends. It returns in a container, and where
// the kernel would not end the machine.
func (p *pid1) run() {
	p.machine = lifecycle.New(p.boot.Options.ShutdownTimeout)
	p.dog = &watchdog.Holder{}
	if p.boot.Machine {
		var err error
		if p.dog, err = watchdog.New(p.kernel); err != nil {
			p.console.Warn(name, "%v", err)
		}
	}
	p.guarded(func() { p.handle(lifecycle.Boot{}) })
	p.signals.watchAll()
	p.settle = time.Now().Add(settleAfter)
	p.look = time.Now().Add(lookEvery) // not before the boot has given the groups their options
	if p.machine.State() != lifecycle.Running || boot.Full(p.kernel, p.boot.Root) {
		p.settle = time.Now()
	}
	for p.machine.State() != lifecycle.Done {
		p.guarded(p.turn)
	}
	for _, fd := range p.hold {
		_ = unix.Close(fd) // what it holds lies on file systems that are to be unmounted
	}
	go p.sayUnderWay()
	end := shutdown.End{
		Kernel: p.kernel, Console: p.console, Clock: systemClock{}, Kind: p.machine.Kind(),
		Machine: p.boot.Machine, Container: p.boot.Container, Children: p.signals.children,
		StopWatchdog: p.dog.Stop, Supervisor: p.machine.Pid(),
	}
	if !p.boot.Container {
		end.Terminals = console.Devices(p.boot.Cmdline)
	}
	if !p.guarded(end.Run) && !p.boot.Container {
		p.guarded(end.Last)
	}
}

// turn waits for one thing and deals with it.
func (p *pid1) turn() {
	var timer <-chan time.Time
	at, ok := p.machine.Wake()
	if !p.settle.IsZero() && (!ok || p.settle.Before(at)) {
		at, ok = p.settle, true
	}
	if !ok || p.look.Before(at) {
		at, ok = p.look, true
	}
	if ok {
		t := time.NewTimer(time.Until(at))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-p.signals.children:
		p.reap()
	case s := <-p.signals.stops:
		if sig, ok := s.(syscall.Signal); ok && lifecycle.KindOf(sig) != lifecycle.None {
			p.handle(lifecycle.Stop{Signal: sig})
		}
	case <-timer:
		p.settled()
		p.handle(lifecycle.Tick{})
		p.lookAtSupervisor(time.Now())
	}
}

// lookEvery is how often PID 1 looks at the supervisor.
const lookEvery = 10 * time.Second

// lookAtSupervisor finds one that was killed and does not end: a thread of it waits in
// the kernel, for a disk that does not answer, so that it is not to be reaped. The next
// one need not wait for that. Nothing tells of it, so it is looked for, and believed
// when it is seen twice. A stop has a bound of its own.
func (p *pid1) lookAtSupervisor(now time.Time) {
	if now.Before(p.look) {
		return
	}
	late := now.Sub(p.look) > lookEvery/2
	p.look = now.Add(lookEvery)
	if p.boot.Cgroup != "" && cgroups.Restore(p.kernel) {
		p.console.Warn(name, "a container mounted cgroup2 and so took options of it away from the whole machine: put back")
	}
	was := p.dying
	p.dying = 0
	pid := p.machine.Pid()
	if pid == 0 {
		return
	}
	p.checkBeat(pid, late)
	if p.machine.Kind() != lifecycle.None || p.machine.Pid() != pid {
		return
	}
	status, err := p.kernel.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	switch {
	case err != nil || !children.Dying(string(status)):
	case was == pid:
		p.handle(lifecycle.Lost{})
	default:
		p.dying = pid
	}
}

// checkBeat looks whether the supervisor has shown that it goes round. A look that comes
// late says nothing: the machine was paused, or has no time even for PID 1.
func (p *pid1) checkBeat(pid int, late bool) {
	if len(p.hold) == 0 {
		return
	}
	before := p.busy
	p.busy = nil
	if hold.Beaten(p.hold[0]) {
		p.handle(lifecycle.Look{Beat: true, Since: lookEvery})
		return
	}
	now, err := cputime.Of(p.kernel, pid)
	if err != nil {
		return // it is about to be reaped
	}
	p.busy = &now
	if !late {
		p.handle(lifecycle.Look{Worked: before == nil || cputime.Worked(*before, now, lookEvery), Since: lookEvery})
	}
}

// settleAfter puts what can wait behind the machine's start.
const settleAfter = 2 * time.Second

// settled does what can wait, once: reading the whole kernel log takes longer
// than all of the boot so far. A root that is full, or has no supervisor that
// starts, is reason enough to do it at once.
func (p *pid1) settled() {
	if p.settle.IsZero() || time.Now().Before(p.settle) {
		return
	}
	p.settle = time.Time{}
	for _, line := range boot.Incomplete(p.kernel, p.boot.Root) {
		p.console.Error(name, "%s", line)
	}
	reserveThreads()
}

func (p *pid1) reap() {
	left := children.Reap(p.kernel, func(pid int, st syscall.WaitStatus) {
		if pid == p.machine.Pid() {
			p.handle(lifecycle.Ended{Status: st})
		}
	})
	if left == children.Many {
		p.signals.again()
	}
}

// handle gives an event to the state machine and does what follows.
func (p *pid1) handle(e lifecycle.Event) {
	ending := p.machine.Kind() != lifecycle.None
	step, err := p.machine.Next(e, time.Now())
	if err != nil {
		p.console.Error(name, "%v", err)
		return
	}
	if !ending && p.machine.Kind() != lifecycle.None && p.boot.Machine {
		go p.watchTheEnd()
	}
	switch {
	case step.Say == "":
	case step.Level == lifecycle.Error:
		p.console.Error(name, "%s", step.Say)
	case step.Level == lifecycle.Warning:
		p.console.Warn(name, "%s", step.Say)
	default:
		p.console.Line(name, "%s", step.Say)
	}
	switch step.Order {
	case lifecycle.Launch:
		p.handle(p.launch())
	case lifecycle.Terminate:
		p.signalSupervisor(syscall.SIGTERM)
	case lifecycle.Abort:
		p.signalSupervisor(syscall.SIGABRT)
		p.signalSupervisor(syscall.SIGCONT)
	case lifecycle.Kill:
		p.signalSupervisor(syscall.SIGKILL)
	case lifecycle.Nothing, lifecycle.Finish: // run sees to the end
	}
}

func (p *pid1) signalSupervisor(sig syscall.Signal) {
	if err := p.kernel.Kill(p.machine.Pid(), sig); err != nil {
		p.console.Error(name, "%s to the supervisor: %v", lifecycle.SignalName(sig), err)
	}
}

// endBound is what PID 1's own part of the end may take: the sum of the bounds of
// package shutdown, and some swap.
const endBound = 2 * time.Minute

// watchTheEnd feeds the hardware watchdog from the moment a stop is asked for.
// The end has its own bounds; should they fail, the watchdog resets the machine.
func (p *pid1) watchTheEnd() {
	defer func() { _ = recover() }()
	if left := p.dog.Keep(systemClock{}, p.boot.Options.ShutdownTimeout+endBound); left > 0 {
		p.console.Error(name, "the end of the machine hangs: the hardware watchdog resets it in %s", left)
	}
}

// launch starts the supervisor and returns what came of it.
func (p *pid1) launch() lifecycle.Event {
	if p.launched == 0 {
		p.console.Flush(bannerFlush) // our first line before the supervisor's
		p.launched = console.Now()
		if in, out, err := hold.Pair(); err == nil {
			p.hold = []int{in, out}
		}
	} else if p.boot.Cgroup != "" {
		_ = cgroups.Prepare(p.kernel) // somebody may have removed it
	}
	prog := kernel.Program{Path: service, Args: []string{service, "supervise"}, Env: p.environment(os.Environ()), Cgroup: p.boot.Cgroup}
	if !p.boot.Container {
		prog.Console = "/dev/console"
	}
	if len(p.hold) > 0 {
		prog.Files = p.hold
		prog.Env = append(prog.Env, hold.Env+"=3,4")
	}
	if files, dog := p.dog.Give(3 + len(prog.Files)); dog != "" {
		prog.Files = slices.Concat(prog.Files, files)
		prog.Env = append(prog.Env, watchdog.Variable+"="+dog)
	}
	pid, err := p.kernel.Start(prog)
	if err != nil {
		return lifecycle.StartFailed{Err: fmt.Errorf("%s: %w", service, err)}
	}
	if p.boot.Machine {
		_ = p.kernel.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", supervisorOOM)
	}
	return lifecycle.Started{Pid: pid}
}

// bannerFlush is what the boot waits for a console at most.
const bannerFlush = 5 * time.Millisecond

// environment is the kernel's, which holds what it did not know on its command
// line, with what the supervisor is to know of the boot.
func (p *pid1) environment(inherited []string) []string {
	env := make([]string, 0, len(inherited)+4)
	path := defaultPath
	for _, v := range inherited {
		switch {
		case strings.HasPrefix(v, "KEELSON_"):
			continue
		case strings.HasPrefix(v, "PATH="):
			path = v
		default:
			env = append(env, v)
		}
	}
	env = append(env, path,
		"KEELSON_INIT_START="+strconv.FormatInt(int64(p.started), 10),
		"KEELSON_INIT_DONE="+strconv.FormatInt(int64(p.launched), 10))
	if p.boot.Container {
		env = append(env, "KEELSON_CONTAINER=1")
	}
	if k := p.machine.Kind(); k != lifecycle.None {
		env = append(env, "KEELSON_STOP="+k.String())
	}
	return env
}

// guarded runs f, outlives a panic in it, and tells whether there was none.
func (p *pid1) guarded(f func()) (whole bool) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		whole = false
		p.console.Error(name, "panic in PID 1, going on: %v", v)
		if p.machine.State() == lifecycle.Launching {
			_, _ = p.machine.Next(lifecycle.StartFailed{Err: fmt.Errorf("panic: %v", v)}, time.Now())
		}
		p.pause(panicPause)
	}()
	f()
	return true
}

// panicPause keeps a panic that comes back from using up the CPU.
const panicPause = 100 * time.Millisecond

// sayUnderWay answers stop signals once the end has begun.
func (p *pid1) sayUnderWay() {
	defer func() { _ = recover() }()
	for s := range p.signals.stops {
		if sig, ok := s.(syscall.Signal); ok && lifecycle.KindOf(sig) != lifecycle.None {
			p.console.Line(name, "%s asked for; %s is under way", lifecycle.KindOf(sig), p.machine.Kind())
		}
	}
}

// remain reaps for ever: PID 1 must not end, even where the kernel would not
// end the machine.
func (p *pid1) remain() {
	for {
		<-p.signals.children
		children.Reap(p.kernel, nil)
	}
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }
