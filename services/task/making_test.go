package task

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

func TestMaking(t *testing.T) {
	proc := t.TempDir()
	comm := func(pid int, name string) {
		t.Helper()
		dir := filepath.Join(proc, strconv.Itoa(pid))
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "comm"), []byte(name+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		var m making
		is := func(what, dir string, want bool) {
			t.Helper()
			if got := m.in(proc, dir); got != want {
				t.Errorf("%s: %v", what, got)
			}
		}
		is("nothing", "/web", false)
		done := m.begin("/web")
		is("while it is made", "/web", true)
		is("another", "/db", false)
		comm(7, "runc:[2:INIT]")
		done(7)
		is("until it is the command", "/web", true)
		comm(7, "httpd")
		is("the command", "/web", false)
		comm(7, "runc:[2:INIT]")
		time.Sleep(becoming + 1)
		is("a command that calls itself so", "/web", false)
		first, second := m.begin("/web"), m.begin("/web")
		first(0)
		is("one of two failed", "/web", true)
		second(0)
		is("both failed", "/web", false)
		if len(m.all) > 0 {
			t.Errorf("%d are left", len(m.all))
		}
	})
}
