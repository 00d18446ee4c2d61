package shimtest

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/harden"
	"keelson/runc-shim/plan"
)

// specsEnv is how many generated specs the comparison tries.
const specsEnv = "KEELSON_SPECS"

// A container that a plan makes is the one that libcontainer makes: the same mounts,
// devices, limits, capabilities, namespaces, streams, and the same files in its root.
func TestAPlanMakesTheSameContainer(t *testing.T) {
	if byLibcontainer() {
		return // this test does both
	}
	count := 60
	if s := os.Getenv(specsEnv); s != "" {
		var err error
		if count, err = strconv.Atoi(s); err != nil {
			t.Fatalf("%s: %v", specsEnv, err)
		}
	}
	const batch = 20 // one host has a bound for all that it does
	started, covered := 0, 0
	for first := 0; first < count; first += batch {
		t.Run(fmt.Sprint(first), func(t *testing.T) {
			e := newEnv(t)
			for seed := first; seed < min(first+batch, count); seed++ {
				planned, ran, ok := e.facts(uint64(seed), true)
				other, _, _ := e.facts(uint64(seed), false)
				if ok {
					covered++
				}
				if ran {
					started++
				}
				if d := difference(planned, other); d != "" {
					t.Errorf("seed %d: with a plan (-) and without (+):\n%s", seed, d)
				}
			}
		})
	}
	t.Logf("%d specs, %d with a plan, %d started", count, covered, started)
	if covered < count/3 || started < count/3 {
		t.Errorf("of %d specs %d have a plan and %d start", count, covered, started)
	}
}

// stockEnv is the folder of the stock binaries.
const stockEnv = "KEELSON_STOCK"

// A stock runc knows a container that a plan has made.
func TestStockRuncWorksOnAPlansContainer(t *testing.T) {
	runc := filepath.Join(os.Getenv(stockEnv), "runc")
	if _, err := os.Stat(runc); err != nil || os.Getenv(stockEnv) == "" {
		t.Skipf("needs a stock runc in the folder %s", stockEnv)
	}
	e := newEnv(t)
	c := e.create("x", e.spec("sleep", "1000"))
	if _, err := exec.Command(binary, "plan", e.BundleDir("x")).Output(); (err != nil) != byLibcontainer() {
		t.Fatalf("plan: %v", err)
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(e.ctx, runc, append([]string{"--root", filepath.Join(e.Options.Root, e.Namespace)}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("runc %s: %v: %s", args[0], err, out)
		}
		return string(out)
	}
	state := func(want string) {
		t.Helper()
		if got := run("state", "x"); !strings.Contains(got, `"status": "`+want+`"`) {
			t.Errorf("it is not %s: %s", want, got)
		}
	}
	state("created")
	run("start", "x")
	state("running")
	if got := run("exec", "x", "sh", "-c", "echo $((40+2)); cat /proc/1/comm"); got != "42\nsleep\n" {
		t.Errorf("exec: %q", got)
	}
	run("pause", "x")
	state("paused")
	run("resume", "x")
	state("running")
	run("kill", "x", "KILL")
	if got := e.wait(c, "x", ""); got != 137 {
		t.Errorf("exit status %d", got)
	}
	e.remove(c, "x", "")
}

// libcontainer's configuration, which nobody reads where there is a plan, may be larger
// than a socket takes at once; and a start that fails early fails with its own reason.
func TestLargeConfiguration(t *testing.T) {
	e := newEnv(t)
	s := e.spec("sh", "-c", "exit 3")
	for i := range 15 {
		s.Process.Env = append(s.Process.Env, fmt.Sprintf("E%d=%s", i, strings.Repeat("x", 100<<10)))
	}
	if got := e.run("large", s); got != 3 {
		t.Errorf("exit status %d", got)
	}
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Source: "/no/thing", Options: []string{"bind"}})
	for range 20 {
		if _, _, err := e.tryCreate("early", s); err == nil || !strings.Contains(err.Error(), "open /no/thing: no such file or directory") {
			t.Fatal(err)
		}
	}
}

