//go:build vm

package test

import (
	"fmt"
	"strings"
	"testing"

	"keelson/internal/qemu"
)

// ceilingImage has a container for each place that can be filled, one that forks without end, two neighbours, and an
// observer outside of the ceiling, which says what becomes of the machine's parts and of the neighbours meanwhile.
const ceilingImage = `
kernel:
  image: keelson/kernel-lean
  cmdline: "console=ttyS0 quiet"
init: [keelson/init]
onboot:
  - name: leaves
    image: keelson/busybox
    binds: ["/tmp:/tmp"]
    command: ["sh", "-c", "dd if=/dev/zero of=/tmp/left bs=64k count=16 2>/dev/null"]
volumes:
  - name: data
services:
  - name: observer
    image: keelson/busybox
    capabilities: [all]
    pid: host
    cgroupsPath: /observer
    mounts: [{type: cgroup2, source: cgroup2, destination: /sys/fs/cgroup, options: [ro]}]
    binds: ["/:/host", "/run:/run", "/tmp:/tmp", "/usr/bin/service:/usr/bin/service", "/etc/observer.sh:/observer.sh"]
    annotations: {keelson.console: "true", keelson.after: "neighbour,victim", keelson.ready: "log:WATCHING", keelson.restart: never, keelson.ready.timeout: 10m}
    command: ["sh", "/observer.sh"]
  - name: neighbour
    image: keelson/busybox
    binds: ["/etc/www:/www"]
    command: ["httpd", "-f", "-p", "8080", "-h", "/www"]
  - name: victim
    image: keelson/busybox
    command: ["sh", "-c", "echo victim is up; sleep 1000000"]
FILLERSfiles:
  - {path: etc/www/index.html, contents: "hello", mode: "0644"}
  - path: etc/observer.sh
    contents: |
      cg=/sys/fs/cgroup
      first() { sort -n $cg/$1/cgroup.procs 2>/dev/null | head -n 1; }
      bad() { echo "BAD: $*"; failed=1; }
      parts="keelson/supervisor keelson/containerd keelson/shim services/neighbour"
      pids() { for p in $parts; do echo $p $(first $p); done; }
      # What a one-shot left in memory is charged below the ceiling.
      used=$(sed -n 's/^shmem //p' $cg/services/memory.stat)
      [ "$used" -ge 1048576 ] || bad "of what a one-shot left in /tmp $used bytes are charged to all services together"
      echo limits $(cat $cg/services/memory.max $cg/services/pids.max $cg/services/memory.oom.group)
      # Options of cgroup2 that this container takes from the machine are put back, and no start takes them again.
      options() { grep -c "^cgroup2 .*nsdelegate.*favordynmods.*memory_recursiveprot" /proc/1/mounts; }
      mkdir -p /tmp/cg && mount -t cgroup2 cgroup2 /tmp/cg && umount /tmp/cg || bad "cannot mount cgroup2"
      tries=0
      until [ "$(options)" = 1 ] || [ $tries -ge 60 ]; do tries=$((tries + 1)); sleep 1; done
      was=$(pids)
      echo WATCHING $was
      # Until every place is full, or its file system cannot be: the memory is.
      round=0
      full() { ! true >/run/one-more-$round; }
      while [ $round -lt ROUNDS ] || ! full 2>/dev/null; do
        [ $round -lt 200 ] || { bad "/run does not become full: $(df -i /run | tail -n 1)"; break; }
        now=$(pids)
        [ "$now" = "$was" ] || bad "$was became $now"
        was=$now
        printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 60 127.0.0.1 8080 | grep -q hello || bad "the neighbour does not answer"
        service list >/tmp/null 2>&1 || service list >/dev/null || bad "the supervisor does not answer"
        round=$((round + 1))
        echo round $round $(cat $cg/services/memory.current) $(cat $cg/services/pids.current)
        sleep 1
      done
      before=$(first services/victim)
      kill -9 $before
      tries=0
      while now=$(first services/victim); [ -z "$now" ] || [ "$now" = "$before" ]; do
        tries=$((tries + 1))
        [ $tries -lt 120 ] || { bad "a killed service is not started again while /run is full"; break; }
        sleep 1
      done
      tries=0
      until [ "$(service exec victim echo inside)" = inside ]; do
        tries=$((tries + 1))
        [ $tries -lt 60 ] || { bad "no command can be run in the victim"; break; }
        sleep 1
      done
      service logs victim | grep -c "victim is up" | grep -q '[2-9]' || bad "the log of the victim's second start is missing"
      [ "$(pids)" = "$was" ] || bad "$was became $(pids)"
      [ "$(options)" = 1 ] || bad "the options of cgroup2 are $(grep ^cgroup2 /proc/1/mounts)"
      service status
      echo VERDICT ${failed:-0}
      sleep 1000000
`

