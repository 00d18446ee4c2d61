package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// until waits for something of a process to be seen.
func until(t *testing.T, what string, seen func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !seen(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s was not seen", what)
		}
	}
}

func matches(t *testing.T, patterns ...string) []string {
	t.Helper()
	var all []string
	for _, p := range patterns {
		list, err := filepath.Glob(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, list...)
	}
	return all
}

// SIGTERM and Ctrl-C end mkimage wherever it is, and nothing is left of what it did.
func TestStoppedLeavesNothing(t *testing.T) {
	dir, store := project(t)
	must(t, "import", "--output", filepath.Join(dir, "app.tar"), "you/app", filepath.Join(dir, "app"))
	if out, err := exec.Command("gzip", filepath.Join(dir, "app.tar")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	write(t, filepath.Join(dir, "pipe.yml"), "init: [./app.tar.gz, ./pipe]\n")
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	// What takes long to write are many files, each with fewer zeros than an initrd may have.
	long := "kernel: {image: you/kernel, tar: none}\nfiles:\n"
	for i := range 16 {
		long += fmt.Sprintf("  - {path: long%d, source: long}\n", i)
	}
	write(t, filepath.Join(dir, "long.yml"), long)
	write(t, filepath.Join(dir, "long"), "")
	if err := os.Truncate(filepath.Join(dir, "long"), 255<<20); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(store, ".lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	index, err := os.ReadFile(filepath.Join(store, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	out, tmp := filepath.Join(dir, "out"), filepath.Join(dir, "tmp")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	temporary := []string{tmp + "/*", out + "/*", out + "/.*", store + "/blobs/sha256/.*"}
	for _, test := range []struct {
		name string
		seen string // a file that it makes on its way
		args []string
	}{
		{"while it waits for a tarball", tmp + "/mkimage-*.tar", []string{"build", "-o", out, filepath.Join(dir, "pipe.yml")}},
		{"while it writes", out + "/.long-initrd.img.*", []string{"build", "--offline", "-o", out, filepath.Join(dir, "long.yml")}},
		{"while it waits for the store", tmp + "/mkimage-*", []string{"import", "you/other", filepath.Join(dir, "app")}},
	} {
		for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT} {
			cmd := exec.Command("/proc/self/exe", append(test.args, "--store", store)...)
			cmd.Env = append(os.Environ(), "KEELSON_TEST_MKIMAGE=1", "TMPDIR="+tmp)
			var errs bytes.Buffer
			cmd.Stderr = &errs
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			until(t, test.seen, func() bool { return len(matches(t, test.seen)) > 0 })
			begin := time.Now()
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			select {
			case <-done:
			case <-time.After(30 * time.Second):
				_ = cmd.Process.Kill()
				t.Errorf("%s: %v does not end it", test.name, sig)
				<-done
			}
			t.Logf("%s: %v took %v", test.name, sig, time.Since(begin).Round(time.Millisecond))
			if code := cmd.ProcessState.ExitCode(); code != 128+int(sig) {
				t.Errorf("%s: %v: exit code %d: %s", test.name, sig, code, &errs)
			}
			if left := matches(t, temporary...); len(left) > 0 {
				t.Errorf("%s: %v leaves %v", test.name, sig, left)
			}
			if now, err := os.ReadFile(filepath.Join(store, "index.json")); err != nil || string(now) != string(index) {
				t.Errorf("%s: %v: the store's index has changed, %v", test.name, sig, err)
			}
		}
	}
}

// Kernel, root and command line appear together or not at all.
func TestFilesAppearTogether(t *testing.T) {
	dir, store := project(t)
	out := filepath.Join(dir, "out")
	write(t, filepath.Join(out, "t-kernel"), "old")
	if err := os.Mkdir(filepath.Join(out, "t-cmdline"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, _, err := mkimage(t, "build", "-q", "--offline", "--store", store, "-o", out, filepath.Join(dir, "t.yml"))
	if err == nil || !strings.Contains(err.Error(), "a folder is there") {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(filepath.Join(out, "t-cmdline")); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(out, "t-kernel")); err != nil || string(b) != "old" {
		t.Errorf("the kernel is %q, %v", b, err)
	}
	if got := sums(t, out); len(got) != 1 {
		t.Errorf("there are %v", got)
	}
	// Of several formats, too: the second needs a stub that is not there.
	_, _, err = mkimage(t, "build", "-q", "--offline", "--store", store, "-o", out, "--format", "kernel+initrd,efi", "--efi-stub", filepath.Join(dir, "none"), filepath.Join(dir, "t.yml"))
	if err == nil {
		t.Error("no error")
	}
	if got := sums(t, out); len(got) != 1 {
		t.Errorf("there are %v", got)
	}
}

func TestABuildKeepsItsInput(t *testing.T) {
	dir, store := project(t)
	must(t, "import", "--output", filepath.Join(dir, "t.tar"), "you/app", filepath.Join(dir, "app"))
	write(t, filepath.Join(dir, "c-cmdline"), "source")
	write(t, filepath.Join(dir, "a.yml"), "kernel: {image: you/kernel, tar: none}\nfiles: [{path: a, source: c-cmdline}]\n")
	write(t, filepath.Join(dir, "b.yml"), "init: [./t.tar]\n")
	write(t, filepath.Join(dir, "y.tar"), "init: [you/init]\n")
	for _, args := range [][]string{
		{"--name", "c", filepath.Join(dir, "a.yml")},
		{"--name", "t", "--format", "tar", filepath.Join(dir, "b.yml")},
		{"--name", "y", "--format", "tar", filepath.Join(dir, "y.tar")},
	} {
		before := fmt.Sprint(matches(t, dir+"/*"))
		_, _, err := mkimage(t, append([]string{"build", "-q", "--offline", "--store", store, "-o", dir}, args...)...)
		if err == nil || !strings.Contains(err.Error(), "this build reads") {
			t.Errorf("%v: got %v", args, err)
		}
		if after := fmt.Sprint(matches(t, dir+"/*")); after != before {
			t.Errorf("%v: there are %s", args, after)
		}
	}
	if _, _, err := mkimage(t, "import", "--output", filepath.Join(dir, "t.tar"), "you/other", filepath.Join(dir, "t.tar")); err == nil || !strings.Contains(err.Error(), "the same file") {
		t.Errorf("import: got %v", err)
	}
}

func TestMaxSize(t *testing.T) {
	dir, store := project(t)
	_, _, err := mkimage(t, "build", "-q", "--offline", "--store", store, "-o", dir, "--max-size", "64K", filepath.Join(dir, "t.yml"))
	if err == nil || !strings.Contains(err.Error(), "image docker.io/you/app:latest: layer sha256:") || !strings.Contains(err.Error(), "unpacks to more than 64 KiB; --max-size allows more") {
		t.Errorf("got %v", err)
	}
	must(t, "build", "-q", "--offline", "--store", store, "-o", dir, "--max-size", "16M", filepath.Join(dir, "t.yml"))
	for text, want := range map[string]string{"16G": "16G", "1024": "1K", "3M": "3M", "1025": "1025"} {
		var s size
		if err := s.Set(text); err != nil || s.String() != want {
			t.Errorf("%s: got %s, %v", text, &s, err)
		}
	}
	for _, text := range []string{"", "G", "0", "-1", "1.5G", "16g", "99999999T"} {
		var s size
		if err := s.Set(text); err == nil {
			t.Errorf("%q is taken for %s", text, &s)
		}
	}
}

// A pipe that nobody writes to is refused, not waited for.
func TestSourceThatIsAPipe(t *testing.T) {
	dir, store := project(t)
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "p.yml"), "init: [you/init]\nfiles: [{path: a, source: pipe}]\n")
	done := make(chan error, 1)
	go func() {
		_, _, err := mkimage(t, "build", "-q", "--offline", "--store", store, "-o", dir, filepath.Join(dir, "p.yml"))
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "p.yml:2: files[0]: a: source: "+filepath.Join(dir, "pipe")+" is not a regular file") {
			t.Errorf("got %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the build waits for the pipe")
	}
}