// No descriptor of the last stage leads out of the container, neither as its working
// directory nor as its command.
func TestDescriptorsOfTheLastStage(t *testing.T) {
	e := newEnv(t)
	made := filepath.Join("/run", "made")
	for fd := range 20 {
		path := fmt.Sprintf("/proc/self/fd/%d", fd)
		for _, below := range []string{"", "/..", "/../..", "/../root", "/../../1/root" + made, "/1/root" + made, made} {
			s := e.spec("ls", made)
			s.Process.Cwd = path + below
			if c, _, err := e.tryCreate("cwd", s); err == nil {
				e.kill(c, "cwd", "", unix.SIGKILL)
				e.wait(c, "cwd", "")
				e.remove(c, "cwd", "")
				if !byLibcontainer() {
					t.Errorf("a container in %s", s.Process.Cwd)
				}
			}
			if _, err := os.Stat(made); err == nil {
				t.Fatalf("a container in %s has made a directory of the machine", s.Process.Cwd)
			}
		}
		c, _, err := e.tryCreate("command", e.spec(path, "x"))
		if err == nil {
			if _, err := c.Start(e.ctx, &taskapi.StartRequest{ID: "command"}); err == nil {
				t.Fatalf("a container that runs %s", path)
			}
			e.wait(c, "command", "")
			e.remove(c, "command", "")
		}
	}
}

func difference(a, b []string) string {
	var d strings.Builder
	for i := 0; i < len(a) || i < len(b); i++ {
		var x, y string
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			fmt.Fprintf(&d, "- %s\n+ %s\n", x, y)
		}
	}
	return d.String()
}

// sources makes what a generated spec binds.
func (e *env) sources(src string) {
	e.t.Helper()
	dir := filepath.Join(src, "dir")
	for _, d := range []string{dir, filepath.Join(dir, "below")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			e.t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", d, "tmpfs", unix.MS_NOATIME|unix.MS_NODEV, ""); err != nil {
			e.t.Fatal(err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "file"), []byte("text\n"), 0o640); err != nil {
		e.t.Fatal(err)
	}
	if err := os.Symlink("file", filepath.Join(src, "link")); err != nil {
		e.t.Fatal(err)
	}
}

// image makes a root file system with what makes trouble: links everywhere.
func (e *env) image(dir string) {
	e.t.Helper()
	for _, d := range []string{"bin", "proc", "etc", "tmp", "data", "home/u", "private"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			e.t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(e.root, "bin/busybox"), filepath.Join(dir, "bin/busybox")); err != nil {
		e.t.Fatal(err)
	}
	for _, n := range []string{"sh", "sleep", "echo", "cat", "id", "ls"} {
		_ = os.Symlink("busybox", filepath.Join(dir, "bin", n))
	}
	for name, to := range map[string]string{
		"etc/resolv.conf": "../run/resolve/stub.conf", "etc/hosts": "/somewhere/hosts", "link": "data", "up": "../../../../../../tmp/up",
		"loop": "loop", "chain": "/link/chain2", "data/chain2": "../up/there", "ln-proc": "proc", "var": "/private/./var/../v",
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			e.t.Fatal(err)
		}
	}
	passwd := "root:x:0:0:root:/root:/bin/sh\n\n  u:x:1000:1000::/home/u:/bin/sh\nbroken\nx:x:12abc:1::/x:\nv:x:2000:1::\n"
	if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte(passwd), 0o644); err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "plain"), nil, 0o644); err != nil {
		e.t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "dev/pts"), 0o755); err != nil {
		e.t.Fatal(err)
	}
	for name, to := range map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "null": "/data/null"} {
		if err := os.Symlink(to, filepath.Join(dir, "dev", name)); err != nil {
			e.t.Fatal(err)
		}
	}
	_ = os.Chmod(filepath.Join(dir, "tmp"), 0o777|os.ModeSticky)
	_ = os.Chmod(filepath.Join(dir, "private"), 0o700)
	_ = os.Chown(filepath.Join(dir, "private"), 1000, 1000)
}

