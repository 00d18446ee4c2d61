package store

import (
	"os"
	"path/filepath"
	"testing"
)

type thing struct {
	A int
	B []string
}

func TestSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "thing.json")
	var got thing
	if ok, err := Load(path, &got); ok || err != nil {
		t.Errorf("nothing there: %v, %v", ok, err)
	}
	for i := range 3 {
		if err := Save(path, thing{i, []string{"x"}}); err != nil {
			t.Fatal(err)
		}
	}
	if ok, err := Load(path, &got); !ok || err != nil || got.A != 2 || got.B[0] != "x" {
		t.Errorf("got %+v, %v, %v", got, ok, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(left) != 1 {
		t.Errorf("files left: %q", left)
	}
}

func TestACorruptFileIsSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "thing.json")
	if err := os.WriteFile(path, []byte(`{"A":1`), 0o600); err != nil {
		t.Fatal(err)
	}
	got := thing{A: 7}
	if ok, err := Load(path, &got); ok || err == nil || got.A != 7 {
		t.Errorf("got %+v, %v, %v", got, ok, err)
	}
	if data, err := os.ReadFile(path + ".corrupt"); err != nil || string(data) != `{"A":1` {
		t.Errorf("set aside: %q, %v", data, err)
	}
	if ok, err := Load(path, &got); ok || err != nil {
		t.Errorf("a second look: %v, %v", ok, err)
	}
}
