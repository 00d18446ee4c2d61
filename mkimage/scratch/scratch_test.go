package scratch

import (
	"os"
	"path/filepath"
	"testing"
)

func temp(t *testing.T, dir, body string) string {
	t.Helper()
	f, err := File(dir, ".new-*")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(body); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func want(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if _, ok := files[e.Name()]; !ok {
			t.Errorf("there is a %s", e.Name())
		}
	}
	for name, body := range files {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if fi, serr := os.Stat(filepath.Join(dir, name)); body == "/" && serr == nil && fi.IsDir() {
			continue
		}
		if err != nil || string(b) != body {
			t.Errorf("%s has %q, %v, want %q", name, b, err, body)
		}
	}
}

func TestPublishAllOrNone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "c"), 0o755); err != nil {
		t.Fatal(err)
	}
	a, b, c := temp(t, dir, "new a"), temp(t, dir, "new b"), temp(t, dir, "new c")
	name := func(s string) string { return filepath.Join(dir, s) }
	if err := Publish(Named{a, name("a")}, Named{b, name("b")}, Named{c, name("c")}); err == nil {
		t.Error("a folder was replaced")
	}
	want(t, dir, map[string]string{"a": "old", "c": "/", filepath.Base(a): "new a", filepath.Base(b): "new b", filepath.Base(c): "new c"})
	Remove(c)
	if err := Publish(Named{a, name("a")}, Named{b, name("b")}); err != nil {
		t.Fatal(err)
	}
	Remove(a)
	Remove(b)
	want(t, dir, map[string]string{"a": "new a", "b": "new b", "c": "/"})
}

func TestRemoveAllIsTheEnd(t *testing.T) {
	defer func() { closed = false }()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	f := temp(t, dir, "x")
	d, err := Dir("d-*")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d, "y"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	RemoveAll()
	want(t, dir, nil)
	if err := Publish(Named{f, filepath.Join(dir, "z")}); err == nil {
		t.Error("a file got its name after the end")
	}
	if _, err := File(dir, "*"); err == nil {
		t.Error("a file was made after the end")
	}
	want(t, dir, nil)
}
