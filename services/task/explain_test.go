package task

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
	"keelson/internal/pidfd"
	"keelson/internal/safepath"
)

// runtimeSays is how a reason reaches us, through four programs.
const runtimeSays = "create the task: failed to create shim task: OCI runtime create failed: unable to start container process: error during container init: "

func TestExplain(t *testing.T) {
	bind := func(source, target string) []specs.Mount {
		return []specs.Mount{{Source: "/proc", Destination: "/proc", Type: "bind"}, {Source: source, Destination: target, Options: []string{"rbind"}}}
	}
	missing := filepath.Join(t.TempDir(), "missing")
	limit := int64(204800)
	for name, tc := range map[string]struct {
		spec specs.Spec
		text string
		want string
	}{
		"bind source": {specs.Spec{Mounts: bind(missing, "/usr/bin/ctr")}, runtimeSays + `error mounting "` + missing + `" to rootfs at "/usr/bin/ctr": ...`,
			"bind " + missing + ": not in the machine's root (services/getty, from the image's label or its YAML)"},
		"bind source, in words of our own": {specs.Spec{Mounts: bind(missing, "/x")}, "whatever it is",
			"bind " + missing + ": not in the machine's root (services/getty, from the image's label or its YAML)"},
		"namespace": {specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "network", Path: missing}}}}, "lstat ...",
			"namespace " + missing + " (network): there is none; a container that runs before keeps one there with runtime: bindNS (services/getty)"},
		"command": {specs.Spec{}, runtimeSays + `exec: "app": executable file not found in $PATH`,
			`/containers/services/getty/config.json: process.args: "app" is not in the image`},
		"command by its path": {specs.Spec{}, runtimeSays + `exec: "app": stat app: no such file or directory`,
			`/containers/services/getty/config.json: process.args: "app" is not in the image`},
		"not executable": {specs.Spec{}, runtimeSays + `exec: "app": permission denied`,
			`/containers/services/getty/config.json: process.args: "app" is not executable in the image`},
		"directory": {specs.Spec{}, runtimeSays + `exec: "app": is a directory`,
			`/containers/services/getty/config.json: process.args: "app" is a directory of the image`},
		"place in a read-only image": {specs.Spec{}, runtimeSays + `error mounting "/run" to rootfs at "/not/there": create mountpoint for /not/there mount: make mountpoint "/not/there": mkdirat /containers/services/x/rootfs/not: read-only file system`,
			"mount /run on /not/there: the image has no such place and is read-only: make it in the image, or leave out readonly: true (services/getty)"},
		"file on a directory": {specs.Spec{}, runtimeSays + `error mounting "/etc/hosts" to rootfs at "/etc": mount src=/etc/hosts, dst=/etc, dstFd=/proc/thread-self/fd/15, flags=MS_BIND|MS_REC: not a directory`,
			"mount /etc/hosts on /etc: one is a directory and the other is a file (services/getty)"},
		"file system": {specs.Spec{}, runtimeSays + `error mounting "none" to rootfs at "/x": mount src=none, dst=/x, dstFd=/proc/thread-self/fd/15: no such device`,
			"mount none on /x: the kernel has no such file system, and no module for it is in the image (services/getty)"},
		"disk": {specs.Spec{}, runtimeSays + `error mounting "/dev/sdz" to rootfs at "/x": mount src=/dev/sdz, dst=/x, dstFd=/proc/thread-self/fd/15: no such file or directory`,
			"mount /dev/sdz on /x: there is no /dev/sdz (services/getty)"},
		"a pinned source": {specs.Spec{Mounts: bind("/proc/self", "/etc")}, runtimeSays + `error mounting "/run/keelson/binds/getty/0" to rootfs at "/etc": mount src=..., dst=/etc: not a directory`,
			"mount /proc/self on /etc: one is a directory and the other is a file (services/getty)"},
		"cwd": {specs.Spec{}, runtimeSays + `mkdir /not: read-only file system`, "cwd /not/there: not in the image, which is read-only (services/getty)"},
		"memory": {specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}}}, "container init was OOM-killed (memory limit too low?)",
			"resources.memory.limit of 200 KiB is too little to start anything (services/getty)"},
		"memory without a limit": {specs.Spec{}, "container init was OOM-killed", "container init was OOM-killed"},
		"unknown":                {specs.Spec{Mounts: bind("/proc", "/x")}, runtimeSays + "something else", runtimeSays + "something else"},
	} {
		spec := tc.spec
		spec.Process = &specs.Process{Args: []string{"app"}, Cwd: "/not/there"}
		if spec.Linux == nil {
			spec.Linux = &specs.Linux{}
		}
		cause := errors.New(tc.text)
		err := explain(&bundle.Bundle{Dir: "/containers/services/getty", Section: bundle.Services, Name: "getty", Spec: &spec}, cause)
		if err.Error() != tc.want {
			t.Errorf("%s:\n got  %s\n want %s", name, err, tc.want)
		}
		if !errors.Is(err, cause) {
			t.Errorf("%s: what the runtime reported is lost", name)
		}
	}
}

// TestARefusedLinkIsTheReason: it may lead to where there is nothing.
func TestARefusedLinkIsTheReason(t *testing.T) {
	spec := specs.Spec{Process: &specs.Process{Args: []string{"app"}}, Linux: &specs.Linux{}, Mounts: []specs.Mount{{Source: t.TempDir() + "/none", Type: "bind"}}}
	err := fmt.Errorf("web: %w", &safepath.LinkError{Path: "/var/lib/app/sub", Target: "/", By: `service "app"`})
	if got := explain(&bundle.Bundle{Section: bundle.Services, Name: "web", Spec: &spec}, err); got != err {
		t.Errorf("got %v", got)
	}
}

