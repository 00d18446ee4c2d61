package mounts

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"keelson/internal/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

func TestParse(t *testing.T) {
	for _, c := range []struct {
		words []string
		want  Options
	}{
		{nil, Options{}},
		{[]string{"defaults", "auto", "_netdev", "x-systemd.automount", "comment=mine"}, Options{}},
		{[]string{"ro", "nosuid", "noexec", "nodev"}, Options{Flags: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV}},
		{[]string{"ro", "nosuid", "rw", "suid"}, Options{}},
		{[]string{"noatime", "relatime"}, Options{Flags: unix.MS_RELATIME}},
		{[]string{"noatime", "atime", "nodiratime"}, Options{Flags: unix.MS_NODIRATIME}},
		{[]string{"strictatime", "lazytime", "sync", "dirsync"}, Options{Flags: unix.MS_STRICTATIME | unix.MS_LAZYTIME | unix.MS_SYNCHRONOUS | unix.MS_DIRSYNC}},
		{[]string{"rbind", "rw", "rshared"}, Options{Flags: unix.MS_BIND | unix.MS_REC, Propagation: []uintptr{unix.MS_SHARED | unix.MS_REC}}},
		{[]string{"remount", "private"}, Options{Flags: unix.MS_REMOUNT, Propagation: []uintptr{unix.MS_PRIVATE}}},
		{[]string{"unbindable", "rslave"}, Options{Propagation: []uintptr{unix.MS_UNBINDABLE, unix.MS_SLAVE | unix.MS_REC}}},
		{[]string{"lowerdir=/a:/b", "upperdir=/u", "workdir=/w"}, Options{Data: "lowerdir=/a:/b,upperdir=/u,workdir=/w"}},
		{[]string{"nosuid,size=10%,mode=755"}, Options{Flags: unix.MS_NOSUID, Data: "size=10%,mode=755"}},
		{[]string{`context="a,b",ro`}, Options{Flags: unix.MS_RDONLY, Data: `context="a,b"`}},
		{[]string{`lowerdir=/a\,b,ro`}, Options{Flags: unix.MS_RDONLY, Data: `lowerdir=/a\,b`}},
		{[]string{"nofail", "nosymfollow"}, Options{Flags: unix.MS_NOSYMFOLLOW, NoFail: true}},
	} {
		if got := Parse(c.words); !reflect.DeepEqual(got, c.want) {
			t.Errorf("Parse(%q) = %+v, want %+v", c.words, got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("ro,size=1m,rshared")
	f.Add(`a\,b,"c,d",\`)
	f.Fuzz(func(t *testing.T, s string) {
		o := Parse([]string{s})
		if o.Flags&(unix.MS_SHARED|unix.MS_PRIVATE|unix.MS_SLAVE|unix.MS_UNBINDABLE) != 0 {
			t.Errorf("propagation among the flags: %#x", o.Flags)
		}
		if got := strings.Join(Words(s), ","); got != s {
			t.Errorf("Words lost something of %q: %q", s, got)
		}
	})
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		e    Entry
		want string
	}{
		{Entry{Target: "/x"}, "type is empty"},
		{Entry{Type: "tmpfs"}, "destination is empty"},
		{Entry{Type: "tmpfs", Target: "x"}, "not absolute"},
		{Entry{Type: "bind", Target: "/x"}, "source is empty"},
		{Entry{Target: "/x", Options: []string{"shared"}}, ""},
		{Entry{Type: "tmpfs", Target: "/x"}, ""},
	} {
		err := c.e.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.e, err, c.want)
		}
	}
}

func dirs(t *testing.T, base string, names ...string) []string {
	t.Helper()
	var out []string
	for _, n := range names {
		d := filepath.Join(base, n)
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		out = append(out, d)
	}
	return out
}

func ensure(t *testing.T, e Entry, want bool) {
	t.Helper()
	made, err := e.Ensure()
	if err != nil {
		t.Fatalf("%s: %v", e, err)
	}
	if made != want {
		t.Fatalf("%s: made = %v, want %v", e, made, want)
	}
}

func count(t *testing.T, dir string) int {
	t.Helper()
	points, err := Below(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(points)
}

func TestEnsureTwiceMountsOnce(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	d := dirs(t, base, "tmp", "src", "dst", "lower", "rootfs", "self")
	entries := []Entry{
		{Source: "tmpfs", Target: d[0], Type: "tmpfs", Options: []string{"size=1m", "nosuid"}},
		{Target: d[0], Options: []string{"remount", "private"}},
		{Source: d[1], Target: d[2], Options: []string{"bind"}},
		{Source: d[5], Target: d[5], Type: "bind"},
	}
	before := count(t, base)
	for range 2 {
		for _, e := range entries {
			if _, err := e.Ensure(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := count(t, base) - before; got != 3 {
		t.Errorf("%d mounts after making three twice", got)
	}
	for i, e := range entries {
		if i != 1 {
			ensure(t, e, false)
		}
	}
	// another file system on the same folder is not "the same"
	ensure(t, Entry{Source: "ramfs", Target: d[0], Type: "ramfs"}, true)
	ensure(t, entries[0], false) // still there, one below
}

func TestRemountPrivateKeepsFlags(t *testing.T) {
	nstest.Need(t)
	dir := dirs(t, nstest.Tmpfs(t, "size=1m"), "tmp")[0]
	ensure(t, Entry{Source: "tmpfs", Target: dir, Type: "tmpfs", Options: []string{"nosuid", "noexec"}}, true)
	ensure(t, Entry{Target: dir, Options: []string{"remount", "private"}}, false)
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Flags&unix.ST_NOSUID == 0 || fs.Flags&unix.ST_NOEXEC == 0 {
		t.Errorf("flags %#x: nosuid and noexec are gone", fs.Flags)
	}
	if got := propagationOf(t, dir); got != "" {
		t.Errorf("propagation %q, want private", got)
	}
}

func propagationOf(t *testing.T, dir string) string {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(table), "\n") {
		f := strings.Fields(line)
		if len(f) > 6 && f[4] == dir {
			var tags []string
			for _, tag := range f[6:] {
				if tag == "-" {
					break
				}
				tags = append(tags, tag)
			}
			return strings.Join(tags, " ")
		}
	}
	t.Fatalf("%s is no mount point", dir)
	return ""
}

func TestReadOnlyBind(t *testing.T) {
	nstest.Need(t)
	d := dirs(t, nstest.Tmpfs(t, "size=1m"), "src", "dst")
	ensure(t, Entry{Source: d[0], Target: d[1], Type: "bind", Options: []string{"ro", "nodev", "rshared"}}, true)
	if err := os.WriteFile(filepath.Join(d[1], "f"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to a read-only bind: %v", err)
	}
	if err := os.WriteFile(filepath.Join(d[0], "f"), nil, 0o644); err != nil {
		t.Errorf("write to its source: %v", err)
	}
	if got := propagationOf(t, d[1]); !strings.HasPrefix(got, "shared:") {
		t.Errorf("propagation %q, want shared", got)
	}
	// later remount to rw, as fstab words have it
	ensure(t, Entry{Target: d[1], Options: []string{"remount", "bind", "rw"}}, false)
	if err := os.WriteFile(filepath.Join(d[1], "g"), nil, 0o644); err != nil {
		t.Errorf("write after remount,bind,rw: %v", err)
	}
}

func TestOverlay(t *testing.T) {
	nstest.Need(t)
	d := dirs(t, nstest.Tmpfs(t, "size=10m"), "lower", "up/upper", "up/work", "rootfs")
	if err := os.WriteFile(filepath.Join(d[0], "f"), []byte("low"), 0o644); err != nil {
		t.Fatal(err)
	}
	e := Entry{Source: "overlay", Target: d[3], Type: "overlay", Options: []string{"lowerdir=" + d[0], "upperdir=" + d[1], "workdir=" + d[2]}}
	ensure(t, e, true)
	ensure(t, e, false)
	if b, err := os.ReadFile(filepath.Join(d[3], "f")); err != nil || string(b) != "low" {
		t.Errorf("read through overlay: %q %v", b, err)
	}
	e.Target = dirs(t, filepath.Dir(d[3]), "other")[0]
	e.Options[0] = "lowerdir=/nonexistent/lower"
	_, err := e.Ensure()
	if err == nil || !strings.Contains(err.Error(), "lowerdir /nonexistent/lower does not exist") {
		t.Errorf("overlay without its lower folder: %v", err)
	}
}

func TestUnmountBelow(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	a := dirs(t, base, "a")[0]
	for range 2 { // stacked
		if err := unix.Mount("tmpfs", a, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	b := dirs(t, a, "b/c")[0]
	if err := unix.Mount("tmpfs", b, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	busy, err := os.Create(filepath.Join(b, "open"))
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	beside := dirs(t, base, "a-beside")[0]
	if err := unix.Mount("tmpfs", beside, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := UnmountBelow(a); err != nil {
			t.Fatal(err)
		}
		if n := count(t, a); n != 0 {
			t.Fatalf("%d mounts left below %s", n, a)
		}
	}
	if count(t, beside) != 1 {
		t.Error("the folder beside was unmounted too")
	}
}

func TestUnmountLeavesOthersAlone(t *testing.T) {
	nstest.Need(t)
	d := dirs(t, nstest.Tmpfs(t, "size=10m"), "x")[0]
	e := Entry{Source: "tmpfs", Target: d, Type: "tmpfs"}
	if err := e.Unmount(); err != nil {
		t.Fatal(err)
	}
	ensure(t, Entry{Source: "ramfs", Target: d, Type: "ramfs"}, true)
	if err := e.Unmount(); err != nil {
		t.Fatal(err)
	}
	if count(t, d) != 1 {
		t.Error("somebody else's mount was unmounted")
	}
	ensure(t, e, true)
	busy, err := os.Create(filepath.Join(d, "open"))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Unmount(); err != nil || count(t, d) != 2 {
		t.Errorf("busy: %v, %d mounts; want it left in place", err, count(t, d))
	}
	busy.Close()
	if err := e.Unmount(); err != nil || count(t, d) != 1 {
		t.Errorf("%v, %d mounts", err, count(t, d))
	}
}

func TestErrorsSayWhatTheyMean(t *testing.T) {
	nstest.Need(t)
	d := dirs(t, nstest.Tmpfs(t, "size=1m"), "x", "y")
	file := filepath.Join(d[1], "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		e    Entry
		want string
	}{
		{Entry{Source: "nosuchfs", Target: d[0], Type: "nosuchfs"}, "mount nosuchfs on " + d[0] + ": no such device: the kernel has no nosuchfs file system (modules tried: nosuchfs)"},
		{Entry{Source: "/nonexistent/src", Target: d[0], Type: "bind"}, "source /nonexistent/src does not exist"},
		{Entry{Source: file, Target: d[0], Type: "bind"}, "one of source and destination is a folder"},
		{Entry{Source: file, Target: d[0], Type: "ext4"}, "is not a block device"},
		{Entry{Target: d[0], Options: []string{"remount", "ro"}}, "nothing is mounted on " + d[0]},
		{Entry{Source: "tmpfs", Target: d[0], Type: "tmpfs", Options: []string{"colour=red"}}, `options "colour=red"`},
	} {
		if _, err := c.e.Ensure(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s:\n got  %v\n want ...%s", c.e, err, c.want)
		}
	}
	if made, err := (Entry{Source: "/dev/nonexistent", Target: d[0], Type: "ext4", Options: []string{"nofail"}}).Ensure(); err != nil || made {
		t.Errorf("nofail without the device: %v (made %v)", err, made)
	}
}

func TestFull(t *testing.T) {
	nstest.Need(t)
	dir := nstest.Tmpfs(t, "size=64k")
	if got := Full(dir); got != "" {
		t.Errorf("an empty file system: %q", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 64<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, want := Full(filepath.Join(dir, "not/there")), ": the tmpfs on "+dir+" is full (0.1 MiB)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	inodes := nstest.Tmpfs(t, "nr_inodes=3")
	if err := MkdirAll(filepath.Join(inodes, "a/b/c/d")); err == nil || !strings.Contains(err.Error(), "has no inodes left") {
		t.Errorf("out of inodes: %v", err)
	}
}
