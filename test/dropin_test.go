//go:build vm

package test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"keelson/internal/qemu"
)

// What LinuxKit's own tests and the images built on it ask of an init, on one machine.
func TestDropin(t *testing.T) {
	t.Parallel()
	drive := disk(t, 8<<20)
	second := filepath.Join(t.TempDir(), "ttyS1")
	m := boot(t, setup{file: "dropin.yml", agent: true, Config: qemu.Config{
		Drives: []string{drive}, MemoryMB: 768, Args: []string{"-serial", "file:" + second, "-device", "virtio-rng-pci"},
	}})
	m.booted()

	t.Run("cases", func(t *testing.T) {
		m := m.in(t)
		m.inOrder(`fails .*\| about to fail`, `fails .*ERROR: /etc/init\.d/003-fails: exit status 4`, `works .*/etc/init.d/004-works: done`,
			`volumes .*ready`, `007-between .*\| bin$`, `\d  sysctl .*\| PASS`, `\d  mount .*\| PASS`, `volumes-again .*\| PASS`,
			`logwrite .*done in`, `015-after-onboot .*\| on the disk$`, `alpha .*running`, `030-at-last .*\| after all of it`, `boot complete`)
		for _, name := range []string{
			"sysctl", "own-sysctl", "modprobe", "losetup", "format", "mount", "binds", "volumes", "volumes-again", "kept-netns", "in-kept-netns", "runc",
		} {
			m.await(`\d  ` + name + ` +\| PASS`)
		}
		m.program(0, "sleep", "7777777") // a script of the image left it running
		m.await(`runc .*\| said in a container in a container`)
		m.lacks("never")
		if got := m.read("/proc/sys/vm/swappiness"); got != "11\n" {
			t.Errorf("vm.swappiness is %q", got)
		}
		if got := m.read("/run/script"); got != "a script of the image\n" {
			t.Errorf("the script of the image left %q", got)
		}
		if log := m.read("/run/log/init.d/004-works.log"); !strings.Contains(log, "005-volumes: the supervisor does this by itself") {
			t.Errorf("a link of LinuxKit's, started by a script, said %q", log)
		}
		if _, err := m.Stat(m.ctx, "/run/from-binds"); err != nil {
			t.Error(err)
		}
	})
	t.Run("banner", func(t *testing.T) {
		m := m.in(t)
		m.inOrder(`issue .*Welcome to LinuxKit$`, `issue .*this is +on$`, `about to fail`)
		m.until("the second console has the banner and the end of the boot", func() bool {
			data, err := os.ReadFile(second)
			return err == nil && strings.Contains(string(data), "Welcome to LinuxKit") && strings.Contains(string(data), "boot complete")
		})
	})
	// machine runs a script with the root and the namespaces of the machine itself.
	machine := func(script string) {
		t.Helper()
		if got, err := m.ExecIn(m.ctx, 1, "/bin/sh", "-c", script); err != nil || got.Exit != 0 {
			t.Errorf("%s: %+v, %v", script, got, err)
		}
	}
	t.Run("disk", func(t *testing.T) {
		m := m.in(t)
		// It was mounted by a one-shot: the machine sees it, and so does a service, each under its own path.
		if got := m.read("/var/lib/data/file"); got != "on the disk\n" {
			t.Errorf("the machine sees %q", got)
		}
		m.until("the log of the service has what it read", func() bool {
			out, err := m.ReadFile(m.ctx, "/var/log/sees-disk.out.log")
			return err == nil && out == "on the disk\n"
		})
		if got := m.read("/var/log/sees-disk.log"); got != "not in the way\n" {
			t.Errorf("the log of standard error has %q", got)
		}
		// Propagation: what is mounted now below it arrives in the running service.
		machine("mkdir /var/lib/data/late && mount -t tmpfs late /var/lib/data/late && touch /var/lib/data/late/arrived")
		if got, err := m.ExecIn(m.ctx, m.service("sees-disk").PID, "ls", "/data/late"); err != nil || got.Stdout != "arrived\n" {
			t.Errorf("in the service there is %+v, %v", got, err)
		}
		machine("umount /var/lib/data/late")
		// A service that is started again goes on with its log, where its last words are.
		was := m.service("sees-disk")
		m.kill(was.PID, syscall.SIGKILL)
		m.serviceAfter("sees-disk", was.PID)
		m.until("the log has both lives", func() bool {
			out, err := m.ReadFile(m.ctx, "/var/log/sees-disk.out.log")
			return err == nil && out == "on the disk\non the disk\n"
		})
	})
	t.Run("root", func(t *testing.T) { testDropinRoot(t, m.in(t), machine) })
	t.Run("modules", func(t *testing.T) {
		m := m.in(t)
		// A device that comes while the machine runs, as far as anybody can tell.
		from := m.Console.Len()
		machine("rmmod virtio_rng && for d in /sys/bus/virtio/devices/*/uevent; do echo add >$d; done")
		m.awaitFrom(from, `modules +.*virtio_rng.* for a new device`)
		if loaded := m.read("/proc/modules"); !strings.Contains(loaded, "virtio_rng ") {
			t.Error("the module for a new device was not loaded")
		}
	})
	t.Run("memlogd", func(t *testing.T) {
		m := m.in(t)
		m.sh("echo '<4>a message of the kernel' >/dev/kmsg")
		m.until("both packages' lines are at memlogd's query socket", func() bool {
			all := m.sh("guestagent ask 0 0")
			return strings.Contains(all, `"source":"logwrite.out","msg":"line 2 of logwrite.out"`) &&
				matches(`"source":"kmsg.out","msg":"[^"]*a message of the kernel"`, all)
		})
	})
	t.Run("network", func(t *testing.T) {
		m := m.in(t)
		m.until("one service reaches the other through the pair of links", func() bool {
			_, err := m.Stat(m.ctx, "/run/beta")
			return err == nil
		})
		inside, err := m.ExecIn(m.ctx, m.service("alpha").PID, "ip", "-o", "link")
		if err != nil || !strings.Contains(inside.Stdout, "dum:") || !strings.Contains(inside.Stdout, "wg0:") {
			t.Errorf("the service has %+v, %v", inside, err)
		}
		mine := m.sh("ip -o link")
		for _, name := range []string{"va", "vb", "dum", "wg0"} {
			if strings.Contains(mine, " "+name+":") || strings.Contains(mine, " "+name+"@") {
				t.Errorf("the machine has %s: %s", name, mine)
			}
		}
		open := m.sh("netstat -ltun")
		if !strings.Contains(open, "Proto ") || matches(`(?m)^(tcp|udp)`, open) {
			t.Errorf("open ports of a machine whose image opens none:\n%s", open)
		}
	})
	t.Run("cgroup", func(t *testing.T) {
		m := m.in(t)
		for path, want := range map[string]string{
			"/sys/fs/cgroup/limits/limited/memory.max": "33554432\n", "/sys/fs/cgroup/limits/limited/pids.max": "17\n",
		} {
			if got := m.read(path); got != want {
				t.Errorf("%s is %q, want %q", path, got, want)
			}
		}
		if p := first(m.processes(), "/limits/limited"); p.PID == 0 {
			t.Error("nothing runs in /limits/limited")
		}
	})
	t.Run("runtime-config.toml", func(t *testing.T) {
		m := m.in(t)
		argv := m.containerd(0).Argv
		if at := slices.Index(argv, "--log-level"); at < 0 || argv[at+1] != "debug" {
			t.Errorf("containerd runs as %q, want the level of cliopts", argv)
		}
		if log := m.read("/var/log/daemon.err"); !strings.Contains(log, "level=debug") {
			t.Errorf("/var/log/daemon.err has no line of level debug:\n%s", log)
		}
		m.read("/var/log/daemon.out")
	})
	t.Run("ctr and runc", func(t *testing.T) { testDebugContainer(t, m.in(t)) })

	t.Run("service", func(t *testing.T) {
		m := m.in(t)
		// However often it is started, stopped and started: its root is mounted once, in it alone.
		for _, what := range []string{"start", "start", "restart", "stop", "start", "start"} {
			if got, err := m.ExecIn(m.ctx, 1, "/usr/bin/service", what, "limited"); err != nil || got.Exit != 0 {
				t.Errorf("service %s: %+v, %v", what, got, err)
			}
		}
		roots := 0
		for _, mount := range m.mountsOf(first(m.processes(), "/limits/limited").PID) {
			if mount.point == "/" {
				roots++
			}
		}
		if now := m.mountsBelow("/containers/services/limited"); now != 0 || roots != 1 {
			t.Errorf("%d mounts in the machine, %d of its root", now, roots)
		}
	})

	// Mounts over mounts, which can go only in the order that is not that of their coming.
	machine("cd /var/lib/data/late && mount -t tmpfs one . && mkdir /var/lib/data/late/deep && mount --bind /var/lib/data /var/lib/data/late/deep && mount -t tmpfs two /var/lib/data/late/deep/late")
	// poweroff(8) of busybox in a container with the machine's processes.
	if _, err := m.ExecIn(m.ctx, m.service("debug").PID, "poweroff"); err != nil {
		t.Log(err) // the machine may be gone before the answer
	}
	m.end(qemu.PowerOff)
	m.inOrder(`keelson .*services stopped in`, `005-before .*\| the script before it`, `last-words .*\| printed at the end`, `mine .*\| the script of the end`, `init .*unmounted [1-9]\d* file systems, powering off`)
	m.lacks("are left")
	if !cleanly(t, drive) {
		t.Error("the disk was not unmounted")
	}
}

