//go:build vm

package test

import (
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"keelson/internal/qemu"
)

// steering are containers that see the machine's /run and may steer it or not.
const steering = `
  - name: reader
    image: keelson/guestagent
    command: ["sleep", "1000000"]
    binds: ["/run:/run"]
    annotations: {keelson.restart: never}
  - name: looker
    image: keelson/guestagent
    command: ["sleep", "1000000"]
    binds: ["/run:/run", "/usr/bin/service:/usr/bin/service:ro"]
    annotations: {keelson.control: read}
  - name: shut
    image: keelson/guestagent
    command: ["sleep", "1000000"]
    binds: ["/run:/run", "/run/keelson/control.sock:/tmp/socket"]
    annotations: {keelson.control: none, keelson.shim: own}
  - name: sharer
    image: keelson/guestagent
    command: ["sleep", "1000000"]
    binds: ["/:/rootfs", "/run:/run"]
    rootfsPropagation: shared
  - name: flat
    image: keelson/guestagent
    command: ["sleep", "1000000"]
    mounts: [{destination: /rootfs, type: bind, source: /, options: [bind, ro]}]
  - name: users
    image: keelson/guestagent
    command: ["sleep", "1000000"]
    binds: ["/run:/run"]
    userns: new
    uidMappings: [{containerID: 0, hostID: 500000, size: 65536}]
    gidMappings: [{containerID: 0, hostID: 500000, size: 65536}]
  - name: admin
    image: keelson/guestagent
    command: ["sleep", "1000000"]
    capabilities: [CAP_SYS_ADMIN]
    binds: ["/run:/run"]
`

// litters has a probe whose commands leave processes behind that are in no session, and have no parent, of theirs; one
// of them is over in time, one is not. It forks itself as well: what is the service's own is left alone.
const litters = `
  - name: litters
    image: keelson/guestagent
    command: ["sh", "-c", "sleep 5000001 & exec sleep 5000002"]
    annotations:
      keelson.ready: "exec:sh -c 'setsid sh -c \"setsid sleep 6000001 & sleep 6000002\" >/dev/null 2>&1 & touch /ran'"
      keelson.health: "exec:sh -c 'setsid sleep 6000003 >/dev/null 2>&1 & sleep 6000004'"
      keelson.health.interval: 500ms
      keelson.health.timeout: 2s
      keelson.health.retries: "1000"
`

// A probe's command ends with all that it has started, whatever that has done to become independent.
func testLitter(t *testing.T, m *vm) {
	m.await(`litters .*health check 3 of 1000 failed: no answer within 2s`)
	m.hears("litters", `/ran`, "ls /ran")
	count := func() (litter, own int) {
		for _, p := range m.processes() {
			if len(p.Argv) == 2 && p.Argv[0] == "sleep" && p.State != "Z" {
				if strings.HasPrefix(p.Argv[1], "600000") {
					litter++
				}
				if strings.HasPrefix(p.Argv[1], "500000") {
					own++
				}
			}
		}
		return litter, own
	}
	m.until("no more than one probe's processes are there", func() bool { litter, _ := count(); return litter <= 2 })
	if _, own := count(); own != 2 {
		t.Errorf("%d of the service's own processes are left, not 2", own)
	}
	m.until("a moment without any of them", func() bool { litter, _ := count(); return litter == 0 })
	groups := func() string {
		return m.sh("ls -d /proc/1/root/sys/fs/cgroup/services/litters/keelson-probe-* 2>/dev/null | wc -l")
	}
	m.until("no more than one probe's cgroup is there", func() bool { n := strings.TrimSpace(groups()); return n == "0" || n == "1" })
}

// Containers that bind /run, and what they see of the machine and may do to it.
func TestSteering(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{file: "minimal.yml", agent: true, swap: map[string]string{"\nservices:\n": "\nservices:" + litters + steering}, Config: qemu.Config{MemoryMB: 512}})
	m.booted()
	testSteering(t, m)
	testLitter(t, m)
	m.sendLast(syscall.SIGUSR2)
	m.end(qemu.PowerOff)
}

// The same with containerd, shim and runc as they are elsewhere.
func TestSteeringStockRuntime(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{file: "minimal.yml", agent: true, swap: map[string]string{
		"init:\n  - keelson/init\n": "init:\n  - keelson/init\n  - keelson/stock-runtime\n",
		"\nservices:\n":             "\nservices:" + steering,
	}, Config: qemu.Config{MemoryMB: 768}})
	m.booted()
	testSteering(t, m)
	m.sendLast(syscall.SIGUSR2)
	m.end(qemu.PowerOff)
}

// inside runs a line of shell in a container, as a process of the container.
func (m *vm) inside(name, line string) (code int, out string) {
	m.t.Helper()
	r, err := m.ExecIn(m.ctx, 1, "/usr/bin/service", "exec", name, "--", "sh", "-c", line)
	if err != nil {
		m.t.Fatal(err)
	}
	return r.Exit, r.Stdout + r.Stderr
}

// hears is inside for a line whose output is known.
func (m *vm) hears(name, pattern, line string) {
	m.t.Helper()
	if code, out := m.inside(name, line); !matches(pattern, out) {
		m.t.Errorf("%s: %s: exit code %d, want %s\n%s", name, line, code, pattern, out)
	}
}

// request is a line of shell that asks the supervisor in plain HTTP.
func request(socket, method, path string) string {
	return `printf '` + method + ` ` + path + ` HTTP/1.1\r\nHost: k\r\nContent-Length: 0\r\n\r\n' | guestagent talk ` + socket
}

