// Package hugepages keeps the machine's own processes from being given huge
// pages that nobody asked for.
//
// A kernel whose transparent huge pages are on for all, as Debian's are, backs
// the first byte that is touched of an aligned 2 MB with all of them. A Go
// program touches a few KB of such a stretch before its first line of ours runs:
// 2 to 4 MB for each of our processes, in a machine that lives in memory. The
// only way to be asked beforehand is the parent's flag (prctl(2),
// PR_SET_THP_DISABLE), which children inherit.
//
// It promises that what a user's programs get is as it was: a process that was
// started Without them lifts the flag for its own children with Refuse. It must
// never be used for a program that does not call Refuse.
package hugepages

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

var mu sync.Mutex // one start at a time has the flag

// Without calls start, which starts one process that calls Refuse, so that the
// process begins without huge pages. A kernel that knows no such flag has none.
func Without(start func() error) error {
	mu.Lock()
	defer mu.Unlock()
	if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err == nil {
		defer func() { _ = unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0) }()
	}
	return start()
}

// Refuse says, for all memory that this process has so far, that it is to have
// no huge pages, and lifts the flag that it was started with, so that its
// children get what the machine is set to. What memory Go takes later refuses
// them by itself (GODEBUG=disablethp=1, set when our programs are linked).
func Refuse() error {
	set, err := unix.PrctlRetInt(unix.PR_GET_THP_DISABLE, 0, 0, 0, 0)
	if err != nil || set == 0 {
		return nil // nothing to lift; what was given cannot be given back
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0) }()
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("refuse huge pages: %w", err)
	}
	defer maps.Close()
	return eachAnonymous(maps, func(start, end uintptr) {
		// A stretch that is gone by now, or that refuses already, is as good.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_NOHUGEPAGE)
	})
}

// eachAnonymous calls do for each stretch of proc_pid_maps(5) that is writable
// and of no file.
func eachAnonymous(maps io.Reader, do func(start, end uintptr)) error {
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 || !strings.HasPrefix(fields[1], "rw") || fields[4] != "0" {
			continue
		}
		var start, end uintptr
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &start, &end); err != nil {
			return fmt.Errorf("/proc/self/maps: %q: %w", lines.Text(), err)
		}
		do(start, end)
	}
	return lines.Err()
}
