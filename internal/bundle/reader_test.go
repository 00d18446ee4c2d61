package bundle

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReaderReadsWhatHasChanged(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "web")
	write := func(args string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		text := `{"process": {"args": [` + args + `]}, "linux": {}, "root": {"path": "rootfs"}}`
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var r Reader
	if _, err := r.Load(Services, dir); err == nil {
		t.Error("a directory that is not there was read")
	}
	write(`"one"`)
	first, err := r.Load(Services, dir)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := r.Load(Services, dir); again != first {
		t.Error("read twice")
	}
	write(`"one", "two"`)
	if now, err := r.Load(Services, dir); err != nil || len(now.Spec.Process.Args) != 2 {
		t.Errorf("what was written since is not seen: %v %v", now, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "runtime.json"), []byte(`{"namespace": "other"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if now, err := r.Load(Services, dir); err != nil || now.Namespace() != "other" {
		t.Errorf("a new runtime.json is not seen: %v %v", now, err)
	}
	if one, _ := (*Reader)(nil).Load(Services, dir); one == nil || one.Spec == nil {
		t.Error("a nil reader does not read")
	}
}
