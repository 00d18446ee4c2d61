package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// notify sends its arguments as one message to NOTIFY_SOCKET, as a service does
// with sd_notify(3). With -barrier it lives until the message has been read, as
// systemd-notify does; with -every it sends again and again, and does not end.
func notify(args []string) error {
	flags := flag.NewFlagSet("notify", flag.ContinueOnError)
	barrier := flags.Bool("barrier", false, "wait until the message has been read")
	every := flags.Duration("every", 0, "send again after this time")
	stay := flags.Bool("stay", false, "do not end")
	if err := flags.Parse(args); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	to := &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}
	for {
		if err := unix.Sendmsg(fd, []byte(strings.Join(flags.Args(), "\n")), nil, to, 0); err != nil {
			fmt.Fprintln(os.Stderr, "notify:", err) // a supervisor that is being started again has no socket
		}
		if *every == 0 {
			break
		}
		time.Sleep(*every)
	}
	if *barrier {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		if err := unix.Sendmsg(fd, []byte("BARRIER=1"), unix.UnixRights(int(w.Fd())), to, 0); err != nil {
			return fmt.Errorf("send the barrier: %w", err)
		}
		w.Close()
		if _, err := io.Copy(io.Discard, r); err != nil {
			return err
		}
	}
	if *stay {
		time.Sleep(1 << 62)
	}
	return nil
}

// request sends a request to a server behind a unix socket and writes its answer out.
func request(method, socket, path string) error {
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	r, err := http.NewRequest(method, "http://localhost"+path, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode >= 300 {
		return fmt.Errorf("%s", answer.Status)
	}
	return nil
}
