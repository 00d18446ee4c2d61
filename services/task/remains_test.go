package task

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"keelson/internal/bundle"
	"keelson/internal/pidfd"
)

func TestRemainsOfAForgottenTaskAreCleared(t *testing.T) {
	r := &Runtime{StateDir: t.TempDir()}
	b := &bundle.Bundle{Name: "web", ID: "web"}
	dir := filepath.Join(r.StateDir, Dir, bundle.DefaultNamespace, "web")
	if err := os.MkdirAll(filepath.Join(dir, "rootfs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{fmt.Errorf("container web: %w", errdefs.ErrAlreadyExists), errors.New("OCI runtime create failed: container with given ID already exists")} {
		if !r.clearRemains(b, err) {
			t.Errorf("%v: not tried again", err)
		}
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("what has nothing to do with it: %v", err)
		}
	}
	exists := errors.New("mkdir " + dir + ": file exists")
	for _, err := range []error{errors.New("out of luck"), errors.New("mkdir " + dir + "2: file exists")} {
		if r.clearRemains(b, err) {
			t.Errorf("%v: removed", err)
		}
	}
	// What is mounted at rootfs, here a file in it, is not deleted through it.
	held := filepath.Join(dir, "rootfs", "mine")
	if err := os.WriteFile(held, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r.clearRemains(b, exists) {
		t.Error("it is gone although something was in its rootfs")
	}
	if err := os.Remove(held); err != nil {
		t.Fatalf("what was in its rootfs: %v", err)
	}
	if !r.clearRemains(b, exists) {
		t.Error("it was not removed")
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// TestRemainsBehindALink: the state directory is all that is removed from.
func TestRemainsBehindALink(t *testing.T) {
	r := &Runtime{StateDir: t.TempDir()}
	b := &bundle.Bundle{Name: "web", ID: "web"}
	outside := t.TempDir()
	of := filepath.Join(r.StateDir, Dir, bundle.DefaultNamespace)
	if err := errors.Join(os.MkdirAll(filepath.Dir(of), 0o700), os.MkdirAll(filepath.Join(outside, "web/rootfs"), 0o700), os.Symlink(outside, of)); err != nil {
		t.Fatal(err)
	}
	if r.clearRemains(b, errors.New("mkdir "+filepath.Join(of, "web")+": file exists")) {
		t.Error("it is reported as removed")
	}
	if _, err := os.Stat(filepath.Join(outside, "web/rootfs")); err != nil {
		t.Error(err)
	}
}

func TestATaskThatContainerdDoesNotKnowIsFoundByRuncsState(t *testing.T) {
	r := &Runtime{RuncState: t.TempDir()}
	b := &bundle.Bundle{Name: "web", ID: "web"}
	dir := filepath.Join(r.RuncState, bundle.DefaultNamespace, "web")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := pidfd.Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	id, err := self.Identity()
	if err != nil {
		t.Fatal(err)
	}
	state := func(pid int, start uint64) string {
		return fmt.Sprintf(`{"id":"web","init_process_pid":%d,"init_process_start":%d,"created":"2020-01-01T00:00:00Z"}`, pid, start)
	}
	for _, tc := range []struct {
		name, state string
		notStarted  bool
		want        int
	}{
		{"it runs", state(id.PID, id.Start), false, id.PID},
		{"another process has its number", state(id.PID, id.Start+1), false, 0},
		{"made but never started", state(id.PID, id.Start), true, 0},
		{"half a file", state(id.PID, id.Start)[:30], false, 0},
		{"empty", "{}", false, 0},
		{"no file", "", false, 0},
	} {
		path, fifo := filepath.Join(dir, "state.json"), filepath.Join(dir, "exec.fifo")
		_ = os.Remove(path)
		_ = os.Remove(fifo)
		if tc.state != "" {
			if err := os.WriteFile(path, []byte(tc.state), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if tc.notStarted {
			if err := os.WriteFile(fifo, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got := 0
		if process := r.unlisted(b); process != nil {
			got = process.PID
			process.Close()
		}
		if got != tc.want {
			t.Errorf("%s: process %d, want %d", tc.name, got, tc.want)
		}
	}
	if (&Runtime{}).unlisted(b) != nil {
		t.Error("found where there is nowhere to look")
	}
}
