package diff

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"keelson/mkimage/assemble"
	"keelson/mkimage/built"
	"keelson/mkimage/tree"
)

// files are those of an image, by path.
type files map[string]*tree.Inode

const webDir = "containers/services/web/"

func base() files {
	return files{
		"init":                                 tree.File(0o755, []byte("init")),
		"etc/hosts":                            tree.File(0o644, []byte("localhost")),
		"containers/onboot/000-dhcp/lower/sh":  tree.File(0o755, []byte("shell")),
		"containers/onboot/001-twin/rootfs/a":  tree.File(0o755, []byte("one")),
		"containers/onboot/002-twin/rootfs/a":  tree.File(0o755, []byte("two")),
		webDir + "rootfs/bin/httpd":            tree.File(0o755, []byte("httpd")),
		webDir + "rootfs/bin/sh":               tree.Symlink("busybox"),
		webDir + "rootfs/dev/null":             {Type: '3', Mode: 0o666, Major: 1, Minor: 3},
		webDir + "config.json":                 tree.File(0o644, []byte(`{"process": {"args": ["httpd", "-f"], "cwd": "/"}, "hostname": "x", "mounts": [{"destination": "/a", "options": ["ro"]}, {"destination": "/b"}]}`)),
		"containers/services/old/rootfs/gone":  tree.File(0o644, make([]byte, 2000)),
		"containers/services/same/rootfs/same": tree.File(0o644, []byte("same")),
	}
}

// image makes an image of files, with a kernel and a command line.
func image(t *testing.T, list files, kernel, cmdline string) *built.Image {
	t.Helper()
	res := &assemble.Result{Root: tree.New()}
	if kernel != "" {
		res.Kernel = &assemble.File{Size: int64(len(kernel)), Open: tree.Bytes([]byte(kernel))}
	}
	root, err := res.Root.Root("/")
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range list {
		if err := root.Put(name, in); err != nil {
			t.Fatal(err)
		}
	}
	return built.FromRoot(t.Context(), "image", res, cmdline)
}

func report(t *testing.T, a, b *built.Image) string {
	t.Helper()
	r, err := Images(t.Context(), a, b)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := r.Print(&text); err != nil {
		t.Fatal(err)
	}
	if r.Same() != (text.Len() == 0) {
		t.Errorf("same: %v, but it reports %q", r.Same(), text.String())
	}
	return text.String()
}

func TestTheSame(t *testing.T) {
	if got := report(t, image(t, base(), "kernel", "quiet"), image(t, base(), "kernel", "quiet\n")); got != "" {
		t.Errorf("got %s", got)
	}
	if got := report(t, image(t, nil, "", ""), image(t, nil, "", "")); got != "" {
		t.Errorf("of nothing: got %s", got)
	}
}

