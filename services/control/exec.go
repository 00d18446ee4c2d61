package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/api"
	"keelson/services/execstream"
)

// ExecRequest is the body of a request for a process in a container.
type ExecRequest struct {
	Args  []string `json:"args"`
	Env   []string `json:"env,omitempty"` // beside the container's own
	Cwd   string   `json:"cwd,omitempty"` // "" is the container's
	TTY   bool     `json:"tty,omitempty"`
	Stdin bool     `json:"stdin,omitempty"`
	Rows  uint16   `json:"rows,omitempty"` // of the terminal
	Cols  uint16   `json:"cols,omitempty"`
}

// Process is one that runs in a container for a client.
type Process interface {
	Stdin() io.Writer // nil where none was asked for
	Stdout() io.Reader
	Stderr() io.Reader // nil with a terminal
	CloseStdin(ctx context.Context) error
	Resize(ctx context.Context, rows, cols uint16) error
	Signal(ctx context.Context, sig unix.Signal) error
	// Wait waits for the end; then the output comes to its own.
	Wait(ctx context.Context) (code int, err error)
	Close()
}

// hangupBound is how long a process may go on whose client has gone.
const hangupBound = 2 * time.Second

// exec starts a process in a service's container and joins it to the connection.
func (s *Server) exec(w *exchange, r *http.Request, name string) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), execstream.Protocol) {
		w.Header().Set("Upgrade", execstream.Protocol)
		fail(w, http.StatusUpgradeRequired, "exec needs a connection that is upgraded", "Connection: Upgrade, Upgrade: "+execstream.Protocol)
		return
	}
	svc, ok := s.find(w, name)
	if !ok {
		return
	}
	var request ExecRequest
	if err := body(r, &request); err != nil {
		fail(w, http.StatusBadRequest, "the body cannot be used: "+err.Error(), `{"args": ["sh"], "tty": true, "stdin": true}`)
		return
	}
	if len(request.Args) == 0 || request.Args[0] == "" {
		fail(w, http.StatusBadRequest, "args: there is no program to start", `{"args": ["sh"]}`)
		return
	}
	if svc.PID == 0 {
		why := ""
		if svc.Cause != "" {
			why = ": " + svc.Cause
		}
		fail(w, http.StatusConflict, fmt.Sprintf("%s does not run: it is %s%s", name, svc.State, why), "a service that runs")
		return
	}
	select {
	case s.execs <- struct{}{}:
		defer func() { <-s.execs }()
	default:
		fail(w, http.StatusServiceUnavailable, fmt.Sprintf("%d processes were started this way and run, more than that are not taken", maxExecs), "end some of them")
		return
	}
	process, err := s.cfg.Exec(r.Context(), svc, request)
	if err != nil {
		fail(w, http.StatusConflict, name+": "+err.Error(), "")
		return
	}
	defer process.Close()
	conn, in := w.hijack()
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+execstream.Protocol+"\r\n\r\n")
	if err != nil {
		return
	}
	join(conn, in, process)
}

// join passes everything on between a connection and a process, until the process
// has ended or the client has gone: then the process is ended too.
func join(conn net.Conn, in *bufio.Reader, process Process) {
	ctx, gone := context.WithCancel(context.Background())
	defer gone()
	out := execstream.NewWriter(conn)

	var copies sync.WaitGroup
	cut := make(chan error, 2) // why an output is not whole
	pass := func(r io.Reader, k execstream.Kind) {
		_, err := io.CopyBuffer(execstream.Stream{W: out, K: k}, struct{ io.Reader }{r}, make([]byte, execstream.MaxFrame))
		if isGone(err) {
			gone()
			_, _ = io.Copy(io.Discard, r) // it may end in peace
		} else if err != nil {
			cut <- fmt.Errorf("read its output: %w", err)
		}
	}
	copies.Go(func() { pass(process.Stdout(), execstream.Stdout) })
	if r := process.Stderr(); r != nil {
		copies.Go(func() { pass(r, execstream.Stderr) })
	}
	// The input has a goroutine of its own: a program that does not read must not
	// keep the client's signals and its end from us.
	input := make(chan []byte, 16)
	var inputs sync.WaitGroup
	inputs.Go(func() { feed(ctx, process, input) })
	reader := make(chan struct{})
	go func() {
		defer close(reader)
		defer close(input)
		receive(ctx, conn, in, process, input)
		gone()
	}()

	// The wait goes on when the client has gone, until the process has ended by that.
	wait, giveUp := context.WithCancel(context.Background())
	defer giveUp()
	var code int
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		code, err = process.Wait(wait)
	}()
	left := false
	select {
	case <-ended:
	case <-ctx.Done():
		left = true
		_ = process.Signal(context.Background(), unix.SIGHUP)
		select {
		case <-ended:
		case <-time.After(hangupBound):
		}
		process.Close() // which kills it
	}
	copies.Wait()
	if !left && ctx.Err() == nil {
		select {
		case lost := <-cut:
			err = errors.Join(err, lost)
		default:
		}
		tellEnd(out, code, err)
	}
	gone()
	_ = conn.Close()
	process.Close()
	<-reader
	inputs.Wait()
}

// tellEnd sends how a process ended, or why that, or its output, is not known. A client
// that has gone needs no answer.
func tellEnd(out *execstream.Writer, code int, err error) {
	if err == nil {
		_ = out.ExitCode(code)
		return
	}
	body, _ := json.Marshal(api.Error{Error: err.Error()})
	_ = out.Frame(execstream.Error, body)
}

// isGone reports whether a copy to a client ended because of the client.
func isGone(err error) bool {
	_, network := errors.AsType[*net.OpError](err)
	return network
}

// offer passes a piece of input on, and reports false where nobody is left to get
// it or to have sent it.
func offer(ctx context.Context, conn net.Conn, input chan<- []byte, data []byte) bool {
	for {
		select {
		case input <- data:
			return true
		case <-ctx.Done():
			return false
		case <-time.After(lookEvery):
			if hungUp(conn) {
				return false
			}
		}
	}
}

// receive handles the frames of a client until it has gone.
func receive(ctx context.Context, conn net.Conn, in io.Reader, process Process, input chan<- []byte) {
	ended := false
	for {
		kind, data, err := execstream.Read(in)
		if err != nil {
			return
		}
		switch kind {
		case execstream.Stdin:
			if process.Stdin() == nil || ended {
				continue
			}
			ended = len(data) == 0
			if !offer(ctx, conn, input, data) {
				return
			}
		case execstream.Resize:
			rows, cols, err := execstream.SizeOf(data)
			if err != nil {
				return
			}
			_ = process.Resize(ctx, rows, cols) // it may just have ended
		case execstream.Signal:
			if len(data) != 1 || data[0] < 1 || data[0] > 64 {
				return
			}
			_ = process.Signal(ctx, unix.Signal(data[0]))
		default:
			return
		}
	}
}

// feed writes the input, until an empty piece says that it is over.
func feed(ctx context.Context, process Process, input <-chan []byte) {
	for data := range input {
		if len(data) == 0 {
			_ = process.CloseStdin(ctx)
			continue
		}
		if _, err := process.Stdin().Write(data); err != nil {
			// The process has ended or does not read any more; what comes is dropped.
			for range input {
				continue
			}
			return
		}
	}
}
