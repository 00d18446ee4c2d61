package seal

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

func TestCopyIsSealedAndRuns(t *testing.T) {
	src, err := os.Open("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if Sealed(src.Fd()) {
		t.Error("a file on disk is sealed")
	}
	f, err := Copy(src, "true")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !Sealed(f.Fd()) {
		t.Error("the copy is not sealed")
	}
	if _, err := f.WriteAt([]byte{0}, 0); err == nil {
		t.Error("the copy can be written to")
	}
	if err := exec.Command(filepath.Join("/proc", strconv.Itoa(os.Getpid()), "fd", strconv.Itoa(int(f.Fd())))).Run(); err != nil {
		t.Errorf("the copy does not run: %v", err)
	}
}
