package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// faulty is an image with something that cannot work and something that may not.
func faulty(t *testing.T) (store, file string) {
	t.Helper()
	dir, store := project(t)
	write(t, filepath.Join(dir, "odd", "odd"), "echo hello\n")
	must(t, "import", "--store", store, "you/odd", filepath.Join(dir, "odd"), "--cmd", "/odd")
	file = filepath.Join(dir, "faulty.yml")
	write(t, file, `kernel: {image: you/kernel, tar: none}
onboot: [{name: odd, image: you/odd}]
services:
  - {name: bad, image: you/app, hostname: x}
`)
	return store, file
}

func TestLint(t *testing.T) {
	store, file := faulty(t)
	odd := "warning: " + file + ":2: onboot[0]: command of its image: /odd is neither a binary nor a script"
	bad := file + ":4: services[0].hostname: the container shares the machine's host name"
	out, _, err := mkimage(t, "lint", "--offline", "--store", store, file)
	if lines := strings.Split(out, "\n"); len(lines) != 3 || !strings.HasPrefix(lines[0], odd) || !strings.HasPrefix(lines[1], "error: "+bad) {
		t.Errorf("printed %s", out)
	}
	if err == nil || err.Error() != "1 error, 1 warning" {
		t.Errorf("ended with %v", err)
	}

	build := func(flags ...string) (written bool, stderr string, err error) {
		t.Helper()
		dir := t.TempDir()
		_, stderr, err = mkimage(t, append([]string{"build", "-q", "--offline", "--store", store, "-o", dir, file}, flags...)...)
		list, _ := os.ReadDir(dir)
		return len(list) > 0, stderr, err
	}
	if written, stderr, err := build(); written || err == nil || !strings.HasPrefix(err.Error(), bad) || !strings.HasPrefix(stderr, odd) {
		t.Errorf("a build with an error: %v, %v\n%s", written, err, stderr)
	}
	if written, stderr, err := build("--lenient"); !written || err != nil || !strings.Contains(stderr, "\nwarning: "+bad) {
		t.Errorf("a lenient build: %v, %v\n%s", written, err, stderr)
	}
	if _, _, err := build("--lenient", "--strict"); err == nil || !strings.Contains(err.Error(), "strict") {
		t.Errorf("both: %v", err)
	}

	write(t, file, "kernel: {image: you/kernel, tar: none}\nonboot: [{name: odd, image: you/odd}]\n")
	if written, _, err := build(); !written || err != nil {
		t.Errorf("a build with a warning: %v, %v", written, err)
	}
	if written, _, err := build("--strict"); written || err == nil || err.Error() != "nothing is written: 1 warning, and --strict takes warnings for errors" {
		t.Errorf("a strict build with a warning: %v, %v", written, err)
	}
	if _, _, err := mkimage(t, "lint", "--offline", "--store", store, file); err != nil {
		t.Errorf("a warning: %v", err)
	}
	if _, _, err := mkimage(t, "lint", "--strict", "--offline", "--store", store, file); err == nil || err.Error() != "1 warning, and --strict takes warnings for errors" {
		t.Errorf("a warning, strictly: %v", err)
	}
}
