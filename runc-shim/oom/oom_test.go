package oom

import (
	"os"
	"path/filepath"
	"testing"
)

func write(t *testing.T, file, text string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// A plain file that is written to wakes inotify as the kernel's does.
func TestOneKillIsOneNotice(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "memory.events")
	write(t, file, "low 0\nhigh 0\nmax 0\noom 1\noom_kill 1\n")
	got := make(chan string, 10)
	w := New(func(id string) { got <- id })
	defer w.Close()
	if err := w.AddV2("web", dir); err != nil {
		t.Fatal(err)
	}
	// What was killed before does not count, nor does a limit that was hit.
	write(t, file, "max 5\noom 1\noom_kill 1\n")
	write(t, file, "max 5\noom 2\noom_kill 2\n")
	if id := <-got; id != "web" {
		t.Errorf("notice of %q", id)
	}
	w.Remove("web")
	write(t, file, "oom_kill 3\n")
	other := t.TempDir()
	write(t, filepath.Join(other, "memory.events"), "oom_kill 0\n")
	if err := w.AddV2("db", other); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(other, "memory.events"), "oom_kill 1\n")
	if id := <-got; id != "db" {
		t.Errorf("notice of %q, which is not watched any more", id)
	}
}

func TestWithoutTheControllerThereIsNothingToWatch(t *testing.T) {
	w := New(func(string) {})
	defer w.Close()
	if err := w.AddV2("x", t.TempDir()); err != nil {
		t.Error(err)
	}
	w.Close()
	if err := w.AddV2("x", t.TempDir()); err == nil {
		t.Error("a closed watcher watches")
	}
}
