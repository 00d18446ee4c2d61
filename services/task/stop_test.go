package task

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/pidfd"
)

func TestDeafTo(t *testing.T) {
	for name, tc := range map[string]struct {
		status string
		want   bool
	}{
		"first, no handler":    {"Name:\tsleep\nNSpid:\t200\t1\nSigBlk:\t0000000000000000\nSigCgt:\t0000000000000000\n", true},
		"first, other signal":  {"NSpid:\t200\t1\nSigBlk:\t0000000000000000\nSigCgt:\t0000000000000002\n", true},
		"first, handler":       {"NSpid:\t200\t1\nSigBlk:\t0000000000000000\nSigCgt:\t0000000000004000\n", false},
		"first, blocked":       {"NSpid:\t200\t1\nSigBlk:\t0000000000004000\nSigCgt:\t0000000000000000\n", false},
		"not the first":        {"NSpid:\t200\t7\nSigBlk:\t0000000000000000\nSigCgt:\t0000000000000000\n", false},
		"the host's namespace": {"NSpid:\t1\nSigBlk:\t0000000000000000\nSigCgt:\t0000000000000000\n", false},
	} {
		path := filepath.Join(t.TempDir(), "status")
		if err := os.WriteFile(path, []byte(tc.status), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := deafTo(path, unix.SIGTERM); err != nil || got != tc.want {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	if _, err := deafTo(filepath.Join(t.TempDir(), "gone"), unix.SIGTERM); err == nil {
		t.Error("a process that is gone is no error")
	}
}

func TestExitInWords(t *testing.T) {
	for _, tc := range []struct {
		exit Exit
		want string
	}{
		{Exit{Known: true}, "exited with code 0"},
		{Exit{Status: 3, Known: true}, "exited with code 3"},
		{Exit{Status: 137, Known: true}, "killed by SIGKILL"},
		{Exit{Status: 128 + 40, Known: true}, "killed by signal 40"},
		{Exit{Status: 255, Known: true}, "exited with code 255"},
		{Exit{}, "ended, its exit code was lost with its shim or containerd"},
	} {
		if got := tc.exit.String(); got != tc.want {
			t.Errorf("%+v: %q, want %q", tc.exit, got, tc.want)
		}
		if tc.exit.Success() != (tc.want == "exited with code 0") {
			t.Errorf("%+v: success %v", tc.exit, tc.exit.Success())
		}
	}
}

func TestMachineProcesses(t *testing.T) {
	if pids := machineProcesses(); !slices.Contains(pids, os.Getpid()) || !slices.Contains(pids, 1) {
		t.Errorf("got %v", pids)
	}
	if name := pidNamespace(os.Getpid()); name == "" || name != pidNamespace(os.Getppid()) {
		t.Errorf("a process is in %q, its parent in %q", name, pidNamespace(os.Getppid()))
	}
}

// firstOfNamespace runs a shell script as the first process of a pid namespace, as it
// would be a container's. The script writes a line when it is ready to be stopped.
func firstOfNamespace(t *testing.T, script string) (task *running, in io.Writer, lines *bufio.Reader) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	in, err := cmd.StdinPipe() // stays open: what reads it waits
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSPC) {
			t.Skipf("this kernel gives no user namespace: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	process, err := pidfd.Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Close)
	lines = bufio.NewReader(out)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return &running{process: process, runtime: &Runtime{}}, in, lines
}

// A handler that begins by taking itself away leaves a process that looks as if it had
// never had one; it is doing what it was asked for.
func TestStopOfOneThatTakesItsHandlerAway(t *testing.T) {
	task, _, lines := firstOfNamespace(t, `trap 'trap - TERM; echo draining; while :; do read x; done' TERM; echo up; while :; do read x; done`)
	heard, err := task.Stop(unix.SIGTERM)
	if !heard || err != nil {
		t.Fatalf("heard %v, %v", heard, err)
	}
	if line, err := lines.ReadString('\n'); line != "draining\n" {
		t.Fatalf("it said %q, %v", line, err)
	}
	if task.Alone(unix.SIGTERM) {
		t.Error("it is at its last work, and counts as one that does not hear")
	}
}

func TestStopOfOneThatDoesNotHear(t *testing.T) {
	task, in, lines := firstOfNamespace(t, `echo up; while read x; do /bin/true; echo ran; done`)
	if heard, err := task.Stop(unix.SIGTERM); heard || err != nil {
		t.Errorf("heard %v, %v", heard, err)
	}
	if !task.Alone(unix.SIGTERM) {
		t.Error("what does not hear and has nobody beside it is not alone")
	}
	if _, err := io.WriteString(in, "\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if task.Alone(unix.SIGTERM) {
		t.Error("what has run a command since the last look was not alone")
	}
	if !task.Alone(unix.SIGTERM) {
		t.Error("what has run nothing more is not alone")
	}
}

// A signal that is blocked for a moment is not one that somebody waits for.
func TestBlockedForAMoment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "status")
	const status = "NSpid:\t200\t1\nSigBlk:\t%s\nSigCgt:\t0000000000000000\n"
	write := func(mask string) {
		t.Helper()
		if err := os.WriteFile(path+".new", fmt.Appendf(nil, status, mask), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write("fffffffe7ffbfeff")
	if deaf, err := settledDeafTo(path, unix.SIGTERM); deaf || err != nil {
		t.Errorf("blocked all the time: %v, %v", deaf, err)
	}
	synctest.Test(t, func(t *testing.T) {
		time.AfterFunc(blockedPause*3/2, func() { write("0000000000000000") })
		if deaf, err := settledDeafTo(path, unix.SIGTERM); !deaf || err != nil {
			t.Errorf("blocked for a moment: %v, %v", deaf, err)
		}
	})
}

// awaitDeaf waits until a shell is not about to start a command.
func awaitDeaf(t *testing.T, task *running) {
	t.Helper()
	for range 1000 {
		if deaf, err := settledDeafTo(fmt.Sprintf("/proc/%d/status", task.PID()), unix.SIGTERM); err != nil || deaf {
			return
		}
	}
	t.Fatal("the shell has its signals blocked all the time")
}

// A loop of a shell always has a child, and starts it again when it gets the signal.
func TestStopOfALoop(t *testing.T) {
	task, _, lines := firstOfNamespace(t, `echo up; while :; do sleep 300; echo again; done`)
	awaitOther(t, task, "sleep\x00300\x00")
	if heard, err := task.Stop(unix.SIGTERM); !heard || err != nil {
		t.Fatalf("heard %v, %v", heard, err)
	}
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	awaitOther(t, task, "sleep\x00300\x00")
	if !task.Alone(unix.SIGTERM) {
		t.Error("a loop that goes on as before may go on")
	}
	// Between two rounds, or at another of its commands, it is the same loop.
	for _, pid := range task.others() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	awaitDeaf(t, task) // on a busy machine a shell has its signals blocked for long while it starts a command
	if !task.Alone(unix.SIGTERM) {
		t.Error("a loop that was seen to go on is forgotten")
	}
}

// What runs after the command that was there is its last work, as long as that takes.
func TestStopOfOneWithLastWork(t *testing.T) {
	task, _, lines := firstOfNamespace(t, `echo up; sleep 300; echo closing; while :; do sleep 0.01; sleep 301; done`)
	awaitOther(t, task, "sleep\x00300\x00")
	if heard, err := task.Stop(unix.SIGTERM); !heard || err != nil {
		t.Fatalf("heard %v, %v", heard, err)
	}
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	awaitOther(t, task, "sleep\x00301\x00")
	if task.Alone(unix.SIGTERM) {
		t.Error("what is at its last work counts as one that goes on as before")
	}
}

// One of those that got the signal is at its last work, whatever the first process does.
func TestStopOfALoopBesideOneThatFinishes(t *testing.T) {
	task, _, lines := firstOfNamespace(t, `(trap 'sleep 302' TERM; sleep 303) & echo up; while :; do sleep 300; echo again; done`)
	awaitOther(t, task, "sleep\x00300\x00")
	awaitOther(t, task, "sleep\x00303\x00")
	if heard, err := task.Stop(unix.SIGTERM); !heard || err != nil {
		t.Fatalf("heard %v, %v", heard, err)
	}
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	awaitOther(t, task, "sleep\x00300\x00")
	awaitOther(t, task, "sleep\x00302\x00")
	if task.Alone(unix.SIGTERM) {
		t.Error("the container counts as one that goes on while another process finishes its work")
	}
}

// awaitOther waits until a process with this command line runs beside the first one.
func awaitOther(t *testing.T, task *running, command string) {
	t.Helper()
	for range 1000 {
		// The shell has all signals blocked until it knows that its child has begun.
		deaf, _ := deafTo(fmt.Sprintf("/proc/%d/status", task.PID()), unix.SIGTERM)
		if deaf && slices.ContainsFunc(task.others(), func(pid int) bool { return commandOf(pid) == command }) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("nothing runs as %q", command)
}
