package probe

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// looking holds the files that are being looked at: one on a file system that
// hangs is left behind when its context ends, and not joined by a second.
var looking struct {
	sync.Mutex
	at map[string]bool
}

// checkFile reports whether a path exists in the container of a process.
func checkFile(ctx context.Context, path string, pid int) error {
	what := fmt.Sprintf("%d:%s", pid, path)
	looking.Lock()
	hangs := looking.at[what]
	if !hangs {
		if looking.at == nil {
			looking.at = map[string]bool{}
		}
		looking.at[what] = true
	}
	looking.Unlock()
	if hangs {
		return fmt.Errorf("%s: its file system does not answer", path)
	}
	found := make(chan error, 1)
	go func() {
		err := exists(path, pid)
		looking.Lock()
		delete(looking.at, what)
		looking.Unlock()
		found <- err
	}()
	select {
	case err := <-found:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// renameTries bounds how often a path is followed that changes meanwhile.
const renameTries = 100

// exists looks for a path below the root directory of a process. Symbolic links
// are followed as that process would follow them; those of /proc are not, as
// they lead anywhere.
func exists(path string, pid int) error {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return errGone
	}
	if err != nil {
		return fmt.Errorf("open the root directory of process %d: %w", pid, err)
	}
	defer unix.Close(root)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for try := 1; ; try++ {
		fd, err := unix.Openat2(root, path, &how)
		switch {
		case err == nil:
			return unix.Close(fd)
		case (errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)) && try < renameTries: // something was renamed meanwhile
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			return fmt.Errorf("%s does not exist", path)
		case errors.Is(err, unix.ENOSYS):
			return fmt.Errorf("%s: the kernel has no openat2, which came with Linux 5.6: use another kind of probe", path)
		default:
			return fmt.Errorf("look for %s: %w", path, err)
		}
	}
}
