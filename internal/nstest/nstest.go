// Package nstest runs a package's tests inside mount and network namespaces of
// their own, so that they can mount, unmount and move network links for real
// without touching the machine they run on. Only tests import it.
//
// It promises that / is shared inside, as it is in the booted machine, and that
// nothing mounted there is seen outside.
package nstest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	inside  = "NSTEST_INSIDE"
	process = "NSTEST_PROCESS"
)

// Main is for a package's TestMain: os.Exit(nstest.Main(m)). As root it runs the
// test binary again in new namespaces; otherwise it runs the tests where they
// are, and those that call Need are skipped.
func Main(m *testing.M) int {
	if os.Getenv(process) != "" {
		// the first process of a container in a test: it lives until its stdin ends
		_, _ = os.Stdout.WriteString("up\n")
		_, _ = io.Copy(io.Discard, os.Stdin)
		return 0
	}
	if os.Getuid() != 0 || os.Getenv(inside) != "" {
		if os.Getenv(inside) != "" {
			if err := settle(); err != nil {
				fmt.Fprintln(os.Stderr, "nstest:", err)
				return 1
			}
		}
		return m.Run()
	}
	// Linux 6.18 numbers namespaces for each CPU apart and then takes a mount
	// namespace made on another CPU for one that is older than ours, which cannot
	// be bound: all on one CPU.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var one unix.CPUSet
	one.Set(firstCPU())
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		fmt.Fprintln(os.Stderr, "nstest: stay on one CPU:", err)
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "nstest: run the tests in new namespaces:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

func firstCPU() int {
	var may unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err == nil {
		for cpu := range 1024 {
			if may.IsSet(cpu) {
				return cpu
			}
		}
	}
	return 0
}

// settle leaves the outer machine's propagation, then shares / among ourselves.
func settle() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make / shared: %w", err)
	}
	return nil
}

// Need skips the test where there are no namespaces to run it in.
func Need(t *testing.T) {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skip("needs root, for mount and network namespaces of its own")
	}
}

// Tmpfs returns a folder with a fresh tmpfs of the size (as in "size=1m") on it,
// unmounted with everything below it at the end of the test.
func Tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, size); err != nil {
		t.Fatalf("mount tmpfs on %s: %v", dir, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// Process starts a process in new namespaces (CLONE_NEW* flags) and returns its
// pid. The end of the test, or the function returned, ends it.
func Process(t *testing.T, flags uintptr) (pid int, end func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), process+"=1", "GORACE=atexit_sleep_ms=0") // the race detector waits a second at exit
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, syscall.EPERM) && flags&syscall.CLONE_NEWUSER != 0 {
			t.Skip("user namespaces are refused here, as they are in a chroot")
		}
		t.Fatalf("start a process in new namespaces: %v", err)
	}
	up := make([]byte, 3)
	if _, err := io.ReadFull(stdout, up); err != nil || !strings.HasPrefix(string(up), "up") {
		t.Fatalf("the process in new namespaces said %q: %v", up, err)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			_ = stdin.Close()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(end)
	return cmd.Process.Pid, end
}
