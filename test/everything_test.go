//go:build vm

package test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson/internal/qemu"
)

// One machine with twenty-three services, a disk, and containers that do everything wrong they can.
func TestEverything(t *testing.T) {
	t.Parallel()
	drive := disk(t, 8<<20)
	m := boot(t, setup{file: "everything.yml", agent: true, Config: qemu.Config{
		Drives: []string{drive}, Ports: []int{}, MemoryMB: 1024, Args: []string{"-device", "virtio-rng-pci"},
	}})
	m.booted()

	t.Run("root", func(t *testing.T) { testRoot(t, m) })
	t.Run("onboot", func(t *testing.T) { testOnboot(t, m) })
	t.Run("shims", func(t *testing.T) { testShims(t, m) })
	t.Run("runtime.json", func(t *testing.T) { testRuntime(t, m) })
	t.Run("restarts", func(t *testing.T) { testRestarts(t, m) })

	// The power button: everything that was started is stopped, in order and within its bound.
	from := m.Console.Len()
	if err := m.PressPower(m.ctx); err != nil {
		t.Fatal(err)
	}
	m.end(qemu.PowerOff)
	m.inOrder(
		`keelson .*stopping \d+ services`,
		`stubborn .*has not stopped 2s after SIGTERM: killed`,
		`stubborn .*stopped in`,
		`keelson .*services stopped in`,
		`bye .*goodbye, said at SIGTERM`,
		`bye .*\| 0$`, // services that are still there
		`bye .*the last words`,
		`slow .*onshutdown 2 of 2: not done after 1s`,
		`init .*unmounted [1-9]\d* file systems, powering off`,
	)
	m.await(`init .*poweroff asked for`) // by another process, so its place among the lines is not fixed
	for _, line := range m.Console.Lines(from) {
		if strings.Contains(line, "are left") || strings.Contains(line, "graceful") && strings.Contains(line, "killed") {
			t.Errorf("the console shows %q", line)
		}
	}
	if !cleanly(t, drive) {
		t.Error("the disk was not unmounted: its file system is marked as in use")
	}
}

