package stdio

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"keelson/internal/beneath"
)

// A file that a container can replace by a link is not written through it.
func TestFileStreamFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	outside, log := filepath.Join(dir, "outside"), filepath.Join(dir, "log")
	if err := errors.Join(os.WriteFile(outside, nil, 0o644), os.Symlink(outside, log)); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"file://" + log, log, "file://" + log + "/below"} {
		if s, err := Open(Config{Stdout: address}); err == nil {
			s.Close()
			t.Errorf("%s was opened", address)
		}
	}
	if _, err := Open(Config{Stdout: "file://" + log}); !errors.Is(err, beneath.Link) {
		t.Errorf("open: %v", err)
	}
	for _, address := range []string{"file://" + filepath.Join(dir, "new", "log"), "file:///dev/null"} {
		s, err := Open(Config{Stdout: address})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Stdout.WriteString("line\n"); err != nil {
			t.Error(err)
		}
		s.Close()
	}
	if data, err := os.ReadFile(filepath.Join(dir, "new", "log")); err != nil || string(data) != "line\n" {
		t.Errorf("read %q, %v", data, err)
	}
}
