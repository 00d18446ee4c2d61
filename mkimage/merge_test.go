package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBuildOfSeveral merges files and the standard input.
func TestBuildOfSeveral(t *testing.T) {
	dir, store := project(t)
	kernel, rest, _ := strings.Cut(yaml, "init:")
	write(t, filepath.Join(dir, "base.yml"), strings.Replace(kernel, "console=ttyS0", "quiet", 1))
	write(t, filepath.Join(dir, "app.yml"), "kernel: {cmdline: console=ttyS0}\ninit:"+rest)
	whole, parts := filepath.Join(dir, "whole"), filepath.Join(dir, "parts")
	must(t, "build", "--offline", "--store", store, "-o", whole, "--name", "app", filepath.Join(dir, "t.yml"))
	want := sums(t, whole)

	printed := must(t, "build", "--offline", "--store", store, "-o", parts, filepath.Join(dir, "base.yml"), filepath.Join(dir, "app.yml"))
	if !strings.Contains(printed, filepath.Join(parts, "app-initrd.img")) { // the name is the last one's
		t.Errorf("printed %q", printed)
	}
	for name, sum := range sums(t, parts) {
		if sum != want[name] {
			t.Errorf("%s of two files is not that of one", name)
		}
	}

	piped := func(args ...string) error {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(dir, "app.yml"))
		if err != nil {
			t.Fatal(err)
		}
		cmd := command()
		cmd.SetArgs(append([]string{"build", "-q", "--offline", "--store", store, "-o", parts}, args...))
		cmd.SetOut(&bytes.Buffer{})
		cmd.SetErr(&bytes.Buffer{})
		cmd.SetIn(bytes.NewReader(text))
		return cmd.ExecuteContext(context.Background())
	}
	if err := piped("--name", "piped", filepath.Join(dir, "base.yml"), "-"); err != nil {
		t.Fatal(err)
	}
	if got := sums(t, parts); got["piped-initrd.img"] != want["app-initrd.img"] || got["piped-cmdline"] != want["app-cmdline"] {
		t.Error("the standard input gave something else than the file")
	}
	if err := piped(filepath.Join(dir, "base.yml"), "-"); err == nil || !strings.Contains(err.Error(), "--name") {
		t.Errorf("without a name: got %v", err)
	}
	// What is printed about a place names the file that it is in.
	write(t, filepath.Join(dir, "again.yml"), "services: [{name: b, image: you/app}]\n")
	_, _, err := mkimage(t, "audit", "--offline", "--store", store, filepath.Join(dir, "t.yml"), filepath.Join(dir, "again.yml"))
	if wanted := filepath.Join(dir, "again.yml") + `:1: services[0].name: "b" is already in ` + filepath.Join(dir, "t.yml") + ":6; "; err == nil || !strings.HasPrefix(err.Error(), wanted) {
		t.Errorf("got  %v\nwant %s", err, wanted)
	}
	if _, _, err := mkimage(t, "run", filepath.Join(dir, "t.yml"), "-"); err == nil || !strings.Contains(err.Error(), "the standard input is the machine's") {
		t.Errorf("run: got %v", err)
	}
}
