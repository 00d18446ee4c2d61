package guestagent

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// duplex is one end of a connection made of two pipes.
type duplex struct {
	io.Reader
	io.Writer
}

// client is a host's end, on a Serve that runs until the test ends.
type client struct {
	t     *testing.T
	to    io.WriteCloser
	lines *bufio.Reader
}

func serve(t *testing.T) *client {
	requests, to := io.Pipe()
	from, responses := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- Serve(t.Context(), duplex{requests, responses}) }()
	t.Cleanup(func() {
		to.Close()
		from.Close()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return &client{t, to, bufio.NewReader(from)}
}

func (c *client) send(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c.to, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) receive() Response {
	c.t.Helper()
	line, err := c.lines.ReadBytes('\n')
	if err != nil {
		c.t.Fatal(err)
	}
	var response Response
	if err := json.Unmarshal(line, &response); err != nil {
		c.t.Fatalf("%v in %q", err, line)
	}
	return response
}

func (c *client) call(request Request) Response {
	c.t.Helper()
	line, err := json.Marshal(request)
	if err != nil {
		c.t.Fatal(err)
	}
	c.send(string(line))
	response := c.receive()
	if response.ID != request.ID {
		c.t.Fatalf("asked %d, answered %d", request.ID, response.ID)
	}
	return response
}

func TestExec(t *testing.T) {
	c := serve(t)
	got := c.call(Request{ID: 1, Op: OpExec, Argv: []string{"sh", "-c", "cat; echo no >&2; exit 7"}, Stdin: []byte("in")})
	if got.Error != "" || got.Exit != 7 || string(got.Stdout) != "in" || string(got.Stderr) != "no\n" {
		t.Errorf("got %+v", got)
	}
	got = c.call(Request{ID: 2, Op: OpExec, Argv: []string{"sh", "-c", "kill -TERM $$"}})
	if got.Error != "" || got.Exit != 128+int(syscall.SIGTERM) {
		t.Errorf("ended by a signal: %+v", got)
	}
	got = c.call(Request{ID: 3, Op: OpExec, Argv: []string{"/missing"}})
	if !strings.Contains(got.Error, "/missing") {
		t.Errorf("a program that is missing: %+v", got)
	}
	got = c.call(Request{ID: 4, Op: OpExec, Argv: []string{"sleep", "1000"}, Timeout: time.Millisecond})
	if !strings.Contains(got.Error, "deadline") {
		t.Errorf("past its bound: %+v", got)
	}
	if got = c.call(Request{ID: 5, Op: OpExec}); got.Error == "" {
		t.Error("an empty argv was run")
	}
}

// A slow request does not hold up the one after it.
func TestBeside(t *testing.T) {
	c := serve(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	slow, _ := json.Marshal(Request{ID: 1, Op: OpExec, Argv: []string{"cat", fifo}})
	c.send(string(slow))
	if got := c.call(Request{ID: 2, Op: OpPing}); got.Error != "" {
		t.Fatal(got.Error)
	}
	if err := os.WriteFile(fifo, []byte("now"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := c.receive(); got.ID != 1 || string(got.Stdout) != "now" {
		t.Errorf("got %+v", got)
	}
}

func TestGarbage(t *testing.T) {
	c := serve(t)
	c.send(`he end of a request"}`)
	c.send(``)
	c.send(`{"op":"ping"}`) // nobody to answer
	if got := c.call(Request{ID: 9, Op: "dance"}); !strings.Contains(got.Error, "dance") {
		t.Errorf("an unknown operation: %+v", got)
	}
}

func TestFiles(t *testing.T) {
	c := serve(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if got := c.call(Request{ID: 1, Op: OpWrite, Path: path, Data: []byte{0, 1, 0xff}}); got.Error != "" {
		t.Fatal(got.Error)
	}
	if got := c.call(Request{ID: 2, Op: OpRead, Path: path}); !slices.Equal(got.Data, []byte{0, 1, 0xff}) {
		t.Errorf("read back %v", got.Data)
	}
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	got := c.call(Request{ID: 3, Op: OpStat, Path: filepath.Join(dir, "link")})
	if len(got.Files) != 1 || got.Files[0].Link != "file" || got.Files[0].Mode&syscall.S_IFMT != syscall.S_IFLNK {
		t.Errorf("a symbolic link: %+v", got)
	}
	got = c.call(Request{ID: 4, Op: OpList, Path: dir})
	if len(got.Files) != 2 || got.Files[0].Name != "file" || got.Files[0].Size != 3 {
		t.Errorf("a folder: %+v", got)
	}
	got = c.call(Request{ID: 5, Op: OpStat, Path: "/dev/null"})
	if len(got.Files) != 1 || got.Files[0].Major != 1 || got.Files[0].Minor != 3 {
		t.Errorf("/dev/null: %+v", got)
	}
	if got = c.call(Request{ID: 6, Op: OpRead, Path: filepath.Join(dir, "missing")}); got.Error == "" {
		t.Error("read a file that is missing")
	}
}

func TestProcesses(t *testing.T) {
	c := serve(t)
	got := c.call(Request{ID: 1, Op: OpPS})
	at := slices.IndexFunc(got.Processes, func(p Process) bool { return p.PID == os.Getpid() })
	if at < 0 {
		t.Fatalf("this process is not listed: %+v", got)
	}
	self := got.Processes[at]
	if self.Parent != os.Getppid() || !slices.Equal(self.Argv, os.Args) || self.RSS == 0 {
		t.Errorf("got %+v", self)
	}
	if got := c.call(Request{ID: 2, Op: OpKill, PID: os.Getpid(), Signal: 0}); got.Error != "" {
		t.Error(got.Error)
	}
}
