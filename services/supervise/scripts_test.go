package supervise

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestScriptsHaveTheirTurn(t *testing.T) {
	names := []string{"000-issue", "005-volumes", "007-x", "010-onboot", "010-onboot-more", "020-containerd", "99-last"}
	for _, tc := range []struct{ after, before, want string }{
		{"", stepVolumes, "000-issue 005-volumes"},
		{stepVolumes, stepOnboot, "007-x 010-onboot"},
		{stepOnboot, stepServices, "010-onboot-more 020-containerd"},
		{stepServices, "", "99-last"},
	} {
		var got []string
		for _, name := range names {
			if between(name, tc.after, tc.before) {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("between %q and %q: %q", tc.after, tc.before, got)
		}
	}
}

func TestWhyAScriptCannotBeRun(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		text string
		err  error
		want string
	}{
		"shell":       {"#! /bin/no-sh -e\n", unix.ENOENT, "needs /bin/no-sh, which is not in the machine's root"},
		"one line":    {"#!/bin/no-sh", unix.ENOENT, "needs /bin/no-sh, which is not in the machine's root"},
		"dynamic":     {"\x7fELF", unix.ENOENT, "needs a loader or libraries that are not in the machine's root: link it statically"},
		"no first":    {"echo hello\n", unix.ENOEXEC, "is neither a binary for this machine nor a script whose first line names its interpreter, such as #!/bin/sh"},
		"empty words": {"#!\n", unix.ENOENT, "needs a loader or libraries that are not in the machine's root: link it statically"},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(tc.text), 0o755); err != nil {
			t.Fatal(err)
		}
		if got := whyNotRun(path, &fs.PathError{Op: "fork/exec", Path: path, Err: tc.err}); got != tc.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestAwaitSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	if awaitSocket(t.Context(), path, 0) {
		t.Error("a socket that is not there was found")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if awaitSocket(t.Context(), path, 0) {
		t.Error("a file was taken for a socket")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if !awaitSocket(t.Context(), path, 0) {
		t.Error("the socket was not found")
	}
}

func TestOwnStep(t *testing.T) {
	dir := t.TempDir()
	for name, to := range map[string]string{
		"005-volumes": "/usr/bin/service", "010-onboot": "../../usr/bin/service", "020-containerd": "/bin/sh", "003-mine": "/usr/bin/service",
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "010-onshutdown"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"005-volumes": true, "010-onboot": true, "020-containerd": false, "003-mine": false, "010-onshutdown": false} {
		if got := ownStep(filepath.Join(dir, name)); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
