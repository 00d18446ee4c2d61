package shimtest

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// running reports whether a process with this command line runs.
func running(args string) bool {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		if data, err := os.ReadFile(path); err == nil && string(bytes.ReplaceAll(data, []byte{0}, []byte{' '})) == args+" " {
			return true
		}
	}
	return false
}

// What an exec leaves behind goes on, but for a probe's, which has a cgroup of its own.
func TestAProbeLeavesNothingBehind(t *testing.T) {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		t.Skip("needs cgroup v2 at /sys/fs/cgroup")
	}
	e := newEnv(t)
	c := e.create("x", e.spec("sleep", "1000"))
	e.start(c, "x", "")
	if got := e.exec(c, "x", "other", "sh", "-c", "setsid sleep 71001 >/dev/null 2>&1 & exit 3"); got != 3 {
		t.Errorf("exit status %d", got)
	}
	if got := e.exec(c, "x", "keelson-probe-1", "sh", "-c", "setsid sh -c 'setsid sleep 71002 & sleep 71003' >/dev/null 2>&1 & exit 4"); got != 4 {
		t.Errorf("exit status %d", got)
	}
	if got := e.exec(c, "x", "keelson-probe-2", "sh", "-c", "cat /proc/self/cgroup >&2; exit 5"); got != 5 {
		t.Errorf("exit status %d", got)
	}
	groups := func() []string {
		left, _ := filepath.Glob("/sys/fs/cgroup" + testCgroup + "/*/keelson-probe-*")
		return left
	}
	for running("sleep 71002") || running("sleep 71003") || len(groups()) > 0 {
		if e.ctx.Err() != nil {
			t.Fatalf("left are sleep 71002: %v, sleep 71003: %v, %v", running("sleep 71002"), running("sleep 71003"), groups())
		}
		time.Sleep(time.Millisecond)
	}
	if !running("sleep 71001") {
		t.Error("what another exec left behind has ended")
	}
	e.kill(c, "x", "", 9)
	e.wait(c, "x", "")
	e.remove(c, "x", "")
}
