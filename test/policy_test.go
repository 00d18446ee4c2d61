//go:build vm

package test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson/internal/api"
	"keelson/internal/qemu"
)

// control is the supervisor's socket, as the agent sees it.
const control = "/proc/1/root" + api.Socket

// status is what the supervisor says of a service.
func (m *vm) status(name string) (s api.Service) {
	m.t.Helper()
	text, err := m.Output(m.ctx, "guestagent", "http", "GET", control, "/v1/services/"+name)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		m.t.Fatalf("%s: %v\n%s", name, err, text)
	}
	return s
}

// is waits until a service is in a state.
func (m *vm) is(name, state string) (s api.Service) {
	m.t.Helper()
	for {
		if s = m.status(name); s.State == state {
			return s
		}
		select {
		case <-m.ctx.Done():
			m.t.Fatalf("%s does not become %s: %+v", name, state, s)
		case <-time.After(poll):
		}
	}
}

// healthy waits until a service is ready and its last check went well.
func (m *vm) healthy(name string) (s api.Service) {
	m.t.Helper()
	m.until(name+" is healthy", func() bool {
		s = m.status(name)
		return s.State == "ready" && s.Health != nil && s.Health.State == "healthy"
	})
	return s
}

// request has a service stopped, started or restarted.
func (m *vm) request(name, what string) {
	m.t.Helper()
	if output, err := m.Output(m.ctx, "guestagent", "http", "POST", control, "/v1/services/"+name+"/"+what); err != nil {
		m.t.Fatalf("%s %s: %v %s", what, name, err, output)
	}
}

// goes lets something happen to a service.
func (m *vm) goes(name string) {
	m.t.Helper()
	m.sh("touch /proc/1/root/run/go/" + name)
}

// TestPolicy has a service for each row of the policy table.
func TestPolicy(t *testing.T) {
	t.Parallel()
	// What mkimage refuses: a cycle, and a service that is not there.
	lone := func(name, annotations string) []file {
		dir := "containers/services/" + name
		return []file{
			folder(dir), folder(dir + "/rootfs"), folder(dir + "/rootfs/proc"), folder(dir + "/rootfs/bin"), folder(dir + "/rootfs/dev"), text(dir+"/runtime.json", `{}`),
			text(dir+"/config.json", `{"ociVersion":"1.0.2","process":{"args":["/bin/sleep","7654321"],"cwd":"/","user":{"uid":0,"gid":0}},"root":{"path":"rootfs"},
				"mounts":[{"destination":"/dev","type":"tmpfs","source":"tmpfs"},{"destination":"/proc","type":"proc","source":"proc"},{"destination":"/bin","type":"bind","source":"/containers/onboot/000-folder/lower/bin","options":["rbind","ro"]}],
				"linux":{"namespaces":[{"type":"pid"},{"type":"mount"}]},"annotations":{`+annotations+`}}`),
		}
	}
	var files []file
	files = append(files, lone("chicken", `"keelson.after":"egg"`)...)
	files = append(files, lone("egg", `"keelson.requires":"chicken"`)...)
	files = append(files, lone("lost", `"keelson.requires":"nobody"`)...)
	m := boot(t, setup{file: "policy.yml", agent: true, files: files, Config: qemu.Config{MemoryMB: 1024},
		swap: map[string]string{"init:\n  - keelson/init\n": "init:\n  - keelson/init\n  - keelson/ctr\n"}})
	if err := m.AwaitAgent(m.ctx); err != nil { // the boot is complete only when all are ready
		t.Fatal(err)
	}

	t.Run("Restart", m.restartRows)
	t.Run("Order", m.orderRows)
	t.Run("Ready", m.readyRows)
	t.Run("Health", m.healthRows)
	t.Run("Supervisor", m.supervisorRows)
	t.Run("Stop", m.stopRows)
	t.Run("Forgotten", m.forgottenRows)
}

