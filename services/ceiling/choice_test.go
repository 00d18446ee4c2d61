package ceiling

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// one is a container of so many MiB, whose name is its cgroup.
func one(name string, used, files, root uint64) container {
	return container{dir: name, used: used * mib, files: files * mib, root: root * mib}
}

func (c container) with(change func(*container)) container {
	change(&c)
	return c
}

func TestChoose(t *testing.T) {
	const limit = 160 * mib
	sharing := func(c *container) { c.shares = true }
	making := func(c *container) { c.making = true }
	for name, c := range map[string]struct {
		shared uint64 // MiB of files that stay
		parent uint64 // MiB of files in memory charged to all, 0 for those of the living
		all    []container
		want   verdict
	}{
		"nobody":                       {0, 0, nil, verdict{}},
		"the one with most":            {0, 0, []container{one("web", 20, 0, 0), one("leaky", 90, 1, 1), one("db", 30, 0, 0)}, verdict{kill: "leaky", frees: 90 * mib}},
		"who fills its root":           {0, 0, []container{one("leaky", 40, 0, 0), one("fills", 60, 59, 59)}, verdict{kill: "fills", frees: 60 * mib}},
		"who fills a tmpfs of its own": {0, 0, []container{one("leaky", 40, 0, 0), one("fills", 60, 59, 0)}, verdict{kill: "fills", frees: 60 * mib}},
		"what stays is not worth it": {80, 0, []container{one("tmp", 81, 80, 0).with(sharing), one("leaky", 40, 0, 0)},
			verdict{kill: "leaky", frees: 40 * mib}},
		"files that several share": {60, 0, []container{one("tmp", 41, 40, 0).with(sharing), one("var", 23, 20, 0).with(sharing), one("web", 2, 0, 0)},
			verdict{kill: "var", frees: 3 * mib}},
		"with a root besides": {60, 0, []container{one("tmp", 91, 90, 30).with(sharing), one("leaky", 25, 0, 0)},
			verdict{kill: "tmp", frees: 31 * mib}},
		// Who looks at what others wrote, and fills a tmpfs of its own, does not hide behind it.
		"what dead ones wrote stays anyhow": {60, 100, []container{one("hides", 41, 40, 0).with(sharing), one("leaky", 25, 0, 0)},
			verdict{kill: "hides", frees: 41 * mib}},
		"who only sees them": {60, 0, []container{one("tmp", 61, 60, 0).with(sharing), one("logger", 5, 0, 0).with(sharing), one("web", 2, 0, 0)},
			verdict{kill: "logger", frees: 5 * mib}},
		"nobody frees anything":     {80, 0, []container{one("tmp", 80, 80, 0).with(sharing)}, verdict{}},
		"never one with -1000":      {0, 0, []container{one("db", 90, 0, 0).with(func(c *container) { c.adj = -1000 }), one("web", 3, 0, 0)}, verdict{kill: "web", frees: 3 * mib}},
		"rather one with 500":       {0, 0, []container{one("db", 90, 0, 0), one("cache", 20, 0, 0).with(func(c *container) { c.adj = 500 })}, verdict{kill: "cache", frees: 20 * mib}},
		"left to the kernel":        {0, 0, []container{one("alone", 90, 0, 0).with(func(c *container) { c.alone = true }), one("web", 3, 0, 0)}, verdict{}},
		"one that is being made":    {0, 0, []container{one("new", 4, 0, 0).with(making), one("db", 40, 0, 0).with(func(c *container) { c.adj = -1000 })}, verdict{start: true}},
		"one with a command added":  {0, 0, []container{one("web", 6, 0, 0).with(making), one("leaky", 40, 0, 0)}, verdict{kill: "leaky", frees: 40 * mib}},
		"the largest, likewise":     {0, 0, []container{one("leaky", 90, 0, 0).with(making), one("db", 40, 0, 0)}, verdict{kill: "leaky", frees: 86 * mib}},
		"nobody pays for its start": {130, 0, []container{one("tmp", 131, 130, 0).with(sharing), one("new", 4, 0, 0).with(making), one("web", 3, 0, 0)}, verdict{start: true}},
	} {
		parent := c.parent * mib
		if parent == 0 {
			for _, one := range c.all {
				parent += one.files
			}
		}
		if got := choose(limit, living(c.shared*mib, parent, c.all), c.all); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestSees(t *testing.T) {
	all := []shared{{path: "/var", device: "0:23"}, {path: "/containers/volumes/data/tmp", device: "0:26"}}
	const root = "30 1 0:40 / / rw - overlay overlay rw,lowerdir=/containers/services/web/lower,upperdir=/containers/services/web/tmp/upper,workdir=/w\n"
	for name, c := range map[string]struct {
		table string
		want  bool
	}{
		"its own root":    {root + "31 30 0:41 / /own rw - tmpfs tmpfs rw\n", false},
		"a bind":          {root + "32 30 0:23 /lib /lib rw - tmpfs tmpfs rw\n", true},
		"a volume":        {root + "33 30 0:50 / /data rw - overlay overlay rw,lowerdir=/containers/volumes/data/lower,upperdir=/containers/volumes/data/tmp/upper,workdir=/w\n", true},
		"an endless one":  {strings.Repeat(root, maxTable/len(root)+1), true},
		"nothing at all":  {"", false},
		"another's table": {"31 30 0:2 / /23 rw - tmpfs 0:23 rw\n", false},
	} {
		path := filepath.Join(t.TempDir(), "mountinfo")
		if err := os.WriteFile(path, []byte(c.table), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := sees(path, all); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if !sees(filepath.Join(t.TempDir(), "none"), all) {
		t.Error("one that cannot be read")
	}
}

func TestContainers(t *testing.T) {
	files := map[string]string{"services/cgroup.kill": "", "services/.onboot/cgroup.kill": ""}
	for name, pid := range map[string]string{"services/web": "1\n", "services/sees": "2\n", "services/.onboot/000-fills": "3\n", "services/gone": "", "services/nested": ""} {
		for file, text := range map[string]string{
			"cgroup.kill": "", "memory.current": "9000000\n", "memory.stat": "anon 1\nactive_file 500000\nshmem 3000000\nslab_unreclaimable 1000000\n", "cgroup.procs": pid, "memory.oom.group": "1\n", "pids.current": "0\n",
		} {
			files[name+"/"+file] = text
		}
	}
	files["services/nested/pids.current"] = "2\n"
	files["services/sees/memory.oom.group"] = "0\n"
	const own = "30 1 0:40 / / rw - overlay overlay rw\n31 30 0:41 / /own rw - tmpfs tmpfs rw\n"
	g := &Guard{
		Root: tree(t, files), Limit: 10e6,
		Proc: tree(t, map[string]string{
			"1/oom_score_adj": "0\n", "1/mountinfo": own, "2/oom_score_adj": "-5\n", "2/mountinfo": own + "32 30 0:23 /lib /lib rw - tmpfs tmpfs rw\n", "3/oom_score_adj": "100\n",
		}),
		Making: func(dir string) bool { return filepath.Base(dir) == "000-fills" },
	}
	group := func(name string) string { return filepath.Join(g.Root, "services", name) }
	want := fmt.Sprintf("%+v", []container{
		{dir: group("nested"), used: 8500000, files: 4000000, shares: true},
		{dir: group("sees"), adj: -5, alone: true, used: 8500000, files: 4000000, shares: true},
		{dir: group("web"), used: 8500000, files: 4000000},
		{dir: group(".onboot/000-fills"), adj: 100, making: true, used: 8500000, files: 4000000, shares: true}, // its mounts are not known
	})
	if got := fmt.Sprintf("%+v", g.containers([]shared{{path: "/var", device: "0:23"}})); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if err := os.RemoveAll(group("")); err != nil {
		t.Fatal(err)
	}
	if got := g.containers(nil); got != nil {
		t.Errorf("%+v", got)
	}
}
