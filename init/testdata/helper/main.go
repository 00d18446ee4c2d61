// Command helper plays two parts in the tests of /init, which run it as the
// first process of namespaces of its own:
//
//	helper enter ROOT container|machine   lays out the root and becomes /init
//	service supervise                     a supervisor that does what it is told
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/console"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 4 && os.Args[1] == "enter":
		err = enter(os.Args[2], os.Args[3])
	case len(os.Args) == 2 && os.Args[1] == "supervise":
		err = supervise()
	case len(os.Args) == 2 && os.Args[1] == "parent": // leaves an orphan
		err = again("orphan").Start()
	case len(os.Args) == 2 && os.Args[1] == "orphan":
		for os.Getppid() != 1 {
			time.Sleep(time.Millisecond)
		}
		os.Exit(7)
	default:
		err = fmt.Errorf("arguments: %q", os.Args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "helper:", err)
		os.Exit(3)
	}
}

// enter makes ROOT the root, with /proc for a container, without for a machine.
func enter(root, mode string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if mode == "machine" {
		memory, err := inMemory(root)
		if err != nil {
			return err
		}
		root = memory
	} else if err := unix.Mount("proc", root+"/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount proc: %w", err)
	}
	if err := unix.Chroot(root); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return syscall.Exec("/init", []string{"/init"}, []string{"HOME=/", "KEELSON_STOP=stray", "GREETING=hello"})
}

// inMemory copies ROOT to a tmpfs, as the kernel unpacks an initramfs, with the
// consoles that init is going to look for.
func inMemory(root string) (string, error) {
	top := root + "/memory"
	if err := unix.Mount("tmpfs", top, "tmpfs", 0, "mode=755"); err != nil {
		return "", fmt.Errorf("mount tmpfs: %w", err)
	}
	for _, dir := range []string{"dev", "proc", "run", "sys", "tmp", "usr/bin", "var"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
			return "", err
		}
	}
	for _, file := range []string{"init", "usr/bin/service"} {
		data, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(top, file), data, 0o755); err != nil {
			return "", err
		}
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", err
	}
	for from, to := range map[string][]string{
		"console": append(console.Devices(string(cmdline)), "/dev/console"),
		"ctl":     {"/ctl"},
	} {
		for _, path := range to {
			if err := os.WriteFile(top+path, nil, 0o600); err != nil {
				return "", err
			}
			if err := unix.Mount(filepath.Join(root, from), top+path, "", unix.MS_BIND, ""); err != nil {
				return "", fmt.Errorf("bind %s: %w", path, err)
			}
		}
	}
	return top, nil
}

// again is this program in another part, in a root that may have no /dev/null.
func again(part string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", part)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}

func say(format string, a ...any) { fmt.Printf("sup: "+format+"\n", a...) }

func supervise() error {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	sid, err := unix.Getsid(0)
	if err != nil {
		return err
	}
	say("start ppid=%d leader=%v args=%q stop=%q greeting=%q start=%q done=%q path=%v", os.Getppid(), sid == os.Getpid(), os.Args,
		os.Getenv("KEELSON_STOP"), os.Getenv("GREETING"), os.Getenv("KEELSON_INIT_START"), os.Getenv("KEELSON_INIT_DONE"), os.Getenv("PATH") != "")
	if os.Getenv("KEELSON_STOP") != "" {
		return nil
	}
	ctl, err := os.OpenFile("/ctl", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	commands := make(chan string)
	go func() {
		for in := bufio.NewScanner(ctl); in.Scan(); {
			commands <- in.Text()
		}
	}()
	for {
		select {
		case <-term:
			say("SIGTERM")
			return nil
		case c := <-commands:
			if c == "deaf" {
				signal.Ignore(syscall.SIGTERM)
				say("deaf")
				continue
			}
			if err := obey(strings.Fields(c)); err != nil {
				say("%s: %v", c, err)
			}
		}
	}
}

func obey(c []string) error {
	number := 0
	if len(c) > 1 {
		number, _ = strconv.Atoi(c[1])
	}
	switch c[0] {
	case "exit":
		os.Exit(number)
	case "die":
		return unix.Kill(os.Getpid(), unix.Signal(number))
	case "signal":
		return unix.Kill(1, unix.Signal(number))
	case "storm": // every signal but those that mean a stop, many times, then the one told
		for range 50 {
			for s := unix.Signal(1); s <= 64; s++ {
				switch s {
				case unix.SIGUSR1, unix.SIGUSR2, unix.SIGTERM, unix.SIGINT:
				default:
					// EAGAIN: too many are queued already
					if err := unix.Kill(1, s); err != nil && err != unix.EAGAIN {
						return err
					}
				}
			}
		}
		return unix.Kill(1, unix.Signal(number))
	case "orphans":
		for range number {
			if err := again("parent").Run(); err != nil {
				return err
			}
		}
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if n, err := others(); err != nil || n == 0 {
				say("orphans left: %d %v", n, err)
				return nil
			}
		}
		return errors.New("orphans are not reaped")
	case "show":
		f, err := os.Open(c[1])
		if err != nil {
			return err
		}
		defer f.Close()
		text, err := io.ReadAll(f)
		for line := range strings.Lines(string(text)) {
			say("%s", strings.TrimSpace(line))
		}
		say("shown %v", err)
	case "touch":
		say("touch: %v", os.WriteFile(c[1], nil, 0o600))
	default:
		return errors.New("what?")
	}
	return nil
}

// others counts the processes that are neither PID 1 nor this one.
func others() (int, error) {
	names, err := filepath.Glob("/proc/[0-9]*")
	return max(len(names)-2, 0), err
}
