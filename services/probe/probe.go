// Package probe owns the looks at a running service that tell whether it is well:
// a connection to a port, an HTTP request, a command, a file.
//
// Each is made where the service lives: ports in the network namespace of its
// first process, commands and files in its container. It promises that a look
// ends with its context whatever the service does, and that it leaves neither a
// descriptor nor a goroutine behind. It decides nothing: how often to look, how
// long, and what a failure means is the caller's. It must never follow the
// service out of its container: no redirect to another host, no symbolic link
// into the machine's root.
package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"keelson/internal/policy"
)

// Target is what is looked at.
type Target struct {
	// PID is the service's first process.
	PID int
	// Exec runs a command in the container and returns its exit code and the
	// end of what it wrote. It ends with its context.
	Exec func(ctx context.Context, argv []string) (code int, output string, err error)
}

// Check looks once. It returns nil if the service is well, or what a person
// should read of why it is not; policy.ErrUnknown is no word about the service. Probes that are no looks (started, notify, log)
// are an error.
func Check(ctx context.Context, p policy.Probe, t Target) error {
	began := time.Now()
	var err error
	switch p.Kind {
	case policy.ProbeTCP:
		err = checkTCP(ctx, p.Port, t.PID)
	case policy.ProbeHTTP:
		err = checkHTTP(ctx, p.Port, p.Path, t.PID)
	case policy.ProbeExec:
		err = checkExec(ctx, p.Argv, t)
	case policy.ProbeFile:
		err = checkFile(ctx, p.Path, t.PID)
	default:
		return fmt.Errorf("%s cannot be looked at", p)
	}
	switch {
	case err == nil, errors.Is(err, policy.ErrUnknown):
		return err
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%s: no answer within %v: %w", subject(p), roughly(time.Since(began)), context.DeadlineExceeded)
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}

// subject names what is asked, for an answer that did not come.
func subject(p policy.Probe) string {
	switch p.Kind {
	case policy.ProbeTCP:
		return "connect 127.0.0.1:" + strconv.Itoa(p.Port)
	case policy.ProbeHTTP:
		return "GET " + url(p.Port, p.Path)
	default:
		return p.String()
	}
}

func roughly(d time.Duration) time.Duration {
	if d >= time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Millisecond)
}

// loopbacks are where a port is tried, in this order.
var loopbacks = []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}

// connect connects to a port of the service: on 127.0.0.1, and if that is
// refused on ::1. The error is that of 127.0.0.1.
func connect(ctx context.Context, port, pid int) (net.Conn, error) {
	var first error
	for _, ip := range loopbacks {
		conn, err := dial(ctx, ip, port, pid)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		if first == nil {
			first = fmt.Errorf("connect %s: %w", net.JoinHostPort(ip.String(), strconv.Itoa(port)), err)
		}
		if errors.Is(err, errGone) {
			return nil, err
		}
	}
	return nil, first
}

func checkTCP(ctx context.Context, port, pid int) error {
	conn, err := connect(ctx, port, pid)
	if err != nil {
		return err
	}
	return conn.Close()
}

func checkExec(ctx context.Context, argv []string, t Target) error {
	if t.Exec == nil {
		return fmt.Errorf("%s: no command can be run in the container", argv[0])
	}
	code, output, err := t.Exec(ctx, argv)
	if err != nil {
		return fmt.Errorf("%s: %w", argv[0], err)
	}
	if code == 0 {
		return nil
	}
	how := fmt.Sprintf("exited with code %d", code)
	if sig := unix.Signal(code - 128); code > 128 && unix.SignalName(sig) != "" {
		how = "killed by " + unix.SignalName(sig)
	}
	if line := lastLine(output); line != "" {
		return fmt.Errorf("%s: %s: %s", argv[0], how, line)
	}
	return fmt.Errorf("%s: %s", argv[0], how)
}

// lineLength bounds what of a service's own words goes into an error.
const lineLength = 200

// lastLine returns the last line that is not empty, fit for a console.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return clean(lines[len(lines)-1])
}

// clean takes control characters out of a service's words, and what is too much.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, strings.TrimSpace(text))
	if runes := []rune(text); len(runes) > lineLength {
		return string(runes[:lineLength]) + "..."
	}
	return text
}