func (m *vm) restartRows(t *testing.T) {
	m = m.in(t)
	// The delays double up to the last, give or take a tenth.
	delay := regexp.MustCompile(`restart (\d) in (\S+)$`)
	for i, want := range []time.Duration{200, 400, 800, 1600, 1600} {
		line := m.await(fmt.Sprintf(`always .*exited with code 0 .*restart %d in`, i+1))
		got, err := time.ParseDuration(delay.FindStringSubmatch(line)[2])
		if want *= time.Millisecond; err != nil || got < want*85/100 || got > want*115/100 {
			t.Errorf("restart %d is in %v, want %v: %v", i+1, got, want, err)
		}
	}
	m.await(`always .*restarted 5 times within 10m(0s)? \(keelson.restart.limit`)
	if s := m.is("always", "failed"); s.Restarts != 5 || s.LastExit == nil || s.LastExit.Code != 0 {
		t.Errorf("always: %+v", s)
	}
	if s := m.is("done", "stopped"); s.Restarts != 0 {
		t.Errorf("done: %+v", s)
	}
	if s := m.is("failing", "failed"); s.Restarts != 1 || s.LastExit == nil || s.LastExit.Code != 3 {
		t.Errorf("failing: %+v", s)
	}
	if s := m.is("never", "failed"); s.Restarts != 0 {
		t.Errorf("never: %+v", s)
	}
	m.await(`never .*exited with code 1 .*not restarted \(keelson.restart: never\)`)
	m.await(`no-start .*failed to start.*restart 1 in (2[5-9]|3[0-4])\dms`)
	if s := m.is("no-start", "failed"); s.Restarts != 1 {
		t.Errorf("no-start: %+v", s)
	}
	// Restarts that the window of the limit has left behind do not count.
	var s api.Service
	m.until("seldom-enough has been restarted three times", func() bool {
		s = m.status("seldom-enough")
		return s.Restarts == 3 || s.State == "failed"
	})
	if s.State == "failed" {
		t.Errorf("seldom-enough: %+v", s)
	}
	// A person may start what has failed.
	from := m.Console.Len()
	m.sh("guestagent http POST " + control + " /v1/services/failing/start || true")
	m.awaitFrom(from, `failing .*exited with code 3`)
}

func (m *vm) orderRows(t *testing.T) {
	m = m.in(t)
	if s := m.is("db", "running"); s.PID == 0 || s.ReadyAt != 0 {
		t.Errorf("db has not opened its port and is %+v", s)
	}
	for name, want := range map[string]string{"app": "db (running)", "front": "app (waiting)", "needs-never": "never (failed)"} {
		if s := m.is(name, "waiting"); len(s.WaitingFor) != 1 || s.WaitingFor[0] != want || s.PID != 0 {
			t.Errorf("%s waits for %q, want %s", name, s.WaitingFor, want)
		}
	}
	m.await(`needs-never .*waits for never \(failed\)`)
	m.is("after-never", "ready")
	m.goes("db")
	m.is("db", "ready")
	m.is("app", "running") // it serves, but not the page
	if s := m.status("front"); s.State != "waiting" {
		t.Errorf("front: %+v", s)
	}
	m.goes("app")
	app := m.is("app", "ready")
	front := m.is("front", "ready")
	if app.ReadyAt > front.StartedAt {
		t.Errorf("front was started at %v, app was ready at %v", front.StartedAt, app.ReadyAt)
	}
	// With the required one goes the other; what is only ordered after it stays.
	m.kill(m.status("db").PID, syscall.SIGKILL)
	m.until("app runs anew", func() bool { s := m.status("app"); return s.State == "ready" && s.PID != app.PID })
	db := m.is("db", "ready")
	if s := m.status("app"); s.StartedAt < db.ReadyAt {
		t.Errorf("app was started at %v, before db was ready at %v", s.StartedAt, db.ReadyAt)
	}
	if s := m.status("front"); s.PID != front.PID {
		t.Errorf("front was restarted: %+v", s)
	}
	// A person stops db: app goes first, and waits.
	from := m.Console.Len()
	m.request("db", "stop")
	m.is("db", "stopped")
	m.is("app", "waiting")
	app1, next, err := m.Console.Await(m.ctx, from, `app .*stopped in`)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Console.Await(m.ctx, next, `db .*stopped in`); err != nil {
		t.Errorf("db was not stopped after %q: %v", app1, err)
	}
	m.request("db", "start")
	m.is("app", "ready")

	// Wrong in the machine: said, and no obstacle.
	m.await(`warning: .*keelson\.(after|requires).*(chicken -> egg -> chicken|egg -> chicken -> egg)`)
	m.await(`warning: .*keelson\.requires.*nobody`)
	for _, name := range []string{"chicken", "egg", "lost"} {
		m.is(name, "ready")
	}
}

