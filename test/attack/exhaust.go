package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What there is only so much of. The attempts take all they can get and keep it; whether others still have what they
// need is for the test to see, so an attempt that gets much has not escaped.

// fill writes into each directory until nothing more goes in, and again as soon as somebody makes room.
func fill(args []string) (string, error) {
	block := make([]byte, 1<<20)
	var total int64
	for _, dir := range args {
		f, err := os.OpenFile(filepath.Join(dir, "fill"), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return "", err
		}
		size := len(block)
		for size > 0 {
			n, err := f.Write(block[:size])
			total += int64(n)
			if err != nil {
				size /= 16 // what is left of the room is taken in smaller pieces
			}
		}
		f.Close()
	}
	return "", fmt.Errorf("wrote %d MiB", total>>20)
}

// fillInodes makes files without content until there can be no more.
func fillInodes(args []string) (string, error) {
	made := 0
	for _, dir := range args {
		_ = os.Mkdir(filepath.Join(dir, "inodes"), 0o755)
		for {
			f, err := os.Create(filepath.Join(dir, "inodes", fmt.Sprint(made)))
			if err != nil {
				break
			}
			f.Close()
			if made++; made == 2000000 {
				break
			}
		}
	}
	return "", fmt.Errorf("made %d files", made)
}

// forkBomb starts processes that start processes.
func forkBomb([]string) (string, error) {
	for {
		_ = exec.Command("/bin/attack", "fork-bomb").Start()
	}
}

// inotify takes instances, of which all of a user's processes have so many together.
func inotify([]string) (string, error) {
	made := 0
	for {
		if _, err := unix.InotifyInit1(0); err != nil {
			return "", fmt.Errorf("made %d instances: %w", made, err)
		}
		if made++; made == 100000 {
			return "", fmt.Errorf("made %d instances", made)
		}
	}
}

// epoll watches files, of which all of a user's processes may watch so many together.
func epoll([]string) (string, error) {
	time.Sleep(time.Millisecond) // Go's own watches come first: a program that gets none dies, and lets go of all
	files := make([]int, 500)
	for i := range files {
		fd, err := unix.Eventfd(0, 0)
		if err != nil {
			return "", err
		}
		files[i] = fd
	}
	for made := 0; ; {
		poll, err := unix.EpollCreate1(0)
		for _, fd := range files {
			if err == nil {
				err = unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN})
			}
			if made++; err != nil || made == 300000 {
				return "", fmt.Errorf("watched %d files: %v", made, err)
			}
		}
	}
}

// descriptors opens files, of which the machine has so many.
func descriptors([]string) (string, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil {
		limit.Cur = limit.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	}
	for made := 0; ; made++ {
		if _, err := unix.Open("/", unix.O_PATH, 0); err != nil {
			return "", fmt.Errorf("opened %d files: %w", made, err)
		}
	}
}

// burn keeps every processor busy with many threads.
func burn([]string) (string, error) {
	for range 50 {
		go func() {
			runtime.LockOSThread()
			for sum := 0; ; sum++ {
				if sum < 0 {
					return
				}
			}
		}()
	}
	return "", errors.New("fifty threads do nothing, as fast as they can")
}

// logFlood writes lines as fast as they are taken.
func logFlood([]string) (string, error) {
	lines := []byte(strings.Repeat("a line that nobody wants to read\n", 1000))
	for range 200 {
		_, _ = os.Stderr.Write(lines)
	}
	return "", errors.New("two hundred thousand lines were taken")
}

// sharedMemory takes System V memory, which outlives its maker in the machine's ipc namespace.
func sharedMemory([]string) (string, error) {
	for made := 0; ; made++ {
		id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4<<20, unix.IPC_CREAT|0o600)
		if err != nil {
			return "", fmt.Errorf("made %d segments: %w", made, err)
		}
		memory, err := unix.SysvShmAttach(id, 0, 0)
		if err != nil {
			return "", fmt.Errorf("attached %d segments: %w", made, err)
		}
		for i := 0; i < len(memory); i += 4096 {
			memory[i] = 1
		}
		_ = unix.SysvShmDetach(memory)
	}
}

// pipeBuffers takes the memory of pipes, of which a user may have so much.
func pipeBuffers([]string) (string, error) {
	for made := 0; ; made++ {
		var pair [2]int
		if err := unix.Pipe2(pair[:], unix.O_NONBLOCK); err != nil {
			return "", fmt.Errorf("filled %d pipes: %w", made, err)
		}
		_, _ = unix.FcntlInt(uintptr(pair[1]), unix.F_SETPIPE_SZ, 1<<20)
		for block := make([]byte, 1<<16); ; {
			if _, err := unix.Write(pair[1], block); err != nil {
				break
			}
		}
	}
}
