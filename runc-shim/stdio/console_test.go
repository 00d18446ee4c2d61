package stdio

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// What a terminal answers when its last process has gone is its end and no failure; what
// a disk answers is one.
func TestATerminalEndsInNoFailure(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	if _, err := master.Read(make([]byte, 1)); !hungUp(err) {
		t.Errorf("the end is told as %v", err)
	}
	if hungUp(&os.PathError{Op: "write", Err: unix.EIO}) {
		t.Error("output that could not be written counts as the end")
	}
}
