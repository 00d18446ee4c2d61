package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// cut kills a process as soon as it has taken something out of a pipe: at the end of the system call that did it,
// before it comes to do anything with that. Once it watches, it writes a line to a file, for whoever is to fill the
// pipe.
func cut(process, pipe, file, line string) error {
	pid, err := strconv.Atoi(process)
	if err != nil {
		return err
	}
	fifo, err := unix.Open(pipe, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", pipe, err)
	}
	runtime.LockOSThread() // a tracer is one thread
	threads, err := hold(pid)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte(line+"\n"), 0); err != nil {
		return err
	}
	for _, thread := range threads {
		if err := unix.PtraceSyscall(thread, 0); err != nil {
			return fmt.Errorf("let thread %d go on: %w", thread, err)
		}
	}
	for had := 0; ; {
		var status unix.WaitStatus
		thread, err := unix.Wait4(-1, &status, unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for process %d: %w", pid, err)
		}
		if !status.Stopped() {
			continue // a thread has ended
		}
		has, err := unix.IoctlGetInt(fifo, unix.TIOCINQ)
		if err != nil {
			return fmt.Errorf("look into %s: %w", pipe, err)
		}
		if has < had {
			return unix.Kill(pid, unix.SIGKILL)
		}
		had = has
		signal := int(status.StopSignal())
		if signal == int(unix.SIGTRAP)|0x80 || status>>16 != 0 { // a system call, or a new thread
			signal = 0
		}
		if err := unix.PtraceSyscall(thread, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("let thread %d go on: %w", thread, err)
		}
	}
}

// hold stops all threads of a process, to be traced from here on with those that they start.
func hold(pid int) (threads []int, err error) {
	held := map[int]bool{}
	for {
		names, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return nil, err
		}
		before := len(threads)
		for _, name := range names {
			thread, err := strconv.Atoi(name.Name())
			if err != nil || held[thread] {
				continue
			}
			if err := unix.PtraceSeize(thread); err != nil {
				return nil, fmt.Errorf("trace thread %d: %w", thread, err)
			}
			if err := unix.PtraceInterrupt(thread); err != nil {
				return nil, fmt.Errorf("stop thread %d: %w", thread, err)
			}
			if _, err := unix.Wait4(thread, nil, unix.WALL, nil); err != nil {
				return nil, fmt.Errorf("wait for thread %d: %w", thread, err)
			}
			if err := unix.PtraceSetOptions(thread, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE); err != nil {
				return nil, fmt.Errorf("trace thread %d: %w", thread, err)
			}
			held[thread] = true
			threads = append(threads, thread)
		}
		if len(threads) == before {
			return threads, nil
		}
	}
}
