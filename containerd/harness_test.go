package containerd

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/nstest"
	"keelson/internal/pidfd"
)

// asDaemon in the environment makes the test binary the daemon itself, so
// that the tests run exactly the code under test, race detector included.
const asDaemon = "KEELSON_TEST_CONTAINERD"

// otherDaemon in the environment is the path of a daemon to test in place of
// this package: the program as it is in the image, or the stock one.
const otherDaemon = "KEELSON_TEST_CONTAINERD_BIN"

// otherShim in the environment is a folder with a containerd-shim-runc-v2,
// and a runc if that one needs it, to test with in place of the stock ones.
const otherShim = "KEELSON_TEST_SHIM_DIR"

// bound is how long anything may take before a test gives up on it.
const bound = 30 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) != "" {
		os.Exit(Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// stockTools in the environment is a folder with the stock shim, runc and ctr,
// which make builds for an image as well. Without it they are built here.
const stockTools = "KEELSON_STOCK"

// tools finds the stock shim, runc and ctr, or builds them from the pinned
// modules, once a run; the build cache makes it quick the second time.
var tools = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv(stockTools); dir != "" {
		for _, name := range []string{"containerd-shim-runc-v2", "ctr", "runc"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				return "", fmt.Errorf("%s: %w", stockTools, err)
			}
		}
		return dir, nil
	}
	dir, err := filepath.Abs("../build/cache/containerd-test")
	if err != nil {
		return "", err
	}
	for _, b := range []struct{ name, pkg, cgo, tags, ldflags string }{
		{"containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", "0", "no_grpc", ""},
		{"ctr", "github.com/containerd/containerd/v2/cmd/ctr", "0", "grpcnotrace", ""},
		{"runc", "github.com/opencontainers/runc", "1", "netgo osusergo", " -linkmode external -extldflags -static"},
	} {
		cmd := exec.Command("go", "build", "-trimpath", "-tags", b.tags, "-ldflags", "-s -w"+b.ldflags, "-o", filepath.Join(dir, b.name), b.pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+b.cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", b.name, err, out)
		}
	}
	return dir, nil
})

// machine is a daemon in a mount namespace of its own, with cgroup2 where
// the image has it.
type machine struct {
	t                *testing.T
	dir, bin, socket string
	name             string // of the containerd namespace and of the parent of all its cgroups
	log              lockedBuffer
	cmd              *exec.Cmd
	c                *client.Client
	ctx              context.Context
}

// newMachine starts a daemon. The test is skipped where the host cannot hold one.
func newMachine(t *testing.T) *machine {
	t.Helper()
	if testing.Short() {
		t.Skip("starts real containers: not with -short")
	}
	if os.Getuid() != 0 {
		t.Skip("not root: containers need mount namespaces and cgroups")
	}
	if err := exec.Command("unshare", "-m", "true").Run(); err != nil {
		t.Skipf("this host gives no mount namespace: %v", err)
	}
	busybox, err := nstest.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	bin, err := tools()
	if err != nil {
		t.Fatal(err)
	}
	// Unix socket paths are short: no t.TempDir, which holds the test's name.
	dir, err := os.MkdirTemp("", "ctrd")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(dir) // runc keeps its state by namespace: no two machines may share one
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), name), 4*bound)
	m := &machine{t: t, dir: dir, bin: bin, name: name, socket: filepath.Join(dir, "c.sock"), ctx: leases.WithLease(ctx, "none")}
	rootfs := filepath.Join(dir, "rootfs")
	for _, d := range []string{"bin", "proc", "dev", "sys", "tmp"} {
		must(t, os.MkdirAll(filepath.Join(rootfs, d), 0o755))
	}
	data, err := os.ReadFile(busybox)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(rootfs, "bin/busybox"), data, 0o755))
	for _, name := range []string{"sh", "sleep", "echo", "cat", "true"} {
		must(t, os.Symlink("busybox", filepath.Join(rootfs, "bin", name)))
	}
	t.Cleanup(func() {
		defer cancel()
		m.removeAll()
		m.kill(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", m.log.String())
		}
		m.sweep()
		os.RemoveAll(dir)
	})
	m.start()
	return m
}

// start runs the daemon and waits until its socket answers.
func (m *machine) start(flags ...string) {
	m.t.Helper()
	const script = `mount --make-rprivate / || exit 1
if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 1; fi
exec "$0" "$@"`
	daemon := os.Args[0]
	if other := os.Getenv(otherDaemon); other != "" {
		daemon = other
	}
	args := []string{"-m", "sh", "-c", script, daemon, "--root", m.dir + "/root", "--state", m.dir + "/state", "--address", m.socket}
	m.cmd = exec.Command("unshare", append(args, flags...)...)
	m.cmd.Env = append(os.Environ(), asDaemon+"=1", "PATH="+os.Getenv(otherShim)+":"+m.bin+":"+os.Getenv("PATH"))
	m.cmd.Stdout, m.cmd.Stderr = &m.log, &m.log
	must(m.t, m.cmd.Start())
	end := time.Now().Add(bound)
	for {
		conn, err := net.Dial("unix", m.socket)
		if err == nil {
			conn.Close()
			break
		}
		var ws unix.WaitStatus
		if pid, _ := unix.Wait4(m.cmd.Process.Pid, &ws, unix.WNOHANG, nil); pid != 0 {
			m.t.Fatalf("the daemon ended (%v) before its socket answered:\n%s", ws, m.log.String())
		}
		if time.Now().After(end) {
			m.t.Fatalf("the daemon's socket did not answer:\n%s", m.log.String())
		}
		time.Sleep(time.Millisecond)
	}
	c, err := client.New(m.socket, client.WithDefaultNamespace(m.name))
	must(m.t, err)
	m.c = c
}

