//go:build vm

package test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"keelson/internal/qemu"
)

// packageLabels are what the labels of LinuxKit's packages, and of one of EVE's, ask for.
var packageLabels = map[string]string{
	"getty": `{"pid": "host", "net": "host", "capabilities": ["all"],
		"binds": ["/etc/resolv.conf:/etc/resolv.conf", "/run:/run", "/tmp:/tmp", "/etc:/hostroot/etc", "/usr/bin/ctr:/usr/bin/ctr", "/usr/bin/runc:/usr/bin/runc",
			"/containers:/containers", "/var/log:/var/log", "/var/lib/containerd:/var/lib/containerd", "/dev:/dev", "/sys:/sys"],
		"devices": [{"path": "/dev/console", "type": "c", "major": 5, "minor": 1, "mode": "0666"}, {"path": "/dev/tty0", "type": "c", "major": 4, "minor": 0, "mode": "0666"},
			{"path": "/dev/ttyS0", "type": "c", "major": 4, "minor": 64, "mode": "0666"}, {"path": "/dev/ttyAMA0", "type": "c", "major": 204, "minor": 64, "mode": "0666"}]}`,
	"sshd": `{"pid": "host", "capabilities": ["all"],
		"binds": ["/root/.ssh:/root/.ssh", "/etc/resolv.conf:/etc/resolv.conf", "/run:/run", "/tmp:/tmp", "/etc:/hostroot/etc", "/usr/bin/ctr:/usr/bin/ctr",
			"/usr/bin/runc:/usr/bin/runc", "/containers:/containers", "/var/log:/var/log", "/var/lib/containerd:/var/lib/containerd", "/dev:/dev", "/sys:/sys"]}`,
	"metadata": `{"binds": ["/dev:/dev", "/var:/var", "/run:/run", "/sys:/sys", "/etc/resolv.conf:/etc/resolv.conf", "/etc/ssl/certs:/etc/ssl/certs"],
		"tmpfs": ["/tmp"], "readonly": true, "capabilities": ["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]}`,
	"dhcpcd":        `{"binds": ["/run:/run", "/run/resolvconf:/etc"], "capabilities": ["CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_ADMIN"]}`,
	"memlogd":       `{"binds": ["/var/run:/var/run"]}`,
	"logwrite":      `{"binds": ["/var/run:/var/run", "/var/log:/var/log"]}`,
	"kmsg":          `{"binds": ["/dev/kmsg:/dev/kmsg"], "capabilities": ["CAP_SYSLOG"], "devices": [{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "mode": "0600"}]}`,
	"swap":          `{"binds": ["/dev:/dev", "/var:/var"], "devices": [{"path": "all", "type": "a"}], "capabilities": ["CAP_SYS_ADMIN", "CAP_MKNOD"], "net": "new", "ipc": "new"}`,
	"dm-crypt":      `{"binds": ["/dev:/dev", "/etc/dm-crypt:/etc/dm-crypt"], "devices": [{"path": "all", "type": "a"}], "capabilities": ["CAP_SYS_ADMIN", "CAP_MKNOD"]}`,
	"losetup":       `{"binds": ["/dev:/dev", "/var:/var"], "devices": [{"path": "all", "type": "b"}], "capabilities": ["CAP_SYS_ADMIN"]}`,
	"binfmt":        `{"binds": ["/proc/sys/fs/binfmt_misc:/binfmt_misc"], "readonly": true, "capabilities": ["CAP_SYS_ADMIN"], "net": "new", "ipc": "new"}`,
	"node_exporter": `{"pid": "host", "binds": ["/proc:/host/proc", "/sys:/host/sys", "/:/rootfs"], "capabilities": ["all"]}`,
	"acpid":         `{"binds": ["/dev:/dev"], "devices": [{"path": "all", "type": "c", "major": 13}], "pid": "host"}`,
	"cadvisor":      `{"pid": "host", "binds": ["/var/lib/docker:/var/lib/docker:ro", "/var/run:/var/run", "/sys:/sys:ro", "/etc/resolv.conf:/etc/resolv.conf:ro"], "capabilities": ["all"]}`,
	"eve": `{"binds": ["/dev:/dev", "/proc:/proc", "/run:/run", "/:/hostfs", "/lib/modules:/lib/modules", "/lib/firmware:/lib/firmware", "/usr/bin/ctr:/usr/bin/ctr",
			"/usr/bin/containerd:/usr/bin/containerd", "/etc/os-release:/etc/os-release", "/etc/hosts:/etc/hosts", "/etc/resolv.conf:/etc/resolv.conf"],
		"mounts": [{"type": "cgroup2", "source": "cgroup2", "destination": "/sys/fs/cgroup", "options": ["rw", "nosuid", "noexec", "nodev"]}],
		"capabilities": ["all"], "pid": "host", "net": "host"}`,
}