// observe is what a container says of itself.
const observe = `umask; cat /proc/self/status /proc/sys/kernel/hostname /proc/sys/kernel/domainname /proc/sys/kernel/msgmax \
/proc/sys/net/ipv4/ip_forward /proc/keys /proc/self/limits /proc/self/loginuid /proc/net/if_inet6 2>&1; id; pwd; ls -la / /dev /sys 2>&1; echo "$HOME" "$PATH"; \
cat /proc/mounts >/dev/null; echo x >/dev/stdout; echo y >/dev/null; echo "the end"; exec sleep 1000`

// dice make the choices of a seed.
type dice struct{ *rand.Rand }

func (d dice) one(of ...string) string { return of[d.IntN(len(of))] }

func (d dice) some(of ...string) (list []string) {
	for _, s := range of {
		if d.IntN(2) == 0 {
			list = append(list, s)
		}
	}
	return list
}

func (d dice) likely(percent int) bool { return d.IntN(100) < percent }

// generated is the spec of a seed.
func (e *env) generated(seed uint64, root, src string) *specs.Spec {
	d := dice{rand.New(rand.NewPCG(seed, 7))}
	s := e.spec(d.one("sh", "sh", "/bin/sh", "/bin/sh"), "-c", observe)
	s.Root = &specs.Root{Path: root, Readonly: d.likely(30)}
	generateProcess(s.Process, d)
	generateNamespaces(s, d)
	generateMounts(s, d, src)
	l := s.Linux
	for range d.IntN(4) {
		l.MaskedPaths = append(l.MaskedPaths, d.one("/proc/kcore", "/proc/keys", "/proc/scsi", "/proc/acpi", "/proc/acpi/", "/not/there", "/etc/passwd", "/data", "/link", "/home/u", "/sys/firmware"))
		l.ReadonlyPaths = append(l.ReadonlyPaths, d.one("/proc/sys", "/proc/bus", "/not/there", "/data", "/tmp", "/proc/irq", "/plain", "/ln-proc/fs"))
	}
	l.RootfsPropagation = d.one("", "", "", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable")
	if d.likely(30) {
		mode, id := fs.FileMode(0o640), uint32(1000)
		l.Devices = []specs.LinuxDevice{{Path: "/dev/sub/zero", Type: "c", Major: 1, Minor: 5, FileMode: &mode, UID: &id, GID: &id}, {Path: "/dev/pipe", Type: "p"}, {Path: "/link/null", Type: "u", Major: 1, Minor: 3}}
	}
	if d.likely(40) {
		if h, err := harden.Apply(s, harden.Auto, harden.Options{ByName: true}); err == nil {
			s = h
		}
	}
	return s
}

func generateProcess(p *specs.Process, d dice) {
	if d.likely(8) {
		p.Args[0] = d.one("nothing", "bin/sh", "/plain", "/etc", "./bin/sh", "/no/thing", "")
	}
	p.Env = append(d.some("A=1", "A=2", "B=", "HOME=/h", "HOME=", "C=a=b"), "PATH="+d.one("/bin", "/bin", "/nothing:/bin/", ":/bin", "bin:/bin", "/etc:/bin/../bin"))
	if d.likely(3) {
		p.Env = p.Env[:len(p.Env)-1]
	}
	p.Cwd = d.one("/", "/", "/tmp", "/made/up", "/private", "/link", "/home/u", "/tmp/x/../y")
	if d.likely(6) {
		p.Cwd = d.one("/plain", "/var", "/up", "/loop")
	}
	p.User = specs.User{UID: uint32([]int{0, 0, 0, 1000, 2000, 77}[d.IntN(6)]), GID: uint32([]int{0, 0, 1000}[d.IntN(3)])}
	if d.likely(30) {
		p.User.AdditionalGids = []uint32{5, 1000, 70000}
	}
	if d.likely(20) {
		u := uint32(0o077)
		p.User.Umask = &u
	}
	caps := func() []string {
		return d.some("CAP_CHOWN", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_KILL", "CAP_SETUID", "CAP_BPF", "CAP_NOT_THERE", "CAP_SETPCAP", "CAP_DAC_OVERRIDE")
	}
	if c := caps(); d.likely(70) {
		p.Capabilities = &specs.LinuxCapabilities{Bounding: c, Effective: c, Permitted: c}
		if d.likely(40) {
			p.Capabilities.Inheritable, p.Capabilities.Ambient = c, caps()
		}
		if d.likely(20) {
			p.Capabilities.Bounding = caps()
		}
	} else if d.likely(50) {
		p.Capabilities = nil
	}
	p.NoNewPrivileges = d.likely(50)
	if d.likely(30) {
		p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_CORE"}}
	}
	if d.likely(20) {
		n := 300
		p.OOMScoreAdj = &n
	}
}

// generateNamespaces decides on namespaces and what can only be in one's own.
func generateNamespaces(s *specs.Spec, d dice) {
	l := s.Linux
	l.Namespaces, l.Sysctl = []specs.LinuxNamespace{{Type: specs.MountNamespace}}, map[string]string{}
	for _, n := range []struct {
		kind specs.LinuxNamespaceType
		file string
	}{{specs.PIDNamespace, "pid"}, {specs.IPCNamespace, "ipc"}, {specs.UTSNamespace, "uts"}, {specs.NetworkNamespace, "net"}, {specs.CgroupNamespace, "cgroup"}} {
		switch {
		case !d.likely(60):
			continue
		case d.likely(15):
			l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: n.kind, Path: "/proc/self/ns/" + n.file})
			continue
		}
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: n.kind})
		switch n.kind {
		case specs.UTSNamespace:
			s.Hostname, s.Domainname = d.one("", "name", "other.name"), d.one("", "domain")
		case specs.IPCNamespace:
			l.Sysctl["kernel.msgmax"] = d.one("9999", "8888")
		case specs.NetworkNamespace:
			if d.likely(40) {
				l.Sysctl["net.ipv4.ip_forward"] = d.one("1", "1", "1", "1", "1", "1", "1", "wrong")
			}
		}
	}
}