func (m *vm) readyRows(t *testing.T) {
	m = m.in(t)
	for _, name := range []string{"says-so", "command", "file", "line"} {
		if s := m.is(name, "running"); s.ReadyAt != 0 {
			t.Errorf("%s is ready before it is: %+v", name, s)
		}
		m.goes(name)
		m.is(name, "ready")
	}
	m.is("mapped", "ready")
	if s := m.status("says-so"); s.Status != "serving on all floors" {
		t.Errorf("says-so says %q", s.Status)
	}
	if s := m.status("front"); s.Ready != "started" || s.ReadyAt == 0 {
		t.Errorf("front: %+v", s)
	}
	// The socket is in those containers only that use it.
	for name, want := range map[string]bool{"says-so": true, "front": false} {
		environ := m.sh(fmt.Sprintf("tr '\\0' '\\n' </proc/%d/environ", m.status(name).PID))
		mounts := m.read(fmt.Sprintf("/proc/%d/mountinfo", m.status(name).PID))
		if got := strings.Contains(environ, "NOTIFY_SOCKET="); got != want || strings.Contains(mounts, "keelson-notify") != want {
			t.Errorf("%s: a socket in the environment: %v\n%s", name, got, mounts)
		}
	}
	// Who is not of the container is not believed, though he be root and reach the socket.
	m.sh("NOTIFY_SOCKET=/proc/1/root/run/keelson/notify/silent/notify guestagent notify -barrier READY=1 STATUS=forged")
	m.await(`silent .*warning: .*is ignored, which is not one of the container's`)
	m.sh("NOTIFY_SOCKET=/proc/1/root/run/keelson/notify/silent/notify guestagent notify READY=1 STATUS=forged")
	m.sh("NOTIFY_SOCKET=/proc/1/root/run/keelson/notify/silent/notify guestagent notify -barrier X=1")
	if s := m.status("silent"); s.State != "running" || s.Status != "" {
		t.Errorf("silent: %+v", s)
	}
	// Without keelson.console nothing of its output is on the console.
	m.lacks("| almost accepting")
	// A readiness that never comes is a failed start.
	m.await(`not-ready .*ERROR: not ready within 3s: connect 127\.0\.0\.1:9: connection refused`)
	if s := m.is("not-ready", "failed"); s.Restarts != 1 || s.PID != 0 {
		t.Errorf("not-ready: %+v", s)
	}
}

func (m *vm) healthRows(t *testing.T) {
	m = m.in(t)
	// All of this has its own clock: that of the machine may be set meanwhile.
	m.sh("date -s '2031-01-01 00:00:00'")
	defer m.sh("date -s '2001-01-01 00:00:00'")
	// Each is made ill, killed for it and restarted, and is well again.
	for name, ill := range map[string]func(pid int){
		"page": func(pid int) { m.sh(fmt.Sprintf("rm /proc/%d/root/w/page", pid)) },
		"port": func(int) {
			m.kill(m.program(0, "httpd", "-p", "7001").PID, syscall.SIGKILL)
		},
		"check":    func(int) { m.goes("check-ill") },
		"watchdog": func(int) { m.goes("trigger") },
	} {
		was := m.healthy(name)
		from := m.Console.Len()
		ill(was.PID)
		line := m.awaitFrom(from, name+` .*ERROR: unhealthy: `)
		if want := map[string]string{
			"page": "404 Not Found", "port": "connect 127.0.0.1:7001: connection refused",
			"check": "exited with code 5: the disk is on fire", "watchdog": "WATCHDOG=trigger",
		}[name]; !strings.Contains(line, want) {
			t.Errorf("%s: %q, want %q", name, line, want)
		}
		m.sh("rm -f /proc/1/root/run/go/check-ill /proc/1/root/run/go/trigger")
		if now := m.healthy(name); now.PID == was.PID || now.Restarts == 0 {
			t.Errorf("%s was not restarted: %+v, %+v", name, was, now)
		}
	}
	m.await(`page .*warning: health check 1 of 2 failed: .*404`)
	// A hanging check is cut; one that ignores SIGTERM is killed for it all the same.
	m.await(`hangs .*ERROR: unhealthy: http:7002/ failed twice, the last time: no answer within 1s`)
	m.is("hangs", "failed")
	m.await(`quiet .*ERROR: unhealthy: notify failed twice, .*has not said WATCHDOG=1 for 2s`)
	m.is("quiet", "failed")
	// Within its grace a failure does not count. The command that was cut is gone, with its child.
	var s api.Service
	m.until("a check hangs", func() bool {
		s = m.status("check-hangs")
		return s.Health != nil && strings.Contains(s.Health.Reason, "no answer within 2s")
	})
	if s.State != "ready" || s.Restarts != 0 || s.Health.Failures != 0 {
		t.Errorf("check-hangs: %+v", s)
	}
	if s := m.is("graced", "failed"); s.LastExit == nil || s.LastExit.Ran < 3*time.Second {
		t.Errorf("graced: %+v", s)
	}
	if s := m.status("seldom"); s.State != "ready" || s.Restarts != 0 || s.Health == nil || s.Health.At != 0 {
		t.Errorf("seldom is checked once an hour: %+v", s)
	}
	m.oneCheckAtMost()
}

