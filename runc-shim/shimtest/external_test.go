package shimtest

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// copyRuntime makes a runtime binary that is another file than the shim.
func (e *env) copyRuntime() string {
	e.t.Helper()
	data, err := os.ReadFile(binary)
	if err != nil {
		e.t.Fatal(err)
	}
	path := filepath.Join(e.Dir, "other-runtime")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		e.t.Fatal(err)
	}
	return path
}

func TestRuntimeBinaryOfTheOptions(t *testing.T) {
	e := newEnv(t)
	inside := e.create("inside", e.spec("sleep", "1000"))
	e.start(inside, "inside", "")

	e.Options.BinaryName = e.copyRuntime()
	out := e.fifo("out")
	r := e.open(out, os.O_RDONLY)
	// What the container orphans is collected by the shim.
	c := e.create("ext", e.spec("sh", "-c", "(sleep 0 &); echo hello; exec sleep 1000"), func(q *taskapi.CreateTaskRequest) { q.Stdout = out })
	if e.shimPid(c, "ext") == e.shimPid(inside, "inside") {
		t.Error("a container of another runtime is in the shim of the others")
	}
	e.start(c, "ext", "")
	if got := e.exec(c, "ext", "x", "sh", "-c", "exit 6"); got != 6 {
		t.Errorf("exec: exit status %d, want 6", got)
	}
	if got := e.pidsLimit(c, "ext"); got == 1 {
		t.Errorf("pids limit %d", got)
	}
	tty := e.fifo("tty")
	tr := e.open(tty, os.O_RDONLY)
	e.addExec(c, "ext", "t", &specs.Process{Args: []string{"tty"}, Cwd: "/", Env: []string{"PATH=/bin"}, Terminal: true},
		func(q *taskapi.ExecProcessRequest) { q.Stdout = tty })
	e.start(c, "ext", "t")
	if got := e.wait(c, "ext", "t"); got != 0 {
		t.Errorf("terminal: exit status %d", got)
	}
	e.remove(c, "ext", "t")
	if data, err := io.ReadAll(tr); err != nil || !strings.Contains(string(data), "/dev/pts/") {
		t.Errorf("terminal: %q %v", data, err)
	}
	e.kill(c, "ext", "", unix.SIGKILL)
	if got := e.wait(c, "ext", ""); got != 137 {
		t.Errorf("exit status %d, want 137", got)
	}
	e.remove(c, "ext", "")
	data, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(data, []byte("hello\n")) {
		t.Errorf("output %q %v", data, err)
	}
	if _, err := os.Stat(filepath.Join(e.Options.Root, "test", "ext")); !os.IsNotExist(err) {
		t.Errorf("state directory: %v", err)
	}
	_, _, err = e.tryCreate("bad", e.spec("/no/such/command"))
	if err == nil || !strings.Contains(err.Error(), "/no/such/command") {
		t.Errorf("create of a missing command: %v", err)
	}
	e.Options.BinaryName = "/no/such/runtime"
	if _, _, err := e.tryCreate("none", e.spec("true")); err == nil || !strings.Contains(err.Error(), "BinaryName") {
		t.Errorf("create with a missing runtime: %v", err)
	}
}
