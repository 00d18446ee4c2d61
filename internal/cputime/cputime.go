// Package cputime reads how much processor time a process has had, has waited for and
// waits for: what tells a process that is slow from one that makes no progress.
//
// It promises that a process which wants the processor is seen to, whether it gets it or
// not. It reads /proc only, and needs the standard library only, as PID 1 links it.
package cputime

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Proc reads /proc.
type Proc interface {
	ReadFile(path string) ([]byte, error)
	// ReadDir returns the names in a directory.
	ReadDir(path string) ([]string, error)
}

// Sample is what a process has had at one moment.
type Sample struct {
	// Wanted is the time that its threads have run or have waited for a processor.
	Wanted time.Duration
	// Runnable says that one of its threads runs or waits for a processor now. The
	// kernel adds to Wanted only when such a wait is over.
	Runnable bool
	// Stopped says that each of its threads has been stopped by a signal or a debugger.
	Stopped bool
}

// tick is USER_HZ, the unit of /proc/PID/stat on every architecture that Go knows.
const tick = 10 * time.Millisecond

// Of reads a sample of a process.
func Of(proc Proc, pid int) (Sample, error) {
	dir := "/proc/" + strconv.Itoa(pid) + "/task"
	threads, err := proc.ReadDir(dir)
	if err != nil {
		return Sample{}, err
	}
	s := Sample{Stopped: true}
	seen := false
	for _, thread := range threads {
		stat, err := proc.ReadFile(dir + "/" + thread + "/stat")
		if err != nil {
			continue // it has exited
		}
		// The name, field 2, may hold blanks and parentheses itself.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 13 {
			continue
		}
		seen = true
		s.Runnable = s.Runnable || fields[0] == "R"
		s.Stopped = s.Stopped && (fields[0] == "T" || fields[0] == "t")
		s.Wanted += wanted(proc, dir+"/"+thread, fields)
	}
	if !seen {
		return Sample{}, errors.New(dir + ": no thread can be read")
	}
	return s, nil
}

// wanted is what a thread has run and waited for: nanoseconds in schedstat, or where the
// kernel lacks that, the ticks that it ran.
func wanted(proc Proc, thread string, stat []string) time.Duration {
	if data, err := proc.ReadFile(thread + "/schedstat"); err == nil {
		if f := strings.Fields(string(data)); len(f) == 3 {
			ran, err := strconv.ParseInt(f[0], 10, 64)
			waited, err2 := strconv.ParseInt(f[1], 10, 64)
			if err == nil && err2 == nil {
				return time.Duration(ran + waited)
			}
		}
	}
	user, _ := strconv.ParseInt(stat[11], 10, 64) // fields 14 and 15 of proc_pid_stat(5)
	system, _ := strconv.ParseInt(stat[12], 10, 64)
	return time.Duration(user+system) * tick
}

// idleShare is the part of an interval below which a process has done nothing in it.
const idleShare = 10

// Worked reports whether a process wanted the processor for a tenth of the interval
// between two samples or more, or wants it now. A thread that has exited has worked.
func Worked(before, after Sample, interval time.Duration) bool {
	used := after.Wanted - before.Wanted
	return after.Runnable || used < 0 || used*idleShare >= interval
}
