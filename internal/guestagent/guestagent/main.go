// Command guestagent serves the second channel of the tests inside a machine: see package guestagent. It wants
// the machine's PID namespace, its /dev and every capability. With arguments it is one of a few tools for tests.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/guestagent"
)

// again is how long to wait before looking for the port, or for the host at it, once more.
const again = 50 * time.Millisecond

func main() {
	if code, ok := tool(os.Args); ok {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() {
		// A read of the port cannot be interrupted, so its end is not waited for.
		<-ctx.Done()
		os.Exit(0)
	}()
	if err := run(ctx); err != nil {
		slog.Error("guestagent", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	for ctx.Err() == nil {
		device, err := find()
		if err != nil {
			time.Sleep(again) // the driver comes with the modules, at any time
			continue
		}
		fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err == unix.EBUSY || err == unix.ENOENT || err == unix.ENXIO {
			time.Sleep(again)
			continue
		}
		if err != nil {
			return fmt.Errorf("open %s: %w", device, err)
		}
		err = guestagent.Serve(ctx, port(fd))
		unix.Close(fd)
		if err != nil {
			slog.Warn("guestagent: the port is opened again", "error", err)
			time.Sleep(again)
		}
	}
	return nil
}

// find returns the device of the port with our name.
func find() (string, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return "", err
	}
	for _, file := range names {
		if name, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(name)) == guestagent.PortName {
			return "/dev/" + filepath.Base(filepath.Dir(file)), nil
		}
	}
	return "", fmt.Errorf("no virtio-serial port is named %s", guestagent.PortName)
}

// port is an open virtio-serial port. Reading nothing means that no host is connected, which is not its end.
type port int

func (p port) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(int(p), b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0:
			time.Sleep(again)
		default:
			return n, nil
		}
	}
}

func (p port) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := unix.Write(int(p), b[done:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.ErrShortWrite
		}
		done += n
	}
	return done, nil
}
