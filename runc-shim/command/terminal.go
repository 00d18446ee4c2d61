package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"

	"github.com/containerd/console"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"keelson/runc-shim/stdio"
)

// A terminal connects a process with whoever called: through a pty and the
// caller's own terminal, through the caller's descriptors, or not at all where
// somebody else is sent the pty.
type terminal struct {
	host    console.Console
	master  console.Console
	socket  *os.File // where the pty arrives
	child   *os.File
	copying sync.WaitGroup
}

// terminal prepares the standard streams of the process.
func (l *launch) terminal(lp *libcontainer.Process, tty bool) (*terminal, error) {
	t := &terminal{}
	if !tty {
		lp.Stdin, lp.Stdout, lp.Stderr = os.Stdin, os.Stdout, os.Stderr
		return t, nil
	}
	if l.detach {
		sock, err := dialSocket(l.console)
		if err != nil {
			return nil, fmt.Errorf("--console-socket: %w", err)
		}
		t.child, lp.ConsoleSocket = sock, sock
		return t, nil
	}
	host, err := console.ConsoleFromFile(os.Stdin)
	if err != nil {
		return nil, fmt.Errorf("a terminal was asked for, but standard input is none: %w", err)
	}
	parent, child, err := stdio.ConsoleSocket()
	if err != nil {
		return nil, err
	}
	t.host, t.socket, t.child = host, parent, child
	lp.ConsoleSocket = child
	return t, nil
}

// attach receives the pty and connects it.
func (t *terminal) attach() error {
	if t.socket == nil {
		return nil
	}
	f, err := stdio.ReceiveFile(t.socket)
	if err != nil {
		return fmt.Errorf("receive terminal from container: %w", err)
	}
	master, err := console.ConsoleFromFile(f)
	if err != nil {
		f.Close()
		return err
	}
	if err := console.ClearONLCR(master.Fd()); err != nil {
		return err
	}
	t.master = master
	if err := t.host.SetRaw(); err != nil {
		return fmt.Errorf("set terminal to raw mode: %w", err)
	}
	t.resize()
	t.copying.Add(1)
	go func() {
		defer t.copying.Done()
		// Ends with EIO when the last of the container's processes is gone.
		_, _ = io.Copy(os.Stdout, master)
	}()
	go func() { _, _ = io.Copy(master, os.Stdin) }()
	return nil
}

func (t *terminal) resize() {
	if t.master != nil {
		_ = t.master.ResizeFrom(t.host)
	}
}

// drain waits for the last output.
func (t *terminal) drain() {
	if t.master != nil {
		t.copying.Wait()
	}
}

func (t *terminal) close() {
	for _, f := range []*os.File{t.socket, t.child} {
		if f != nil {
			f.Close()
		}
	}
	if t.host != nil {
		_ = t.host.Reset()
	}
	if t.master != nil {
		t.master.Close()
	}
}

// A forwarder passes the signals this process gets to the container's.
type forwarder struct {
	signals chan os.Signal
	done    chan struct{}
}

func forwardSignals() *forwarder {
	// Before the process starts, so that none is missed.
	f := &forwarder{signals: make(chan os.Signal, 2048), done: make(chan struct{})}
	signal.Notify(f.signals)
	return f
}

func (f *forwarder) to(lp *libcontainer.Process, t *terminal) {
	t.resize()
	go func() {
		for {
			select {
			case <-f.done:
				return
			case s := <-f.signals:
				switch s {
				case unix.SIGWINCH:
					t.resize()
				case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE:
					// SIGURG is the Go runtime's own.
				default:
					if err := lp.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
						fmt.Fprintf(os.Stderr, "runc: forward %s: %v\n", s, err)
					}
				}
			}
		}
	}()
}

func (f *forwarder) stop() {
	signal.Stop(f.signals)
	close(f.done)
}
