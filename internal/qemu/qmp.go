package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// qmp speaks QEMU's machine protocol over its Unix socket: commands one at a time, and the events that tell
// how the machine ended.
type qmp struct {
	conn net.Conn

	commands sync.Mutex // held while a command awaits its answer
	replies  chan qmpMessage
	gone     chan struct{} // closed when the reader ends: all events have been seen

	mu   sync.Mutex
	end  End
	quit bool // we stop it ourselves
}

type qmpMessage struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
	Data  struct {
		Reason string `json:"reason"`
		Action string `json:"action"`
	} `json:"data"`
}

// dial connects to a socket that QEMU is about to make; ended is closed if QEMU ends instead.
func dial(ctx context.Context, path string, ended <-chan struct{}) (net.Conn, error) {
	var dialer net.Dialer
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		conn, err := dialer.DialContext(ctx, "unix", path)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ended:
			return nil, errors.New("QEMU ended at once")
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to QEMU: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func dialQMP(ctx context.Context, path string, ended <-chan struct{}) (*qmp, error) {
	conn, err := dial(ctx, path, ended)
	if err != nil {
		return nil, err
	}
	q := &qmp{conn: conn, replies: make(chan qmpMessage, 1), gone: make(chan struct{})}
	go q.read()
	if err := q.execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		q.close()
		return nil, err
	}
	return q, nil
}

func (q *qmp) read() {
	defer close(q.gone)
	decoder := json.NewDecoder(bufio.NewReader(q.conn))
	for {
		var message qmpMessage
		if decoder.Decode(&message) != nil {
			return
		}
		switch {
		case message.Event == "SHUTDOWN":
			q.shutdown(message.Data.Reason)
		case message.Event == "WATCHDOG" && message.Data.Action == "reset":
			q.mu.Lock()
			q.end = Watchdog
			q.mu.Unlock()
		case message.Event == "GUEST_PANICKED":
			q.mu.Lock()
			q.end = Panic
			q.mu.Unlock()
		case message.Return != nil || message.Error != nil:
			select {
			case q.replies <- message:
			default: // nobody waits any more
			}
		}
	}
}

// shutdown takes the reason of a SHUTDOWN event: QEMU's ShutdownCause.
func (q *qmp) shutdown(reason string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.quit:
		q.end = Quit
	case q.end != "":
	case reason == "guest-shutdown":
		q.end = PowerOff
	case reason == "guest-reset":
		q.end = Reboot
	case reason == "guest-panic":
		q.end = Panic
	default:
		q.end = Quit
	}
}

// execute runs a command and decodes what it returns into result, where that is not nil.
func (q *qmp) execute(ctx context.Context, command string, arguments map[string]any, result any) error {
	q.commands.Lock()
	defer q.commands.Unlock()
	select {
	case <-q.replies: // of a command that was given up
	default:
	}
	message := map[string]any{"execute": command}
	if arguments != nil {
		message["arguments"] = arguments
	}
	line, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if _, err := q.conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("QEMU %s: %w", command, err)
	}
	select {
	case reply := <-q.replies:
		if reply.Error != nil {
			return fmt.Errorf("QEMU %s: %s", command, reply.Error.Desc)
		}
		if result != nil {
			if err := json.Unmarshal(reply.Return, result); err != nil {
				return fmt.Errorf("QEMU %s: %w", command, err)
			}
		}
		return nil
	case <-q.gone:
		return fmt.Errorf("QEMU %s: %w", command, ErrEnded)
	case <-ctx.Done():
		return fmt.Errorf("QEMU %s: %w", command, ctx.Err())
	}
}

// ended says what the events told about the machine's end, once QEMU is gone.
func (q *qmp) ended() (End, bool) {
	select {
	case <-q.gone:
	case <-time.After(5 * time.Second): // QEMU is gone, so its socket is closed: only a bound
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.quit && q.end == "" {
		return Quit, true
	}
	return q.end, q.end != ""
}

func (q *qmp) stopping() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.quit = true
}

func (q *qmp) close() {
	q.conn.Close()
	<-q.gone
}
