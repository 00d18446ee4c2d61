package command

import (
	"flag"
	"slices"
	"strings"
	"testing"
)

func TestParseWords(t *testing.T) {
	for _, c := range []struct {
		args    string
		ordered bool
		words   string
		name    string
		bad     bool
	}{
		{args: "id", words: "id"},
		{args: "--name x id", words: "id", name: "x"},
		{args: "id --name x", words: "id", name: "x"},
		{args: "id --name=x KILL", words: "id KILL", name: "x"},
		{args: "-- id --name", words: "id --name"},
		{args: "id sh --name x", ordered: true, words: "id sh --name x"},
		{args: "--name x id sh -c y", ordered: true, words: "id sh -c y", name: "x"},
		{args: "id --nosuch", bad: true},
		{args: ""},
	} {
		fs := newFlags("test")
		name := fs.String("name", "", "")
		words, err := parseWords(fs, strings.Fields(c.args), c.ordered)
		if c.bad {
			if err == nil {
				t.Errorf("%q was taken", c.args)
			}
			continue
		}
		if err != nil || strings.Join(words, " ") != c.words || *name != c.name {
			t.Errorf("%q: words %q name %q %v", c.args, words, *name, err)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "4096": 4096, "4k": 4096, "4K": 4096, "1.5M": 3 << 19, "2GiB": 2 << 30, "3gb": 3 << 30, "1t": 1 << 40, "-1": -1,
	} {
		if got, err := parseBytes(in); err != nil || got != want {
			t.Errorf("%s: %d %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "k", "-2", "x", "1q", "1kk"} {
		if got, err := parseBytes(in); err == nil {
			t.Errorf("%q is %d", in, got)
		}
	}
}

func TestSubCgroups(t *testing.T) {
	got, err := subCgroups([]string{"cpu,memory:/a", "pids:/b"})
	if err != nil || len(got) != 3 || got["memory"] != "/a" || got["pids"] != "/b" {
		t.Errorf("%v %v", got, err)
	}
	if got, err = subCgroups([]string{"/sub"}); err != nil || got[""] != "/sub" {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range [][]string{{"/a", "/b"}, {":/a"}, {"cpu:/a", "cpu:/b"}} {
		if got, err := subCgroups(bad); err == nil {
			t.Errorf("%v is %v", bad, got)
		}
	}
}

// What shims, ctr and nested users call has to be there.
func TestVerbsHaveTheFlagsPeopleUse(t *testing.T) {
	for name, flags := range map[string]string{
		"create":   "bundle b console-socket pidfd-socket pid-file no-pivot no-new-keyring preserve-fds",
		"run":      "bundle b console-socket pid-file no-pivot no-new-keyring preserve-fds detach d keep no-subreaper",
		"exec":     "console-socket pid-file detach d cwd env e tty t user u additional-gids g process p cap c cgroup preserve-fds apparmor no-new-privs process-label ignore-paused",
		"kill":     "all a",
		"delete":   "force f",
		"ps":       "format f",
		"list":     "format f quiet q",
		"update":   "resources r memory memory-swap memory-reservation cpu-share cpu-quota cpu-period cpuset-cpus cpuset-mems pids-limit blkio-weight",
		"events":   "stats interval",
		"spec":     "bundle b rootless",
		"state":    "",
		"start":    "",
		"pause":    "",
		"resume":   "",
		"features": "",
	} {
		v, ok := verbs[name]
		if !ok {
			t.Errorf("no %s", name)
			continue
		}
		fs := newFlags(name)
		v.make(fs, &globals{})
		var have []string
		fs.VisitAll(func(f *flag.Flag) { have = append(have, f.Name) })
		for _, f := range strings.Fields(flags) {
			if !slices.Contains(have, f) {
				t.Errorf("%s has no --%s", name, f)
			}
		}
	}
}
