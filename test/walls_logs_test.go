//go:build vm

package test

import (
	"strings"
	"testing"

	"keelson/internal/qemu"
)

// hostileLogs has a container that may do nothing but write to the directory of the logs, where
// it puts something else in the place of each other service's file, and of its own.
const hostileLogs = `
kernel: {image: keelson/kernel, cmdline: "console=ttyS0 quiet"}
init: [keelson/init]
services:
  - name: evil
    image: keelson/busybox
    noNewPrivileges: true
    binds: ["/var/log:/var/log"]
    command:
      - sh
      - -c
      - |
        cd /var/log
        until [ -e go ]; do sleep 0.2; done
        ln -s /proc/sys/kernel/core_pattern x && mv -f x evil.out.log
        ln -s /proc/sys/kernel x && mv -f x link.out.log
        until mkdir directory.out.log 2>/dev/null; do rm -f directory.out.log; done
        touch directory.out.log/full
        mkfifo x && mv -f x fifo.out.log
        ln neighbour.out.log x && mv -f x hard.out.log
        echo '|/planted by evil'
        i=0
        until [ -e stop ]; do
          ln -sf /proc/sys/kernel/core_pattern x && mv -f x swap.out.log
          ln -sf /proc/sys/kernel/core_pattern x && mv -f x swap.out.log.1
          rm -f swap.out.log.refused.*
          usleep 20000
        done
        exec sleep 1000000
  - &ticks
    name: link
    image: keelson/busybox
    readonly: true
    command: ["sh", "-c", "i=0; while :; do i=$((i+1)); echo tick $i; sleep 1; done"]
  - {<<: *ticks, name: directory}
  - {<<: *ticks, name: fifo}
  - {<<: *ticks, name: hard}
  - {<<: *ticks, name: neighbour}
  - {<<: *ticks, name: swap, command: ["sh", "-c", "i=0; while :; do i=$((i+1)); echo tick $i; usleep 10000; done"]}
`

// A container that has nothing but /var/log puts links, a directory, a FIFO and a hard link in
// the place of log files: nothing of the machine is written through them, each is reported,
// and every log goes on.
func TestHostileLogDirectory(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{yaml: hostileLogs, agent: true, Config: qemu.Config{MemoryMB: 256}})
	m.booted()
	m.until("all have logged", func() bool {
		return strings.TrimSpace(m.sh("cd /proc/1/root/var/log; cat link.out.log directory.out.log fifo.out.log hard.out.log swap.out.log neighbour.out.log | grep -c '^tick 2$'; true")) == "6"
	})
	const pattern = "/proc/sys/kernel/core_pattern"
	before := m.read(pattern)
	m.sh("touch /proc/1/root/var/log/go")
	for name, is := range map[string]string{
		"evil": `is a symbolic link to "/proc/sys/kernel/core_pattern"`, "link": `is a symbolic link to "/proc/sys/kernel"`,
		"directory": `is a directory, not a regular file`, "fifo": `is a FIFO, not a regular file`, "hard": `has 2 names \(hard links\)`,
	} {
		m.await(` ` + name + ` +warning: /var/log/` + name + `\.out\.log ` + is + `, and is not written to: it is ` + name + `\.out\.log\.refused\.1 now, and the log has a new file`)
		m.until("the log of "+name+" goes on", func() bool {
			return m.sh("cd /proc/1/root/var/log; test -f "+name+".out.log && ! test -L "+name+".out.log && tail -n 1 "+name+".out.log; true") != ""
		})
	}
	if got := m.read("/var/log/evil.out.log"); got != "|/planted by evil\n" {
		t.Errorf("evil's log is %q", got)
	}
	m.await(` swap +warning: /var/log/swap\.out\.log is a symbolic link`)
	ticks := func(name string) string {
		return m.sh("chroot /proc/1/root /usr/bin/service logs " + name + " | tail -n 1")
	}
	for _, name := range []string{"swap", "neighbour"} {
		last := ticks(name)
		m.until("the lines of "+name+" go on", func() bool { return ticks(name) != last })
	}
	m.sh("touch /proc/1/root/var/log/stop")
	m.until("the file of swap is written", func() bool {
		return strings.HasPrefix(m.sh("tail -n 1 /proc/1/root/var/log/swap.out.log; true"), "tick ")
	})
	// Its file, which got a second name, may have been put aside as well, with what was in it.
	if got := m.sh("cat /proc/1/root/var/log/neighbour.out.log*"); strings.Count(got, "tick 1\n") != 1 {
		t.Errorf("the neighbour's files have %.200q", got)
	}
	if after := m.read(pattern); after != before {
		t.Errorf("core_pattern was %q, is %q", before, after)
	}
	m.lacks(`supervisor is back`)
}