// testDropinRoot looks at the root for what LinuxKit's own copy of it spoils, and for what the kernel has.
func testDropinRoot(t *testing.T, m *vm, machine func(string)) {
	machine("mkdir /tmp/root && mount --bind / /tmp/root")
	for path, number := range map[string][2]uint32{"/tmp/root/dev/null": {1, 3}, "/tmp/root/dev/console": {5, 1}} {
		file, err := m.Stat(m.ctx, path)
		if err != nil || file.Mode&syscall.S_IFMT != syscall.S_IFCHR || file.Major != number[0] || file.Minor != number[1] {
			t.Errorf("the image's device %s is %+v (%v)", path, file, err)
		}
	}
	machine("umount /tmp/root")
	if file, err := m.Stat(m.ctx, "/"); err != nil || file.Mode != syscall.S_IFDIR|0o755 {
		t.Errorf("/ has mode %o (%v)", file.Mode, err)
	}
	known := m.read("/proc/filesystems")
	mounted := map[string]bool{}
	for _, mount := range m.mounts() {
		mounted[mount.kind] = true
	}
	for _, kind := range []string{"securityfs", "debugfs", "configfs", "fusectl", "selinuxfs", "pstore", "bpf", "binfmt_misc"} {
		if strings.Contains(known, "\t"+kind+"\n") != mounted[kind] {
			t.Errorf("%s is mounted: %v; the kernel knows:\n%s", kind, mounted[kind], known)
		}
	}
}

