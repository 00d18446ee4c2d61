package shutdown

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"keelson/init/mountinfo"
	"keelson/init/mounts"
)

// rounds bounds the passes over the mounts; each but the last unmounts
// something, so it is a bound on how deep mounts hide each other.
const rounds = 64

// A mount that is busy with nobody left to hold it is tried again, so often and
// after so long.
const (
	settlePauses = 25
	settlePause  = 20 * time.Millisecond
)

// unmount unmounts newest first until nothing changes, and says in words what
// came of it.
func (e *End) unmount() string {
	limit := e.Clock.Now().Add(UnmountBound)
	count, settle := 0, settlePauses
	freed := false // swap and loop devices, since a mount went
	busy := map[string]error{}
	for range rounds {
		n := e.unmountRound(limit, busy)
		if count += n; n > 0 {
			freed = false
			continue
		}
		// Only what the kernel itself holds is left: swap, which a mount may
		// have hidden until now, loop devices and what is made of them, and for a
		// moment what it has not taken back yet from the processes that were killed.
		// A container that set up a loop device had a mount of its own below it: the
		// machine's is unmounted, and the file system is in use all the same.
		if e.Machine {
			mapped := e.removeMapped()
			if mapped || !freed {
				freed = true
				swap, loop := len(busy) > 0 && e.swapOff(), e.detachLoops()
				if mapped || swap || loop {
					continue
				}
			}
		}
		if len(busy) == 0 {
			break
		}
		if settle == 0 || !anyBusy(busy) {
			break
		}
		settle--
		<-e.Clock.After(settlePause)
	}
	for target, err := range busy {
		if !errors.Is(err, errHung) { // that has been said
			e.Console.Error(name, "unmount %s: %v%s", target, err, e.heldBy(target))
		}
	}
	e.readOnly(limit)
	if len(busy) > 0 {
		return fmt.Sprintf("unmounted %d file systems, %d are left", count, len(busy))
	}
	return fmt.Sprintf("unmounted %d file systems", count)
}

// anyBusy tells whether waiting may help one of the mounts.
func anyBusy(busy map[string]error) bool {
	for _, err := range busy {
		if errors.Is(err, unix.EBUSY) {
			return true
		}
	}
	return false
}

// unmountRound tries each mount once. busy is left with those that failed.
func (e *End) unmountRound(limit time.Time, busy map[string]error) (unmounted int) {
	text, err := e.Kernel.ReadFile("/proc/self/mountinfo")
	if err != nil {
		e.Console.Error(name, "cannot tell what is mounted: %v", mounts.Errno(err))
		return 0
	}
	hung := map[string]error{}
	for target, err := range busy {
		if errors.Is(err, errHung) {
			hung[target] = err
		}
	}
	clear(busy)
	for _, m := range mountinfo.ToUnmount(mountinfo.Parse(string(text))) {
		if err, ok := hung[m.Target]; ok {
			busy[m.Target] = err
			continue
		}
		left := min(limit.Sub(e.Clock.Now()), DiskBound)
		if mountinfo.OnNetwork(m) {
			left = min(left, NetworkBound)
		}
		if err := e.unmountOne(m, left); err != nil {
			busy[m.Target] = err
			continue
		}
		unmounted++
	}
	return unmounted
}

var (
	errHung = errors.New("it did not end in time")
	errLate = errors.New("no time was left for it")
)

func (e *End) unmountOne(m mountinfo.Mount, limit time.Duration) error {
	if limit <= 0 {
		return errLate
	}
	result := make(chan error, 1)
	if !e.bounded(limit, func() { result <- e.Kernel.Unmount(m.Target, unix.UMOUNT_NOFOLLOW) }) {
		e.Console.Error(name, "unmount %s (%s): %v, %s", m.Target, m.Type, errHung, limit)
		_ = e.bounded(NetworkBound, func() { _ = e.Kernel.Unmount(m.Target, unix.MNT_FORCE|unix.MNT_DETACH) })
		return errHung
	}
	select {
	case err := <-result:
		return err
	default: // it panicked, and that has been said
		return errHung
	}
}

// readOnly makes what could not be unmounted, the root above all, read-only.
func (e *End) readOnly(limit time.Time) {
	if !e.Machine {
		return // the file systems may be somebody else's as well
	}
	text, err := e.Kernel.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return
	}
	for _, m := range mountinfo.Parse(string(text)) {
		if m.ReadOnly || !mountinfo.HasStore(m) {
			continue
		}
		result := make(chan error, 1)
		left := min(limit.Sub(e.Clock.Now()), DiskBound)
		if left <= 0 || !e.bounded(left, func() {
			result <- e.Kernel.Mount("", m.Target, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}) {
			e.Console.Error(name, "remount %s read-only: %v", m.Target, errLate)
			continue
		}
		select {
		case err := <-result:
			if err != nil {
				e.Console.Error(name, "remount %s read-only: %v", m.Target, mounts.Errno(err))
			}
		default:
		}
	}
}

// heldBy names what keeps a mount busy.
func (e *End) heldBy(target string) string {
	holders := holders(e.Kernel, target)
	holders = append(holders, e.loopHolders(target)...)
	for _, file := range e.swaps() {
		if under(file, target) {
			holders = append(holders, "swap on "+file)
		}
	}
	if text, err := e.Kernel.ReadFile("/proc/self/mountinfo"); err == nil {
		for _, m := range mountinfo.Parse(string(text)) {
			if m.Target != target && under(m.Target, target) {
				holders = append(holders, "the mount "+m.Target)
			}
		}
	}
	if len(holders) == 0 {
		return ""
	}
	return "; held by " + strings.Join(holders, ", ")
}

// under tells whether path lies in the folder top or is it.
func under(path, top string) bool {
	return path == top || strings.HasPrefix(path, strings.TrimSuffix(top, "/")+"/")
}
