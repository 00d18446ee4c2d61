package userns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/mounts"
	"keelson/internal/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

// testMapping gives 0 to 999 to 200000 on, and lacks the rest.
var testMapping = Of(container(entry(0, 200000, 1000)))

// contents is what the image's large file holds.
var contents = strings.Repeat("0123456789abcdef", 64<<10)

// setUp makes an image and a place for copies of it.
func setUp(t *testing.T) (*Images, string) {
	t.Helper()
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	image := filepath.Join(base, "image")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(image, "home/me"), 0o755))
	must(os.Chmod(image, 0o750))
	must(os.WriteFile(filepath.Join(image, "large"), []byte(contents), 0o640))
	must(os.WriteFile(filepath.Join(image, "su"), nil, 0o755))
	must(os.Chmod(filepath.Join(image, "su"), 0o4755|os.ModeSetuid))
	must(os.WriteFile(filepath.Join(image, "ping"), nil, 0o755))
	must(unix.Lsetxattr(filepath.Join(image, "ping"), capsName, fileCaps(2, 1<<13), 0))
	must(os.WriteFile(filepath.Join(image, "home/me/mine"), nil, 0o600))
	must(os.Lchown(filepath.Join(image, "home/me"), 7, 8))
	must(os.Lchown(filepath.Join(image, "home/me/mine"), 7, 8))
	must(os.Chmod(filepath.Join(image, "home/me"), 0o2770|os.ModeSetgid))
	must(os.WriteFile(filepath.Join(image, "strange"), nil, 0o644))
	must(os.Lchown(filepath.Join(image, "strange"), 1000, 999))
	must(os.Symlink("/etc/shadow", filepath.Join(image, "link")))
	must(os.Link(filepath.Join(image, "large"), filepath.Join(image, "home/again")))
	must(unix.Mknod(filepath.Join(image, "null"), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3))))
	return &Images{Dir: filepath.Join(base, "run/userns")}, image
}

// fileCaps returns the capabilities of a file, effective and permitted.
func fileCaps(version byte, permitted uint32) []byte {
	caps := make([]byte, capsSize2)
	caps[0], caps[3] = 1, version
	caps[4], caps[5] = byte(permitted), byte(permitted>>8)
	return caps
}

