package ceiling

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		available, threads uint64
		own                Own
		want               Limits
	}{
		{900 * mib, 7000, Own{Services: 3, Logs: 100 * mib}, Limits{Memory: 784 * mib, Pids: 5869}},
		{200 * mib, 2000, Own{Services: 20, Logs: 28 * mib}, Limits{Memory: 145 * mib, Pids: 1494}},
		{42 * mib, 800, Own{Services: 1, Logs: 9 * mib}, Limits{Memory: 18 * mib, Pids: 444}},
		{42 * mib, 586, Own{Services: 20, Logs: 9 * mib}, Limits{Memory: 8 * mib, Pids: 256, Short: true}},
		{10 * mib, 100, Own{}, Limits{Memory: 8 * mib, Pids: 128, Short: true}},
	} {
		if got := decide(c.available, c.threads, c.own); got != c.want {
			t.Errorf("%d MiB, %d threads, %+v: %+v, want %+v", c.available/mib, c.threads, c.own, got, c.want)
		}
	}
}

// tree writes files below a directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

var proc = map[string]string{
	"meminfo":            "MemTotal:        1024000 kB\nMemFree:          1 kB\nMemAvailable:     931600 kB\nSReclaimable:      10000 kB\n",
	"sys/kernel/pid_max": "32768\n", "sys/kernel/threads-max": "7000\n",
}

