//go:build vm

package test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"keelson/internal/qemu"
)

// bindsImage has a service "app" with nothing but a bind of /var/lib/app, and others that use /var/lib/app/sub in each
// way there is. Their directory, a link on the way to another, and a DHCP client's are made by a one-shot.
const bindsImage = `
kernel:
  image: keelson/kernel
  cmdline: "console=ttyS0 quiet"

init:
  - keelson/init

onboot:
  - name: directories
    image: keelson/busybox
    command: ["sh", "-c", "mkdir -p /var/lib/app/sub /var/lib/plain/dir && ln -s /var/lib/plain /var/lib/link && echo app >/var/lib/app/sub/is && echo plain >/var/lib/plain/dir/is && echo nameserver 192.0.2.1 >/run/resolvconf/resolv.conf"]
    binds: ["/var:/var", "/run:/run"]

services:
  - name: app
    image: keelson/busybox
    command: ["sleep", "7654321"]
    noNewPrivileges: true
    binds: ["/var/lib/app:/app"]
  - name: dhcp
    image: keelson/busybox
    command: ["sleep", "7654321"]
    binds: ["/run/resolvconf:/resolv"]
  - name: web
    image: keelson/busybox
    command: ["sleep", "7654321"]
    binds: ["/var/lib/app/sub:/data", "/var/lib/app/sub/is:/file:ro", "/etc/resolv.conf:/etc/resolv.conf", "/var/lib/link/dir:/link"]
    annotations: {keelson.restart.backoff: 100ms..1s}
  - name: mapped
    image: keelson/busybox
    command: ["sleep", "7654321"]
    userns: new
    uidMappings: [{containerID: 0, hostID: 200000, size: 65536}]
    gidMappings: [{containerID: 0, hostID: 200000, size: 65536}]
    binds: ["/var/lib/app/sub:/data"]
  - name: mkdir
    image: keelson/busybox
    command: ["sleep", "7654321"]
    runtime: {mkdir: [/var/lib/app/sub/made]}
    annotations: {keelson.restart.backoff: 100ms..1s}
  - name: mounts
    image: keelson/busybox
    command: ["sleep", "7654321"]
    runtime:
      mounts: [{type: tmpfs, source: later, destination: /var/lib/app/sub/later, options: [size=1m]}]
    annotations: {keelson.after: "web,mapped", keelson.restart.backoff: 100ms..1s}
  - name: ns
    image: keelson/busybox
    command: ["sleep", "7654321"]
    net: new
    runtime: {bindNS: {net: /var/lib/app/sub/ns}}
    annotations: {keelson.restart.backoff: 100ms..1s}
`

// usersOfSub are the services that use /var/lib/app/sub, and the field that does.
var usersOfSub = map[string]string{
	"web": `config\.json: mounts\[\d+\]\.source`, "mkdir": `runtime\.json: mkdir\[0\]`,
	"mounts": `runtime\.json: mounts\[\d+\]: destination`, "ns": `runtime\.json: bindNS\.net.*`,
}

// TestBinds: a service that can write a directory puts a link to the rest of the machine where others have a directory
// bound, and they are started again.
func TestBinds(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{yaml: bindsImage, agent: true, Config: qemu.Config{MemoryMB: 512}})
	m.booted()
	u := &users{m}
	names := []string{"app", "dhcp", "web", "mapped", "mkdir", "mounts", "ns"}
	before := m.pids(names...)

	t.Run("Bound", func(t *testing.T) {
		u := u.in(t)
		u.expect("web", "cat /data/is /file /link/is; cat /etc/resolv.conf", 0, `(?s)^app\napp\nplain\nnameserver 192\.0\.2\.1\n$`)
		u.expect("mapped", "cat /data/is", 0, `^app\n$`)
		// It was mounted after they were bound, by its name on the machine.
		for _, name := range []string{"web", "mapped"} {
			u.expect(name, "grep -c ' /data/later tmpfs ' /proc/mounts", 0, `^1\n$`)
		}
		u.expect("web", "echo new >/data/new", 0, `^$`)
		u.expect("app", "cat /app/sub/new; ls /app/sub", 0, `(?s)^new\nis\nlater\nmade\nnew\nns\n$`)
		if left := pinned(u.vm); len(left) > 0 {
			t.Errorf("pins are left: %q", left)
		}
	})
	t.Run("Supervisor", func(t *testing.T) {
		m := m.in(t)
		mounts := m.read("/proc/1/mountinfo")
		old := m.supervisor(0)
		m.kill(old.PID, syscall.SIGKILL)
		m.await(`supervisor is back`)
		for name, pid := range m.pids(names...) {
			if pid != before[name] {
				t.Errorf("%s was started again", name)
			}
		}
		if now := m.read("/proc/1/mountinfo"); strings.Count(now, "\n") != strings.Count(mounts, "\n") {
			t.Errorf("mounts before and after:\n%s\n%s", mounts, now)
		}
	})
	u.expect("app", "mv /app/sub /app/old && ln -s / /app/sub", 0, `^$`)
	for name, field := range usersOfSub {
		from := m.Console.Len()
		_, _ = m.Output(m.ctx, "guestagent", "http", "POST", control, "/v1/services/"+name+"/restart") // it fails
		m.awaitFrom(from, fmt.Sprintf(`%s .*failed to start.*/%s: /var/lib/app/sub: symbolic link \(to /\) in a directory that service "app" can write`, name, field))
	}
	// Where it could make something.
	from := m.Console.Len()
	u.expect("app", "ln -sfn /run /app/sub", 0, `^$`)
	for name := range usersOfSub {
		m.awaitFrom(from, name+` .*symbolic link \(to /run\)`)
		if s := m.status(name); s.PID != 0 {
			t.Errorf("%s runs: %+v", name, s)
		}
	}
	for _, name := range []string{"made", "later", "ns"} {
		if _, err := m.Stat(m.ctx, "/proc/1/root/run/"+name); err == nil {
			t.Errorf("/run/%s was made behind the link", name)
		}
	}
	u.expect("app", "rm /app/sub && mv /app/old /app/sub", 0, `^$`)
	for name := range usersOfSub {
		m.is(name, "ready")
	}
	u.expect("web", "cat /data/is; grep -c ' /data/later tmpfs ' /proc/mounts", 0, `^app\n1\n$`)
	if left := pinned(m); len(left) > 0 {
		t.Errorf("pins are left: %q", left)
	}
	m.sendLast(syscall.SIGUSR2)
	m.end(qemu.PowerOff)
}

// pinned returns the mounts of the machine where the sources of binds are pinned.
func pinned(m *vm) (lines []string) {
	for line := range strings.Lines(m.read("/proc/1/mountinfo")) {
		if strings.Contains(line, "/run/keelson/binds/") || strings.Contains(line, "/run/keelson/stage/") {
			lines = append(lines, line)
		}
	}
	return lines
}
