package ceiling

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A file system is bounded to little more than it holds; another one that its path leads to by
// then, as a container has changed what lies above it, is not.
func TestBound(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, for a mount namespace of its own")
	}
	runtime.LockOSThread() // and not unlocked: the thread exits with the test
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	blocks := func(path string) uint64 {
		t.Helper()
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * uint64(st.Bsize)
	}
	var st unix.Stat_t
	ours, theirs := filepath.Join(dir, "ours", "x"), filepath.Join(dir, "theirs", "x")
	for _, path := range []string{ours, theirs} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID, "size=4m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	}
	if err := unix.Stat(theirs, &st); err != nil {
		t.Fatal(err)
	}
	s := shared{path: theirs, device: fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))}
	if err := os.WriteFile(theirs+"/file", make([]byte, mib), 0o600); err != nil {
		t.Fatal(err)
	}
	changed := s
	changed.path = dir + "/link/x"
	if err := os.Symlink("ours", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := changed.bound(kib); err == nil || blocks(ours) != 4*mib {
		t.Errorf("another file system: %v, it has %d KiB", err, blocks(ours)/kib)
	}
	if err := s.bound(64 * kib); err != nil {
		t.Fatal(err)
	}
	if got := blocks(theirs); got < mib || got > mib+128*kib {
		t.Errorf("it has %d KiB", got/kib)
	}
	if err := os.WriteFile(theirs+"/more", make([]byte, mib), 0o600); err == nil {
		t.Error("it can still be filled")
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(theirs, &fs); err != nil || fs.Flags&unix.ST_NOSUID == 0 {
		t.Errorf("its flags are %#x: %v", fs.Flags, err)
	}
}
