package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What of memlogd's protocol a test needs inside a machine: clients of both
// sockets, and a memlogd such as an image may bring.
const (
	// machine is before a path of the machine's, for whoever is in a container of its PID namespace.
	machine     = "/proc/1/root"
	writeSocket = "/run/linuxkit-external-logging.sock"
	querySocket = "/run/memlogdq.sock"
	// memlogdName is the name under which this program is a memlogd.
	memlogdName = "memlogd"
	// background is its argument once it has bound its socket.
	background = "background"
	// received is what that memlogd has been given, as lines NAME: TEXT.
	received = "/run/memlogd.received"
)

// tool runs one of the tools, if the arguments name one.
func tool(args []string) (code int, ok bool) {
	var err error
	switch {
	case filepath.Base(args[0]) == memlogdName:
		err = memlogd(len(args) == 2 && args[1] == background)
	case len(args) == 5 && args[1] == "give":
		err = give(args[2], args[3], args[4])
	case len(args) == 4 && args[1] == "flood":
		err = flood(args[2], args[3])
	case len(args) == 4 && args[1] == "ask":
		err = ask(args[2], args[3])
	case len(args) == 3 && args[1] == "talk":
		err = talk(args[2])
	case len(args) > 2 && args[1] == "notify":
		err = notify(args[2:])
	case len(args) == 6 && args[1] == "cut":
		err = cut(args[2], args[3], args[4], args[5])
	case len(args) == 5 && args[1] == "http":
		err = request(args[2], args[3], args[4])
	case len(args) == 4 && args[1] == "linear":
		err = linear(args[2], args[3])
	case len(args) > 2 && args[1] == "calls":
		err = calls(args[2:])
	default:
		return 0, false
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	return 0, true
}

// give hands one end of a socket pair over under a name, as LinuxKit's logwrite
// does, and writes numbered lines to the other, one in every so many milliseconds.
func give(name, count, millis string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	pause, err := strconv.Atoi(millis)
	if err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := handOver(name, pair[1]); err != nil {
		return err
	}
	w := os.NewFile(uintptr(pair[0]), name)
	for i := range n {
		if _, err := fmt.Fprintf(w, "line %d of %s\n", i, name); err != nil {
			return fmt.Errorf("line %d: %w", i, err)
		}
		time.Sleep(time.Duration(pause) * time.Millisecond)
	}
	return w.Close()
}

// handOver gives a file to memlogd, and closes it here.
func handOver(name string, file int) error {
	defer unix.Close(file)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Sendmsg(fd, []byte(name), unix.UnixRights(file), &unix.SockaddrUnix{Name: machine + writeSocket}, 0); err != nil {
		return fmt.Errorf("hand over: %w", err)
	}
	return nil
}

// flood hands over so many sockets that have no end, then as many pipes, each under a
// name of its own but for the first one, which has the given name. It keeps what it
// writes to, and stays.
func flood(name, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := handOver("endless", fd); err != nil {
			return err
		}
	}
	for i := range n {
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
			return err
		}
		if i > 0 {
			name = fmt.Sprint("made-up-", i)
		}
		if err := handOver(name, pipe[0]); err != nil {
			return err
		}
		_, _ = unix.Write(pipe[1], []byte("forged\n")) // nobody reads it, perhaps
	}
	for { // a select without cases is a deadlock, which ends the program
		time.Sleep(time.Hour)
	}
}

// ask sends a request and prints so many lines of the answer, or all of it where
// that is 0.
func ask(request, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	want, err := strconv.Atoi(request)
	if err != nil {
		return err
	}
	conn, err := net.Dial("unix", machine+querySocket)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte{byte(want)}); err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	for i := 0; n == 0 || i < n; i++ {
		line, err := r.ReadString('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Print(line)
	}
	return nil
}

// memlogd binds its socket, goes on in the background as LinuxKit's does, and
// writes down what it is given.
func memlogd(bound bool) error {
	if !bound {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: writeSocket}); err != nil {
			return fmt.Errorf("bind %s: %w", writeSocket, err)
		}
		child := exec.Command("/proc/self/exe", background)
		child.Args[0] = memlogdName
		child.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "socket")}
		return child.Start()
	}
	const inherited = 3
	out, err := os.OpenFile(received, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	var writing sync.Mutex
	name, rights := make([]byte, 512), make([]byte, unix.CmsgSpace(4))
	for {
		n, m, _, _, err := unix.Recvmsg(inherited, name, rights, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		messages, err := unix.ParseSocketControlMessage(rights[:m])
		if err != nil || len(messages) == 0 {
			continue
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			go func(name string, f *os.File) {
				for lines := bufio.NewScanner(f); lines.Scan(); {
					writing.Lock()
					fmt.Fprintf(out, "%s: %s\n", name, lines.Text())
					writing.Unlock()
				}
			}(string(name[:n]), os.NewFile(uintptr(fd), ""))
		}
	}
}