// packageImages makes NAME.tar of each package in dir: busybox, and what the package's own image adds to it.
func packageImages(t *testing.T, dir string) {
	t.Helper()
	busybox := filepath.Join(buildDir(t), "images/busybox")
	put := func(path, text string, mode os.FileMode) {
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, []byte(text), mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"init", "sbin/init", "bin/rc.init", "usr/bin/ctr"} {
		put(filepath.Join(dir, "earlier", path), "another init", 0o755)
	}
	if output, err := mkimage(t, "import", "--output", filepath.Join(dir, "earlier.tar"), "linuxkit/earlier", filepath.Join(dir, "earlier")); err != nil {
		t.Fatalf("mkimage: %v\n%s", err, output)
	}
	for name, label := range packageLabels {
		root := filepath.Join(dir, name)
		if name == "memlogd" { // it is unpacked into the root, and brings no shell
			put(filepath.Join(root, "etc/init.d/002-logging"), "#!/bin/sh\n\nexec /usr/bin/memlogd -daemonize\n", 0o755)
			put(filepath.Join(root, "usr/bin/memlogd"), "a program", 0o755)
		} else if err := os.CopyFS(root, os.DirFS(busybox)); err != nil {
			t.Fatal(err)
		}
		// Places that a read-only image has to have for what is bound there.
		for _, place := range map[string][]string{"metadata": {"etc/ssl/certs", "var"}, "binfmt": {"binfmt_misc"}}[name] {
			if err := os.MkdirAll(filepath.Join(root, place), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if name == "logwrite" {
			agent, err := os.ReadFile(filepath.Join(buildDir(t), "bin/guestagent"))
			if err != nil {
				t.Fatal(err)
			}
			put(filepath.Join(root, "bin/guestagent"), string(agent), 0o755)
			_ = os.RemoveAll(filepath.Join(root, "var/run"))
			if err := os.MkdirAll(filepath.Join(root, "var"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("../run", filepath.Join(root, "var/run")); err != nil {
				t.Fatal(err)
			}
		}
		output, err := mkimage(t, "import", "--output", filepath.Join(dir, name+".tar"), "--config", `{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}`,
			"--label", "org.mobyproject.config="+label, "linuxkit/"+name, root)
		if err != nil {
			t.Fatalf("mkimage: %v\n%s", err, output)
		}
	}
}

// What LinuxKit's packages ask for runs with our init image in place of LinuxKit's, and nothing else.
func TestSwap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	packageImages(t, dir)
	m := boot(t, setup{file: "swap.yml", dir: dir, agent: true, Config: qemu.Config{MemoryMB: 768}})
	m.booted()
	m.lacks("ERROR")

	t.Run("onboot", func(t *testing.T) {
		m := m.in(t)
		for _, name := range []string{"dhcpcd", "swap", "dm-crypt", "losetup", "metadata", "binfmt"} {
			m.await(`\d  ` + name + ` +\| PASS`)
		}
		long := strings.Repeat("n", 66)
		for name, says := range map[string]string{"a--b": "a--b", "_x": "_x", long: "long"} {
			m.await(`\d  ` + name + ` +\| PASS ` + says)
			found := m.sh("cat /proc/1/root/run/log/onboot/onboot.0??-" + name + ".out.log")
			if found != "PASS "+says+"\n" {
				t.Errorf("the log of %s has %q", name, found)
			}
		}
	})
	t.Run("services", func(t *testing.T) {
		m := m.in(t)
		for name, want := range map[string][]string{
			"sshd":          {"/root/.ssh", "/hostroot/etc/hosts", "/containers/services/getty", "code 127", "code 1\n"},
			"node_exporter": {"init", "/rootfs/usr/bin/service", "/host/sys/kernel"},
			"acpid":         {"/dev/input"},
			"cadvisor":      {"/var/lib/docker"},
			"eve":           {"uid=101", "groups=9", "memory", "ID=keelson", "localhost", "/lib/modules", "/lib/firmware", "/hostfs/containers"},
		} {
			m.service(name)
			var log string
			m.until(name+" has said what it found", func() bool {
				log, _ = m.ReadFile(m.ctx, "/var/log/"+name+".out.log")
				return strings.Contains(log, want[len(want)-1])
			})
			for _, w := range want {
				if !strings.Contains(log, w) {
					t.Errorf("%s has no %q: %s", name, w, log)
				}
			}
		}
		for _, name := range []string{"getty", "kmsg", "logwrite"} {
			m.service(name)
		}
		if log := m.read("/var/log/sshd.log"); !strings.Contains(log, "    - keelson/ctr\n") {
			t.Errorf("ctr of an image without it said %q", log)
		}
		if log := m.read("/var/log/sshd.log"); !strings.Contains(log, "runc: not in this image: add keelson/runc to init:") {
			t.Errorf("runc of an image without it said %q", log)
		}
	})
	t.Run("memlogd", func(t *testing.T) {
		m := m.in(t)
		// The script cannot be run: we serve both sockets, and say so once with the remedy.
		m.once(`002-logging +warning: /etc/init\.d/002-logging: needs /bin/sh, which is not in the machine's root: keelson serves memlogd's sockets itself; scripts take an image`)
		m.until("what logwrite handed over is at the query socket", func() bool {
			return strings.Contains(m.sh("guestagent ask 0 0"), `"source":"swapped.out","msg":"line 2 of swapped.out"`)
		})
		m.sh("echo '<4>a message of the kernel' >/dev/kmsg")
		m.until("kmsg has read what the kernel said", func() bool {
			log, err := m.ReadFile(m.ctx, "/var/log/kmsg.out.log")
			return err == nil && strings.Contains(log, "a message of the kernel")
		})
	})
	t.Run("root", func(t *testing.T) {
		m := m.in(t)
		for link, want := range map[string]string{"sbin/init": "/init", "bin/rc.init": "/init", "usr/bin/ctr": "service"} {
			if got := strings.TrimSpace(m.sh("readlink /proc/1/root/" + link)); got != want {
				t.Errorf("/%s leads to %q, want %s", link, got, want)
			}
		}
		for path, number := range map[string][2]uint32{"/dev/loop-control": {10, 237}, "/dev/fuse": {10, 229}, "/dev/net/tun": {10, 200}, "/dev/mapper/control": {10, 236}} {
			file, err := m.Stat(m.ctx, path)
			if err != nil || file.Mode&syscall.S_IFMT != syscall.S_IFCHR || file.Major != number[0] || file.Minor != number[1] {
				t.Errorf("%s is %+v (%v)", path, file, err)
			}
		}
		// The first use of a node loads what it is for.
		if m.sh("exec 3<>/dev/net/tun && grep -c ^tun /proc/modules") != "1\n" {
			t.Error("/dev/net/tun did not load its module")
		}
	})
	t.Run("stop", func(t *testing.T) {
		m := m.in(t)
		for _, tc := range []struct {
			name        string
			least, most float64
		}{{"loops", 0, 4}, {"closes", 4.5, 9.5}} {
			if got, err := m.ExecIn(m.ctx, 1, "/usr/bin/service", "stop", tc.name); err != nil || got.Exit != 0 {
				t.Errorf("service stop %s: %+v, %v", tc.name, got, err)
			}
			line := m.await(`\d  ` + tc.name + ` +stopped in `)
			_, after, _ := strings.Cut(line, "stopped in ")
			took, err := strconv.ParseFloat(after[:strings.Index(after, "s")], 64)
			if err != nil || took < tc.least || took > tc.most {
				t.Errorf("%s: took %vs, want %v to %v (%v)", line, took, tc.least, tc.most, err)
			}
		}
		m.await(`closes +\| closed`)
	})
	t.Run("login", func(t *testing.T) { testSwapLogin(t, m.in(t)) })
}

// testSwapLogin logs in on the console, as everybody does first, and turns the machine off from there.
func testSwapLogin(t *testing.T, m *vm) {
	// The prompt was there before the lines of other services: getty shows it again.
	next := m.Console.Len()
	if err := m.Type("\n"); err != nil {
		t.Fatal(err)
	}
	_, next, err := m.Console.AwaitPrompt(m.ctx, next, `login: $`)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Type("root\n"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Console.AwaitPrompt(m.ctx, next, `# $`); err != nil {
		t.Fatal(err)
	}
	if err := m.Type("cat /proc/1/comm; ls /containers/onboot | tail -n 1; poweroff\n"); err != nil {
		t.Fatal(err)
	}
	m.awaitFrom(next, `^init$`)
	m.awaitFrom(next, `^008-nnn`)
	m.end(qemu.PowerOff)
}
