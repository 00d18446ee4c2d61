package beneath

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"keelson/internal/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

// openDir opens a fresh directory, in which "outside" is no part.
func openDir(t *testing.T) (d *Dir, path, outside string) {
	t.Helper()
	top := t.TempDir()
	path, outside = filepath.Join(top, "log"), filepath.Join(top, "outside")
	must(t, os.Mkdir(path, 0o755))
	must(t, os.WriteFile(outside, []byte("theirs"), 0o644))
	d, err := Open(path)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d, path, outside
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// obstacles are what somebody may put under a name, and what is reported of it.
var obstacles = []struct {
	name   string
	reason Reason
	says   string
	root   bool
	make   func(path, outside string) error
}{
	{"link", Link, `is a symbolic link to "../outside"`, false, func(path, _ string) error { return os.Symlink("../outside", path) }},
	{"link to nothing", Link, "is a symbolic link", false, func(path, outside string) error { return os.Symlink(outside+".new", path) }},
	{"link to a directory", Link, "is a symbolic link", false, func(path, _ string) error { return os.Symlink("..", path) }},
	{"magic link", Link, "is a symbolic link", false, func(path, _ string) error { return os.Symlink("/proc/self/exe", path) }},
	{"directory", Kind, "is a directory, not a regular file", false, func(path, _ string) error { return os.Mkdir(path, 0o755) }},
	{"FIFO", Kind, "is a FIFO, not a regular file", false, func(path, _ string) error { return unix.Mkfifo(path, 0o644) }},
	{"device", Kind, "is a device, not a regular file", true, func(path, _ string) error {
		return unix.Mknod(path, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3)))
	}},
	{"hard link", Names, "has 2 names", false, func(path, outside string) error { return os.Link(outside, path) }},
	{"foreign owner", Owner, "belongs to uid 1000", true, func(path, _ string) error {
		return errors.Join(os.WriteFile(path, nil, 0o666), os.Chown(path, 1000, 1000))
	}},
}

func TestOpenFileRefuses(t *testing.T) {
	for _, o := range obstacles {
		t.Run(o.name, func(t *testing.T) {
			if o.root && os.Getuid() != 0 {
				t.Skip("only root can make it")
			}
			d, path, outside := openDir(t)
			must(t, o.make(filepath.Join(path, "x"), outside))
			for _, flags := range []int{os.O_RDONLY, os.O_WRONLY | os.O_CREATE, os.O_RDWR | os.O_CREATE | os.O_TRUNC, os.O_WRONLY | os.O_APPEND} {
				f, err := d.OpenFile("x", flags, 0o644)
				if err == nil {
					f.Close()
					t.Fatalf("flags %#x: opened", flags)
				}
				if !errors.Is(err, o.reason) || !IsRefused(err) || !strings.Contains(err.Error(), filepath.Join(path, "x")+" "+o.says) {
					t.Errorf("flags %#x: %v; want %q", flags, err, o.says)
				}
			}
			if f, err := d.OpenFile("x", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644); !errors.Is(err, fs.ErrExist) {
				t.Errorf("create: %v, %v; want that it exists", f, err)
			}
			if data, err := os.ReadFile(outside); err != nil || string(data) != "theirs" {
				t.Errorf("outside: %q, %v", data, err)
			}
			if _, err := os.Lstat(outside + ".new"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("what the link leads to was made: %v", err)
			}
			must(t, d.Rename("x", "y"))
			must(t, d.Remove("y"))
			if _, err := d.Stat("y"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it is still there: %v", err)
			}
		})
	}
}

