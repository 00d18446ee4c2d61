package stdio

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"sort"
	"time"

	"golang.org/x/sys/unix"
)

// How long a logging binary may take to say that it is ready, and to end after
// SIGTERM.
const (
	loggerReady = 30 * time.Second
	loggerStop  = 12 * time.Second
)

// A logger is a logging binary of containerd's binary:// protocol: it gets the
// process's stdout and stderr as descriptors 3 and 4, closes descriptor 5 when
// it is ready, and reads CONTAINER_ID and CONTAINER_NAMESPACE.
type logger struct {
	cmd            *exec.Cmd
	stdout, stderr *os.File // write ends
	ended          chan error
}

func startLogger(u *url.URL, c Config) (_ *logger, err error) {
	var open []*os.File
	defer func() {
		if err != nil {
			closeOnce(open...)
		}
	}()
	pipe := func() (r, w *os.File) {
		if err != nil {
			return nil, nil
		}
		r, w, err = os.Pipe()
		if err == nil {
			open = append(open, r, w)
		}
		return r, w
	}
	outR, outW := pipe()
	errR, errW := pipe()
	readyR, readyW := pipe()
	if err != nil {
		return nil, fmt.Errorf("pipes of logging binary: %w", err)
	}
	cmd := exec.Command(u.Path, loggerArgs(u)...)
	cmd.Env = []string{"CONTAINER_ID=" + c.ID, "CONTAINER_NAMESPACE=" + c.Namespace}
	cmd.ExtraFiles = []*os.File{outR, errR, readyW}
	if err = cmd.Start(); err != nil {
		return nil, fmt.Errorf("start logging binary: %w", err)
	}
	l := &logger{cmd: cmd, stdout: outW, stderr: errW, ended: make(chan error, 1)}
	go func() { l.ended <- cmd.Wait() }()
	closeOnce(outR, errR, readyW)

	// `binary` calls the closing of the pipe readiness, `binary-v2` wants a
	// byte, so that a crash is told from readiness.
	_ = readyR.SetReadDeadline(time.Now().Add(loggerReady))
	n, rerr := readyR.Read(make([]byte, 1))
	readyR.Close()
	switch {
	case rerr != nil && !errors.Is(rerr, io.EOF):
		err = fmt.Errorf("wait for logging binary %s: %w", u.Path, rerr)
	case u.Scheme == "binary-v2" && n == 0:
		err = fmt.Errorf("logging binary %s ended without saying that it is ready", u.Path)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		return nil, err
	}
	return l, nil
}

// loggerArgs makes the arguments: each query key and its first value, in the order of the keys.
func loggerArgs(u *url.URL) []string {
	q := u.Query()
	keys := make([]string, 0, len(q))
	for k := range q {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var args []string
	for _, k := range keys {
		args = append(args, k)
		if vs := q[k]; len(vs) > 0 {
			args = append(args, vs[0])
		}
	}
	return args
}

// started closes the write ends, which the container now has.
func (l *logger) started() {
	closeOnce(l.stdout, l.stderr)
	l.stdout, l.stderr = nil, nil
}

// stop asks the logger to end. It gets its bound and is then killed; nobody
// waits for that.
func (l *logger) stop() {
	l.started()
	_ = l.cmd.Process.Signal(unix.SIGTERM)
	go func() {
		t := time.NewTimer(loggerStop)
		defer t.Stop()
		select {
		case <-l.ended:
		case <-t.C:
			slog.Warn("logging binary does not end, killing it", "path", l.cmd.Path)
			_ = l.cmd.Process.Kill()
			<-l.ended
		}
	}()
}
