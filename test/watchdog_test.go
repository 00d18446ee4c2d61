//go:build vm

package test

import (
	"strconv"
	"strings"
	"syscall"
	"testing"

	"keelson/internal/qemu"
)

// uptime is the guest's, in seconds.
func (m *vm) uptime() float64 {
	m.t.Helper()
	first, _, _ := strings.Cut(m.read("/proc/uptime"), " ")
	seconds, err := strconv.ParseFloat(first, 64)
	if err != nil {
		m.t.Fatal(err)
	}
	return seconds
}

// TestWatchdog: a machine whose supervisor is killed and comes back is not reset, nor is one that goes down in
// order although its supervisor hangs; and what containers hit of their limits is said.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{file: "watchdog.yml", agent: true, Config: qemu.Config{Watchdog: true, CmdlineAdd: "i6300esb.nowayout=1"}})
	m.booted()
	m.await(`watchdog +i6300ESB timer armed: it resets the machine after 10s without a sign of life`)

	// Limits: each said once, with the reason, and the containers went as a whole.
	m.await(`greedy +ERROR: onboot 1 of 1: killed by the kernel: out of memory \(limit 16 MiB, peak 1[56]\.\d MiB\) after .*; going on`)
	m.await(`hog +ERROR: killed by the kernel: out of memory \(limit 32 MiB, peak 3[12]\.\d MiB\) after .*; restart 1 in [0-9hm.]+s`)
	m.await(`forker +warning: at its limit of 3 processes and threads: [1-9]\d* more refused`)
	m.lacks("left over")
	m.lacks("the kernel killed")
	if state := m.read("/run/keelson/oomkills.json"); state != `{"hog":2}` { // sh and dd
		t.Errorf("what a next supervisor will know of the processes that were killed: %s", state)
	}

	// And all of it for who asks.
	for path, want := range map[string]string{
		"/v1/machine": `"watchdog":"i6300ESB timer armed, timeout 10s, fed \d+s ago"`,
		"/v1/boot":    `"name":"onboot.000-greedy","start":\d+,"end":\d+,"error":"killed by the kernel: out of memory \(limit 16 MiB, `,
	} {
		if got := m.sh(talk(path)); !matches(want, got) {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}

	// A supervisor that dies and comes back: the next one feeds the watchdog it was handed.
	was := m.supervisor(0).PID
	m.kill(was, syscall.SIGKILL)
	m.await(`supervisor is back`)
	back := m.uptime()
	m.until("the machine lives on for longer than the watchdog waits", func() bool { return m.uptime() > back+14 })
	m.lacks("not fed")

	// A supervisor that hangs while the machine goes down: PID 1 waits for longer than the watchdog would, feeds
	// it meanwhile, and then goes on in order.
	// The driver does not let go of the watchdog (nowayout), so a machine that is halted is reset by it.
	m.kill(m.supervisor(was).PID, syscall.SIGSTOP)
	m.sendLast(syscall.SIGUSR1)
	m.await(`init +ERROR: the supervisor did not stop everything within 15s; going on without it`)
	m.await(`init +unmounted .*, halting`)
	m.await(`init +warning: the hardware watchdog cannot be stopped \(.*\): it will reset this machine`)
	m.end(qemu.Watchdog)
}

// TestWatchdogHang: a supervisor that hangs resets the machine.
func TestWatchdogHang(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{file: "minimal.yml", agent: true, swap: map[string]string{"keelson/kernel": "keelson/kernel-watchdog"},
		Config: qemu.Config{Watchdog: true, CmdlineAdd: "keelson.watchdog=5s"}})
	m.booted()
	m.await(`watchdog +i6300ESB timer armed: it resets the machine after 5s`)
	m.kill(m.supervisor(0).PID, syscall.SIGSTOP)
	m.end(qemu.Watchdog)
}

// TestWatchdogCritical: a critical service that is never well again resets the machine, and the console says why.
func TestWatchdogCritical(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{file: "watchdog.yml", swap: map[string]string{
		`keelson.critical: "true"`: `keelson.critical: "true", keelson.ready.timeout: 5s, keelson.health: "exec:/bin/false", keelson.health.interval: 1s, keelson.health.retries: "2"`,
	}, Config: qemu.Config{Watchdog: true}})
	m.await(`boot complete`)
	m.await(`vital +ERROR: unhealthy: `)
	m.await(`watchdog +ERROR: not fed: critical service vital is .*; the machine is reset in \d+s unless that changes`)
	m.await(`watchdog +ERROR: the machine is reset in [0-3]s: critical service vital is `)
	m.end(qemu.Watchdog)
}