func TestDifferent(t *testing.T) {
	to := base()
	to["init"] = tree.File(0o755, []byte("other"))
	to["etc/hosts"] = tree.File(0o600, []byte("locahlost"))
	to["etc/hosts"].UID = 7
	to["etc/new\x1b"] = tree.File(0o644, make([]byte, 1500))
	delete(to, "containers/services/old/rootfs/gone")
	to["containers/services/young/rootfs/f"] = tree.File(0o644, []byte("young"))
	// A one-shot in front of the others, which are the same.
	for _, name := range []string{"dhcp/lower/sh", "twin/rootfs/a"} {
		delete(to, "containers/onboot/000-"+name)
		delete(to, "containers/onboot/001-"+name)
		delete(to, "containers/onboot/002-"+name)
	}
	to["containers/onboot/000-first/x"] = tree.File(0o644, nil)
	to["containers/onboot/001-dhcp/lower/sh"] = tree.File(0o755, []byte("shell"))
	to["containers/onboot/002-twin/rootfs/a"] = tree.File(0o755, []byte("one"))
	to["containers/onboot/003-twin/rootfs/a"] = tree.File(0o755, []byte("TWO"))
	delete(to, webDir+"rootfs/bin/httpd")
	to[webDir+"rootfs/bin/sh"] = tree.Symlink("dash")
	to[webDir+"rootfs/dev/null"] = &tree.Inode{Type: '3', Mode: 0o666, Major: 1, Minor: 5, ModTime: time.Unix(86400, 0)}
	to[webDir+"config.json"] = tree.File(0o644, []byte(`{"process": {"args": ["httpd", "-v"], "cwd": "/"}, "mounts": [{"destination": "/b"}, {"destination": "/a", "options": ["rw"]}, {"destination": "/c"}], "ociVersion": "1"}`))
	want := `kernel: 6 B -> 5 B (-1 B)
command line:
  removed  quiet
  added    quiet panic=1
root: 1 added, 2 changed, +1.5 kB
  changed  etc/hosts  9 B of other contents, mode 644 -> 600, owner 0:0 -> 7:0
  added    etc/new\x1b  1.5 kB
  changed  init  4 B -> 5 B (+1 B)
onboot first: added, 2 entries, 0 B
onboot twin (2): 1 changed, of the same size
  changed  rootfs/a  3 B of other contents
services old: removed, 3 entries, 2.0 kB
services web: 1 removed, 3 changed, +20 B
  changed  config.json  144 B -> 169 B (+25 B)
             hostname: removed "x"
             mounts[/a].options: ["ro"] -> ["rw"]
             mounts[/c]: added {"destination":"/c"}
             ociVersion: added "1"
             process.args: ["httpd","-f"] -> ["httpd","-v"]
  removed  rootfs/bin/httpd  5 B
  changed  rootfs/bin/sh  -> busybox becomes -> dash
  changed  rootfs/dev/null  device 1:3 -> 1:5, date 1970-01-01 00:00:00 -> 1970-01-02 00:00:00
services young: added, 3 entries, 5 B
`
	if got := report(t, image(t, base(), "kernel", "quiet"), image(t, to, "other", "quiet panic=1")); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestKernels(t *testing.T) {
	for _, test := range []struct{ a, b, want string }{
		{"", "kernel", "kernel: added, 6 B\n"}, {"kernel", "", "kernel: removed, 6 B\n"}, {"kernel", "kernels", "kernel: 6 B -> 7 B (+1 B)\n"}, {"one", "two", "kernel: 3 B of other contents\n"},
	} {
		if got := report(t, image(t, nil, test.a, ""), image(t, nil, test.b, "")); got != test.want {
			t.Errorf("%q and %q: got %q, want %q", test.a, test.b, got, test.want)
		}
	}
	if got := report(t, image(t, nil, "", ""), image(t, nil, "", "quiet")); got != "command line:\n  added    quiet\n" {
		t.Errorf("a command line that is new: got %q", got)
	}
	broken := image(t, nil, "k", "")
	broken.Kernel.Open = func() (io.ReadCloser, error) { return nil, errors.New("no disk") }
	if _, err := Images(t.Context(), broken, broken); err == nil || err.Error() != "the kernel of image: no disk" {
		t.Errorf("got %v", err)
	}
}

// A file with several names is the same, whichever of them comes first in the file; and
// another if they part.
func TestHardLinks(t *testing.T) {
	write := func(owner, other string, linked bool) *snapshot {
		s := newSnapshot()
		for _, e := range []tree.Entry{{Path: owner, Inode: tree.File(0o644, []byte("text"))}, {Path: other, HardLink: owner, Inode: tree.File(0o644, nil)}} {
			text := "text"
			if !linked {
				e.HardLink = ""
			} else if e.HardLink != "" {
				text = ""
			}
			if err := s.WriteEntry(e, strings.NewReader(text)); err != nil {
				t.Fatal(err)
			}
		}
		s.link()
		return s
	}
	ab, ba, apart := write("a", "b", true).parts["root"], write("b", "a", true).parts["root"], write("a", "b", false).parts["root"]
	if p := compare("root", ab, ba); len(p.Files) > 0 {
		t.Errorf("got %+v", p.Files)
	}
	if p := compare("root", ab, apart); len(p.Files) != 1 || p.Files[0].What != "a name of a -> of b" {
		t.Errorf("got %+v", p.Files)
	}
}

func TestKindsAndAttributes(t *testing.T) {
	a := file{Inode: tree.Inode{Type: '0', Xattrs: map[string]string{"SCHILY.xattr.security.capability": "x"}}}
	b := file{Inode: tree.Inode{Type: '0', Xattrs: map[string]string{}}}
	if got := a.differs(&b); got != "attributes (security.capability) -> ()" {
		t.Errorf("got %s", got)
	}
	b.Type = '5'
	if got := a.differs(&b); got != "file -> directory" {
		t.Errorf("got %s", got)
	}
}

func TestFields(t *testing.T) {
	long := strings.Repeat("x", 90)
	for _, test := range []struct{ a, b, want string }{
		{`{}`, `{}`, ""},
		{`{"a": 1}`, `{"a": "1"}`, `a: 1 -> "1"`},
		{`[1, 2]`, `[2, 1]`, `: [1,2] -> [2,1]`},
		{`{"env": ["A=1", "` + long + `", "B", "B"]}`, `{"env": ["` + long + `", "B", "C=<3>"]}`, `env: removed "A=1"; env: removed "B"; env: added "C=<3>"`},
		{`{"env": ["` + long + `", "B"]}`, `{"env": ["B", "` + long + `"]}`, `env: in another order`},
		{`{"ns": [{"type": "pid"}, {"type": "mount"}]}`, `{"ns": [{"type": "mount"}, {"type": "pid", "path": "/p"}]}`, `ns[pid].path: added "/p"`},
		{`{"ns": [{"type": "pid"}, {"type": "mount"}]}`, `{"ns": [{"type": "mount"}, {"type": "pid"}]}`, `ns: in another order`},
		{`{"m": [{"destination": "/a"}, {"destination": "/a", "x": 1}]}`, `{"m": [{"destination": "/a"}]}`, `m: removed {"destination":"/a","x":1}`},
		{`{"a": {"b": {"c": null}}}`, `{"a": {"b": {}}}`, `a.b.c: removed null`},
		{`{"a": []}`, `{"a": {}}`, `a: [] -> {}`},
		{`none`, `{}`, ""},
	} {
		if got := strings.Join(fields([]byte(test.a), []byte(test.b)), "; "); got != test.want {
			t.Errorf("%s and %s: got\n%s\nwant\n%s", test.a, test.b, got, test.want)
		}
	}
	if got := fmt.Sprint(fields(nil, []byte("{}"))); got != "[]" {
		t.Errorf("of a file that is new: %s", got)
	}
}
