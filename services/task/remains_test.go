package task

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"keelson/internal/bundle"
)

func TestRemainsOfAForgottenTaskAreCleared(t *testing.T) {
	r := &Runtime{StateDir: t.TempDir()}
	b := &bundle.Bundle{Name: "web", ID: "web"}
	dir := filepath.Join(r.StateDir, taskDir, bundle.DefaultNamespace, "web")
	if err := os.MkdirAll(filepath.Join(dir, "rootfs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), nil, 0o600); err != nil {
		t.Fatal(err)
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
