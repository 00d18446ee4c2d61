//go:build vm

package test

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	"keelson/internal/api"
	"keelson/internal/qemu"
)

// hungYAML has what suffers where a part of the machine hangs: a healthy service with a command for a health check,
// one that exits, and one that cannot hear its stop signal.
const hungYAML = `
kernel: {image: keelson/kernel, cmdline: "console=ttyS0 quiet"}
init: [keelson/init]
services:
  - name: probed
    image: keelson/busybox
    command: ["sleep", "1000000"]
    annotations:
      keelson.health: "exec:true"
      keelson.health.interval: 2s
      keelson.health.timeout: 2s
      keelson.health.retries: "2"
  - name: dies
    image: keelson/busybox
    command: ["sh", "-c", "while ! rm /run/go/dies 2>/dev/null; do sleep 0.2; done; exit 7"]
    binds: ["/run:/run"]
  - {name: deaf, image: keelson/busybox, readonly: true, command: ["sleep", "1000000"]}
`

// partStates are what the supervisor shows of containerd and the shims.
func (m *vm) partStates() map[string][]api.Part {
	m.t.Helper()
	text, err := m.Output(m.ctx, "guestagent", "http", "GET", control, "/v1/machine")
	if err != nil {
		m.t.Fatal(err)
	}
	var machine api.Machine
	if err := json.Unmarshal([]byte(text), &machine); err != nil {
		m.t.Fatalf("%v\n%s", err, text)
	}
	parts := map[string][]api.Part{}
	for _, p := range machine.Parts {
		parts[p.Name] = append(parts[p.Name], p)
	}
	return parts
}

// shared is the shim that several containers share.
func (m *vm) shared() api.Part {
	m.t.Helper()
	var found api.Part
	m.until("a shim that is shared answers", func() bool {
		for _, p := range m.partStates()["shim"] {
			if len(p.Members) > 1 && p.State == "answering" {
				found = p
				return true
			}
		}
		return false
	})
	return found
}

// A part of the machine that hangs is noticed and started again, whichever it is, and what has to do with it suffers
// no more than it must: nothing at all from containerd and the supervisor.
func TestHung(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{yaml: hungYAML, agent: true, Config: qemu.Config{MemoryMB: 512},
		swap: map[string]string{"keelson.stop.timeout: 1s}": `keelson.stop.timeout: 1s, keelson.shim: "own"}`}})
	m.booted()
	m.sh("mkdir -p /proc/1/root/run/go")
	t.Run("Containerd", m.hungContainerd)
	t.Run("Shim", m.hungShim)
	t.Run("Supervisor", m.hungSupervisor)
	if err := m.PressPower(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.end(qemu.PowerOff)
	m.lacks("are left")
}

func (m *vm) hungContainerd(t *testing.T) {
	m = m.in(t)
	was := m.pids("probed", "dies", "deaf", "agent")
	m.healthy("probed")
	daemon := m.containerd(0).PID
	m.kill(daemon, syscall.SIGSTOP)

	// The exits of services are known while nobody answers.
	m.goes("dies")
	m.request("deaf", "stop")
	m.await(`dies +ERROR: exited with code 7 after`)
	m.await(`deaf +stopped in .*killed by SIGKILL`)
	m.until("containerd is shown to be silent", func() bool {
		c := m.partStates()["containerd"]
		return len(c) == 1 && c[0].PID == daemon && c[0].State == "silent"
	})
	m.await(`probed +warning: health unknown: true: its (start is not answered|exit is not reported)`)
	if s := m.status("probed"); s.PID != was["probed"] || s.State != "ready" || s.Health.State != "unknown" || s.Health.Failures != 0 {
		t.Errorf("probed: %+v, health %+v", s, s.Health)
	}

	m.await(`containerd +ERROR: hangs: it does not answer and was stopped by a signal`)
	m.await(`containerd +\| goroutine 1 `) // its stacks
	m.await(`containerd +warning: .*restart 1 in .*the containers run on`)
	m.containerd(daemon)
	m.healthy("probed")
	m.serviceAfter("dies", was["dies"])
	m.request("deaf", "start")
	m.serviceAfter("deaf", was["deaf"])
	if now := m.pids("probed", "agent"); now["probed"] != was["probed"] || now["agent"] != was["agent"] {
		t.Errorf("services were started again: %v, were %v", now, was)
	}
	m.inOrder(`dies +ERROR: exited with code 7`, `containerd +ERROR: hangs`, `dies +running`)
	m.inOrder(`deaf +stopped in`, `containerd +ERROR: hangs`, `deaf +running`)
	for _, never := range []string{"health check", "unhealthy", "cannot be killed", "already exists"} {
		m.lacks(never)
	}
}