// generateMounts replaces the spec's mounts.
func generateMounts(s *specs.Spec, d dice, src string) {
	likely, one := d.likely, d.one
	options := func(of ...string) []string {
		var list []string
		for _, o := range of {
			if likely(40) {
				list = append(list, strings.Fields(o)...)
			}
		}
		return list
	}
	s.Mounts = nil
	add := func(to, kind, source string, options ...string) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: to, Type: kind, Source: source, Options: options})
	}
	if likely(92) {
		add(one("/proc", "/proc", "/proc/", "proc"), "proc", "proc", options("nosuid", "nodev", "noexec", "relatime", "hidepid=2")...)
	}
	if likely(80) {
		add("/dev", "tmpfs", "tmpfs", append(options("nosuid", "strictatime", "ro"), "mode=755", "size=65536k")...)
		add("/dev/pts", "devpts", "devpts", append(options("nosuid", "noexec"), "newinstance", "ptmxmode=0666", "mode=0620")...)
		if likely(50) {
			add("/dev/mqueue", "mqueue", "mqueue", options("nosuid", "noexec", "nodev")...)
			add("/dev/shm", "tmpfs", "shm", append(options("nosuid", "noexec", "nodev", "ro"), "mode=1777")...)
		}
	}
	if likely(50) {
		add("/sys", "sysfs", "sysfs", options("nosuid", "noexec", "nodev", "ro")...)
		if likely(60) {
			add("/sys/fs/cgroup", "cgroup", "cgroup", options("nosuid", "noexec", "nodev", "relatime", "ro")...)
		}
	}
	for range d.IntN(4) {
		to := one("/tmp", "/data", "/new/place", "/link", "/link/in", "/chain", "/up/x", "/var", "/private", "/run", "/..//run/y")
		if likely(4) {
			to = one("/loop", "/plain", "/proc", "/")
		}
		if likely(40) {
			add(to, "tmpfs", "tmpfs", options("ro", "nosuid nodev", "mode=700", "size=1m", "noexec")...)
			continue
		}
		source := one(src+"/dir", src+"/dir/below", src+"/dir", src)
		if likely(4) {
			source = one(src+"/missing", src+"/file")
		}
		add(to, "bind", source, append(options("ro", "nosuid nodev", "noexec", "rprivate", "rslave", "shared", "private", "suid", "noatime", "rw", "dev"), one("bind", "rbind"))...)
	}
	for range d.IntN(3) {
		to := one("/etc/resolv.conf", "/etc/hosts", "/plain", "/new/file", "/etc/passwd", "/up/file", "/proc/meminfo", "/ln-proc/uptime")
		if likely(6) {
			to = one("/proc/self/x", "/data", "/loop/x", "/ln-proc", "/chain", "/proc/1")
		}
		add(to, one("bind", "", "none"), one(src+"/file", src+"/file", src+"/link", "/dev/null"), append(options("ro", "nosuid nodev", "rprivate"), one("bind", "rbind"))...)
	}
}

