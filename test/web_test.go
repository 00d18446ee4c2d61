//go:build vm

package test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson/internal/qemu"
)

// The example of `make run`: what it serves, and what comes back when it is killed: a service, the supervisor,
// containerd, the shim. At the end somebody types poweroff.
func TestWeb(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{file: "web.yml", agent: true, Config: qemu.Config{Ports: []int{80, 6379}}})
	m.await(`dhcp .*eth0 has 10\.0\.2\.15/24`)
	m.booted()
	if page := m.page(80); !strings.Contains(page, "It boots.") {
		t.Errorf("the web page is %q", page)
	}
	m.ping(6379)
	if conf := m.read("/run/resolvconf/resolv.conf"); !strings.Contains(conf, "nameserver 10.0.2.3") {
		t.Errorf("resolv.conf is %q", conf)
	}
	if conf := m.read("/etc/resolv.conf"); !strings.Contains(conf, "nameserver 10.0.2.3") {
		t.Errorf("/etc/resolv.conf is %q", conf)
	}
	// No /etc/hostname in this image, so the name is made of the network card's address.
	if name := strings.TrimSpace(m.sh("hostname")); name != "linuxkit-525400123456" {
		t.Errorf("the machine's name is %q", name)
	}

	killed := func(name string, count int) {
		t.Helper()
		was := m.service(name)
		from := m.Console.Len()
		m.kill(was.PID, syscall.SIGKILL)
		m.awaitFrom(from, fmt.Sprintf(`%s .*SIGKILL.* restart %d in \d`, name, count))
		now := m.serviceAfter(name, was.PID)
		m.awaitFrom(from, fmt.Sprintf(`%s .*running \(pid %d\)`, name, now.PID))
	}
	killed("web", 1)
	m.page(80)
	killed("redis", 1)
	m.ping(6379)

	// The supervisor: its successor takes over what runs, and repeats no step of the boot.
	names := []string{"web", "redis", "agent", "shell"}
	services := m.pids(names...)
	supervisor, containerd := m.supervisor(0), m.containerd(0)
	from := m.Console.Len()
	m.kill(supervisor.PID, syscall.SIGKILL)
	m.awaitFrom(from, `init .*supervisor .*SIGKILL.*restart 1 in `)
	m.supervisor(supervisor.PID)
	m.awaitFrom(from, fmt.Sprintf(`web .*still running \(pid %d\)`, services["web"]))
	if now := m.pids(names...); fmt.Sprint(now) != fmt.Sprint(services) {
		t.Errorf("services before the supervisor was killed %v, after %v", services, now)
	}
	if now := m.containerd(0); now.PID != containerd.PID {
		t.Errorf("containerd was process %d and is %d", containerd.PID, now.PID)
	}
	killed("web", 2)
	m.page(80)
	for _, line := range m.Console.Lines(from) {
		if strings.Contains(line, "onboot") {
			t.Errorf("a step of the boot was repeated: %q", line)
		}
	}

	// containerd: services go on, and those killed while it is away are started again.
	services = m.pids(names...)
	from = m.Console.Len()
	m.kill(containerd.PID, syscall.SIGKILL)
	m.awaitFrom(from, `containerd .*(SIGKILL|ended|killed).*restart \d+ in `)
	m.containerd(containerd.PID)
	if now := m.pids(names...); fmt.Sprint(now) != fmt.Sprint(services) {
		t.Errorf("services before containerd was killed %v, after %v", services, now)
	}
	killed("redis", 2)
	m.ping(6379)

	// Both at once, and a service with them.
	services = m.pids(names...)
	supervisor, containerd = m.supervisor(0), m.containerd(0)
	m.sh(fmt.Sprintf("kill -9 %d %d %d", supervisor.PID, containerd.PID, services["web"]))
	m.supervisor(supervisor.PID)
	m.containerd(containerd.PID)
	m.serviceAfter("web", services["web"])
	m.page(80)
	if now := m.pids("redis", "agent"); now["redis"] != services["redis"] || now["agent"] != services["agent"] {
		t.Errorf("services before %v, after %v", services, now)
	}

	// The shim takes its containers along; they come back in a new one.
	shims := m.shims()
	if len(shims) != 1 {
		t.Fatalf("there are %d shims: %+v", len(shims), shims)
	}
	m.kill(shims[0].PID, syscall.SIGKILL)
	for _, name := range names {
		m.serviceAfter(name, services[name])
	}
	m.page(80)
	m.ping(6379)
	if err := m.AwaitAgent(m.ctx); err != nil {
		t.Fatal(err)
	}

	// The shell is a way in: somebody types poweroff.
	from = m.Console.Len()
	m.until("the shell prompts for whoever presses enter", func() bool {
		// What is typed before getty is ready is lost.
		if err := m.Type("\n"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(m.ctx, 5*time.Second)
		defer cancel()
		_, _, err := m.Console.AwaitPrompt(ctx, from, `keelson:/# `)
		return err == nil
	})
	if err := m.Type("echo $((6*7))\n"); err != nil {
		t.Fatal(err)
	}
	m.awaitFrom(from, `^42$`)
	if err := m.Type("poweroff\n"); err != nil {
		t.Fatal(err)
	}
	m.end(qemu.PowerOff)
	m.inOrder(`keelson .*stopping \d+ services`, `redis .*stopped in`, `keelson .*services stopped`, `init .*unmounted [1-9]\d* file systems, powering off`)
	m.lacks("are left")
	m.lacks("panic")
}