func TestWhyACommandWasNotRun(t *testing.T) {
	dir := t.TempDir()
	for path, text := range map[string]string{
		"rootfs/bin/script": "#!/bin/bash -e\n", "rootfs/bin/plain": "echo hello\n", "rootfs/bin/binary": "\x7fELF...",
		"rootfs/bin/good": "#!/bin/binary\n", "rootfs/usr/local/bin/.keep": "", "rootfs/bin/crlf": "#!/bin/sh\r\n", "rootfs/bin/nested": "#! /bin/script\n",
		"rootfs/bin/arm":     "\x7fELF\x02\x01" + strings.Repeat("\x00", 12) + "\xb7\x00",
		"rootfs/bin/dynamic": loaded("/lib/ld.so"), "rootfs/bin/loaded": loaded("/bin/good"),
	} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/bin/script", filepath.Join(dir, "rootfs/bin/link")); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		"/bin/script": "needs /bin/bash, which is not in the image",
		"script":      "needs /bin/bash, which is not in the image",
		"/bin/link":   "needs /bin/bash, which is not in the image",
		"./script":    "needs /bin/bash, which is not in the image",
		"crlf":        `needs "/bin/sh\r", which is not in the image: its lines end as on Windows (CRLF), save it with LF`,
		"nested":      "needs /bin/script, which needs /bin/bash, which is not in the image",
		"arm":         "is a binary for arm64 (aarch64), and this machine is x86-64 (amd64)",
		"dynamic":     "needs /lib/ld.so, which is not in the image",
		"loaded":      "",
		"plain":       "is neither a binary nor a script whose first line names its interpreter, such as #!/bin/sh",
		"good":        "",
		"binary":      "",
		"/bin":        "",
		"missing":     "",
	} {
		p := &specs.Process{Args: []string{command}, Cwd: "/bin", Env: []string{"PATH=/usr/local/bin:/bin"}}
		if got := whyNotRun(filepath.Join(dir, "rootfs"), p); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
}

// A container that changes its links while the machine looks why a command was not run
// leads it to no file of the machine.
func TestNoFileOfTheMachineIsOpened(t *testing.T) {
	dir := t.TempDir()
	root, outside := filepath.Join(dir, "rootfs"), filepath.Join(dir, "outside")
	for _, path := range []string{root + "/bin", outside} {
		if err := errors.Join(os.MkdirAll(path, 0o755), os.WriteFile(path+"/app", []byte("#!/of/"+filepath.Base(path)+"\n"), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, root+"/link"); err != nil {
		t.Fatal(err)
	}
	stop, swapped := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				swapped <- nil
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, root+"/bin", unix.AT_FDCWD, root+"/link", unix.RENAME_EXCHANGE); err != nil {
				swapped <- err
				return
			}
		}
	}()
	p, seen := &specs.Process{Args: []string{"/bin/app"}, Cwd: "/"}, false
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); {
		why := whyNotRun(root, p)
		if strings.Contains(why, "/of/outside") {
			t.Error("a file of the machine was opened")
			break
		}
		seen = seen || strings.Contains(why, "/of/bin")
	}
	close(stop)
	if err := <-swapped; err != nil || !seen {
		t.Errorf("the container's own file was seen: %v; %v", seen, err)
	}
}

// loaded is a binary with a dynamic loader.
func loaded(loader string) string {
	var b bytes.Buffer
	for _, v := range []any{
		[]byte("\x7fELF\x02\x01\x01"), [9]byte{}, uint16(2), uint16(62), uint32(1), uint64(0), uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(1), [6]byte{},
		uint32(3), uint32(4), uint64(120), uint64(0), uint64(0), uint64(len(loader) + 1), uint64(len(loader) + 1), uint64(1), append([]byte(loader), 0),
	} {
		_ = binary.Write(&b, binary.LittleEndian, v) // into memory
	}
	return b.String()
}

func TestRefusal(t *testing.T) {
	p := &specs.Process{Args: []string{"/app"}, Cwd: "/"}
	for text, want := range map[string]string{
		"OCI runtime start failed: exec /app: exec format error":                 `"/app" cannot be executed: exec format error`,
		"rpc: OCI runtime exec failed: exec ./a b: permission denied":            `"/app" cannot be executed: permission denied`,
		`OCI runtime create failed: exec: "app": executable file not found`:      "",
		"OCI runtime start failed: cannot start an already running container: x": "",
	} {
		got := ""
		if err := refusal(t.TempDir(), p, errors.New(text)); err != nil {
			got = err.Error()
			if !errors.Is(err, ErrNotExecutable) {
				t.Errorf("%s: not ErrNotExecutable", text)
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// A process that was forked and has executed nothing is told from one that has, also
// when it has exited and nobody has reaped it.
func TestBegun(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := pidfd.Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if got, err := begun(t.Context(), p); got != begunExecuted || err != nil {
		t.Errorf("it runs: %v, %v", got, err)
	}
	_ = cmd.Process.Kill()
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := begun(t.Context(), p); got != begunExecuted || err != nil {
		t.Errorf("it is a zombie: %v, %v", got, err)
	}
	_ = cmd.Wait()
	if got, err := begun(t.Context(), p); got != begunUnknown || err != nil {
		t.Errorf("it was reaped: %v, %v", got, err)
	}
	if got, err := begun(t.Context(), nil); got != begunUnknown || err != nil {
		t.Errorf("nothing is known: %v, %v", got, err)
	}
}
