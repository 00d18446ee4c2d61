package modules

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// fakeProc makes a /proc with files.
func fakeProc(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		file := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const asksStack = "[<0>] call_usermodehelper_exec+0x14a/0x1a0\n[<0>] __request_module+0x1a5/0x3e0\n[<0>] netlink_create+0xde/0x240\n"

func TestAskers(t *testing.T) {
	idle := map[string]string{
		"12/wchan": "do_epoll_wait", "12/task/12/wchan": "do_epoll_wait", "12/cgroup": "0::/services/web\n", "13/wchan": "0",
		// One whose helper is another.
		"14/wchan": "call_usermodehelper_exec", "14/stack": "[<0>] call_usermodehelper_exec+0x1\n[<0>] do_coredump+0x1\n",
		"self/wchan": "call_usermodehelper_exec",
	}
	first := map[string]string{
		"228/wchan": "call_usermodehelper_exec", "228/stack": asksStack, "228/comm": "evil\n", "228/cgroup": "0::/services/asks\n",
		// In the old hierarchies, where the kernel shows no stack.
		"15/wchan": "call_usermodehelper_exec", "15/stack": "", "15/comm": "old\n", "15/cgroup": "3:pids:/services/old\n2:memory:/\n0::/\n",
	}
	second := map[string]string{
		"30/wchan": "futex_wait_queue", "30/task/30/wchan": "futex_wait_queue", "30/comm": "app\n", "30/cgroup": "0::/services/app\n",
		"30/task/31/wchan": "call_usermodehelper_exec", "30/task/31/stack": asksStack, "30/task/31/comm": "worker\n",
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		want  []Asker
	}{
		{"none", nil, nil},
		{"first threads", first, []Asker{{228, "evil", "/services/asks"}, {15, "old", "/services/old"}}},
		{"a second thread", second, []Asker{{30, "worker", "/services/app"}}},
	} {
		files := maps.Clone(idle)
		maps.Copy(files, c.files)
		if got := askers(fakeProc(t, files)); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	proc := t.TempDir()
	if got := askers(filepath.Join(proc, "none")); got != nil {
		t.Errorf("without a /proc there is %v", got)
	}
}

func TestServe(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		status int
		want   Request
	}{
		{"no-such", nil, 1, Request{Name: "no-such", Absent: true}},
		{"fs-x", ErrNoModules, 1, Request{Name: "fs-x", Absent: true}},
		{"fs-x", errors.New("modules.dep is a directory"), 1, Request{Name: "fs-x", Error: "modules.dep is a directory"}},
	} {
		r := Request{Name: c.name}
		status := r.serve(context.Background(), func() (*Index, error) {
			x, _ := open("none", system{root: t.TempDir()})
			return x, c.err
		})
		if status != c.status || !reflect.DeepEqual(r, c.want) {
			t.Errorf("%s: status %d, %+v, want %d, %+v", c.name, status, r, c.status, c.want)
		}
		if r.idle() {
			t.Errorf("%s: nothing to report", c.name)
		}
	}
	if loaded := (Request{Name: "fs-xfs", Loaded: []string{"xfs"}}); loaded.idle() {
		t.Error("what was loaded is not reported")
	}
	if there := (Request{Name: "fs-overlay"}); !there.idle() {
		t.Error("what is loaded already is reported")
	}
}

func TestReport(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	r := Request{Name: "net-pf-40", Loaded: []string{"vsock"}, Askers: []Asker{{7, "x", "/services/a"}}}
	if err := r.report(socket); err == nil {
		t.Error("reported to nobody")
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := r.report(socket); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	want := `{"name":"net-pf-40","loaded":["vsock"],"askers":[{"pid":7,"command":"x","cgroup":"/services/a"}]}`
	if err != nil || string(buf[:n]) != want {
		t.Errorf("%s, %v", buf[:n], err)
	}
	if got, want := r.String(), "net-pf-40 asked for by x (pid 7, cgroup /services/a): loaded vsock"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