// oneCheckAtMost waits until at most one of the commands runs that check-hangs is checked with.
func (m *vm) oneCheckAtMost() {
	m.t.Helper()
	m.until("one hanging check at most", func() bool {
		children := 0
		for _, p := range m.processes() {
			if p.State != "Z" && len(p.Argv) == 2 && p.Argv[1] == "1234567" {
				children++
			}
		}
		return children <= 1
	})
}

func (m *vm) supervisorRows(t *testing.T) {
	m = m.in(t)
	m.request("after-never", "stop")
	m.sh("guestagent http POST " + control + " /v1/services/deaf/stop >/dev/null 2>&1 &") // answered when it has stopped
	m.is("deaf", "stopping")
	m.await(`deaf .*\| asked once`) // a second time would be its end
	names := []string{"always", "failing", "never", "later", "deaf", "seldom", "db", "app", "front", "needs-never", "after-never", "says-so", "silent", "extends", "line", "not-ready", "page", "watchdog", "hangs", "own"}
	before := map[string]api.Service{}
	for _, name := range names {
		before[name] = m.status(name)
	}
	m.healthy("check")
	from := m.Console.Len()
	m.goes("check-ill") // it happens around the restart, and is not forgotten
	old := m.supervisor(0)
	m.kill(old.PID, syscall.SIGKILL)
	m.supervisor(old.PID)
	m.awaitFrom(from, `own .*still running`)
	m.awaitFrom(from, `check .*ERROR: unhealthy`)
	m.sh("rm /proc/1/root/run/go/check-ill")
	for _, name := range names {
		was := before[name]
		now := m.is(name, was.State)
		if now.PID != was.PID || now.Restarts != was.Restarts || now.StartedAt != was.StartedAt || now.ReadyAt != was.ReadyAt || now.RetryAt != was.RetryAt {
			t.Errorf("%s: was %+v\nis %+v", name, was, now)
		}
	}
	if s := m.status("says-so"); s.Status != "serving on all floors" {
		t.Errorf("says-so says %q", s.Status)
	}
	// Who was asked to stop is stopped, also where that took two supervisors.
	from = m.Console.Len()
	m.kill(m.status("deaf").PID, syscall.SIGKILL)
	m.is("deaf", "stopped")
	m.awaitFrom(from, `deaf .*stopped in`)
	if s := m.status("later"); s.State != "backoff" || s.Restarts != 1 || s.RetryAt == 0 {
		t.Errorf("later: %+v", s)
	}
	// The sockets are the new supervisor's.
	m.until("watchdog is heard", func() bool {
		s := m.status("watchdog")
		return s.Health != nil && s.Health.At > before["watchdog"].Health.At && s.Health.State == "healthy"
	})
	// A check that was under way is not left behind.
	m.oneCheckAtMost()
	// Without containerd a command cannot be run, which is not the service's fault.
	was := m.healthy("check")
	daemon := m.containerd(0)
	m.kill(daemon.PID, syscall.SIGKILL)
	m.containerd(daemon.PID)
	m.until("check is healthy with a new containerd", func() bool {
		s := m.status("check")
		return s.Health != nil && s.Health.At > was.Health.At && s.Health.State == "healthy"
	})
	if now := m.status("check"); now.Restarts != was.Restarts {
		t.Errorf("check: was %+v\nis %+v", was, now)
	}
}