// testRoot looks at what a drop-in for LinuxKit's init has to have set up.
func testRoot(t *testing.T, m *vm) {
	point := map[string]mount{}
	for _, mount := range m.mounts() {
		point[mount.point] = mount // the last one is on top
	}
	has := func(list string, want ...string) bool {
		options := strings.Split(list, ",")
		for _, w := range want {
			if !slices.Contains(options, w) {
				return false
			}
		}
		return true
	}
	root := point["/"]
	if root.kind != "rootfs" && root.kind != "ramfs" && root.kind != "tmpfs" {
		t.Errorf("the root is a %s", root.kind)
	}
	if !has(root.options, "ro") || !strings.Contains(root.optional, "shared:") {
		t.Errorf("the root is mounted %s %s, want ro and shared", root.options, root.optional)
	}
	if err := m.WriteFile(m.ctx, "/etc/written", "x"); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("writing to the root: %v", err)
	}
	// No copy: the kernel's own root has the image's files, and is the very file system that is mounted now.
	if self := m.sh("stat -c %i /proc/1/root/. && grep -c ' / / ' /proc/1/mountinfo"); !strings.HasSuffix(self, "\n1\n") && !strings.HasSuffix(self, "\n2\n") {
		t.Errorf("mounts of the root: %q", self)
	}

	for _, want := range []struct {
		path, kind string
		options    []string
		super      []string
	}{
		{"/proc", "proc", []string{"nodev", "nosuid", "noexec", "relatime"}, nil},
		{"/run", "tmpfs", nil, []string{"mode=755"}},
		{"/tmp", "tmpfs", nil, nil},
		{"/var", "tmpfs", nil, nil},
		{"/dev", "devtmpfs", []string{"nosuid", "noexec"}, nil},
		{"/dev/mqueue", "mqueue", []string{"nosuid", "noexec", "nodev"}, nil},
		{"/dev/shm", "tmpfs", []string{"nosuid", "noexec", "nodev"}, nil},
		{"/dev/pts", "devpts", []string{"nosuid", "noexec"}, []string{"gid=5", "mode=620"}},
		{"/sys", "sysfs", []string{"nosuid", "noexec", "nodev"}, nil},
		{"/sys/kernel/security", "securityfs", nil, nil},
		{"/sys/kernel/debug", "debugfs", nil, nil},
		{"/sys/fs/bpf", "bpf", nil, nil},
		{"/sys/fs/cgroup", "cgroup2", []string{"nosuid", "noexec", "nodev"}, []string{"nsdelegate", "memory_recursiveprot"}},
	} {
		got, ok := point[want.path]
		if !ok || got.kind != want.kind || !has(got.options, want.options...) || !has(got.super, want.super...) {
			t.Errorf("%s is %+v, want %+v", want.path, got, want)
		}
	}
	m.lean(append(m.shims(), m.supervisor(0), m.containerd(0))...)
	// Sizes are shares of the RAM.
	memory := field(t, m.read("/proc/meminfo"), "MemTotal:")
	for path, share := range map[string]int{"/run": 10, "/tmp": 10, "/var": 50} {
		size := memory / 2 // the kernel names no size that is its default
		for option := range strings.SplitSeq(point[path].super, ",") {
			if text, ok := strings.CutPrefix(option, "size="); ok {
				size, _ = strconv.Atoi(strings.TrimSuffix(text, "k"))
			}
		}
		if want := memory * share / 100; size < want*9/10 || size > want*11/10 {
			t.Errorf("%s has room for %d KiB of the RAM's %d, want %d%%", path, size, memory, share)
		}
	}

	for _, want := range []struct {
		path string
		mode uint32
	}{
		{"/tmp", syscall.S_IFDIR | 0o1777}, {"/run", syscall.S_IFDIR | 0o755},
		{"/var/cache", syscall.S_IFDIR | 0o755}, {"/var/empty", syscall.S_IFDIR | 0o555}, {"/var/lib", syscall.S_IFDIR | 0o755},
		{"/var/local", syscall.S_IFDIR | 0o755}, {"/var/lock", syscall.S_IFDIR | 0o755}, {"/var/log", syscall.S_IFDIR | 0o755},
		{"/var/opt", syscall.S_IFDIR | 0o755}, {"/var/spool", syscall.S_IFDIR | 0o755}, {"/var/tmp", syscall.S_IFDIR | 0o1777},
	} {
		if file, err := m.Stat(m.ctx, want.path); err != nil || file.Mode != want.mode {
			t.Errorf("%s has mode %o, want %o (%v)", want.path, file.Mode, want.mode, err)
		}
	}
	for path, target := range map[string]string{
		"/var/run": "/run", "/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2", "/etc/resolv.conf": "/run/resolvconf/resolv.conf",
	} {
		if file, err := m.Stat(m.ctx, path); err != nil || file.Link != target {
			t.Errorf("%s points to %q, want %q (%v)", path, file.Link, target, err)
		}
	}
	m.read("/etc/resolv.conf") // what it points to exists
	for path, number := range map[string][2]uint32{
		"/dev/console": {5, 1}, "/dev/tty": {5, 0}, "/dev/null": {1, 3}, "/dev/kmsg": {1, 11}, "/dev/urandom": {1, 9},
	} {
		file, err := m.Stat(m.ctx, path)
		if err != nil || file.Mode&syscall.S_IFMT != syscall.S_IFCHR || file.Major != number[0] || file.Minor != number[1] {
			t.Errorf("%s is %+v (%v)", path, file, err)
		}
	}
	for _, path := range []string{"/usr/bin/containerd", "/usr/bin/containerd-shim-runc-v2", "/usr/bin/runc-shim", "/usr/bin/runc", "/usr/bin/service", "/containers"} {
		if _, err := m.Stat(m.ctx, path); err != nil {
			t.Error(err)
		}
	}

	limits := m.read(fmt.Sprintf("/proc/%d/limits", m.supervisor(0).PID))
	if !strings.Contains(strings.Join(strings.Fields(limits), " "), "Max open files 1048576 1048576") {
		t.Errorf("limits of the supervisor:\n%s", limits)
	}
	if !strings.Contains(strings.Join(strings.Fields(limits), " "), "Max processes unlimited unlimited") {
		t.Errorf("limits of the supervisor:\n%s", limits)
	}
	if name := strings.TrimSpace(m.read("/proc/sys/kernel/hostname")); name != "everything" {
		t.Errorf("the machine's name is %q", name)
	}
	if lo := m.sh("ip -o addr show lo"); !strings.Contains(lo, "127.0.0.1/8") {
		t.Errorf("lo has %q", lo)
	}
	if up := m.sh("ip link show lo"); !strings.Contains(up, "UP") {
		t.Errorf("lo is %q", up)
	}
	// The clock was set from the machine's RTC, which QEMU sets from ours.
	seconds, err := strconv.ParseInt(strings.TrimSpace(m.sh("date +%s")), 10, 64)
	if off := time.Since(time.Unix(seconds, 0)); err != nil || off < -time.Hour || off > time.Hour {
		t.Errorf("the machine's clock is off by %v (%v)", off, err)
	}
	modules := m.read("/proc/modules")
	for _, name := range []string{"virtio_net", "virtio_blk", "virtio_rng", "virtio_console", "overlay", "button"} {
		if !strings.Contains(modules, name+" ") {
			t.Errorf("module %s is not loaded", name)
		}
	}
	if source := strings.TrimSpace(m.read("/sys/class/misc/hw_random/rng_current")); !strings.HasPrefix(source, "virtio_rng") {
		t.Errorf("the source of random numbers is %q", source)
	}

	// A child of nobody is reaped.
	m.sh("for i in 1 2 3 4 5 6 7 8; do (sleep 0 &) ; done")
	m.until("orphans are reaped", func() bool {
		for _, p := range m.processes() {
			if p.State == "Z" && p.Parent == 1 {
				return false
			}
		}
		return true
	})
}

