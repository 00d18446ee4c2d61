package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bound is for what should take no time at all.
const bound = time.Minute

// binaries holds the real /init and the helper, built once.
var binaries string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "init-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries = dir
	if filepath.Base(os.Args[0]) == "init" {
		// Never so. With main within reach, go test knows that what these tests
		// build and run has changed, and does not show an old result.
		main()
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func build(t *testing.T, name, pkg string) string {
	t.Helper()
	file := filepath.Join(binaries, name)
	if _, err := os.Stat(file); err == nil {
		return file
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", file, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return file
}

// box is a running /init in namespaces of its own.
type box struct {
	t       *testing.T
	ctl     *os.File
	lines   chan string
	seen    []string
	untaken []string
	ended   chan error
	cmd     *exec.Cmd
}

// start starts the real /init as PID 1 of its own user, PID, mount, UTS, IPC,
// network and cgroup namespaces, so that nothing of the machine is within its
// reach. mode is container or machine.
func start(t *testing.T, mode string) *box { return startWith(t, mode, setup{}) }

type setup struct {
	without string   // a file to leave out
	output  *os.File // instead of the console the box reads
}

func startWith(t *testing.T, mode string, set setup) *box {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"proc", "usr/bin", "memory", "dev", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.ReadFile("testdata/helper/main.go"); err != nil { // as above
		t.Fatal(err)
	}
	helper := build(t, "helper", "./testdata/helper")
	for path, from := range map[string]string{"init": build(t, "init", "."), "usr/bin/service": helper} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if set.without == path {
			continue
		}
		if err := os.WriteFile(filepath.Join(root, path), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	open := func(name string) *os.File {
		path := filepath.Join(root, name)
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	console := open("console")
	b := &box{t: t, ctl: open("ctl"), lines: make(chan string, 1000), ended: make(chan error, 1)}
	b.cmd = exec.Command(helper, "enter", root, mode)
	b.cmd.Stdout, b.cmd.Stderr = console, console
	if set.output != nil {
		b.cmd.Stdout, b.cmd.Stderr = set.output, set.output
	}
	b.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS |
			unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if err := b.cmd.Start(); err != nil {
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSPC) {
			t.Skipf("this kernel gives no user namespace: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.cmd.Process.Kill() })
	go func() { b.ended <- b.cmd.Wait() }()
	go func() {
		for in := bufio.NewScanner(console); in.Scan(); {
			b.lines <- in.Text()
		}
	}()
	return b
}

// expect waits for a line of the console that matches, takes it, and returns
// its groups. PID 1 and the supervisor write the console independently of each
// other, so a line that came earlier and has not been taken counts as well.
func (b *box) expect(pattern string) []string {
	b.t.Helper()
	re := regexp.MustCompile(pattern)
	late := time.After(bound)
	for i := 0; ; i++ {
		for i == len(b.untaken) {
			select {
			case line := <-b.lines:
				b.seen = append(b.seen, line)
				b.untaken = append(b.untaken, line)
			case err := <-b.ended:
				b.ended <- err
				if len(b.lines) == 0 {
					b.t.Fatalf("PID 1 ended (%v) without %q:\n%s", err, pattern, strings.Join(b.seen, "\n"))
				}
			case <-late:
				b.t.Fatalf("no %q in %s:\n%s", pattern, bound, strings.Join(b.seen, "\n"))
			}
		}
		if strings.Contains(b.untaken[i], "panic") {
			b.t.Fatalf("waiting for %q:\n%s", pattern, strings.Join(b.seen, "\n"))
		}
		if m := re.FindStringSubmatch(b.untaken[i]); m != nil {
			b.untaken = slices.Delete(b.untaken, i, i+1)
			return m
		}
	}
}

func (b *box) tell(format string, a ...any) {
	b.t.Helper()
	if _, err := fmt.Fprintf(b.ctl, format+"\n", a...); err != nil {
		b.t.Fatal(err)
	}
}

// end waits for PID 1's own end and returns how it came.
func (b *box) end() string {
	b.t.Helper()
	select {
	case err := <-b.ended:
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return exit.String()
		}
		if err != nil {
			b.t.Fatal(err)
		}
		return "exit status 0"
	case <-time.After(bound):
		b.t.Fatalf("PID 1 lives on:\n%s", strings.Join(b.seen, "\n"))
		return ""
	}
}

const started = `sup: start ppid=1 leader=true args=\["/usr/bin/service" "supervise"\] stop="(.*)" greeting="hello" start="\d+" done="\d+" path=true`

func TestContainer(t *testing.T) {
	b := start(t, "container")
	b.expect(`init +started as the first process of a container`)
	if m := b.expect(started); m[1] != "" {
		t.Errorf("KEELSON_STOP=%q at the first start", m[1])
	}

	// Whatever ends it, it is started again.
	for i, how := range []struct{ tell, say string }{
		{"die 9", `supervisor killed by SIGKILL after .*; restart 1 in 100ms`},
		{"exit 3", `supervisor exited with 3 after .*; restart 2 in 200ms`},
		{"exit 0", `supervisor exited with 0 after .*; restart 3 in 400ms`},
	} {
		b.tell("%s", how.tell)
		b.expect("ERROR: " + how.say)
		b.expect(`supervisor started again, pid \d+`)
		if m := b.expect(started); m[1] != "" {
			t.Errorf("restart %d: KEELSON_STOP=%q", i+1, m[1])
		}
	}

	b.tell("orphans 20")
	b.expect(`sup: orphans left: 0 <nil>`)

	// No other signal ends PID 1, nor keeps it from hearing the one that means a stop.
	b.tell("storm %d", unix.SIGTERM)
	b.expect(`init +reboot asked for`)
	b.expect(`sup: SIGTERM`)
	b.expect(`init +reboot: everything stopped, leaving the container`)
	if got := b.end(); got != "exit status 0" {
		t.Errorf("PID 1: %s", got)
	}
}

// A supervisor that does not stop is not waited for by somebody impatient.
func TestImpatientStop(t *testing.T) {
	b := start(t, "container")
	b.expect(started)
	b.tell("deaf")
	b.expect(`sup: deaf`)
	b.tell("signal %d", unix.SIGUSR2)
	b.expect(`init +poweroff asked for`)
	b.tell("signal %d", unix.SIGTERM)
	b.expect(`warning: reboot asked for, but poweroff is under way`)
	b.tell("signal %d", unix.SIGUSR2)
	b.expect(`poweroff is under way; 1 more such signals`)
	b.tell("signal %d", unix.SIGUSR2)
	b.expect(`not waiting for the supervisor`)
	b.end()
}

// One that dies while it stops things is started again to go on with it.
func TestSupervisorDiesWhileStopping(t *testing.T) {
	b := start(t, "container")
	b.expect(started)
	b.tell("deaf")
	b.expect(`sup: deaf`)
	b.tell("signal %d", unix.SIGUSR1)
	b.expect(`init +halt asked for`)
	b.tell("die 9")
	b.expect(`supervisor killed by SIGKILL`)
	if m := b.expect(started); m[1] != "halt" {
		t.Errorf("KEELSON_STOP=%q", m[1])
	}
	b.expect(`halt: everything stopped`)
	b.end()
}

func TestMissingSupervisor(t *testing.T) {
	b := startWith(t, "container", setup{without: "usr/bin/service"})
	b.expect(`ERROR: supervisor did not start: /usr/bin/service: no such file or directory; restart 1 in 100ms; is the root complete\?`)
	b.expect(`restart 3 in 400ms`)
	if err := b.cmd.Process.Signal(unix.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	b.expect(`poweroff asked for`)
	b.expect(`stopping without it`)
	b.end()
}

// Writing to a terminal that has gone ends the supervisor, by SIGPIPE, but not
// PID 1.
func TestConsoleGone(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	b := startWith(t, "container", setup{output: w})
	w.Close()
	in := bufio.NewScanner(r)
	for in.Scan() && !strings.Contains(in.Text(), "sup: start") {
		b.seen = append(b.seen, in.Text())
	}
	r.Close()
	b.tell("exit 1") // and what PID 1 has to say of it goes nowhere
	if err := b.cmd.Process.Signal(unix.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	if got := b.end(); got != "exit status 0" {
		t.Errorf("PID 1: %s", got)
	}
}

// A root in memory, with nothing mounted, is taken all the way. devtmpfs needs
// a machine: /dev stays the root's own folder here, and that is said.
func TestMachine(t *testing.T) {
	for sig, want := range map[syscall.Signal]string{ // reboot_pid_ns of the kernel
		unix.SIGUSR2: "signal: interrupt", unix.SIGUSR1: "signal: interrupt", unix.SIGTERM: "signal: hangup",
	} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			b := start(t, "machine")
			b.expect(`init +root handed over in \S+ms \(tmpfs, no copy\), \d+ mounts in \S+ms`)
			b.expect(`ERROR: mount devtmpfs on /dev: operation not permitted \(errno 1\)`)
			b.expect(`its cgroups are left alone`)
			b.expect(started)
			b.tell("show /proc/self/mountinfo")
			var mounts []string
			for {
				m := b.expect(`sup: (.*)`)
				if m[1] == "shown <nil>" {
					break
				}
				mounts = append(mounts, m[1])
			}
			all := strings.Join(mounts, "\n")
			for _, want := range []string{
				` / / ro,relatime shared:`, ` / /proc rw,nosuid,nodev,noexec,relatime shared:`,
				` / /run rw,nosuid,nodev,noexec,relatime shared:`, ` / /var `, ` / /tmp `, ` / /sys `, ` / /dev/shm `,
			} {
				if !strings.Contains(all, want) {
					t.Errorf("no %q in\n%s", want, all)
				}
			}
			b.tell("touch /x")
			b.expect(`sup: touch: open /x: read-only file system`)
			b.tell("touch /var/lib/x")
			b.expect(`sup: touch: <nil>`)
			b.tell("die 9")
			b.expect(`killed by SIGKILL`)
			b.expect(started)
			b.tell("signal %d", sig)
			b.expect(`sup: SIGTERM`)
			b.expect(`init +unmounted \d+ file systems`)
			if got := b.end(); got != want {
				t.Errorf("PID 1: %s, want %s", got, want)
			}
		})
	}
}

func TestByHand(t *testing.T) {
	cmd := exec.Command(build(t, "init", "."))
	// In a chroot without /proc, and not PID 1.
	root := t.TempDir()
	data, err := os.ReadFile(cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/init", data, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd.Path = "/init"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Cloneflags: unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Skipf("this kernel gives no user namespace: %v", err)
	}
	if exit.ExitCode() != 1 || !strings.Contains(string(out), "cannot be started by hand") {
		t.Errorf("%v: %s", err, out)
	}
}
