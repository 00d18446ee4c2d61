package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"keelson/internal/pidfd"
)

func TestReadRuntimeConfig(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"unknown key", "cliopts=\"-l info\"\nclioptz=\"\"\n", ":2: clioptz: no such key"},
		{"wrong type", "\ncliopts = 3\n", ":2: cliopts: want a string in quotes"},
		{"not toml", "cliopts = \"\n", ":1: "},
		{"odd stream", "stderr = \"log\"\n", `stderr: "log": want stdout, stderr or an absolute path`},
	} {
		path := filepath.Join(t.TempDir(), "runtime-config.toml")
		if err := os.WriteFile(path, []byte(tc.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadRuntimeConfig(path); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.want)
		}
	}
	path := filepath.Join(t.TempDir(), "runtime-config.toml")
	if c, err := ReadRuntimeConfig(path); err != nil || c != (RuntimeConfig{}) {
		t.Errorf("no file: %+v, %v", c, err)
	}
	if err := os.WriteFile(path, []byte("cliopts=\"--log-level  debug\"\nstdout=\"/var/log/c.log\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := ReadRuntimeConfig(path)
	if err != nil || !slices.Equal(c.Options(), []string{"--log-level", "debug"}) || c.Stdout != "/var/log/c.log" {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestOptionsOfTheImageWin(t *testing.T) {
	k := New(Config{Address: "/a", Root: "/r", State: "/s", Options: []string{"--root=/mine", "-l", "debug", "--config", "/c"}})
	if got, want := k.defaults(), []string{"--address", "/a", "--state", "/s"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A containerd of the image gets longer limits for its shims, unless it has a configuration.
func TestAStockContainerdIsPatient(t *testing.T) {
	dir := t.TempDir()
	k := New(Config{PIDFile: filepath.Join(dir, "pid.json"), Warn: t.Errorf})
	k.imageConfig = filepath.Join(dir, "config.toml")
	path := filepath.Join(dir, "containerd.toml")
	if got := k.configure(); !slices.Equal(got, []string{"--config", path}) {
		t.Errorf("got %q", got)
	}
	if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), `"io.containerd.timeout.shim.load" = "30s"`) {
		t.Errorf("%q, %v", text, err)
	}
	for _, options := range [][]string{{"--config", "/c"}, {"--config=/c"}, {"-l", "debug", "-c", "/c"}} {
		k.cfg.Options = options
		if got := k.configure(); got != nil {
			t.Errorf("with %q: %q", options, got)
		}
	}
	k.cfg.Options = nil
	if err := os.WriteFile(k.imageConfig, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := k.configure(); got != nil {
		t.Errorf("with the image's own: %q", got)
	}
}

func config(t *testing.T, binary string) Config {
	dir := t.TempDir()
	return Config{
		Binary: binary, Address: filepath.Join(dir, "sock"), Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"),
		PIDFile: filepath.Join(dir, "pid.json"), Info: t.Logf, Warn: t.Logf,
	}
}

// script makes a program of a shell script.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "containerd")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWaitingEndsWithAReason(t *testing.T) {
	for name, tc := range map[string]struct{ binary, want string }{
		"not there":  {"/no/such/containerd", "no such file"},
		"dies early": {script(t, "exit 3"), "exited with code 3"},
	} {
		ctx, cancel := context.WithCancel(context.Background())
		k := New(config(t, tc.binary))
		done := make(chan struct{})
		go func() { defer close(done); k.Run(ctx) }()
		wait, stop := context.WithTimeout(ctx, time.Minute)
		if err := k.Ready(wait); err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
		stop()
		cancel()
		<-done
	}
}

func TestAProcessOfAnotherStartIsNotAdopted(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	k := New(config(t, "/x"))
	held, err := pidfd.Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	id, err := held.Identity()
	if err != nil {
		t.Fatal(err)
	}
	write := func(r string) {
		if err := os.WriteFile(k.cfg.PIDFile, []byte(r), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, text := range []string{"", "{", `{"pid":1,"start":1}`, `{"pid":` + strconv.Itoa(cmd.Process.Pid) + `,"start":1}`} {
		write(text)
		if p := k.adopt(); p != nil {
			t.Errorf("adopted by %q", text)
		}
	}
	write(`{"pid":` + strconv.Itoa(cmd.Process.Pid) + `,"start":` + strconv.FormatUint(id.Start, 10) + `}`)
	p := k.adopt()
	if p == nil || p.PID != cmd.Process.Pid {
		t.Fatalf("the remembered process was not adopted: %v", p)
	}
	p.Close()
}

// A supervisor may die between starting containerd and writing down that it has.
func TestOneThatWasNotRememberedIsFoundInItsCgroup(t *testing.T) {
	cfg := config(t, script(t, "exec sleep 1000"))
	cfg.CgroupDir = t.TempDir()
	start := func(args ...string) *exec.Cmd {
		cmd := &exec.Cmd{Path: "/bin/sh", Args: append([]string{cfg.Binary, "-c", "read x"}, args...)}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
		return cmd
	}
	other, own := start("--address", "/somewhere/else"), start("--address", cfg.Address)
	procs := fmt.Sprintf("%d\n%d\n", other.Process.Pid, own.Process.Pid)
	if err := os.WriteFile(filepath.Join(cfg.CgroupDir, "cgroup.procs"), []byte(procs), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // found, and then remembered
		p := New(cfg).adopt()
		if p == nil || p.PID != own.Process.Pid {
			t.Fatalf("got %v, want process %d", p, own.Process.Pid)
		}
		p.Close()
		if err := os.WriteFile(filepath.Join(cfg.CgroupDir, "cgroup.procs"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
