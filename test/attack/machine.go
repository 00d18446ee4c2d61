package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// bound is how long an attempt waits for an answer or for a moment to act in.
const bound = 2 * time.Second

// openFiles looks for open files that the machine left to the container. It is also run by a probe, as the processes
// that the machine starts in a container later have another parent.
func openFiles([]string) (string, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		number, _ := strconv.Atoi(entry.Name())
		to, err := os.Readlink("/proc/self/fd/" + entry.Name())
		// Beside input, output and error there are this directory, and what Go's runtime has opened.
		if err != nil || number <= 2 || strings.HasPrefix(to, "anon_inode:") || strings.HasSuffix(to, "/fd") || strings.HasSuffix(to, "/cpu.max") {
			continue
		}
		if info, err := os.Stat("/proc/self/fd/" + entry.Name()); err == nil && info.IsDir() {
			if _, err := os.Stat("/proc/self/fd/" + entry.Name() + "/../../containers"); err == nil {
				return "descriptor " + entry.Name() + " leads to the machine's root", nil
			}
		}
		return "descriptor " + entry.Name() + " is open: " + to, nil
	}
	if _, err := os.Stat("/proc/self/cwd/../../../../../../containers/services"); err == nil {
		return "the working directory leads to the machine's root", nil
	}
	return "", errors.New("nothing is open but input, output and error")
}

// abstractSockets are in the network namespace, which the container shares, and have no file permissions.
func abstractSockets([]string) (string, error) {
	data, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return "", err
	}
	count := 0
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 8 || !strings.HasPrefix(fields[7], "@") {
			continue
		}
		count++
		if conn, err := net.DialTimeout("unix", fields[7], bound); err == nil {
			conn.Close()
			return "connected to " + fields[7], nil
		}
	}
	return "", fmt.Errorf("none of %d abstract sockets takes a connection", count)
}

// neighbours looks for processes that are not the container's own.
func neighbours([]string) (string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil && pid != 1 {
			if command, err := os.ReadFile("/proc/" + entry.Name() + "/cmdline"); err == nil && len(command) > 0 && !strings.HasPrefix(string(command), "/bin/attack") {
				return fmt.Sprintf("sees process %d, %q", pid, command), nil
			}
		}
	}
	return "", errors.New("only its own processes are to be seen")
}

// processes returns the processes of other containers and of the machine, in a container with the machine's pid namespace.
func processes(want func(argv string) bool) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		argv, _ := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		if len(argv) > 0 && want(strings.ReplaceAll(string(argv), "\x00", " ")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// trace attaches to the machine's processes and to a neighbour's as a debugger does.
func trace([]string) (string, error) {
	pids := processes(func(string) bool { return true })
	if len(pids) < 3 {
		return "", fmt.Errorf("only %d processes are to be seen: the attempt needs pid: host", len(pids))
	}
	var last error
	for _, pid := range pids {
		if last = unix.PtraceSeize(pid); last == nil {
			return fmt.Sprintf("traces process %d", pid), nil
		}
	}
	return "", fmt.Errorf("trace any of %d processes: %w", len(pids), last)
}

// processRoot reaches for the machine's files through its processes.
func processRoot([]string) (string, error) {
	machine := processes(func(argv string) bool {
		return strings.HasPrefix(argv, "/init") || strings.HasPrefix(argv, "/usr/bin/service") || strings.HasPrefix(argv, "/usr/bin/containerd")
	})
	if len(machine) < 3 {
		return "", fmt.Errorf("only %d of the machine's processes are to be seen: the attempt needs pid: host", len(machine))
	}
	var last error
	for _, pid := range machine {
		var entries []os.DirEntry
		if entries, last = os.ReadDir(fmt.Sprintf("/proc/%d/root/containers", pid)); last == nil {
			return fmt.Sprintf("reads %d entries of the machine's /containers through process %d", len(entries), pid), nil
		}
	}
	return "", last
}

// runtimeBinary overwrites the program that comes into the container to start a process in it, and tells by its sum
// whether it has another content afterwards.
func runtimeBinary([]string) (string, error) {
	deadline := time.Now().Add(10 * bound)
	seen := 0
	for time.Now().Before(deadline) {
		for _, pid := range processes(func(string) bool { return true }) {
			path := fmt.Sprintf("/proc/%d/exe", pid)
			if target, err := os.Readlink(path); err != nil || target == "/bin/attack" || target == "/bin/busybox" {
				continue
			}
			held, err := unix.Open(path, unix.O_PATH, 0)
			if err != nil {
				continue
			}
			seen++
			name := fmt.Sprintf("/proc/self/fd/%d", held)
			before, _ := os.ReadFile(name)
			for range 1000 {
				f, err := os.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
				if errors.Is(err, unix.ETXTBSY) {
					time.Sleep(time.Millisecond)
					continue
				}
				if err == nil {
					_, err = f.WriteString("#!/bin/attack\n")
					f.Close()
				}
				if after, _ := os.ReadFile(name); err == nil && sha256.Sum256(after) != sha256.Sum256(before) {
					return "changed " + path, nil
				}
				break
			}
			unix.Close(held)
		}
	}
	return "", fmt.Errorf("%d times a program of the machine was seen, and could not be changed", seen)
}

// runtimeSockets looks below a bind of /run for what would give it all other containers.
func runtimeSockets(args []string) (string, error) {
	var refused []error
	for _, path := range []string{"containerd/containerd.sock", "containerd/containerd.sock.ttrpc", "containerd/s", "containerd/io.containerd.runtime.v2.task", "containerd/runc", "runc", "keelson/services", "keelson/boot.json", "keelson/log", "keelson/exec", "keelson/notify"} {
		path = filepath.Join(args[0], path)
		info, err := os.Stat(path)
		if err != nil {
			refused = append(refused, err)
			continue
		}
		if info.IsDir() {
			if entries, err := os.ReadDir(path); err == nil && len(entries) > 0 {
				return fmt.Sprintf("%s has %d entries", path, len(entries)), nil
			}
			continue
		}
		if info.Mode()&os.ModeSocket == 0 {
			return path + " is there", nil
		}
		if conn, err := net.DialTimeout("unix", path, bound); err == nil {
			conn.Close()
			return "connected to " + path, nil
		}
	}
	return "", fmt.Errorf("nothing of %d paths; %w", len(refused), errors.Join(refused[:min(2, len(refused))]...))
}

// control asks the supervisor for what would change another service.
func control(args []string) (string, error) {
	socket, neighbour := args[0], args[1]
	client := &http.Client{Timeout: 5 * bound, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	var refused []error
	for _, request := range []string{"/v1/services/" + neighbour + "/stop", "/v1/services/" + neighbour + "/kill?signal=KILL", "/v1/services/" + neighbour + "/exec", "/v1/machine/poweroff"} {
		r, err := http.NewRequest(http.MethodPost, "http://k"+request, strings.NewReader(`{"args":["/bin/true"]}`))
		if err != nil {
			return "", err
		}
		if strings.HasSuffix(request, "/exec") {
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", "keelson-exec")
		}
		response, err := client.Do(r)
		if err != nil {
			refused = append(refused, err)
			continue
		}
		line, _ := bufio.NewReader(response.Body).ReadString('\n')
		response.Body.Close()
		if response.StatusCode < 300 || response.StatusCode == http.StatusConflict {
			return request + ": " + response.Status, nil
		}
		refused = append(refused, fmt.Errorf("%s: %s %s", request, response.Status, strings.TrimSpace(line)))
	}
	return "", refused[0]
}