func TestOpenFile(t *testing.T) {
	d, path, _ := openDir(t)
	for _, text := range []string{"one", "two"} {
		f, err := d.OpenFile("x", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		must(t, err)
		_, err = f.WriteString(text)
		must(t, err)
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
		if err != nil || flags&unix.O_NONBLOCK != 0 || flags&unix.O_APPEND == 0 {
			t.Errorf("flags %#x, %v", flags, err)
		}
		must(t, f.Close())
	}
	if data, err := os.ReadFile(filepath.Join(path, "x")); err != nil || string(data) != "onetwo" {
		t.Errorf("read %q, %v", data, err)
	}
	f, err := d.OpenFile("x", os.O_RDWR|os.O_TRUNC, 0)
	must(t, err)
	defer f.Close()
	if st, err := d.Stat("x"); err != nil || st.Size != 0 || st.Mode&0o777 != 0o600 {
		t.Errorf("stat: %+v, %v", st, err)
	}
	if _, err := d.OpenFile("y", os.O_WRONLY, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open what is not there: %v", err)
	}
}

func TestOneName(t *testing.T) {
	d, path, _ := openDir(t)
	must(t, os.Mkdir(filepath.Join(path, "a"), 0o755))
	for _, name := range []string{"", ".", "..", "a/b", "../outside", "/etc/passwd"} {
		_, open := d.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
		_, stat := d.Stat(name)
		_, read := d.Readlink(name)
		for i, err := range []error{open, stat, read, d.Rename(name, "x"), d.Rename("a", name), d.Remove(name), d.Mkdir(name, 0o755), d.Symlink("x", name)} {
			if err == nil || !strings.Contains(err.Error(), "is no name in a directory") {
				t.Errorf("%q, %d: %v", name, i, err)
			}
		}
	}
	for _, path := range []string{"", ".", "..", "a/../..", "/etc"} {
		if s, err := d.Sub(path); err == nil {
			t.Errorf("Sub(%q) is %s", path, s.Path())
		}
	}
}

// A lease of somebody else does not make us wait.
func TestLease(t *testing.T) {
	d, path, _ := openDir(t)
	must(t, os.WriteFile(filepath.Join(path, "x"), nil, 0o644))
	theirs, err := os.Open(filepath.Join(path, "x"))
	must(t, err)
	defer theirs.Close()
	if _, err := unix.FcntlInt(theirs.Fd(), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		t.Skipf("no leases here: %v", err)
	}
	if _, err := d.OpenFile("x", os.O_RDWR, 0); !errors.Is(err, unix.EAGAIN) || !strings.Contains(err.Error(), "lease") {
		t.Errorf("open: %v", err)
	}
}

func TestSub(t *testing.T) {
	for _, kernel := range []string{"with openat2", "without"} {
		t.Run(kernel, func(t *testing.T) {
			d, path, _ := openDir(t)
			must(t, os.MkdirAll(filepath.Join(path, "a/b"), 0o755))
			must(t, os.WriteFile(filepath.Join(path, "a/file"), nil, 0o644))
			must(t, os.Symlink("b", filepath.Join(path, "a/link")))
			open := func(at string, flags int) error {
				fd, err := -1, error(nil)
				if kernel == "without" {
					var link *found
					if fd, link, err = walk(d.fd, d.path, at, flags); link != nil {
						_ = unix.Close(link.fd)
					}
				} else {
					fd, err = d.below(at, flags)
				}
				if err == nil {
					_ = unix.Close(fd)
				}
				return err
			}
			must(t, open("a/b", unix.O_PATH|unix.O_DIRECTORY))
			must(t, open("a/file", unix.O_PATH))
			for at, want := range map[string]error{"a/link": Link, "a/link/c": Link, "a/file": Kind, "a/file/c": Kind, "a/none": fs.ErrNotExist} {
				if err := open(at, unix.O_PATH|unix.O_DIRECTORY); !errors.Is(err, want) {
					t.Errorf("%s: %v, want %v", at, err, want)
				}
			}
		})
	}
}

func TestWay(t *testing.T) {
	d, path, outside := openDir(t)
	real := filepath.Join(path, "real")
	must(t, d.Mkdir("real", 0o755))
	own, theirs := filepath.Join(path, "own"), filepath.Join(path, "theirs")
	must(t, d.Symlink(real, "own"))
	must(t, d.Symlink(real, "theirs"))
	links := Links{own: real}
	s, err := links.Make(own+"/a/b", 0o755)
	must(t, err)
	defer s.Close()
	f, err := links.OpenFile(own+"/a/b/x", os.O_WRONLY|os.O_CREATE, 0o644)
	must(t, err)
	f.Close()
	if _, err := os.Stat(real + "/a/b/x"); err != nil {
		t.Error(err)
	}
	for _, at := range []string{theirs, theirs + "/a", theirs + "/new/b"} {
		if _, err := links.Make(at, 0o755); !errors.Is(err, Link) || !strings.Contains(err.Error(), theirs+" is a symbolic link") {
			t.Errorf("make %s: %v", at, err)
		}
		if _, err := links.OpenPath(at); !errors.Is(err, Link) {
			t.Errorf("open the path %s: %v", at, err)
		}
	}
	// Another in the place of the machine's own.
	must(t, d.Remove("own"))
	must(t, d.Symlink(filepath.Dir(outside), "own"))
	if _, err := links.Make(own, 0o755); !errors.Is(err, Link) {
		t.Errorf("a link that leads elsewhere: %v", err)
	}
	// Its own target, as a relative one and as a loop.
	must(t, d.Remove("own"))
	must(t, d.Symlink("own", "own"))
	if _, err := (Links{own: "own"}).Open(own); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a loop: %v", err)
	}
	if _, err := Open("log"); err == nil {
		t.Error("a relative path was opened")
	}
}

