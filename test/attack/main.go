// Command attack tries to get out of a container, in one way for each name it is given. It is the program of the
// hostile containers in testdata/escape.
//
// It promises to print one line for each attempt, "held: ..." with what refused it or "ESCAPED: ..." with what it got
// hold of, and to change nothing of the machine that the test which runs it cannot look at and undo. It must never be
// part of an image that is meant for anything but tests.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// attempt is one way out. It returns what it got hold of, or an error for what refused it.
type attempt func(args []string) (string, error)

var attempts = map[string]attempt{
	// The machine's kernel, by files.
	"core-pattern":  write("/proc/sys/kernel/core_pattern", "|/containers/services/core-pattern/tmp/upper/bin/attack core"),
	"modprobe-path": rewrite("/proc/sys/kernel/modprobe"),
	"sysrq":         write("/proc/sysrq-trigger", "h"),
	"binfmt":        binfmt,
	"kcore":         open("/proc/kcore"),
	"keys-list":     open("/proc/keys"),
	"kernel-log":    kernelLog,
	"write-proc":    writable("/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/sysrq-trigger", "/proc/mtrr", "/proc/acpi"),
	"write-sys":     writable("/sys"),
	"cgroup":        cgroup,
	"device-node":   deviceNode,

	// The machine's kernel, by system calls.
	"user-namespace":  userNamespace,
	"module-autoload": moduleAutoload,
	"kernel-keys":     kernelKeys,
	"rare-calls":      rareCalls,
	"clock-and-name":  clockAndName,
	"raw-packets":     rawPackets,

	// What the machine leaves lying about.
	"open-files":       openFiles,
	"abstract-sockets": abstractSockets,
	"neighbours":       neighbours,
	"trace":            trace,
	"process-root":     processRoot,
	"runtime-binary":   runtimeBinary,

	// Directories that are bound.
	"log-link":         logLink,
	"log-hard-link":    logHardLink,
	"log-fifo":         logFIFO,
	"log-directory":    logDirectory,
	"swap":             swap,
	"swapped":          swapped,
	"runtime-sockets":  runtimeSockets,
	"control":          control,
	"forged-log":       forgedLog,
	"notify-flood":     notifyFlood,
	"memlogd-flood":    memlogdFlood,
	"memlogd-datagram": memlogdDatagrams,

	// What there is only so much of.
	"fill":         fill,
	"fill-inodes":  fillInodes,
	"fork-bomb":    forkBomb,
	"inotify":      inotify,
	"epoll":        epoll,
	"descriptors":  descriptors,
	"burn":         burn,
	"log-flood":    logFlood,
	"shared-mem":   sharedMemory,
	"pipe-buffers": pipeBuffers,
}

func main() {
	if len(os.Args) < 2 || attempts[os.Args[1]] == nil {
		var names []string
		for name := range attempts {
			names = append(names, name)
		}
		slices.Sort(names)
		fmt.Fprintf(os.Stderr, "attack: name one of %q\n", names)
		os.Exit(2)
	}
	got, err := attempts[os.Args[1]](os.Args[2:])
	if err != nil {
		fmt.Printf("held: %v\n", err)
	} else {
		fmt.Printf("ESCAPED: %s\n", got)
	}
	if filepath.Base(os.Args[0]) == "attack-once" {
		return
	}
	// The service stays, as one that does its work would: what it has taken hold of stays taken.
	for {
		time.Sleep(time.Hour)
	}
}

// write returns the attempt to write a text into a file of the kernel.
func write(path, text string) attempt {
	return func([]string) (string, error) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return "", err
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			return "", err
		}
		return "wrote " + path, nil
	}
}

// rewrite returns the attempt to write what is in a file of the kernel into it: another text would be in the way of
// other attempts.
func rewrite(path string) attempt {
	return func([]string) (string, error) {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		return write(path, string(text))(nil)
	}
}

// open returns the attempt to read something from a file of the kernel that is worth reading.
func open(path string) attempt {
	return func([]string) (string, error) {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		n, err := f.Read(make([]byte, 64))
		if err == nil && n == 0 {
			err = errors.New("empty")
		}
		if err != nil {
			return "", fmt.Errorf("read %s: %w", path, err)
		}
		return "read " + path, nil
	}
}

// first returns what the first of the tries got hold of, or what refused each of them.
func first(tries ...func() (string, error)) (string, error) {
	var refused []error
	for _, try := range tries {
		got, err := try()
		if err == nil {
			return got, nil
		}
		refused = append(refused, err)
	}
	return "", errors.Join(refused...)
}

// call is the try of a system call that must not succeed.
func call(name string, number uintptr, args ...uintptr) func() (string, error) {
	return func() (string, error) {
		var a [6]uintptr
		copy(a[:], args)
		r, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
		if errno != 0 {
			return "", fmt.Errorf("%s: %w", name, errno)
		}
		return fmt.Sprintf("%s returned %d", name, r), nil
	}
}
