package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"keelson/internal/api"
	"keelson/services/control"
	"keelson/services/execstream"
)

func otherCommands() []command {
	return []command{
		{"exec", "[-i] [-t] [-e K=V] [-w DIR] NAME [--] COMMAND...", "run a command in a service's container", `
Runs a command in the container of a service that runs, as the service's own user
and with its environment.

  -i, --stdin      pass the input on
  -t, --tty        with a terminal
  -e NAME=VALUE    with this in its environment; may be repeated
  -w DIR           in this folder

  service exec web ps
  service exec -it web -- sh

It ends with the command's exit code (128+N if signal N ended it), with 127 if the
container does not have the command, with 126 if it cannot be executed there, and with
125 if it could not be started for another reason. When service is interrupted, the command is hung up.
`, (*app).exec},
		{"completion", "bash|zsh|fish", "what makes a shell complete commands and names", `
Writes a script for the shell.

  bash:  source <(service completion bash)
  zsh:   source <(service completion zsh)
  fish:  service completion fish | source

The shell of busybox completes file names only.
`, (*app).completion},
		{"system-init", "", "LinuxKit's command, for which there is nothing left to do", `
LinuxKit's scripts call it to start containerd and the services. The supervisor has
done that; it says how far the machine is, and changes nothing.
`, (*app).systemInit},
	}
}

func (a *app) exec(fs *flag.FlagSet, args []string) int {
	var r control.ExecRequest
	var both, help bool
	var env repeated
	fs.BoolVar(&r.Stdin, "i", false, "")
	fs.BoolVar(&r.Stdin, "stdin", false, "")
	fs.BoolVar(&r.TTY, "t", false, "")
	fs.BoolVar(&r.TTY, "tty", false, "")
	fs.BoolVar(&both, "it", false, "")
	fs.BoolVar(&both, "ti", false, "")
	fs.Var(&env, "e", "")
	fs.StringVar(&r.Cwd, "w", "", "")
	fs.BoolVar(&help, "h", false, "")
	fs.BoolVar(&help, "help", false, "")
	if err := fs.Parse(args); err != nil {
		return a.usage("exec", "%v", err)
	}
	if help {
		return a.help([]string{"exec"})
	}
	r.Stdin, r.TTY, r.Env = r.Stdin || both, r.TTY || both, env
	args = fs.Args()
	if len(args) > 1 && args[1] == "--" {
		args = append(args[:1:1], args[2:]...)
	}
	if len(args) < 2 {
		return a.usage("exec", "it needs the name of a service and a command: service exec -it NAME -- sh")
	}
	for _, e := range env {
		if !strings.Contains(e, "=") {
			return a.usage("exec", "-e %s: it is NAME=VALUE", e)
		}
	}
	name := args[0]
	r.Args = args[1:]
	code, err := a.session(name, r)
	if err != nil {
		if u := a.fail(helpfully(err, name)); u == codeNotThere || u == codeNobody {
			return u
		}
		if strings.Contains(err.Error(), "no such program") {
			return codeProgram
		}
		if strings.Contains(err.Error(), "cannot be executed") {
			return codeRefused
		}
		return codeExec
	}
	return code
}

// session joins our input and output to a process in a container and returns how
// that ended.
func (a *app) session(name string, r control.ExecRequest) (int, error) {
	inFD := int(a.in.Fd())
	local := r.TTY && r.Stdin && term.IsTerminal(inFD) // the keyboard's, which the process gets as it is
	if r.TTY {
		if cols, rows, err := term.GetSize(inFD); err == nil {
			r.Rows, r.Cols = uint16(rows), uint16(cols)
		}
		if t := os.Getenv("TERM"); t != "" {
			r.Env = append([]string{"TERM=" + t}, r.Env...)
		}
	}
	conn, err := a.upgrade(name, r)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	out := execstream.NewWriter(conn)
	if local {
		state, err := term.MakeRaw(inFD)
		if err != nil {
			return 0, fmt.Errorf("prepare the terminal: %w", err)
		}
		defer func() { _ = term.Restore(inFD, state) }()
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGWINCH, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	defer signal.Stop(signals)
	ended := make(chan struct{})
	var sender sync.WaitGroup
	defer sender.Wait()
	defer close(ended)
	sender.Go(func() {
		for {
			select {
			case <-ended:
				return
			case sig := <-signals:
				if sig != unix.SIGWINCH {
					_ = out.Frame(execstream.Signal, []byte{byte(sig.(unix.Signal))})
				} else if cols, rows, err := term.GetSize(inFD); err == nil && r.TTY {
					_ = out.Size(uint16(rows), uint16(cols))
				}
			}
		}
	})
	if r.Stdin {
		// Not waited for: a read from a terminal ends only with the program.
		go func() {
			_, _ = io.CopyBuffer(execstream.Stream{W: out, K: execstream.Stdin}, struct{ io.Reader }{a.in}, make([]byte, execstream.MaxFrame))
			_ = out.Frame(execstream.Stdin, nil)
		}()
	}
	return a.receive(conn)
}

// upgrade asks for the process and returns the connection behind the answer.
func (a *app) upgrade(name string, r control.ExecRequest) (*connection, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	u := address(servicePath(name, "exec"))
	header := http.Header{"Connection": {"Upgrade"}, "Upgrade": {execstream.Protocol}}
	// An interrupt is the process's to hear, so the connection outlives it.
	answer, conn, err := a.client.exchange(context.WithoutCancel(a.ctx), http.MethodPost, u, header, body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		defer conn.Close()
		return nil, refused(answer)
	}
	return conn, nil
}

// receive shows what the process writes, until its end.
func (a *app) receive(in io.Reader) (int, error) {
	for {
		kind, data, err := execstream.Read(in)
		if err != nil {
			return 0, errors.New("the connection was cut, and the command with it: the supervisor was started again")
		}
		switch kind {
		case execstream.Stdout:
			_, err = a.out.Write(data)
		case execstream.Stderr:
			_, err = a.err.Write(data)
		case execstream.Exit:
			return execstream.CodeOf(data)
		case execstream.Error:
			var e api.Error
			if json.Unmarshal(data, &e) != nil {
				e.Error = string(data)
			}
			return 0, errors.New(e.Error)
		default:
			return 0, fmt.Errorf("the supervisor sent a frame of kind %d, which there is not", kind)
		}
		if err != nil {
			return 0, fmt.Errorf("pass its output on, of which the rest is lost: %w", err)
		}
	}
}