// testDebugContainer uses the tools people have in debug containers.
func testDebugContainer(t *testing.T, m *vm) {
	debug := m.service("debug").PID
	for _, tc := range []struct {
		script string
		want   []string
	}{
		{"ctr version", []string{"Server:"}},
		{"ctr namespaces ls", []string{"services.linuxkit"}},
		{"ctr -n services.linuxkit t ls", []string{"alpha", "beta", "debug", "RUNNING"}},
		{"ctr -n services.linuxkit c ls", []string{"alpha", "io.containerd.runc.v2"}},
		{"ctr -n services.linuxkit c info alpha", []string{`"ID": "alpha"`, `"Spec"`}},
		{"ctr -n services.linuxkit t ps alpha", []string{"PID"}},
		{"ctr -n services.linuxkit t metrics limited", []string{"memory"}},
		{"ctr -n services.linuxkit t exec --exec-id one alpha ip -o addr", []string{"10.9.0.1/24"}},
		{"ctr -n services.linuxkit t exec --exec-id two alpha sh -c 'exit 3' || echo code $?", []string{"code 3"}},
		{"ctr -n services.linuxkit t pause limited && ctr -n services.linuxkit t ls && ctr -n services.linuxkit t resume limited", []string{"PAUSED"}},
		{"runc --root /run/containerd/runc/services.linuxkit list", []string{"alpha", "running"}},
		{"ls /containers/services /containers/onboot /var/log", []string{"alpha", "000-sysctl", "sees-disk.out.log", "onboot"}},
	} {
		result, err := m.ExecIn(m.ctx, debug, "/bin/sh", "-c", tc.script)
		for _, want := range tc.want {
			if err != nil || !strings.Contains(result.Stdout, want) {
				t.Errorf("%s: no %q in %+v (%v)", tc.script, want, result, err)
			}
		}
	}
	was := first(m.processes(), "/limits/limited").PID
	if result, err := m.ExecIn(m.ctx, debug, "ctr", "-n", "services.linuxkit", "t", "kill", "-s", "SIGKILL", "limited"); err != nil || result.Exit != 0 {
		t.Errorf("ctr t kill: %+v, %v", result, err)
	}
	m.until("the service that ctr killed runs again", func() bool {
		p := first(m.processes(), "/limits/limited")
		return p.PID != 0 && p.PID != was
	})
}
