//go:build vm

package test

import (
	"context"
	"strconv"
	"strings"
	"testing"
)

// The old cgroup hierarchies, which an image may ask for.
func TestCgroupV1(t *testing.T) {
	t.Parallel()
	m := boot(t, setup{agent: true, yaml: `
kernel:
  image: keelson/kernel
  cmdline: "console=ttyS0 quiet linuxkit.unified_cgroup_hierarchy=0"
init: [keelson/init]
services:
  - name: limited
    image: keelson/busybox
    resources: {memory: {limit: 33554432}, pids: {limit: 17}}
    command: ["sleep", "1000000"]
    runtime:
      cgroups: [made]
`})
	m.booted()
	for path, want := range map[string]string{
		"/sys/fs/cgroup/memory/services/limited/memory.limit_in_bytes": "33554432\n",
		"/sys/fs/cgroup/pids/services/limited/pids.max":                "17\n",
	} {
		if got := m.read(path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	// And all containers together are limited here, too.
	for path, most := range map[string]int{"memory/services/memory.limit_in_bytes": 512 << 20, "pids/services/pids.max": 32768} {
		text := strings.TrimSpace(m.read("/sys/fs/cgroup/" + path))
		if n, err := strconv.Atoi(text); err != nil || n <= 0 || n >= most {
			t.Errorf("%s is %q, want less than %d", path, text, most)
		}
	}
	for _, path := range []string{"/sys/fs/cgroup/cpu/made", "/sys/fs/cgroup/systemd"} {
		if _, err := m.Stat(m.ctx, path); err != nil {
			t.Error(err)
		}
	}
	pid := strings.TrimSpace(m.read("/sys/fs/cgroup/pids/services/limited/cgroup.procs"))
	first, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	// In the container its own groups are where it looks for them.
	for path, want := range map[string]string{"memory/memory.limit_in_bytes": "33554432\n", "pids/pids.max": "17\n"} {
		got, err := m.ReadFileIn(m.ctx, first, "/sys/fs/cgroup/"+path)
		if err != nil || got != want {
			t.Errorf("in the container %s is %q, want %q (%v)", path, got, want, err)
		}
	}
	from := m.Console.Len()
	m.sh("kill -9 " + pid)
	m.awaitFrom(from, `limited .*SIGKILL.*restart 1 in`)
	m.awaitFrom(from, `limited .*running`)
	if left := m.read("/sys/fs/cgroup/pids/services/limited/cgroup.procs"); left == "" || strings.TrimSpace(left) == pid {
		t.Errorf("in the cgroup there is %q, and %s was killed", left, pid)
	}
	// No network card, and no /etc/hostname.
	if name := m.read("/proc/sys/kernel/hostname"); name != "linuxkit\n" {
		t.Errorf("the machine's name is %q", name)
	}
	// halt(8) of busybox: USR1 to PID 1. A machine that is halted is there still, and answers nobody.
	ctx, cancel := context.WithCancel(m.ctx)
	defer cancel()
	go m.Exec(ctx, "halt")
	m.await(`init .*halt asked for`)
	m.await(`init .*unmounted [1-9]\d* file systems, halting`)
	m.lacks("are left")
}