// The image's own links, on a root that cannot be written, may be followed.
func TestSealedRoot(t *testing.T) {
	nstest.Need(t)
	_, path, _ := openDir(t)
	link := filepath.Join(filepath.Dir(path), "link")
	must(t, os.Symlink("log", link))
	var top, own unix.Stat_t
	must(t, errors.Join(unix.Stat("/", &top), unix.Lstat(link, &own)))
	if top.Dev != own.Dev {
		t.Skip("the temporary directory is not on the root")
	}
	if _, err := Open(link); !errors.Is(err, Link) {
		t.Fatalf("before: %v", err)
	}
	// A root of our own that is read-only: the real one may have files open for writing.
	sealed := filepath.Join(filepath.Dir(path), "root")
	must(t, os.Mkdir(sealed, 0o755))
	must(t, unix.Mount("/", sealed, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(sealed, unix.MNT_DETACH)) })
	must(t, unix.Mount("", sealed, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	// A file system of somebody else's is not sealed by being read-only.
	must(t, unix.Mount("none", sealed+path, "tmpfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(sealed+path, unix.MNT_DETACH)) })
	must(t, os.Symlink("..", filepath.Join(sealed+path, "link")))
	must(t, unix.Mount("", sealed+path, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // which ends with the goroutine
		if err := errors.Join(unix.Unshare(unix.CLONE_FS), unix.Chroot(sealed)); err != nil {
			t.Error(err)
			return
		}
		if d, err := Open(link); err != nil {
			t.Errorf("the image's own link: %v", err)
		} else {
			d.Close()
		}
		if _, err := Open(filepath.Join(path, "link")); !errors.Is(err, Link) {
			t.Errorf("a link on another file system: %v", err)
		}
	}()
	<-done
}

// Somebody swaps what has the name for a link, and back, all the time.
func TestSwapped(t *testing.T) {
	d, path, outside := openDir(t)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		x, y := filepath.Join(path, "x"), filepath.Join(path, "y")
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Symlink(outside, y)
			_ = os.Rename(y, x)
			_ = os.WriteFile(y, nil, 0o644)
			_ = os.Rename(y, x)
			_ = os.Link(outside, y)
			_ = os.Rename(y, x)
			_ = os.Remove(x)
		}
	}()
	opened, refused := 0, 0
	for range 500 {
		f, err := d.OpenFile("x", os.O_RDWR|os.O_CREATE, 0o644)
		switch {
		case err == nil:
			_, _ = f.WriteString("ours")
			f.Close()
			opened++
		case IsRefused(err):
			refused++
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, fs.ErrNotExist):
			t.Fatal(err)
		}
		_ = d.Rename("x", "x.1")
	}
	close(stop)
	<-done
	if data, err := os.ReadFile(outside); err != nil || string(data) != "theirs" {
		t.Errorf("outside: %q, %v", data, err)
	}
	if opened == 0 || refused == 0 {
		t.Errorf("opened %d times, refused %d times: nothing was tried", opened, refused)
	}
}

// The directory that is open stays what it was.
func TestDirectorySwapped(t *testing.T) {
	d, path, outside := openDir(t)
	must(t, os.Rename(path, path+".old"))
	must(t, os.Symlink(filepath.Dir(outside), path))
	f, err := d.OpenFile("x", os.O_WRONLY|os.O_CREATE, 0o644)
	must(t, err)
	f.Close()
	if _, err := os.Lstat(path + ".old/x"); err != nil {
		t.Error(err)
	}
	if _, err := Open(path); !errors.Is(err, Link) {
		t.Errorf("opened again: %v", err)
	}
}

func TestList(t *testing.T) {
	d, _, _ := openDir(t)
	for _, name := range []string{"c", "a", "b"} {
		must(t, d.Symlink("x", name))
	}
	names, err := d.List(10)
	if err != nil || strings.Join(names, " ") != "a b c" {
		t.Errorf("list: %v, %v", names, err)
	}
	if names, err := d.List(2); err != nil || len(names) != 2 {
		t.Errorf("list two: %v, %v", names, err)
	}
	if to, err := d.Readlink("a"); err != nil || to != "x" {
		t.Errorf("readlink: %q, %v", to, err)
	}
	s, err := d.Statfs()
	if err != nil || s.Bsize == 0 {
		t.Errorf("statfs: %+v, %v", s, err)
	}
}

func TestWritable(t *testing.T) {
	_, path, outside := openDir(t)
	x := filepath.Join(path, "x")
	for range 2 {
		f, err := Machine.Writable(x, 0o644)
		must(t, err)
		_, err = f.WriteString("line\n")
		must(t, errors.Join(err, f.Close()))
	}
	if data, err := os.ReadFile(x); err != nil || string(data) != "line\nline\n" {
		t.Errorf("read %q, %v", data, err)
	}
	must(t, errors.Join(os.Remove(x), os.Symlink(outside, x)))
	if _, err := Machine.Writable(x, 0o644); !errors.Is(err, Link) {
		t.Errorf("a link: %v", err)
	}
	f, err := Machine.Writable("/dev/null", 0o644)
	must(t, err)
	_, err = f.WriteString("line\n")
	must(t, errors.Join(err, f.Close()))
	if _, err := Machine.Writable("/dev/stdout", 0o644); !errors.Is(err, Link) {
		t.Errorf("a link below /dev: %v", err)
	}
	if os.Getuid() != 0 {
		return
	}
	must(t, os.Remove(x))
	must(t, unix.Mknod(x, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	if _, err := Machine.Writable(x, 0o644); !errors.Is(err, Kind) {
		t.Errorf("a device that is not below /dev: %v", err)
	}
}

func TestSocket(t *testing.T) {
	d, path, _ := openDir(t)
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(path, "s"), Net: "unixgram"})
	must(t, err)
	defer l.Close()
	f, address, err := Machine.Socket(filepath.Join(path, "s"))
	must(t, err)
	defer f.Close()
	must(t, d.Rename("s", "t")) // which changes nothing for who has it
	must(t, d.Symlink("t", "s"))
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	must(t, err)
	_, err = conn.Write([]byte("hello"))
	must(t, errors.Join(err, conn.Close()))
	b := make([]byte, 10)
	if n, err := l.Read(b); err != nil || string(b[:n]) != "hello" {
		t.Errorf("read %q, %v", b[:n], err)
	}
	must(t, d.Mkdir("directory", 0o755))
	for name, want := range map[string]Reason{"s": Link, "directory": Kind} {
		if _, _, err := Machine.Socket(filepath.Join(path, name)); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPutAside(t *testing.T) {
	d, path, _ := openDir(t)
	for i := 1; i <= 9; i++ {
		must(t, os.MkdirAll(filepath.Join(path, "x", "full"), 0o755))
		if to, err := d.PutAside("x"); err != nil || to != fmt.Sprintf("x.refused.%d", i) {
			t.Errorf("%q, %v", to, err)
		}
	}
	must(t, d.Symlink("y", "x"))
	if to, err := d.PutAside("x"); err == nil || !strings.Contains(err.Error(), "there are 9 of "+filepath.Join(path, "x.refused")) {
		t.Errorf("a tenth: %q, %v", to, err)
	}
	must(t, os.RemoveAll(filepath.Join(path, "x.refused.3")))
	if to, err := d.PutAside("x"); err != nil || to != "x.refused.3" {
		t.Errorf("%q, %v", to, err)
	}
	if to, err := d.PutAside("x"); err != nil || to != "" {
		t.Errorf("nothing: %q, %v", to, err)
	}
}