func TestSet(t *testing.T) {
	want := Limits{Memory: 784 * mib, Pids: 5869}
	own := Own{Services: 3, Logs: 100 * mib}
	for name, c := range map[string]struct {
		files        map[string]string
		memory, pids string
	}{
		"cgroup2": {map[string]string{"cgroup.controllers": "", "services/memory.max": "max\n", "services/pids.max": "max\n"}, "services/memory.max", "services/pids.max"},
		"cgroup v1": {map[string]string{"memory/services/memory.limit_in_bytes": "9223372036854771712\n", "pids/services/pids.max": "max\n"},
			"memory/services/memory.limit_in_bytes", "pids/services/pids.max"},
	} {
		root := tree(t, c.files)
		l, err := Set(tree(t, proc), root, own)
		if err != nil || l != want {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
		if got := read(t, filepath.Join(root, c.memory)) + " " + read(t, filepath.Join(root, c.pids)); got != "822083584 5869" {
			t.Errorf("%s: %s", name, got)
		}
		// The next supervisor of this boot finds it, whatever memory is free now.
		less := map[string]string{"meminfo": "MemTotal: 1024000 kB\nMemAvailable: 102400 kB\n"}
		if l, err := Set(tree(t, less), root, own); err != nil || l != want {
			t.Errorf("%s, the second time: %+v, %v", name, l, err)
		}
	}
	// A kernel without these controllers.
	if l, err := Set(tree(t, proc), tree(t, map[string]string{"cgroup.controllers": ""}), own); err != nil || l != (Limits{}) {
		t.Errorf("%+v, %v", l, err)
	}
	if _, err := Set(tree(t, map[string]string{"meminfo": "MemFree: 1 kB\n"}), t.TempDir(), own); err == nil || !strings.Contains(err.Error(), "no MemAvailable") {
		t.Errorf("%v", err)
	}
}

func TestNext(t *testing.T) {
	const limit = 160 * mib
	first, second := firstMark(limit), nextMark(limit, 0)
	for what, c := range map[string]struct {
		s    state
		want order
	}{
		"nothing yet":                     {state{limit: limit, mark: first, current: 50 * mib, used: 50 * mib}, nothing},
		"cache at the first mark":         {state{limit: limit, mark: first, current: first, used: 20 * mib}, raise},
		"memory at the first mark":        {state{limit: limit, mark: first, current: first, used: first, files: 60 * mib}, raise},
		"shared files at the first mark":  {state{limit: limit, mark: first, current: first, used: first, files: 80 * mib}, bind},
		"cache at the second mark":        {state{limit: limit, mark: second, current: second, used: 60 * mib}, nothing},
		"memory at the second mark":       {state{limit: limit, mark: second, current: second, used: second}, end},
		"shared files at the second mark": {state{limit: limit, mark: second, current: second, used: second, files: 90 * mib}, bind},
		"they are bounded":                {state{limit: limit, mark: second, current: second, used: second, files: 90 * mib, bound: true}, end},
	} {
		if got := next(c.s); got != c.want {
			t.Errorf("%s: %d, want %d", what, got, c.want)
		}
	}
	if room := limit - second; room != 20*mib {
		t.Errorf("the kernel slows down from %d MiB before the limit on", room/mib)
	}
	if room := limit - nextMark(limit, limit); room != 1*mib {
		t.Errorf("with no room: %d", room)
	}
}

func TestLargest(t *testing.T) {
	group := func(name string, kib, cache, pid, kill string) map[string]string {
		return map[string]string{
			name + "/cgroup.kill": "", name + "/memory.current": kib + "000\n", name + "/memory.stat": "anon 1\nactive_file " + cache + "000\n",
			name + "/cgroup.procs": pid + "\n", name + "/memory.oom.group": kill + "\n",
		}
	}
	files := map[string]string{"services/cgroup.kill": "", "services/.onboot/cgroup.kill": ""}
	for _, g := range []map[string]string{
		group("services/small", "1000", "0", "1", "1"),
		group("services/cached", "9000", "8500", "1", "1"),
		group("services/.onboot/000-fills", "3000", "0", "1", "1"),
		group("services/alone", "8000", "0", "1", "0"),
		group("services/never", "8000", "0", "2", "1"),
		group("services/rather", "2500", "0", "3", "1"),
	} {
		for name, text := range g {
			files[name] = text
		}
	}
	g := &Guard{Root: tree(t, files), Limit: 10e6, Proc: tree(t, map[string]string{"1/oom_score_adj": "0\n", "2/oom_score_adj": "-1000\n", "3/oom_score_adj": "100\n"})}
	if got := g.largest(); got != "" {
		t.Errorf("the largest is left to the kernel, but %q was chosen", got)
	}
	if err := os.RemoveAll(filepath.Join(g.Root, "services/alone")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"rather", ".onboot/000-fills", "small", "cached", ""} {
		got := g.largest()
		if want != "" {
			want = filepath.Join(g.Root, "services", want)
		}
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if got == "" {
			break
		}
		if err := os.RemoveAll(got); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTmpfs(t *testing.T) {
	const table = `21 1 0:2 / / rw - ramfs rootfs rw
22 21 0:20 / /run rw,nosuid - tmpfs tmpfs rw,size=48132k
23 22 0:21 / /run/keelson rw - tmpfs keelson rw
24 23 0:22 / /run/keelson/log rw - tmpfs keelson-log rw
25 21 0:23 / /var rw shared:1 - tmpfs tmpfs rw
26 21 0:20 / /var/run rw - tmpfs tmpfs rw
27 21 0:24 / /dev/shm rw - tmpfs shm rw
28 21 0:25 / /containers/services/web/tmp rw - tmpfs tmpfs rw
29 21 0:26 / /containers/volumes/my\040data/tmp rw - tmpfs tmpfs rw
30 21 0:27 /sub /srv rw - tmpfs tmpfs rw
31 21 0:28 / /dev rw - devtmpfs dev rw
32 21 0:29 / /sys/fs/cgroup rw - tmpfs cgroup_root rw
`
	want := []string{"/run", "/var", "/dev/shm", "/containers/volumes/my data/tmp"}
	if got := tmpfs(table); !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestMountFlags(t *testing.T) {
	if got := mountFlags(unix.ST_NOSUID | unix.ST_NODEV | unix.ST_RELATIME | 0x20); got != unix.MS_NOSUID|unix.MS_NODEV|unix.MS_RELATIME {
		t.Errorf("%#x", got)
	}
}

// TestRun is a life: cache, then memory that a container has, which is ended.
func TestRun(t *testing.T) {
	const limit = 160 * mib
	root := tree(t, map[string]string{
		"services/memory.high": "max\n", "services/memory.events": "high 0\n", "services/memory.current": "1048576\n", "services/memory.stat": "",
		"services/web/cgroup.kill": "", "services/web/memory.current": "1048576\n", "services/web/memory.stat": "",
		"services/web/memory.oom.group": "1\n", "services/web/cgroup.procs": "1\n", "services/web/pids.current": "3\n",
	})
	write := func(name string, value any) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, "services", name), fmt.Append(nil, value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	until := func(what string, holds func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !holds(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("waited in vain: %s", what)
			}
		}
	}
	mark := func() uint64 { return number(filepath.Join(root, "services/memory.high")) }
	var chosen []string
	g := &Guard{
		Root: root, Proc: t.TempDir(), Limit: limit,
		Chosen: func(dir string, n uint64) {
			chosen = append(chosen, fmt.Sprint(filepath.Base(dir), n))
			write("memory.current", 1*mib) // it comes back
		},
		Warn: t.Errorf,
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	until("the first mark is set", func() bool { return mark() == firstMark(limit) })
	write("memory.stat", fmt.Sprintf("active_file %d\n", 100*mib))
	write("memory.current", 130*mib)
	until("the next mark is set", func() bool { write("memory.events", "high 1\n"); return mark() == nextMark(limit, 0) })
	write("memory.stat", fmt.Sprintf("active_file %d\n", 1*mib))
	write("memory.current", 150*mib)
	kill := func() string { return read(t, filepath.Join(root, "services/web/cgroup.kill")) }
	until("the largest is ended", func() bool { write("memory.events", "high 2\n"); return kill() == "1" })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if want := []string{"web3"}; !reflect.DeepEqual(chosen, want) {
		t.Errorf("%q, want %q", chosen, want)
	}
}
