//go:build vm

package test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"keelson/internal/qemu"
)

// What holds the machine together is killed at the worst of times: by a one-shot while the machine comes up, in
// quick succession while it runs, and by what runs last while it goes down. No step of the boot is repeated or left
// out, every service is there in the end, nothing piles up, and the machine still ends in order.
func TestKilledOnTheWay(t *testing.T) {
	t.Parallel()
	// What these kill is named by how its command line begins; busybox has no pkill.
	const kill = `k() { for p in /proc/[0-9]*; do case "$(tr '\0' ' ' <$p/cmdline 2>/dev/null)" in "$1"*) kill -9 ${p#/proc/};; esac; done; }; `
	killer := func(name, script string) string {
		return fmt.Sprintf(`
  - name: %s
    image: keelson/busybox
    capabilities: [all]
    pid: host
    binds: ["/run:/run"]
    command:
      - sh
      - -c
      - |
        %s%s
`, name, kill, script)
	}
	const supervisor, containerd, shim = "k '/usr/bin/service supervise'; ", "k '/usr/bin/containerd '; ", "k '/usr/bin/containerd-shim-runc-v2 -namespace'; "
	m := boot(t, setup{agent: true, yaml: `
kernel: {image: keelson/kernel, cmdline: "console=ttyS0 quiet"}
init: [keelson/init]
onboot:
` + killer("kills-supervisor", "echo one >>/run/order; "+supervisor+"sleep 2; echo one-end >>/run/order") +
		killer("kills-containerd", "echo two >>/run/order; "+containerd+"sleep 1; echo two-end >>/run/order; exit 4") +
		killer("kills-both", "echo three >>/run/order; "+containerd+supervisor+"echo three-end >>/run/order; exit 5") +
		killer("kills-its-shim", "echo four >>/run/order; "+shim+"sleep 1000000") + `
  - name: last
    image: keelson/busybox
    command: ["sh", "-c", "echo last >>/run/order"]
    binds: ["/run:/run"]

services:
  - {name: s1, image: keelson/busybox, command: ["sleep", "1000000"]}
  - {name: s2, image: keelson/busybox, readonly: true, command: ["sleep", "1000000"]}
` + killer("s3", `trap "`+supervisor+`exit 0" TERM; while :; do sleep 1 & wait $!; done`) + `
onshutdown:
` + killer("kills-on", "echo on the way down; "+containerd+supervisor+"sleep 1; exit 6") + `
  - name: very-last
    image: keelson/busybox
    command: ["echo", "the last words"]
`})
	m.booted()
	if got := strings.Join(strings.Fields(m.read("/run/order")), " "); got != "one one-end two two-end three three-end four last" {
		t.Errorf("the one-shots ran in the order %q", got)
	}
	m.inOrder(`kills-supervisor .*onboot 1 of 5: done`, `kills-containerd .*onboot 2 of 5: exited with code 4`,
		`kills-both .*onboot 3 of 5: .*; going on`, `kills-its-shim .*onboot 4 of 5: `, `last .*onboot 5 of 5: done`)

	names := []string{"s1", "s2", "s3", "agent"}
	files := func(pid int) int {
		t.Helper()
		n, err := strconv.Atoi(strings.TrimSpace(m.sh(fmt.Sprintf("ls /proc/%d/fd | wc -l", pid))))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	m.pids(names...)
	mounts, init := len(m.mounts()), files(1)

	// In quick succession, with less time between two than either takes to come back. The agent is in the shim that
	// is killed, so the whole round is one command, and its end is not waited for.
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 4 {
		var script strings.Builder
		for range 8 {
			what := []string{supervisor, containerd, shim, "k 'sleep 1000000'; "}[random.IntN(3+round%2)]
			fmt.Fprintf(&script, "%susleep %d; ", what, random.IntN(400)*1000)
		}
		t.Logf("round %d: %s", round, script.String())
		// Out of the container's cgroup, or it would end with its own first victim.
		if err := m.WriteFile(m.ctx, "/run/kill.sh", fmt.Sprintf(kill+"\n"+script.String()+"\necho >/proc/1/root/run/over%d\n", round)); err != nil {
			t.Fatal(err)
		}
		m.sh("mkdir -p /proc/1/root/sys/fs/cgroup/outside; setsid sh -c 'echo $$ >/proc/1/root/sys/fs/cgroup/outside/cgroup.procs; . /proc/1/root/run/kill.sh' >/dev/null 2>&1 &")
		m.until("the round is over", func() bool {
			_, err := m.Stat(m.ctx, fmt.Sprint("/run/over", round))
			return err == nil
		})
		if err := m.AwaitAgent(m.ctx); err != nil {
			t.Fatal(err)
		}
		m.until("all services run and are known to the supervisor", func() bool {
			all := m.processes()
			for _, name := range names {
				if first(all, "/services/"+name).PID == 0 {
					return false
				}
			}
			return true
		})
	}
	m.supervisor(0)
	// Every service is still kept: whatever happens to it, it comes back.
	for _, name := range names[:3] {
		was := m.service(name)
		m.kill(was.PID, syscall.SIGKILL)
		m.serviceAfter(name, was.PID)
	}
	m.until("as much is mounted as before", func() bool { return len(m.mounts()) == mounts })
	if now := files(1); now > init+2 {
		t.Errorf("PID 1 has %d files open, and had %d", now, init)
	}
	m.until("no shim but one is left", func() bool { return len(m.shims()) == 1 })

	if err := m.PressPower(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.end(qemu.PowerOff)
	m.inOrder(`poweroff asked for`, `very-last .*the last words`, `init .*unmounted [1-9]\d* file systems, powering off`)
	m.lacks("are left")
	m.lacks("panic")
}
