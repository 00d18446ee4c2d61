package guestagent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// execBound is how long an exec may take that names no timeout.
const execBound = 5 * time.Minute

// Serve answers the requests that arrive on rw until reading ends, and returns nil at its end and the error
// otherwise. Requests are carried out beside one another; Serve returns when the last is done.
func Serve(ctx context.Context, rw io.ReadWriter) error {
	var (
		writing sync.Mutex
		pending sync.WaitGroup
	)
	defer pending.Wait()
	lines := bufio.NewReader(rw)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read a request: %w", err)
		}
		var request Request
		if json.Unmarshal(line, &request) != nil || request.ID == 0 {
			continue // the tail of a request that somebody before us began to read
		}
		pending.Go(func() {
			reply, err := json.Marshal(handle(ctx, &request))
			if err != nil {
				reply, _ = json.Marshal(Response{ID: request.ID, Error: err.Error()})
			}
			writing.Lock()
			defer writing.Unlock()
			// Whoever asked is gone if this fails; he asks again.
			_, _ = rw.Write(append(reply, '\n'))
		})
	}
}

// handle carries out one request.
func handle(ctx context.Context, request *Request) *Response {
	response := &Response{ID: request.ID}
	var err error
	switch request.Op {
	case OpPing:
	case OpExec:
		err = execute(ctx, request, response)
	case OpRead:
		err = within(request.In, func() error {
			response.Data, err = os.ReadFile(request.Path)
			return err
		})
	case OpWrite:
		err = within(request.In, func() error { return os.WriteFile(request.Path, request.Data, 0o644) })
	case OpStat:
		err = within(request.In, func() error {
			file, err := describe(request.Path)
			response.Files = []File{file}
			return err
		})
	case OpList:
		err = within(request.In, func() error {
			response.Files, err = list(request.Path)
			return err
		})
	case OpKill:
		err = syscall.Kill(request.PID, syscall.Signal(request.Signal))
	case OpPS:
		response.Processes, err = processes()
	default:
		err = fmt.Errorf("no such operation: %q", request.Op)
	}
	if err != nil {
		response.Error = err.Error()
	}
	return response
}

// execute runs a command to its end, and kills it at its bound.
func execute(ctx context.Context, request *Request, response *Response) error {
	if len(request.Argv) == 0 {
		return errors.New("exec: argv is empty")
	}
	bound := request.Timeout
	if bound <= 0 {
		bound = execBound
	}
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	var stdout, stderr bytes.Buffer
	var command *exec.Cmd
	// Only the start happens inside: a child is made in the namespaces of the thread that makes it.
	err := within(request.In, func() error {
		command = exec.CommandContext(ctx, request.Argv[0], request.Argv[1:]...)
		command.Dir = "/"
		command.Stdin = bytes.NewReader(request.Stdin)
		command.Stdout, command.Stderr = &stdout, &stderr
		command.WaitDelay = time.Second
		return command.Start()
	})
	if err != nil {
		return err
	}
	err = command.Wait()
	response.Stdout, response.Stderr = stdout.Bytes(), stderr.Bytes()
	if ctx.Err() != nil {
		return fmt.Errorf("exec %q: %w", request.Argv, ctx.Err())
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return err
	}
	status := command.ProcessState.Sys().(syscall.WaitStatus)
	response.Exit = status.ExitStatus()
	if status.Signaled() {
		response.Exit = 128 + int(status.Signal())
	}
	return nil
}
