package supervise

import (
	"os"
	"path/filepath"
	"testing"
)

func TestResumeKnowsItsOwnRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keelson")
	check := func(id string, want bool) {
		t.Helper()
		if got, err := resume(dir, id); err != nil || got != want {
			t.Errorf("%s: %v, %v", id, got, err)
		}
	}
	check("boot-1", false)
	memory := filepath.Join(dir, "boot.json")
	if err := os.WriteFile(memory, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	check("boot-1", true)
	if _, err := os.Stat(memory); err != nil {
		t.Error("the memory of the same run is gone")
	}
	check("boot-2", false) // the container was started again
	if _, err := os.Stat(memory); err == nil {
		t.Error("the memory of another run is still there")
	}
	check("boot-2", true)
}
