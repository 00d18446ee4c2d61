package capture

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"keelson/internal/nstest"
)

// Log files leave others room on a small file system: the old ones go.
func TestFilesLeaveRoom(t *testing.T) {
	nstest.Need(t)
	dir := t.TempDir()
	small := nstest.Tmpfs(t, "size=6m")
	src := source(dir)
	src.File = filepath.Join(small, "web.log")
	src.Warn = t.Errorf
	y := machine(t, dir, 1<<30)
	y.room = roomOf
	s := openSource(t, y, src)
	w := writer(t, s)
	line := append(bytes.Repeat([]byte{'x'}, 99), '\n')
	for range 20 * rotateBytes / len(line) {
		if _, err := w.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.Close()
	s.Close(false)
	var fs unix.Statfs_t
	if err := unix.Statfs(small, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Bavail < fs.Blocks/8 {
		t.Errorf("%d of %d blocks are free", fs.Bavail, fs.Blocks)
	}
	if _, err := os.Stat(numbered(src.File, 1)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(numbered(src.File, 5)); err == nil {
		t.Error("six files are there")
	}
}
