package ceiling

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

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
		{42 * mib, 800, Own{Services: 1, Logs: 9 * mib}, Limits{Memory: 21 * mib, Pids: 444}},
		{42 * mib, 586, Own{Services: 20, Logs: 9 * mib}, Limits{Memory: 9 * mib, Pids: 256}},
		{40 * mib, 586, Own{Services: 20, Logs: 9 * mib}, Limits{Memory: 8 * mib, Pids: 256, Short: true}},
		{73 * mib, 586, Own{}, Limits{Memory: 62 * mib, Pids: 256}},
		{76 * mib, 586, Own{}, Limits{Memory: 63 * mib, Pids: 256}},
		{78 * mib, 586, Own{}, Limits{Memory: 64 * mib, Pids: 256}},
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
	if room := limit - lastMark(limit, limit); room != 1*mib {
		t.Errorf("with no room: %d", room)
	}
	// Where there is little, shared files are looked at before they have all of it.
	var marks []uint64
	for mark := firstMark(16 * mib); len(marks) < 10; mark = nextMark(16*mib, mark) {
		marks = append(marks, mark/kib)
		if mark == lastMark(16*mib, 0) {
			break
		}
	}
	if want := []uint64{4096, 6144, 8192, 10240, 12288, 14336}; !reflect.DeepEqual(marks, want) {
		t.Errorf("%d, want %d", marks, want)
	}
	for limit, want := range map[uint64]uint64{160 * mib: 78 * mib, 16 * mib: 6 * mib, 8 * mib: 2 * mib, 4 * mib: 1 * mib} {
		if got := sharedMost(limit); got != want {
			t.Errorf("of %d: %d, want %d", limit, got, want)
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
	want := []shared{{path: "/run", device: "0:20"}, {path: "/var", device: "0:23"}, {path: "/dev/shm", device: "0:24"}, {path: "/containers/volumes/my data/tmp", device: "0:26"}}
	if got := tmpfs(table); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestMountFlags(t *testing.T) {
	if got := mountFlags(unix.ST_NOSUID | unix.ST_NODEV | unix.ST_RELATIME | 0x20); got != unix.MS_NOSUID|unix.MS_NODEV|unix.MS_RELATIME {
		t.Errorf("%#x", got)
	}
}
