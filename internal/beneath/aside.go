package beneath

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

const (
	// asideSuffix is behind the name of what was in the way, before its number.
	asideSuffix = ".refused"
	// mostAside is how many such names there are of one: whoever makes more of them is
	// not helped to fill the file system.
	mostAside = 9
)

// PutAside gives what has a name in the directory another name, whatever it is: the first
// of NAME.refused.1 to NAME.refused.9 that is free. It returns that name, "" where there is
// nothing to move any more.
func (d *Dir) PutAside(name string) (string, error) {
	for i := 1; i <= mostAside; i++ {
		to := fmt.Sprintf("%s%s.%d", name, asideSuffix, i)
		err := d.Move(name, d, to, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EINVAL) { // a file system that does not know that
			if _, err = d.Stat(to); err == nil {
				continue
			}
			if errors.Is(err, fs.ErrNotExist) {
				err = d.Rename(name, to)
			}
		}
		switch {
		case err == nil:
			return to, nil
		case errors.Is(err, fs.ErrNotExist):
			return "", nil
		case !errors.Is(err, fs.ErrExist):
			return "", err
		}
	}
	return "", fmt.Errorf("there are %d of %s already", mostAside, d.join(name+asideSuffix))
}