// runtimeMounts are the machine's mounts at and below /run, without their numbers.
func (m *vm) runtimeMounts() []string {
	m.t.Helper()
	var at []string
	for line := range strings.Lines(m.read("/proc/1/mountinfo")) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], "/run") || strings.Contains(line, "/keelson/") {
			at = append(at, f[3]+" on "+f[4])
		}
	}
	slices.Sort(at)
	return at
}

func testSteering(t *testing.T, m *vm) {
	const socket = "/run/keelson/control.sock"
	before := m.runtimeMounts()
	// Who has /run sees the control socket and nothing else of the runtime.
	for _, name := range []string{"reader", "looker", "sharer"} {
		m.hears(name, `^control.sock\n$`, "ls -A /run/keelson")
		m.hears(name, `^0\n0\n0\n$`, "for d in containerd runc userns; do ls -A /run/$d | wc -l; done")
		m.hears(name, `HTTP/1.1 200 OK`, request(socket, "GET", "/v1/services"))
		for _, path := range []string{"services/reader/restart", "services/reader/kill", "services/reader/exec", "machine/poweroff"} {
			m.hears(name, `(?s)HTTP/1.1 403 Forbidden.*`+name+` may look, but not change anything.*keelson.control: all`, request(socket, "POST", "/v1/"+path))
		}
		m.hears(name, `(?i)(read-only|busy)`, "mv /run/keelson/control.sock /run/mine; mv /run/keelson /run/mine; mv /run/containerd /run/mine")
		m.await(name + ` .*refused on the control socket: ` + name + ` may look`)
	}
	m.hears("sharer", `^control.sock\n0\n$`, "ls -A /rootfs/run/keelson; ls -A /rootfs/run/containerd | wc -l")
	// Without what is mounted below the machine's root there is nothing to hide, and nowhere to hide it.
	m.hears("flat", `^0\n$`, "ls -A /rootfs/run | wc -l")
	m.hears("users", `^control.sock\n0\n$`, "ls -A /run/keelson; ls -A /run/containerd | wc -l")
	m.hears("users", `(?i)permission denied`, request(socket, "GET", "/v1/services"))
	m.hears("looker", `(?s)reader +ready`, "service list")
	m.hears("looker", `(?s)looker may look, but not change anything: restart of reader is refused\nhint: keelson.control: all`, "service restart reader")
	m.hears("looker", `^4\n$`, "service stop reader 2>/dev/null; echo $?")
	m.hears("shut", `^0\n0\n`, "ls -A /run/keelson | wc -l; ls -A /run/containerd | wc -l")
	m.hears("shut", `(?s)HTTP/1.1 403 Forbidden.*shut may not use the control socket.*keelson.control: read`, request("/tmp/socket", "GET", "/v1/services"))
	// CAP_SYS_ADMIN could take away what is mounted over it.
	m.hears("admin", `containerd.sock`, "ls /run/containerd")
	m.hears("admin", `HTTP/1.1 200 OK`, request(socket, "POST", "/v1/services/reader/start"))

	status := func(name string) string {
		r, err := m.ExecIn(m.ctx, 1, "/usr/bin/service", "status", name)
		if err != nil {
			t.Fatal(err)
		}
		return r.Stdout
	}
	for name, pattern := range map[string]string{
		"reader": `Control: read \(a bind of /run\)\n +Hidden: /run/containerd, /run/runc, /run/userns, /run/keelson \(but for the control socket\)\n`,
		"shut":   `Control: none \(keelson.control\)\n +Hidden: /run/containerd, /run/runc, /run/userns, /run/keelson\n`,
		"flat":   `Control: none \(no bind of /run\)\n +Cgroup`,
		"admin":  `Control: all \(CAP_SYS_ADMIN and a bind of /run\)\n +Cgroup`,
	} {
		if got := status(name); !matches(pattern, got) {
			t.Errorf("status of %s, want %s:\n%s", name, pattern, got)
		}
	}

	// The machine's own directories are what they were, and nothing comes or stays with a restart.
	for _, name := range []string{"sharer", "reader"} {
		was := m.service(name).PID
		if r, err := m.ExecIn(m.ctx, 1, "/usr/bin/service", "restart", name); err != nil || r.Exit != 0 {
			t.Fatalf("restart %s: %v %+v", name, err, r)
		}
		m.serviceAfter(name, was)
		m.hears(name, `^control.sock\n0\n$`, "ls -A /run/keelson; ls -A /run/containerd | wc -l")
	}
	if after := m.runtimeMounts(); !slices.Equal(before, after) || slices.ContainsFunc(after, regexp.MustCompile(`/(empty|control) on `).MatchString) {
		t.Errorf("the machine's mounts below /run were\n\t%s\nand are\n\t%s", strings.Join(before, "\n\t"), strings.Join(after, "\n\t"))
	}
	for _, path := range []string{"/run/containerd/containerd.sock", socket, "/run/keelson/boot.json"} {
		if _, err := m.Stat(m.ctx, path); err != nil {
			t.Errorf("on the machine: %v", err)
		}
	}

	// A supervisor that is started again knows them still, and they find it.
	supervisor := m.supervisor(0)
	from := m.Console.Len()
	m.kill(supervisor.PID, syscall.SIGKILL)
	m.awaitFrom(from, `supervisor is back`)
	m.hears("reader", `HTTP/1.1 200 OK`, request(socket, "GET", "/v1/services"))
	m.hears("reader", `HTTP/1.1 403 Forbidden`, request(socket, "POST", "/v1/services/looker/stop"))
	m.is("looker", "ready")
}