// facts makes the container of a seed and returns all that can be seen of it, whether it
// ran, and whether a plan made it.
func (e *env) facts(seed uint64, planned bool) (facts []string, ran, covered bool) {
	t := e.t
	t.Helper()
	id := fmt.Sprintf("p%d", seed)
	if !planned {
		id = fmt.Sprintf("l%d", seed)
	}
	root := filepath.Join(e.Dir, "r", id)
	e.image(root)
	src := filepath.Join(e.Dir, "src-"+id)
	e.sources(src)
	defer func() { _ = unix.Unmount(filepath.Join(src, "dir"), unix.MNT_DETACH) }()
	defer os.RemoveAll(root)
	s := e.generated(seed, root, src)
	if !planned {
		s.Annotations[plan.RuntimeKey] = plan.Libcontainer
	}
	same := strings.NewReplacer(filepath.Base(e.Dir)+"-"+id, "GROUP", root, "ROOT", strings.TrimPrefix(root, "/run"), "ROOT", src, "SRC", strings.TrimPrefix(src, "/run"), "SRC", "_ses."+id, "RING", e.BundleDir(id), "BUNDLE")
	output, read := e.output(id)
	c, pid, err := e.tryCreate(id, s, output)
	_, perr := exec.Command(binary, "plan", e.BundleDir(id)).Output()
	covered = perr == nil
	if err != nil {
		t.Logf("seed %d: planned %v: %v", seed, planned, err)
		return append([]string{"create: " + reason(same.Replace(err.Error()))}, tree(root, same)...), false, covered
	}
	e.start(c, id, "")
	// Nothing reports that a process has written or executed: both are polled for, within e.ctx.
	for !strings.Contains(read(), "the end\n") {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/root", pid)); err != nil {
			break
		}
		if e.ctx.Err() != nil {
			t.Fatalf("seed %d: no output: %q", seed, read())
		}
		time.Sleep(time.Millisecond)
	}
	for comm(pid) != "sleep" && comm(pid) != "" && e.ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	facts = append(facts, process(int(pid), same)...)
	facts = append(facts, tree(fmt.Sprintf("/proc/%d/root", pid), same)...)
	e.kill(c, id, "", unix.SIGKILL)
	facts = append(facts, fmt.Sprint("exit ", e.wait(c, id, "")))
	e.remove(c, id, "")
	facts = append(facts, "output:")
	return append(facts, normal("status", read(), same)...), true, covered
}

func comm(pid uint32) string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSpace(string(data))
}

// reason is an error's end, which users read; what leads to it names descriptors.
func reason(text string) string {
	if i := strings.LastIndex(text, ": "); i >= 0 {
		return text[i+2:]
	}
	return text
}