func (m *vm) stopRows(t *testing.T) {
	m = m.in(t)
	// What asked for more time to be ready still has it, long after its keelson.ready.timeout.
	if s := m.is("extends", "running"); s.Restarts != 0 {
		t.Errorf("extends: %+v", s)
	}
	m.goes("extends")
	m.is("extends", "ready")
	m.request("interrupted", "stop")
	m.await(`interrupted .*\| asked with INT`)
	m.await(`interrupted .*stopped in .*exited with code 0`)
	m.request("labelled", "stop")
	m.await(`labelled .*\| asked with USR1`)
	m.request("stubborn", "stop")
	m.await(`stubborn .*warning: has not stopped 1s after SIGTERM: killed`)
	m.is("stubborn", "stopped")
	m.request("stubborn", "start")
	m.is("stubborn", "ready")
	// A shim of its own outlives the death of the shared one.
	own := m.status("own")
	if shims := m.shims(); len(shims) != 2 {
		t.Errorf("%d shims, want the shared one and one more", len(shims))
	}
	parent := 0
	for _, p := range m.processes() {
		if p.PID == own.PID {
			parent = p.Parent
		}
	}
	for _, shim := range m.shims() {
		if shim.PID != parent {
			m.kill(shim.PID, syscall.SIGKILL)
		}
	}
	// The agent was in that one too. It had been well for long, so it is started again at once.
	m.await(`agent .*(killed by SIGKILL|exit code was lost).*; restart 1 in 0s`)
	if err := m.AwaitAgent(m.ctx); err != nil {
		t.Fatal(err)
	}
	if now := m.status("own"); now.PID != own.PID || now.State != "ready" {
		t.Errorf("own: was %+v\nis %+v", own, now)
	}
}

// forgottenRows takes away what containerd knows, and what the supervisor does.
func (m *vm) forgottenRows(t *testing.T) {
	m = m.in(t)
	ctr := func(argv ...string) error {
		result, err := m.ExecIn(m.ctx, 1, append([]string{"/usr/bin/ctr", "-n", "services.linuxkit"}, argv...)...)
		if err == nil && result.Exit != 0 {
			err = fmt.Errorf("ctr %s: %s%s", argv, result.Stdout, result.Stderr)
		}
		return err
	}
	// A container that somebody else removes has ended, and comes back.
	was := m.is("own", "ready")
	from := m.Console.Len()
	// What of this fails has been done by the supervisor, which was quicker.
	_ = ctr("task", "rm", "--force", "own")
	_ = ctr("container", "rm", "own")
	m.awaitFrom(from, `own .*(killed by SIGKILL|exit code was lost).*; restart \d+ in`)
	m.until("own is back", func() bool { s := m.status("own"); return s.State == "ready" && s.PID != was.PID })
	// The same while the supervisor does not look.
	was = m.is("own", "ready")
	from = m.Console.Len()
	supervisor := m.supervisor(0).PID
	m.kill(supervisor, syscall.SIGSTOP)
	for _, argv := range [][]string{{"task", "kill", "--signal", "SIGKILL", "own"}, {"task", "rm", "--force", "own"}, {"container", "rm", "own"}} {
		if err := ctr(argv...); err != nil {
			t.Error(err)
		}
	}
	m.kill(supervisor, syscall.SIGCONT)
	m.awaitFrom(from, `own .*(killed by SIGKILL|exit code was lost).*; restart \d+ in`)
	m.until("own is back", func() bool { s := m.status("own"); return s.State == "ready" && s.PID != was.PID })

	// A folder that containerd left behind, of a task that it does not know, is in nobody's way.
	m.request("own", "stop")
	m.is("own", "stopped")
	m.sh("mkdir -p /proc/1/root/run/containerd/state/io.containerd.runtime.v2.task/services.linuxkit/own/rootfs")
	m.request("own", "start")
	m.is("own", "ready")

	// What the supervisor remembers is damaged: that is said, and what runs goes on.
	for _, name := range []string{"says-so", "file"} {
		m.goes(name)
		m.is(name, "ready")
	}
	m.healthy("page")
	names := []string{"says-so", "page", "file", "own"}
	before := m.pids(names...)
	damaged := []string{"boot.json", "timeline.json", "services/says-so.json", "services/page.json", "services/file.json"}
	for _, name := range damaged {
		if err := m.WriteFile(m.ctx, "/run/keelson/"+name, `{"state":"fai`); err != nil {
			t.Fatal(err)
		}
	}
	// Of one of them containerd, too, knows nothing any more.
	m.sh("rm -r /proc/1/root/run/containerd/state/io.containerd.runtime.v2.task/services.linuxkit/page")
	from = m.Console.Len()
	daemon := m.containerd(0).PID
	m.kill(daemon, syscall.SIGKILL)
	m.kill(supervisor, syscall.SIGKILL)
	m.containerd(daemon)
	m.supervisor(supervisor)
	for _, name := range names {
		m.awaitFrom(from, name+` .*still running`)
	}
	for _, name := range damaged {
		m.awaitFrom(from, `warning: read /run/keelson/`+name+`: .*set aside as /run/keelson/`+name+`\.corrupt`)
		if data := m.read("/run/keelson/" + name + ".corrupt"); data != `{"state":"fai` {
			t.Errorf("%s was set aside as %q", name, data)
		}
	}
	for _, name := range names {
		m.is(name, "ready")
	}
	if now := m.pids(names...); fmt.Sprint(now) != fmt.Sprint(before) {
		t.Errorf("processes before %v, after %v", before, now)
	}
	for _, line := range m.Console.Lines(from) {
		if strings.Contains(line, "onboot") || strings.Contains(line, "boot complete") {
			t.Errorf("the boot was repeated: %q", line)
		}
	}
	if err := ctr("task", "ps", "page"); err == nil {
		t.Error("containerd knows page")
	}
	// What runc still has of it is in nobody's way.
	from = m.Console.Len()
	m.request("page", "restart")
	m.awaitFrom(from, `page .*ready in`)
	m.healthy("page")
	failed := regexp.MustCompile(`^ *[\d.]+ +page +ERROR`)
	for _, line := range m.Console.Lines(from) {
		if failed.MatchString(line) {
			t.Errorf("its restart: %q", line)
		}
	}
}

