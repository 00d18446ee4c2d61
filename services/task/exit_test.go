package task

import (
	"os"
	"path/filepath"
	"testing"

	"keelson/internal/bundle"
)

func TestExitsAreKeptWhenContainerdRemovesThem(t *testing.T) {
	r := &Runtime{StateDir: t.TempDir()}
	web := &bundle.Bundle{ID: "web", Section: bundle.Services}
	dir := filepath.Join(r.StateDir, taskDir, bundle.DefaultNamespace, "web")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if e, ok := r.readExit(web, 7); ok {
		t.Errorf("a task that has not ended: %v", e)
	}
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "exit.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"id":"other","pid":7,"exit_status":3}`)
	if e, ok := r.readExit(web, 7); ok {
		t.Errorf("another task's exit: %v", e)
	}
	write(`{"id":"web","pid":7,"exit_status":137,"exited_at":"2026-01-02T03:04:05Z"}`)
	r.SaveExits()
	if err := os.RemoveAll(filepath.Join(r.StateDir, taskDir)); err != nil {
		t.Fatal(err)
	}
	e, ok := r.readExit(web, 7)
	if !ok || !e.Known || e.Status != 137 || e.At.Year() != 2026 {
		t.Errorf("got %+v, %v", e, ok)
	}
	if e, ok := r.readExit(web, 8); ok {
		t.Errorf("the exit of a process with another number: %v", e)
	}
	if _, ok := r.readExit(web, 0); !ok {
		t.Error("without a number the exit is not found")
	}
	r.hold(web, nil, nil)
	if e, ok := r.readExit(web, 0); ok {
		t.Errorf("the next task has the exit of the one before: %v", e)
	}
}