// ceilingFillers fill each place from a container of its own.
const ceilingFillers = `  - {name: root1, image: keelson/busybox, annotations: {keelson.after: observer, keelson.restart.backoff: 100ms..1s}, command: [sh, -c, "FILL /fill"]}
  - {name: root2, image: keelson/busybox, annotations: {keelson.after: observer, keelson.restart.backoff: 100ms..1s}, command: [sh, -c, "FILL /fill"]}
  - {name: run, image: keelson/busybox, annotations: {keelson.after: observer, keelson.restart.backoff: 100ms..1s}, binds: ["/run:/run"], command: [sh, -c, "FILES FILL /run/fill"]}
  - {name: tmp, image: keelson/busybox, annotations: {keelson.after: observer, keelson.restart.backoff: 100ms..1s}, binds: ["/tmp:/tmp"], command: [sh, -c, "FILL /tmp/fill"]}
  - {name: var, image: keelson/busybox, annotations: {keelson.after: observer, keelson.restart.backoff: 100ms..1s}, binds: ["/var:/var"], command: [sh, -c, "FILL /var/fill"]}
  - {name: shm, image: keelson/busybox, annotations: {keelson.after: observer, keelson.restart.backoff: 100ms..1s}, binds: ["/dev/shm:/shm"], command: [sh, -c, "FILL /shm/fill"]}
  - {name: volume, image: keelson/busybox, annotations: {keelson.after: observer, keelson.restart.backoff: 100ms..1s}, binds: ["data:/data"], command: [sh, -c, "FILL /data/fill"]}
  - {name: own, image: keelson/busybox, annotations: {keelson.after: observer, keelson.restart.backoff: 100ms..1s}, tmpfs: ["/own"], command: [sh, -c, "FILL /own/fill"]}
  - {name: bomb, image: keelson/busybox, annotations: {keelson.after: observer, keelson.restart.backoff: 100ms..1s}, command: [sh, -c, "while :; do sleep 100000 & done"]}
`

// fewFillers fill the same places from fewer containers: each costs the machine's own parts memory as well.
const fewFillers = `  - {name: root1, image: keelson/busybox, annotations: {keelson.after: observer, keelson.restart.backoff: 100ms..1s}, command: [sh, -c, "FILL /fill"]}
  - name: shared
    image: keelson/busybox
    annotations: {keelson.after: observer, keelson.restart.backoff: 100ms..1s}
    binds: ["/run:/run", "/tmp:/tmp", "/var:/var", "/dev/shm:/shm", "data:/data"]
    command: [sh, -c, "for d in tmp var shm data; do FILL /$d/fill; done; FILES FILL /run/fill; sleep 1000000"]
  - {name: own, image: keelson/busybox, annotations: {keelson.after: observer, keelson.restart.backoff: 100ms..1s}, tmpfs: ["/own"], command: [sh, -c, "FILL /own/fill"]}
  - {name: bomb, image: keelson/busybox, annotations: {keelson.after: observer, keelson.restart.backoff: 100ms..1s}, command: [sh, -c, "while :; do sleep 100000 & done"]}
`

// Whatever containers fill and however much they fork, the supervisor, containerd, the shim and a neighbour go on, and
// a service that died is started again.
func TestCeiling(t *testing.T) {
	for _, c := range []struct {
		mb, rounds int
		fillers    string
	}{{128, 8, fewFillers}, {320, 6, ceilingFillers}, {1024, 6, ceilingFillers}} {
		t.Run(fmt.Sprint(c.mb), func(t *testing.T) {
			t.Parallel()
			yaml := strings.NewReplacer(
				"FILES ", fmt.Sprintf("mkdir -p /run/files; cd /run/files; seq %d | xargs touch 2>/dev/null; ", c.mb*130),
				"FILL ", "dd if=/dev/zero bs=1M 2>/dev/null of=", `/fill"]}`, `/fill; sleep 1000000"]}`,
				"ROUNDS", fmt.Sprint(c.rounds),
			).Replace(strings.Replace(ceilingImage, "FILLERS", c.fillers, 1))
			m := boot(t, setup{yaml: yaml, Config: qemu.Config{MemoryMB: c.mb}})
			if verdict := m.await(`VERDICT \d|observer +ERROR`); !strings.Contains(verdict, "VERDICT 0") {
				t.Error(verdict)
			}
			m.once(`init +warning: a container mounted cgroup2 .*: put back`)
			m.lacks("BAD:")
			m.lacks("victim        ERROR: killed by the")
			m.lacks("the machine is out of memory")
		})
	}
}