// kill ends the daemon with a signal and returns what became of it.
func (m *machine) kill(sig syscall.Signal) *os.ProcessState {
	if m.c != nil {
		m.c.Close()
		m.c = nil
	}
	_ = m.cmd.Process.Signal(sig)
	_ = m.cmd.Wait()
	return m.cmd.ProcessState
}

// removeAll takes away every container that a test left, and with the last
// one the shims.
func (m *machine) removeAll() {
	if m.c == nil {
		return
	}
	list, err := m.c.Containers(m.ctx)
	if err != nil {
		m.t.Errorf("list what is left: %v", err)
	}
	for _, c := range list {
		if task, err := c.Task(m.ctx, nil); err == nil {
			if _, err := task.Delete(m.ctx, client.WithProcessKill); err != nil {
				m.t.Errorf("delete task %s: %v", c.ID(), err)
			}
		}
		if err := c.Delete(m.ctx); err != nil {
			m.t.Errorf("delete container %s: %v", c.ID(), err)
		}
	}
}

// sweep ends what a failed test may have left, and takes away the machine's
// folders outside its own.
func (m *machine) sweep() {
	for _, pid := range m.shims() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		top := filepath.Join(root, m.name)
		for end := time.Now().Add(bound); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
			left := false
			dirs, _ := filepath.Glob(top + "/*")
			for _, dir := range append(dirs, top) {
				data, _ := os.ReadFile(dir + "/cgroup.procs")
				for pid := range strings.FieldsSeq(string(data)) {
					n, _ := strconv.Atoi(pid)
					_ = unix.Kill(n, unix.SIGKILL)
				}
				_ = os.Remove(dir)
				_, err := os.Stat(dir)
				left = left || err == nil
			}
			if !left {
				break
			}
		}
	}
	os.RemoveAll(filepath.Join("/run/containerd/runc", m.name))
}

// spec is a container that runs a shell command.
func (m *machine) spec(id, command string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: m.dir + "/rootfs"},
		Process: &specs.Process{
			Args: []string{"sh", "-c", command}, Env: []string{"PATH=/bin"}, Cwd: "/",
			Capabilities: &specs.LinuxCapabilities{},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/" + m.name + "/" + id,
			Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}},
		},
	}
}

// container makes one of a shell command.
func (m *machine) container(id, command string, annotations map[string]string) client.Container {
	m.t.Helper()
	spec := m.spec(id, command)
	spec.Annotations = annotations
	c, err := m.c.NewContainer(m.ctx, id, client.WithSpec(spec), client.WithRuntime("io.containerd.runc.v2", nil))
	must(m.t, err)
	return c
}

// run creates and starts a task of a new container; its exit comes on the channel.
func (m *machine) run(id, command string, annotations map[string]string) (client.Task, <-chan client.ExitStatus) {
	m.t.Helper()
	task, err := m.container(id, command, annotations).NewTask(m.ctx, cio.NullIO)
	must(m.t, err)
	exit, err := task.Wait(m.ctx)
	must(m.t, err)
	must(m.t, task.Start(m.ctx))
	return task, exit
}

// task finds a running task again, as a client does after a restart.
func (m *machine) task(id string) client.Task {
	m.t.Helper()
	c, err := m.c.LoadContainer(m.ctx, id)
	must(m.t, err)
	task, err := c.Task(m.ctx, nil)
	must(m.t, err)
	return task
}

// exit waits for the end of a process.
func (m *machine) exit(ch <-chan client.ExitStatus) uint32 {
	m.t.Helper()
	select {
	case s := <-ch:
		code, _, err := s.Result()
		must(m.t, err)
		return code
	case <-time.After(bound):
		m.t.Fatal("the process did not end")
		return 0
	}
}

// shims are the shim processes of this machine.
func (m *machine) shims() []int {
	m.t.Helper()
	var pids []int
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(m.t, err)
	for _, p := range procs {
		data, err := os.ReadFile(p)
		if err != nil || !bytes.Contains(data, []byte(m.socket)) || !bytes.Contains(data, []byte("containerd-shim-runc-v2")) {
			continue
		}
		var pid int
		fmt.Sscanf(p, "/proc/%d/", &pid)
		pids = append(pids, pid)
	}
	return pids
}

// bundle is the state folder of a task.
func (m *machine) bundle(id string) string {
	return filepath.Join(m.dir, "state/io.containerd.runtime.v2.task", m.name, id)
}

// said is the daemon's own log. The stock shim's lines pass through it, and
// the shim complains where cgroup2 has no memory controller.
func (m *machine) said() string {
	var b strings.Builder
	for line := range strings.Lines(m.log.String()) {
		if !strings.HasPrefix(line, "time=") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// ctr runs the stock command line client.
func (m *machine) ctr(args ...string) string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.ctx, bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(m.bin, "ctr"), append([]string{"-a", m.socket, "-n", m.name}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		m.t.Fatalf("ctr %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// alive is whether a process runs; one that waits to be reaped does not.
func alive(pid uint32) bool {
	state, err := pidfd.Stat(int(pid), 3)
	return err == nil && state != "Z" && state != "X"
}

// eventually waits for something that is told by no event.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(bound); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain: %s", bound, what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func init() {
	typeurl.Register(&specs.Spec{}, "types.containerd.io", "opencontainers", "runtime-spec", "1", "Spec")
	typeurl.Register(&specs.Process{}, "types.containerd.io", "opencontainers", "runtime-spec", "1", "Process")
}
