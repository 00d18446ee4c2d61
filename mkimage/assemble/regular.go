package assemble

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openRegular opens a regular file. It never waits, as opening a pipe that nobody
// writes to does, and never opens a device.
func openRegular(name string) (*os.File, error) {
	if fi, err := os.Stat(name); err == nil && !fi.Mode().IsRegular() {
		return nil, notRegular(name)
	}
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = notRegular(name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func notRegular(name string) error {
	return fmt.Errorf("%s is not a regular file; give one file each", name)
}