// field is the number after a word of a file of such lines.
func field(t *testing.T, text, name string) int {
	t.Helper()
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == name {
			value, err := strconv.Atoi(words[1])
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	t.Fatalf("no %s in %q", name, text)
	return 0
}

// testOnboot looks at how the one-shots went: in order, and the boot went on after each that failed.
func testOnboot(t *testing.T, m *vm) {
	want := "first fails hangs again again again disk links make-link last"
	if got := strings.Join(strings.Fields(m.read("/run/order")), " "); got != want {
		t.Errorf("the one-shots ran in the order %q, want %q", got, want)
	}
	m.inOrder(
		`first .*onboot 1 of 8: done in \d+\.\d+s`,
		`fails .*onboot 2 of 8: .*3.* after \d+\.\d+s; going on`,
		`hangs .*onboot 3 of 8: not done after 2s \(keelson\.timeout\).*going on`,
		`again .*try 2 of 3`, `again .*try 3 of 3`, `again .*going on`,
		`last .*onboot 8 of 8: done in`,
	)
	var first, fails []string
	for _, line := range m.Console.Lines(0) {
		if _, after, ok := strings.Cut(line, "| "); ok {
			if strings.Contains(line, "first ") {
				first = append(first, after)
			}
			if strings.Contains(line, "fails ") {
				fails = append(fails, after)
			}
		}
	}
	slices.Sort(first) // they come through two pipes
	if got := strings.Join(first, ";"); got != "err of the first;out of the first" {
		t.Errorf("the console shows of the first: %q", got)
	}
	if got := strings.Join(fails, " "); got != "111 112 113 114 115 116 117 118 119 120" {
		t.Errorf("the console shows of the one that fails: %q, want its last ten lines", got)
	}
	for path, want := range map[string]string{
		"/var/log/onboot/000-first.out.log": "out of the first\n", "/var/log/onboot/000-first.log": "err of the first\n",
	} {
		if got := m.read(strings.Replace(path, "000-first", "onboot.000-first", 1)); got != want {
			t.Errorf("%s holds %q, want %q", path, got, want)
		}
	}
}

// testShims looks at who runs what: one shim for all but the one that has its own.
func testShims(t *testing.T, m *vm) {
	shims := m.shims()
	// One wants its own, and one is in a namespace of its own, of which a shim serves one.
	if len(shims) != 3 {
		t.Fatalf("there are %d shims for 23 services, want 3: %+v", len(shims), shims)
	}
	shim := map[int]bool{shims[0].PID: true, shims[1].PID: true, shims[2].PID: true}
	all := m.processes()
	members := map[int]int{}
	for i := 1; i <= 16; i++ {
		p := first(all, fmt.Sprintf("/services/s%02d", i))
		if p.PID == 0 || !shim[p.Parent] {
			t.Errorf("service s%02d is %+v", i, p)
		}
		members[p.Parent]++
	}
	if len(members) != 1 {
		t.Errorf("16 services are children of the shims %v", members)
	}
	own := first(all, "/services/own")
	if !shim[own.Parent] || members[own.Parent] != 0 {
		t.Errorf("the service with its own shim is a child of %d, the others of %v", own.Parent, members)
	}
	for _, shim := range shims {
		if members[shim.PID] > 0 && shim.Cgroup != "/keelson/shim" {
			t.Errorf("the shared shim is in cgroup %s", shim.Cgroup)
		}
	}
	if p := m.supervisor(0); p.Cgroup != "/keelson/supervisor" || p.Parent != 1 {
		t.Errorf("the supervisor is %+v", p)
	}
	if p := m.containerd(0); p.Cgroup != "/keelson/containerd" {
		t.Errorf("containerd is %+v", p)
	}
	if p := first(all, "/pods/elsewhere"); p.PID == 0 {
		t.Error("cgroupsPath was not followed")
	}
	if _, err := m.Stat(m.ctx, "/run/containerd/state/io.containerd.runtime.v2.task/another/elsewhere"); err != nil {
		t.Errorf("the namespace of runtime.json was not used: %v", err)
	}
	for _, pid := range []int{m.supervisor(0).PID, m.containerd(0).PID, shims[0].PID} {
		score, err := strconv.Atoi(strings.TrimSpace(m.read(fmt.Sprintf("/proc/%d/oom_score_adj", pid))))
		if err != nil || score > -900 {
			t.Errorf("process %d has oom_score_adj %d (%v)", pid, score, err)
		}
	}
}

// testRuntime looks at what runtime.json asked for.
func testRuntime(t *testing.T, m *vm) {
	m.await(`links .*\| .*veth-in`)
	m.await(`links .*\| .*dummy-in`)
	m.await(`links .*\| .*wire-in`)
	m.await(`links .*\| .*root-in`)
	mine := m.sh("ip -o link")
	for name, want := range map[string]bool{
		"veth-in": false, "dummy-in": false, "wire-in": false, "root-in": false, "moved": false, "in1": false,
		"veth-out": true, "out1": true,
	} {
		if got := strings.Contains(mine, " "+name+":") || strings.Contains(mine, " "+name+"@"); got != want {
			t.Errorf("link %s in the machine's namespace: %v, want %v\n%s", name, got, want, mine)
		}
	}
	// The namespaces of a one-shot outlive it.
	if inside := m.sh("nsenter --net=/proc/1/root/run/netns/links ip -o link"); !strings.Contains(inside, "wire-in") {
		t.Errorf("the namespace that was kept has:\n%s", inside)
	}
	prepared := m.service("prepared")
	inside, err := m.ExecIn(m.ctx, prepared.PID, "/bin/sh", "-c", "ip -o link; hostname; ls -d /made/by/name; grep ' /extra ' /proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"in1", "inside\n", "/made/by/name", "/extra tmpfs", "size=1024k"} {
		if !strings.Contains(inside.Stdout, want) {
			t.Errorf("the prepared service lacks %q:\n%+v", want, inside)
		}
	}
	if moved, err := m.ExecIn(m.ctx, m.service("mover").PID, "ip", "-o", "link"); err != nil || !strings.Contains(moved.Stdout, "moved") {
		t.Errorf("the link that was to be moved is not there: %+v, %v", moved, err)
	}
	if kept := m.sh("nsenter --uts=/proc/1/root/run/prepared-uts hostname"); kept != "inside\n" {
		t.Errorf("the UTS namespace that was kept is of %q", kept)
	}
	for _, path := range []string{"/run/made-absolute", "/sys/fs/cgroup/pods/prepared", "/run/bound-etc/hostname"} {
		if _, err := m.Stat(m.ctx, path); err != nil {
			t.Error(err)
		}
	}
}

// testRestarts kills services of every kind and looks at what is left of the old one.
func testRestarts(t *testing.T, m *vm) {
	if text := m.await(`once .*(exited|ended).*`); strings.Contains(text, "ERROR") {
		t.Errorf("a service that ends well and is not to be restarted: %q", text)
	}
	// What is over leaves nothing mounted: the service that has ended, and every one-shot.
	m.until("the mounts of what has ended are gone", func() bool {
		return m.mountsBelow("/containers/services/once") == 0 && m.mountsBelow("/containers/onboot") == 1 && // itself
			m.mountsBelow("/run/once-etc") == 0 && m.mountsBelow("/run/once-uts") == 0
	})
	for _, name := range []string{"s01", "s02", "prepared", "own"} {
		was := m.service(name)
		mounts := m.mountsBelow("/containers/services/" + name)
		all := len(m.mounts())
		for count := 1; count <= 3; count++ {
			from := m.Console.Len()
			m.kill(was.PID, syscall.SIGKILL)
			m.awaitFrom(from, fmt.Sprintf(`%s .*SIGKILL.*restart %d in \d`, name, count))
			m.awaitFrom(from, fmt.Sprintf(`%s .*running \(pid \d+\)`, name))
			was = m.serviceAfter(name, was.PID)
		}
		if now := m.mountsBelow("/containers/services/" + name); now != mounts {
			t.Errorf("%s had %d mounts and has %d after three restarts", name, mounts, now)
		}
		if now := len(m.mounts()); now != all {
			t.Errorf("the machine had %d mounts and has %d after three restarts of %s", all, now, name)
		}
	}
	// The pair of links is made anew each time.
	inside, err := m.ExecIn(m.ctx, m.service("prepared").PID, "ip", "-o", "link")
	if err != nil || !strings.Contains(inside.Stdout, "in1") {
		t.Errorf("after its restarts the service has %+v, %v", inside, err)
	}
}