// show mounts what Lower returned, as a container without anything to write to has it.
func show(t *testing.T, lower string) string {
	t.Helper()
	at := t.TempDir()
	e := mounts.Entry{Source: "overlay", Target: at, Type: "overlay", Options: []string{Metacopy, "lowerdir=" + lower}}
	if _, err := e.Ensure(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	return at
}

// list returns mode, user and group of everything in a folder.
func list(t *testing.T, dir string) string {
	t.Helper()
	var text strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			st := info.Sys().(*syscall.Stat_t)
			fmt.Fprintf(&text, "%s %v %d %d\n", strings.TrimPrefix(path, dir), info.Mode(), st.Uid, st.Gid)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func TestCopyOfAnImage(t *testing.T) {
	images, image := setUp(t)
	before := list(t, image)
	lower, err := images.Lower(t.Context(), image, testMapping)
	if err != nil {
		t.Fatal(err)
	}
	at := show(t, lower)
	const want = ` drwxr-x--- 200000 200000
/home drwxr-xr-x 200000 200000
/home/again -rw-r----- 200000 200000
/home/me dgrwxrwx--- 200007 200008
/home/me/mine -rw------- 200007 200008
/large -rw-r----- 200000 200000
/link Lrwxrwxrwx 200000 200000
/null Dcrw-r--r-- 200000 200000
/ping -rwxr-xr-x 200000 200000
/strange -rw-r--r-- 4294967294 200999
/su urwxr-xr-x 200000 200000
`
	if got := list(t, at); got != want {
		t.Errorf("the copy is\n%swant\n%s", got, want)
	}
	for _, name := range []string{"large", "home/again"} {
		if got, err := os.ReadFile(filepath.Join(at, name)); err != nil || string(got) != contents {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if to, err := os.Readlink(filepath.Join(at, "link")); to != "/etc/shadow" {
		t.Errorf("link: %q, %v", to, err)
	}
	if list(t, image) != before {
		t.Errorf("the image was changed:\n%s", list(t, image))
	}
	var st unix.Statfs_t
	if err := unix.Statfs(images.Dir, &st); err != nil {
		t.Fatal(err)
	}
	if used := (st.Blocks - st.Bfree) * uint64(st.Bsize); used > uint64(len(contents))/2 {
		t.Errorf("the copy takes %d bytes: it has the contents of files", used)
	}
	for path, want := range map[string]os.FileMode{images.Dir: 0o711, filepath.Dir(strings.Split(lower, ":")[0]): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v: %v", path, info.Mode(), want, err)
		}
	}
	points, err := mounts.Below(images.Dir)
	if err != nil || len(points) != 1 {
		t.Errorf("left mounted: %v %v", points, err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(strings.Split(lower, ":")[0])); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

// TestCapabilitiesCountInTheNamespace: those of the machine's root would be void there.
// TestChownFollowsNoLinks: neither the links that an image has, nor those that somebody puts
// in a directory's place meanwhile, lead to what is outside.
func TestChownFollowsNoLinks(t *testing.T) {
	nstest.Need(t)
	base := nstest.Tmpfs(t, "size=10m")
	for _, dir := range []string{"image/a/b", "outside"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 200 { // those in image come before a, which gives it time to change
		for _, dir := range []string{"image", "image/a/b", "outside"} {
			if err := os.WriteFile(fmt.Sprintf("%s/%s/f%d", base, dir, i), nil, 0o4755); err != nil {
				t.Fatal(err)
			}
		}
	}
	for link, to := range map[string]string{"image/dir": base + "/outside", "image/file": base + "/outside/f0", "image/link": base + "/outside"} {
		if err := os.Symlink(to, filepath.Join(base, link)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	swapping := make(chan error, 1)
	go func() {
		var err error
		for ctx.Err() == nil && err == nil {
			err = unix.Renameat2(unix.AT_FDCWD, base+"/image/a", unix.AT_FDCWD, base+"/image/link", unix.RENAME_EXCHANGE)
		}
		swapping <- err
	}()
	users := &Mapping{
		UIDs: []specs.LinuxIDMapping{{HostID: 200000, Size: 300000}}, GIDs: []specs.LinuxIDMapping{{HostID: 200000, Size: 300000}},
	}
	for range 50 {
		_ = chownAll(ctx, base+"/image", users) // it may come upon the link where it saw a directory
	}
	stop()
	if err := <-swapping; err != nil {
		t.Fatal(err)
	}
	if err := chownAll(t.Context(), base+"/image", users); err != nil {
		t.Error(err)
	}
	for path, given := range map[string]bool{"outside": false, "outside/f0": false, "outside/f199": false, "image/dir": true, "image": true} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(base, path), &st); err != nil || (st.Uid != 0) != given {
			t.Errorf("%s belongs to %d: %v", path, st.Uid, err)
		}
	}
}

func TestCapabilitiesCountInTheNamespace(t *testing.T) {
	images, image := setUp(t)
	lower, err := images.Lower(t.Context(), image, testMapping)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 64)
	n, err := unix.Lgetxattr(filepath.Join(show(t, lower), "ping"), capsName, got)
	want := append(fileCaps(3, 1<<13), 0x40, 0x0d, 0x03, 0x00) // 200000
	if err != nil || string(got[:n]) != string(want) {
		t.Errorf("%x, %v, want %x", got[:max(n, 0)], err, want)
	}
}

func TestCopyIsMadeOnce(t *testing.T) {
	images, image := setUp(t)
	var all sync.WaitGroup
	lowers := make([]string, 8)
	for i := range lowers {
		all.Go(func() {
			var err error
			if lowers[i], err = images.Lower(t.Context(), image, testMapping); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	inode := func(path string) uint64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	first, _, _ := strings.Cut(lowers[0], ":")
	was := inode(first)
	// Another supervisor, later.
	again, err := (&Images{Dir: images.Dir}).Lower(t.Context(), image, testMapping)
	if err != nil || again != lowers[0] || lowers[7] != lowers[0] || inode(first) != was {
		t.Errorf("made again: %q and %q, %v", again, lowers, err)
	}
	other, err := images.Lower(t.Context(), image, Of(container(entry(0, 300000, 1000))))
	if err != nil || other == again {
		t.Errorf("another mapping has the same copy %q, %v", other, err)
	}
}

// TestHalfACopyIsMadeAnew: an earlier supervisor died in the middle.
func TestHalfACopyIsMadeAnew(t *testing.T) {
	images, image := setUp(t)
	lower, err := images.Lower(t.Context(), image, testMapping)
	if err != nil {
		t.Fatal(err)
	}
	whole, _, _ := strings.Cut(lower, ":")
	dir := filepath.Dir(whole)
	at := filepath.Join(dir, merged)
	for _, name := range []string{work, merged} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(whole, filepath.Join(dir, half)); err != nil {
		t.Fatal(err)
	}
	options := "lowerdir=" + image + ",upperdir=" + filepath.Join(dir, half) + ",workdir=" + filepath.Join(dir, work) + "," + Metacopy
	if err := unix.Mount("overlay", at, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(filepath.Join(at, "su"), 1, 1); err != nil {
		t.Fatal(err)
	}
	if again, err := (&Images{Dir: images.Dir}).Lower(t.Context(), image, testMapping); err != nil || again != lower {
		t.Fatalf("%q, %v", again, err)
	}
	if got := list(t, show(t, lower)); !strings.Contains(got, "/su urwxr-xr-x 200000 200000\n") {
		t.Errorf("not made anew:\n%s", got)
	}
	if points, err := mounts.Below(images.Dir); err != nil || len(points) != 1 {
		t.Errorf("left mounted: %v %v", points, err)
	}
}

func TestCopyThatCannotBeMade(t *testing.T) {
	images, image := setUp(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := images.Lower(ctx, image, testMapping)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	_, err = images.Lower(t.Context(), image+"/none", testMapping)
	if err == nil || !strings.Contains(err.Error(), "look at the image: stat "+image+"/none: no such file or directory") {
		t.Errorf("no image: %v", err)
	}
	if entries, err := os.ReadDir(images.Dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v %v", entries, err)
	}
	if points, err := mounts.Below(images.Dir); err != nil || len(points) != 1 {
		t.Errorf("left mounted: %v %v", points, err)
	}
	// Who waits for another's copy has a bound too.
	key, err := key(image, testMapping)
	if err != nil {
		t.Fatal(err)
	}
	done, err := images.enter(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if _, err := images.Lower(ctx, image, testMapping); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while another makes it: %v", err)
	}
}
