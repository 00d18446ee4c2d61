//go:build vm

package test

import (
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"keelson/internal/qemu"
)

// Services that need one another come up, live and go down in their order, whatever becomes of the supervisor; an
// order that cannot be is said; and a shutdown with two services that will not stop still has time for what
// comes after them.
func TestOrder(t *testing.T) {
	t.Parallel()
	const yaml = `
kernel:
  image: keelson/kernel
  cmdline: "console=ttyS0 quiet keelson.shutdown.timeout=24s"
init:
  - keelson/init
onboot:
  - name: disk
    image: keelson/busybox
    command: ["sh", "-c", "for disk in vda:disk vdb:second; do mke2fs /dev/${disk%:*} >/dev/null && mkdir -p /var/lib/${disk#*:} && mount -t ext4 /dev/${disk%:*} /var/lib/${disk#*:}; done"]
    capabilities: [all]
    binds: ["/dev:/dev:rbind,rslave", "/var/lib:/var/lib:rshared,rbind"]
    devices: [{path: all, type: b}]
    rootfsPropagation: shared
services:
  - name: proxy
    image: keelson/busybox
    net: new
    command: ["sh", "-c", "trap 'exit 0' TERM; httpd -p 8080; while :; do sleep 1; done"]
    annotations: {keelson.after: app, keelson.ready: "tcp:8080"}
  - name: app
    image: keelson/busybox
    net: new
    command: ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"]
    annotations: {keelson.requires: db}
  - name: db
    image: keelson/busybox
    net: new
    command: ["sh", "-c", "trap 'exit 0' TERM; sleep 1; echo ready to serve; while :; do sleep 1; done"]
    annotations: {keelson.ready: "log:^ready to serve$"}
  - name: never
    image: keelson/busybox
    net: new
    command: ["sleep", "1000000"]
    annotations: {keelson.ready: "tcp:81", keelson.ready.timeout: 2s, keelson.restart.limit: 1/1h}
  - name: orphan
    image: keelson/busybox
    command: ["sleep", "1000000"]
    annotations: {keelson.requires: never}
  - name: circle
    image: keelson/busybox
    command: ["sleep", "1000000"]
  - name: ring
    image: keelson/busybox
    command: ["sleep", "1000000"]
  - name: deaf
    image: keelson/busybox
    command: ["sh", "-c", "trap : TERM; while :; do sleep 1; done"]
    annotations: {keelson.stop.timeout: 1h, keelson.requires: frozen}
  - name: stuck
    image: keelson/busybox
    command: ["sh", "-c", "while ! [ -e /run/write ]; do sleep 1; done; exec touch /disk/stuck"]
    binds: ["/var/lib/second:/disk", "/run:/run"]
    annotations: {keelson.stop.timeout: 1s}
  - name: frozen
    image: keelson/busybox
    command: ["sh", "-c", "fsfreeze --freeze /disk && echo frozen >/dev/ttyS0; exec tee /disk/file </dev/zero >/dev/null"]
    capabilities: [all]
    binds: ["/var/lib/disk:/disk", "/dev/ttyS0:/dev/ttyS0"]
    devices: [{path: all, type: c}]
    annotations: {keelson.stop.timeout: 1s}
onshutdown:
  - name: thaw
    image: keelson/busybox
    command: ["sh", "-c", "fsfreeze --unfreeze /disk && echo the disk is thawed"]
    capabilities: [all]
    binds: ["/var/lib/disk:/disk"]
`
	config := func(annotations string) string {
		return `{"ociVersion":"1.0.2","process":{"args":["/bin/sleep","1000000"],"cwd":"/","user":{"uid":0,"gid":0}},"root":{"path":"rootfs"},
			"mounts":[{"destination":"/proc","type":"proc","source":"proc"}],
			"linux":{"namespaces":[{"type":"pid"},{"type":"mount"}]},"annotations":{` + annotations + `}}`
	}
	drive := disk(t, 8<<20)
	m := boot(t, setup{yaml: yaml, agent: true, Config: qemu.Config{Drives: []string{drive, disk(t, 8<<20)}, MemoryMB: 512}, files: []file{
		text("containers/services/circle/config.json", config(`"keelson.after":"ring"`)),
		text("containers/services/ring/config.json", config(`"keelson.requires":"circle,nowhere"`)),
	}})
	m.booted()

	// What cannot be is said, with what is done about it; and the boot does not wait for it.
	for _, pattern := range []string{
		`circle +warning: \S+/circle/config.json: annotations: keelson.after: "ring": a cycle: circle -> ring -> circle: .*started without it`,
		`ring +warning: \S+/ring/config.json: annotations: keelson.requires: "circle,nowhere": there is no service nowhere; .*started without it`,
		`never +ERROR: not ready within 2s: .*refused`,
		`keelson +warning: \d services? of \d+ not running: .*orphan \(waiting for never \(\w+\)\)`,
	} {
		m.await(pattern)
	}
	m.await(`orphan +warning: waits for never \(failed\)`)
	for _, name := range []string{"circle", "ring"} {
		m.service(name)
	}
	m.inOrder(`db +running`, `db +ready in`, `app +running`, `proxy +running`, `proxy +ready in`)

	// What is required takes its users down and up with it, and nobody else.
	was := m.pids("db", "app", "proxy")
	from := m.Console.Len()
	m.kill(was["db"], syscall.SIGKILL)
	m.awaitFrom(from, `app +stopped in .*: db, which it requires, `)
	m.serviceAfter("app", was["app"])
	m.awaitFrom(from, `app +running`)
	now := m.pids("db", "app", "proxy")
	if now["db"] == was["db"] || now["app"] == was["app"] || now["proxy"] != was["proxy"] {
		t.Errorf("processes before the death of db: %v, after it: %v", was, now)
	}
	ready := regexp.MustCompile(`^ *[\d.]+ +db +ready in`)
	order := ""
	for _, line := range m.Console.Lines(from) {
		if ready.MatchString(line) {
			order += "db ready, "
		} else if strings.Contains(line, "app ") && strings.Contains(line, "running") {
			order += "app running, "
		}
	}
	if order != "db ready, app running, " {
		t.Errorf("in the order %q", order)
	}

	// A supervisor that dies while db is not ready yet and app waits for it goes on where it was.
	from = m.Console.Len()
	m.kill(now["db"], syscall.SIGKILL)
	m.awaitFrom(from, `app +stopped in`)
	supervisor := m.supervisor(0).PID
	m.kill(supervisor, syscall.SIGKILL)
	m.supervisor(supervisor)
	m.serviceAfter("app", now["app"])
	m.awaitFrom(from, `keelson +supervisor is back`)
	// Killed again, it finds everything ready and leaves it alone.
	was = m.pids("db", "app", "proxy", "frozen", "deaf")
	supervisor = m.supervisor(0).PID
	from = m.Console.Len()
	m.kill(supervisor, syscall.SIGKILL)
	m.awaitFrom(from, `keelson +supervisor is back; \d+ of \d+ services running`)
	if now := m.pids("db", "app", "proxy", "frozen", "deaf"); fmt.Sprint(now) != fmt.Sprint(was) {
		t.Errorf("processes before the death of the supervisor: %v, after it: %v", was, now)
	}
	if !strings.Contains(m.read("/run/keelson/services/app.json"), `"state":"ready"`) {
		t.Errorf("app is remembered as %s", m.read("/run/keelson/services/app.json"))
	}
	if state := m.service("frozen").State; state != "D" {
		t.Errorf("frozen is in state %s: it does not test what it is there for", state)
	}

	// One that cannot even be killed is not waited for, nor started beside itself, whoever supervises; and it is told
	// why. Its end is taken note of when it comes.
	stuck := m.service("stuck").PID
	m.sh("fsfreeze --freeze /proc/1/root/var/lib/second && touch /proc/1/root/run/write")
	m.until("stuck is stuck", func() bool { return m.service("stuck").State == "D" })
	if answer := m.sh("guestagent http POST " + control + " /v1/services/stuck/stop || true"); !strings.Contains(answer, "stuck in the kernel") {
		t.Errorf("the answer to who wants it stopped: %s", answer)
	}
	from = m.Console.Len()
	m.await(`stuck +ERROR: cannot be killed: its processes are stuck in the kernel`)
	supervisor = m.supervisor(0).PID
	m.kill(supervisor, syscall.SIGKILL)
	m.supervisor(supervisor)
	m.awaitFrom(from, `keelson +supervisor is back`)
	m.sh("guestagent http POST " + control + " /v1/services/stuck/start >/dev/null 2>&1 &") // answered when it has come to something
	m.until("that it is stuck is told", func() bool {
		s := m.status("stuck")
		return s.State == "stopping" && s.PID == stuck && len(s.Problems) == 1 && strings.Contains(s.Problems[0], "stuck in the kernel")
	})
	m.sh("rm /proc/1/root/run/write && fsfreeze --unfreeze /proc/1/root/var/lib/second")
	if now := m.serviceAfter("stuck", stuck); now.PID == stuck {
		t.Errorf("stuck is still process %d", stuck)
	}
	m.is("stuck", "ready")

	if err := m.PressPower(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.end(qemu.PowerOff)
	m.inOrder(`proxy +stopped in`, `app +stopped in`, `db +stopped in`)
	m.inOrder(
		`keelson +warning: no time is left to stop .*deaf \(stopping\).* \(keelson.shutdown.timeout\): killed`,
		`deaf +stopped in .*killed by SIGKILL`,
		`frozen +ERROR: cannot be killed: its processes are stuck in the kernel`,
		`keelson +services stopped in`,
		`thaw +\| the disk is thawed`,
		`init .*unmounted [1-9]\d* file systems, powering off`,
	)
	if !cleanly(t, drive) {
		t.Error("the disk was not unmounted: its file system is marked as in use")
	}
}