// TestThreeTier boots the example that people copy.
func TestThreeTier(t *testing.T) {
	t.Parallel()
	// There is a watchdog, which is not keelson's business here.
	m := boot(t, setup{file: "three-tier.yml", agent: true, swap: map[string]string{"keelson/kernel\n": "keelson/kernel-watchdog\n"},
		Config: qemu.Config{Ports: []int{80}, Watchdog: true, CmdlineAdd: "keelson.watchdog=off"}})
	m.booted()
	if state := m.read("/sys/class/watchdog/watchdog0/state"); state != "inactive\n" {
		t.Errorf("the watchdog is %s", state)
	}
	if machine, err := m.Output(m.ctx, "guestagent", "http", "GET", control, "/v1/machine"); err != nil || !strings.Contains(machine, `"watchdog":"off (keelson.watchdog=off)"`) {
		t.Errorf("the machine: %s, %v", machine, err)
	}
	m.inOrder(`db .*ready in`, `app .*ready in`, `proxy .*ready in`)
	if page := m.page(80); !strings.HasPrefix(page, "visit ") {
		t.Errorf("the page is %q", page)
	}
	db, app, proxy := m.is("db", "ready"), m.is("app", "ready"), m.is("proxy", "ready")
	if app.StartedAt < db.ReadyAt || proxy.StartedAt < app.ReadyAt {
		t.Errorf("not in order: db %v, app %v, proxy %v", db, app, proxy)
	}
	healthy := func() {
		t.Helper()
		at := m.status("proxy").Health.At
		m.until("the proxy is healthy", func() bool {
			h := m.status("proxy").Health
			return h != nil && h.At > at && h.State == "healthy" && h.Failures == 0
		})
	}
	healthy()
	from := m.Console.Len()
	m.kill(db.PID, syscall.SIGKILL)
	m.awaitFrom(from, `app .*stopped in`)
	m.awaitFrom(from, `db .*ready in`)
	m.awaitFrom(from, `app .*ready in`)
	if now := m.is("app", "ready"); now.PID == app.PID || now.StartedAt < m.status("db").ReadyAt {
		t.Errorf("app was not restarted with db: %+v", now)
	}
	healthy()
	if page := m.page(80); !strings.HasPrefix(page, "visit ") {
		t.Errorf("the page is %q", page)
	}
}