// process is what /proc says of a process.
func process(pid int, same *strings.Replacer) (facts []string) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	for _, name := range []string{"mountinfo", "status", "limits", "uid_map", "gid_map", "setgroups", "oom_score_adj", "comm", "cmdline", "environ",
		"cgroup", "personality", "loginuid", "attr/current", "coredump_filter", "timerslack_ns"} {
		data, err := os.ReadFile(dir + name)
		if err != nil {
			facts = append(facts, name+": "+reason(err.Error()))
			continue
		}
		for _, l := range normal(name, string(data), same) {
			facts = append(facts, name+": "+l)
		}
	}
	for _, name := range []string{"root", "cwd", "exe"} {
		to, err := os.Readlink(dir + name)
		facts = append(facts, fmt.Sprint(name, ": ", same.Replace(to), err != nil))
	}
	links, _ := os.ReadDir(dir + "ns")
	for _, l := range links {
		its, _ := os.Readlink(dir + "ns/" + l.Name())
		ours, _ := os.Readlink("/proc/self/ns/" + l.Name())
		facts = append(facts, fmt.Sprint("ns ", l.Name(), " of its own: ", its != ours))
	}
	fds, _ := os.ReadDir(dir + "fd")
	for _, f := range fds {
		to, _ := os.Readlink(dir + "fd/" + f.Name())
		info, _ := os.ReadFile(dir + "fdinfo/" + f.Name())
		flags := regexp.MustCompile(`flags:\s*(\d+)`).FindString(string(info))
		facts = append(facts, fmt.Sprint("fd ", f.Name(), ": ", regexp.MustCompile(`\[\d+\]|t\d+/[pl]`).ReplaceAllString(same.Replace(to), ""), " ", flags))
	}
	stat, _ := os.ReadFile(dir + "stat")
	if i := strings.LastIndexByte(string(stat), ')'); i >= 0 {
		f := strings.Fields(string(stat[i+1:]))
		facts = append(facts, fmt.Sprint("leader: ", f[2] == strconv.Itoa(pid), f[3] == strconv.Itoa(pid), " tty ", f[4], " nice ", f[16], " policy ", f[38]))
	}
	return facts
}

// lost are the lines and fields that differ between any two containers.
var lost = regexp.MustCompile(`^(State|Pid|Tgid|Ngid|PPid|NStgid|NSpid|NSpgid|NSsid|Vm.*|Rss.*|Hugetlb.*|.*_ctxt_switches|SigQ|HugetlbPages|Threads):`)

var numbers = regexp.MustCompile(`(shared|master|propagate_from):\d+`)

func normal(name, text string, same *strings.Replacer) (lines []string) {
	seen := map[string]int{}
	ordinal := func(kind, s string) string {
		if _, ok := seen[kind+s]; !ok {
			seen[kind+s] = len(seen)
		}
		return fmt.Sprint(kind, seen[kind+s])
	}
	for _, l := range strings.Split(strings.TrimRight(strings.ReplaceAll(text, "\x00", "\n"), "\n"), "\n") {
		l = same.Replace(l)
		if lost.MatchString(l) {
			continue
		}
		switch f := strings.Fields(l); {
		case name == "mountinfo" && len(f) > 6:
			f[0], f[1], f[2] = ordinal("m", f[0]), ordinal("m", f[1]), ordinal("d", f[2])
			l = numbers.ReplaceAllStringFunc(strings.Join(f, " "), func(s string) string { return ordinal("peer", s) })
		case strings.Contains(l, "keyring") && len(f) > 5:
			if !strings.Contains(l, "RING") {
				continue
			}
			l = strings.Join(append([]string{f[4]}, f[5:]...), " ")
		case regexp.MustCompile(`\d\d:\d\d`).MatchString(l): // ls: without times
			l = regexp.MustCompile(`\s+\w+\s+\d+\s+\d\d:\d\d`).ReplaceAllString(l, "")
			if strings.HasSuffix(l, " .") || strings.HasSuffix(l, " ..") {
				continue
			}
			l = regexp.MustCompile(`^(\S+)\s+\d+\s`).ReplaceAllString(l, "$1 ")
		case len(f) > 6 && regexp.MustCompile(`^[0-9a-f]{8}$`).MatchString(f[0]):
			continue // other keys of the machine
		}
		lines = append(lines, l)
	}
	return lines
}

// tree is what a root file system has in it, apart from /proc and /sys.
func tree(root string, same *strings.Replacer) (facts []string) {
	root += "/"
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, root)
		if err != nil {
			facts = append(facts, name+": "+reason(err.Error()))
			return nil
		}
		if name == "proc" || name == "sys" || strings.HasPrefix(name, "dev/pts") {
			return filepath.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			facts = append(facts, name+": "+err.Error())
			return nil
		}
		to, _ := os.Readlink(path)
		facts = append(facts, same.Replace(fmt.Sprintf("file %s: %o %d %d %x %s", name, st.Mode, st.Uid, st.Gid, st.Rdev, to)))
		if strings.Count(name, "/") > 6 {
			return filepath.SkipDir
		}
		return nil
	})
	return facts
}
