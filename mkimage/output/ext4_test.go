package output

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"keelson/mkimage/tree"
)

func ext4(t *testing.T) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "ext4"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var told int
	if err := Ext4(context.Background(), f, sample(t), func(n int) { told += n }); err != nil {
		t.Fatal(err)
	}
	if told != 7 {
		t.Errorf("told of %d bytes, want 7", told)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is in it is looked at by e2fsck and the kernel, in the tests of machines.
func TestExt4(t *testing.T) {
	one := ext4(t)
	if !bytes.Equal(one, ext4(t)) {
		t.Error("the same tree gave other bytes")
	}
	if len(one)%4096 != 0 || string(one[1024+56:1024+58]) != "\x53\xef" {
		t.Errorf("%d bytes with magic %x are no ext4", len(one), one[1024+56:1024+58])
	}
	for _, part := range []string{"12345", "busybox", "/proc/mounts", "tty1"} {
		if !bytes.Contains(one, []byte(part)) {
			t.Errorf("%s is not in it", part)
		}
	}
}

// A source and a disk that fail end it, with their own error and without anybody left waiting.
func TestExt4Ends(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f, err := os.Create(filepath.Join(t.TempDir(), "ext4"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Ext4(ctx, f, sample(t), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	// More than lies between the two that work on it.
	tr := sample(t)
	root, err := tr.Root("/")
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Put("large", tree.File(0o644, make([]byte, 4<<20))); err != nil {
		t.Fatal(err)
	}
	if err := Ext4(context.Background(), full, tr, nil); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk: got %v", err)
	}
}
