package task

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
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
