package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"keelson/internal/guestagent"
)

// agent is the host's end of the second channel.
type agent struct {
	conn net.Conn
	gone chan struct{}

	mu      sync.Mutex // guards the rest and writing
	last    uint64
	waiting map[uint64]chan *guestagent.Response
}

// errNoAgent is what a machine says that was started without Config.Agent.
var errNoAgent = errors.New("this machine was started without an agent")

func dialAgent(ctx context.Context, path string) (*agent, error) {
	conn, err := dial(ctx, path, nil)
	if err != nil {
		return nil, err
	}
	a := &agent{conn: conn, gone: make(chan struct{}), waiting: map[uint64]chan *guestagent.Response{}}
	go a.read()
	return a, nil
}

func (a *agent) read() {
	defer close(a.gone)
	lines := bufio.NewReader(a.conn)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		response := new(guestagent.Response)
		if json.Unmarshal(line, response) != nil {
			continue // the rest of an answer whose writer was killed
		}
		a.mu.Lock()
		if waiting := a.waiting[response.ID]; waiting != nil {
			waiting <- response // has room for the one answer
			delete(a.waiting, response.ID)
		}
		a.mu.Unlock()
	}
}

func (a *agent) send(request *guestagent.Request) (<-chan *guestagent.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last++
	request.ID = a.last
	line, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	reply := make(chan *guestagent.Response, 1)
	a.waiting[request.ID] = reply
	if _, err := a.conn.Write(append(line, '\n')); err != nil {
		delete(a.waiting, request.ID)
		return nil, err
	}
	return reply, nil
}

func (a *agent) close() {
	a.conn.Close()
	<-a.gone
}

// resend is how long the first answer is waited for before a request that changes nothing is sent again. An
// agent that is killed takes the requests it has read with it.
const resend = 5 * time.Second

// repeatable says which requests may be carried out twice.
var repeatable = map[string]bool{
	guestagent.OpPing: true, guestagent.OpRead: true, guestagent.OpStat: true, guestagent.OpList: true, guestagent.OpPS: true,
}

// ErrEnded is the error of a request whose answer cannot come: the machine has ended. What was asked for may have
// been done, and may be why.
var ErrEnded = errors.New("the machine has ended")

// call carries out a request in the guest. What names the thing asked for, for errors.
func (m *Machine) call(ctx context.Context, request guestagent.Request, what string) (*guestagent.Response, error) {
	if m.agent == nil {
		return nil, errNoAgent
	}
	for wait := resend; ; wait *= 2 {
		reply, err := m.agent.send(&request)
		if err != nil {
			return nil, fmt.Errorf("guest: %s: %w", what, err)
		}
		var again <-chan time.Time
		if repeatable[request.Op] {
			again = time.After(wait)
		}
		select {
		case response := <-reply:
			if response.Error != "" {
				return response, fmt.Errorf("guest: %s: %s", what, response.Error)
			}
			return response, nil
		case <-again:
		case <-m.agent.gone:
			return nil, fmt.Errorf("guest: %s: %w", what, ErrEnded)
		case <-ctx.Done():
			return nil, fmt.Errorf("guest: %s: %w; console:\n%s", what, ctx.Err(), m.Console.tail(20))
		}
	}
}

// AwaitAgent waits until the agent answers: at first, and after it was killed.
func (m *Machine) AwaitAgent(ctx context.Context) error {
	if m.agent == nil {
		return errNoAgent
	}
	_, err := m.call(ctx, guestagent.Request{Op: guestagent.OpPing}, "ping")
	return err
}

// Result is what a command in the guest left.
type Result struct {
	Exit           int // 128+n where signal n ended it
	Stdout, Stderr string
}

// Exec runs a command in the agent's own container, which has busybox, the machine's processes, network and
// devices, and returns what it left whatever its exit code is.
func (m *Machine) Exec(ctx context.Context, argv ...string) (Result, error) {
	return m.ExecIn(ctx, 0, argv...)
}

// ExecIn runs a command in the namespaces of a process of the guest; 1 is the machine itself.
func (m *Machine) ExecIn(ctx context.Context, pid int, argv ...string) (Result, error) {
	request := guestagent.Request{Op: guestagent.OpExec, In: pid, Argv: argv}
	response, err := m.call(ctx, request, strings.Join(argv, " "))
	if err != nil {
		return Result{}, err
	}
	return Result{Exit: response.Exit, Stdout: string(response.Stdout), Stderr: string(response.Stderr)}, nil
}

// Output runs a command as Exec does, and takes an exit code other than 0 for an error.
func (m *Machine) Output(ctx context.Context, argv ...string) (string, error) {
	result, err := m.Exec(ctx, argv...)
	if err == nil && result.Exit != 0 {
		err = fmt.Errorf("guest: %s: exit code %d: %s%s", strings.Join(argv, " "), result.Exit, result.Stdout, result.Stderr)
	}
	return result.Stdout, err
}

// ReadFile reads a file of the machine's root.
func (m *Machine) ReadFile(ctx context.Context, path string) (string, error) {
	return m.ReadFileIn(ctx, 1, path)
}

// ReadFileIn reads a file as the process pid of the guest sees it.
func (m *Machine) ReadFileIn(ctx context.Context, pid int, path string) (string, error) {
	response, err := m.call(ctx, guestagent.Request{Op: guestagent.OpRead, In: pid, Path: path}, "read "+path)
	if err != nil {
		return "", err
	}
	return string(response.Data), nil
}

// WriteFile writes a file of the machine's root.
func (m *Machine) WriteFile(ctx context.Context, path, text string) error {
	request := guestagent.Request{Op: guestagent.OpWrite, In: 1, Path: path, Data: []byte(text)}
	_, err := m.call(ctx, request, "write "+path)
	return err
}

// Stat describes a file of the machine's root, without following a symbolic link.
func (m *Machine) Stat(ctx context.Context, path string) (guestagent.File, error) {
	response, err := m.call(ctx, guestagent.Request{Op: guestagent.OpStat, In: 1, Path: path}, "stat "+path)
	if err != nil {
		return guestagent.File{}, err
	}
	return response.Files[0], nil
}

// List describes the files in a folder of the machine's root.
func (m *Machine) List(ctx context.Context, path string) ([]guestagent.File, error) {
	response, err := m.call(ctx, guestagent.Request{Op: guestagent.OpList, In: 1, Path: path}, "list "+path)
	if err != nil {
		return nil, err
	}
	return response.Files, nil
}

// Processes lists the machine's processes.
func (m *Machine) Processes(ctx context.Context) ([]guestagent.Process, error) {
	response, err := m.call(ctx, guestagent.Request{Op: guestagent.OpPS}, "ps")
	if err != nil {
		return nil, err
	}
	return response.Processes, nil
}

// Kill sends a signal to a process of the machine.
func (m *Machine) Kill(ctx context.Context, pid int, signal syscall.Signal) error {
	request := guestagent.Request{Op: guestagent.OpKill, PID: pid, Signal: int(signal)}
	_, err := m.call(ctx, request, fmt.Sprintf("kill -%d %d", signal, pid))
	return err
}
