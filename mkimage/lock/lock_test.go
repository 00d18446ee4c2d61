package lock

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func digestOf(letter string) string { return "sha256:" + strings.Repeat(letter, 64) }

func TestLock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.lock")
	l, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{"docker.io/b:1", "./a file.tar", "docker.io/b:1"} {
		if err := l.Check(image, digestOf("a")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("written before the build was done")
	}
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	want := header + "./a%20file.tar " + digestOf("a") + "\ndocker.io/b:1 " + digestOf("a") + "\n"
	if got, err := os.ReadFile(file); err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	if l, err = Open(file); err != nil {
		t.Fatal(err)
	}
	err = l.Check("docker.io/b:1", digestOf("b"))
	if err == nil {
		t.Fatal("a changed image was accepted")
	}
	for _, want := range []string{"docker.io/b:1", digestOf("a"), digestOf("b"), file, "remove its line"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: no %s", err, want)
		}
	}
	if err := l.Check("docker.io/c:1", digestOf("c")); err != nil || len(l.Added()) != 1 {
		t.Errorf("a new image: %v, %v", err, l.Added())
	}
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(file); string(got) != want+"docker.io/c:1 "+digestOf("c")+"\n" {
		t.Errorf("%s", got)
	}
}

func TestBadLock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.lock")
	for text, want := range map[string]string{
		"# comment\n\nimage\n": "web.lock:3: \"image\" must be the name of an image and its digest",
		"image md5:0\n":        "web.lock:1:",
		"image " + digestOf("a") + "\nimage " + digestOf("b") + "\n": "web.lock:2: image is there with another digest",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := Open(t.TempDir()); err == nil {
		t.Error("a directory was read")
	}
}