func (m *vm) hungShim(t *testing.T) {
	m = m.in(t)
	was := m.pids("probed", "dies", "deaf", "agent")
	m.healthy("probed")
	from := m.Console.Len()
	shim := m.shared()
	if got := strings.Join(shim.Members, " "); got != "services.linuxkit/deaf services.linuxkit/dies services.linuxkit/probed" {
		t.Errorf("the shim has %s", got)
	}
	m.kill(shim.PID, syscall.SIGSTOP)
	// A millisecond of processor time in a second: that is slow, and nothing but slow.
	const limit = "/proc/1/root/sys/fs/cgroup/keelson/containerd/cpu.max"
	m.sh("echo 1000 1000000 >" + limit)
	m.goes("dies")
	m.awaitFrom(from, `dies +ERROR: exited with code 7 after`)
	m.awaitFrom(from, `probed +warning: health unknown: true: its (start is not answered|exit is not reported)`)
	m.awaitFrom(from, `shim +warning: does not answer and does nothing: it is killed with its containers \(deaf, dies, probed\) in 30s`)
	m.awaitFrom(from, `shim +ERROR: hangs: it does not answer and was stopped by a signal`)
	m.sh("echo max >" + limit)
	for _, name := range []string{"probed", "dies", "deaf"} {
		m.serviceAfter(name, was[name])
	}
	m.healthy("probed")
	if now := m.shared(); now.PID == shim.PID {
		t.Errorf("the shim is still %d", now.PID)
	}
	for _, line := range m.Console.Lines(from) {
		if strings.Contains(line, "hangs") && strings.Contains(line, "containerd ") {
			t.Errorf("one that is slow counts as one that hangs: %s", line)
		}
	}
	if now := m.pids("agent"); now["agent"] != was["agent"] {
		t.Errorf("what has a shim of its own was started again: %v, was %v", now, was)
	}
	for _, never := range []string{"health check", "unhealthy", "cannot be killed", "already exists"} {
		m.lacks(never)
	}
}

func (m *vm) hungSupervisor(t *testing.T) {
	m = m.in(t)
	was := m.pids("probed", "dies", "deaf", "agent")
	supervisor := m.supervisor(0).PID
	m.kill(supervisor, syscall.SIGSTOP)
	asked, err := m.Exec(m.ctx, "chroot", "/proc/1/root", "/usr/bin/service", "list")
	if err != nil {
		t.Fatal(err)
	}
	if asked.Exit != 4 || !strings.Contains(asked.Stderr, "does not answer") {
		t.Errorf("service list: %+v", asked)
	}
	m.await(`init +ERROR: supervisor \(pid \d+\) hangs: no sign of life for `)
	m.await(`init +ERROR: supervisor .* after .*; restart 1 in 100ms`)
	m.supervisor(supervisor)
	if stacks := m.read("/run/keelson/stacks.txt"); !strings.Contains(stacks, "supervise.(*Supervisor).watch") {
		t.Errorf("its stacks are %q", stacks)
	}
	m.await(`keelson +supervisor is back; 4 of 4 services running`)
	m.healthy("probed")
	if now := m.pids("probed", "dies", "deaf", "agent"); now["probed"] != was["probed"] || now["dies"] != was["dies"] || now["deaf"] != was["deaf"] || now["agent"] != was["agent"] {
		t.Errorf("services were started again: %v, were %v", now, was)
	}
	shown, err := m.Exec(m.ctx, "chroot", "/proc/1/root", "/usr/bin/service", "status")
	if err != nil || shown.Exit != 0 || !strings.Contains(shown.Stdout, "containerd: answering for ") || !strings.Contains(shown.Stdout, "shim: answering for ") {
		t.Errorf("service status: %+v, %v", shown, err)
	}
}
