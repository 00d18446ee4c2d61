package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What becomes of a log file that is not the machine's is for the test to see: the attempts below only plant it, and
// write lines that would go where it leads. The first argument is the directory of logs, the second this service's name.

func logLink(args []string) (string, error) {
	return plant(args, func(path string) error { return os.Symlink("/proc/sys/kernel/core_pattern", path) })
}

func logHardLink(args []string) (string, error) {
	victim := filepath.Join(args[0], args[2])
	return plant(args, func(path string) error { return os.Link(victim, path) })
}

func logFIFO(args []string) (string, error) {
	return plant(args, func(path string) error { return unix.Mkfifo(path, 0o600) })
}

func logDirectory(args []string) (string, error) {
	return plant(args, func(path string) error { return os.Mkdir(path, 0o700) })
}

// plant puts something in the place of each of this service's log files, of those that are rotated too.
func plant(args []string, make func(path string) error) (string, error) {
	for _, end := range []string{".log", ".out.log", ".log.0", ".out.log.0", ".log.1", ".out.log.1"} {
		path := filepath.Join(args[0], args[1]+end)
		_ = os.Remove(path)
		if err := make(path); err != nil {
			return "", err
		}
	}
	fmt.Println("|/bin/attack planted")
	fmt.Fprintln(os.Stderr, "|/bin/attack planted")
	return "", errors.New("planted; nothing is known here of what came of it")
}

// swap puts a link to the machine's root in the place of a directory that another container binds.
func swap(args []string) (string, error) {
	for _, path := range args {
		if err := os.RemoveAll(path); err != nil {
			return "", err
		}
		if err := os.Symlink("/", path); err != nil {
			return "", err
		}
	}
	return "", errors.New("swapped; the container that binds it tells what came of it")
}

// swapped looks whether the directory that is bound is the machine's root.
func swapped(args []string) (string, error) {
	entries, err := os.ReadDir(filepath.Join(args[0], "containers"))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s is the machine's root: %d entries in containers", args[0], len(entries)), nil
}

// The attempts below send what the machine reads. The test sees whether it goes on reading from others.

// forgedLog hands a pipe over under another service's name.
func forgedLog(args []string) (string, error) {
	w, err := handOver(args[0], args[1])
	if err != nil {
		return "", err
	}
	for range 10 {
		if _, err := fmt.Fprintln(w, "forged line"); err != nil {
			return "", err
		}
	}
	return "", errors.New("written under another's name; the test sees where it went")
}

// memlogdFlood hands over as many streams as are taken, each under a name of its own, and fills each.
func memlogdFlood(args []string) (string, error) {
	var last error
	given := 0
	for n := range 4000 {
		w, err := handOver(args[0], fmt.Sprintf("made-up-%d", n))
		if err != nil {
			last = err
			continue
		}
		given++
		_ = w.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
		_, last = w.WriteString(strings.Repeat("a line of a source that does not exist\n", 100))
		if n%2 == 0 {
			w.Close()
		}
	}
	return "", fmt.Errorf("handed over %d of 4000: %w", given, last)
}

// memlogdDatagrams hands over sockets that have no end.
func memlogdDatagrams(args []string) (string, error) {
	var last error
	for n := range 400 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		last = send(args[0], fmt.Sprintf("endless-%d", n), fd)
		unix.Close(fd)
	}
	return "", fmt.Errorf("handed over 400 sockets: %v", last)
}

func handOver(socket, name string) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := send(socket, name, int(r.Fd())); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

func send(socket, name string, fd int) error {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	_ = unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 1})
	return unix.Sendmsg(s, []byte(name), unix.UnixRights(fd), &unix.SockaddrUnix{Name: socket}, 0)
}

// notifyFlood sends the supervisor more notifications than anybody reads, with descriptors.
func notifyFlood([]string) (string, error) {
	socket := os.Getenv("NOTIFY_SOCKET")
	conn, err := net.Dial("unixgram", socket)
	if err != nil {
		return "", err
	}
	file, err := os.Open("/")
	if err != nil {
		return "", err
	}
	sent := 0
	for end := time.Now().Add(10 * bound); time.Now().Before(end); sent++ {
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		message := "STATUS=" + strconv.Itoa(sent) + "\nEXTEND_TIMEOUT_USEC=999999999999\nMAINPID=1\nFDSTORE=1\n" + strings.Repeat("X=y\n", 1000)
		_, _, _ = conn.(*net.UnixConn).WriteMsgUnix([]byte(message), unix.UnixRights(int(file.Fd())), nil)
	}
	return "", fmt.Errorf("sent %d messages; the test sees who noticed", sent)
}