// An image that brings the stock containerd, shim and runc in place of ours.
func TestStockRuntime(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{
		file: "web.yml", agent: true, faulty: true,
		swap: map[string]string{
			"init:\n  - keelson/init\n": "init:\n  - keelson/init\n  - keelson/stock-runtime\n",
			"\nfiles:\n":                ledger + "\nfiles:\n  - {path: etc/scripts/refused, contents: \"#!/bin/nope\\n\", mode: \"0755\"}\n",
			// What is asked and told across the runtime's borders: commands in a container, and a socket in it.
			"\nservices:\n": `
services:
  - name: asked
    image: keelson/busybox
    command: ["sleep", "1000000"]
    annotations:
      keelson.shim: own
      keelson.ready: "exec:sh -c 'test -e /bin/sh'"
      keelson.health: "exec:sh -c 'if [ -e /ill ]; then echo it says so; exit 3; fi'"
      keelson.health.interval: 500ms
      keelson.health.timeout: 1m
      keelson.health.retries: "1"
  - name: tells
    image: keelson/guestagent
    command: ["guestagent", "notify", "-stay", "READY=1", "STATUS=up and running"]
    annotations: {keelson.ready: notify, keelson.shim: own}
  # The kernel refuses it after the stock runtime has told of its start.
  - name: refused
    image: keelson/busybox
    command: ["/scripts/refused"]
    binds: ["/etc/scripts:/scripts:ro"]
    annotations: {keelson.restart: never}
  - name: dependent
    image: keelson/busybox
    command: ["sleep", "1000000"]
    annotations: {keelson.requires: refused}
` + mappedService,
		},
		Config: qemu.Config{Ports: []int{80, 6379}, MemoryMB: 768},
	})
	m.booted()
	if stat, err := m.Stat(m.ctx, "/usr/bin/containerd"); err != nil || stat.Link != "" || stat.Size < 20<<20 {
		t.Fatalf("this is not the stock containerd: %+v, %v", stat, err)
	}
	m.await(`refused +ERROR: failed to start: /containers/services/refused/config\.json: process\.args: "/scripts/refused" cannot be executed: it needs /bin/nope, which is not in the image; not restarted`)
	m.never(`\d  (dependent|refused) +(running|ready)`)
	// It is started with longer limits for its shims: else it kills the containers of one that is slow to answer.
	if argv := m.containerd(0).Argv; !slices.Contains(argv, "/run/keelson/containerd.toml") {
		t.Errorf("containerd runs as %q", argv)
	}
	m.page(80)
	m.ping(6379)
	m.await(mappedSays)
	m.lean(m.supervisor(0))

	was := m.service("web")
	// It knows no profile by its name, and is given the profile.
	if status := m.read(fmt.Sprintf("/proc/%d/status", was.PID)); !strings.Contains(status, "Seccomp:\t2\n") {
		t.Errorf("its containers have no filter:\n%s", status)
	}
	from := m.Console.Len()
	m.kill(was.PID, syscall.SIGKILL)
	m.awaitFrom(from, `web .*SIGKILL.* restart 1 in \d`)
	m.serviceAfter("web", was.PID)
	m.page(80)

	names := []string{"web", "redis", "agent"}
	services := m.pids(names...)
	same := func(after string) {
		t.Helper()
		if err := m.AwaitAgent(m.ctx); err != nil {
			t.Fatal(err)
		}
		if now := m.pids(names...); fmt.Sprint(now) != fmt.Sprint(services) {
			t.Errorf("after %s the services, before %v, are %v", after, services, now)
			services = now
		}
	}
	for _, p := range append(m.shims(), m.service("web"), m.service("redis"), m.service("agent")) {
		t.Logf("before: process %d, child of %d: %q", p.PID, p.Parent, p.Argv)
	}
	containerd := m.containerd(0)
	from = m.Console.Len()
	m.kill(containerd.PID, syscall.SIGKILL)
	m.awaitFrom(from, `containerd .*ready in`)
	same("containerd was killed")
	supervisor := m.supervisor(0)
	from = m.Console.Len()
	m.kill(supervisor.PID, syscall.SIGKILL)
	m.awaitFrom(from, `supervisor is back`)
	same("the supervisor was killed")
	was = m.service("redis")
	m.kill(was.PID, syscall.SIGKILL)
	m.serviceAfter("redis", was.PID)
	m.ping(6379)
	// The stock shim copies from a pipe of its own, with a buffer of 32 KiB.
	t.Run("deaths", func(t *testing.T) { testDeaths(t, &vm{m.Machine, t, m.ctx}, pipeBytes+32<<10) })

	if s := m.is("tells", "ready"); s.Status != "up and running" {
		t.Errorf("tells: %+v", s)
	}
	asked := m.healthy("asked")
	from = m.Console.Len()
	m.sh(fmt.Sprintf("touch /proc/%d/root/ill", asked.PID))
	m.awaitFrom(from, `asked .*ERROR: unhealthy: .*exited with code 3: it says so`)
	if now := m.healthy("asked"); now.PID == asked.PID {
		t.Errorf("asked was not restarted: %+v", now)
	}

	if err := m.PressKeys(m.ctx, "ctrl", "alt", "delete"); err != nil {
		t.Fatal(err)
	}
	m.end(qemu.Reboot)
	m.inOrder(`keelson .*services stopped`, `init .*unmounted [1-9]\d* file systems, rebooting`)
}
