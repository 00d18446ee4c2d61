package cli

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/api"
)

// reachBound is how long a supervisor that is not there is waited for: one that
// died is started again in much less.
const reachBound = 3 * time.Second

// maxAnswer bounds an answer that is read as a whole.
const maxAnswer = 64 << 20

// An answer may take as long as what was asked for. A supervisor that has not answered for
// patience is asked something easy, and again after twice as long each time; if that is not
// answered within easyBound it hangs.
const (
	patience  = 5 * time.Second
	easyBound = 10 * time.Second
)

// errHangs says that somebody listens who does not answer.
var errHangs = errors.New("it takes connections but does not answer; PID 1 ends a supervisor that hangs, within a minute, and starts another one")

// client asks the supervisor. The client of net/http would bring TLS along, some
// two megabytes of a program that every machine holds in memory.
type client struct {
	socket string
	// patience and easyBound, where they are not the usual ones.
	patience, easyBound time.Duration
}

// unreachable says that nobody answers on the socket.
type unreachable struct {
	socket string
	err    error
}

func (u *unreachable) Unwrap() error { return u.err }

func (u *unreachable) Error() string {
	text := fmt.Sprintf("the supervisor cannot be reached on %s: %v", u.socket, u.err)
	switch {
	case errors.Is(u.err, fs.ErrNotExist):
		return text + "\nIn a container the machine's folder has to be bound, in the image YAML:\n  binds: [/run:/run, /usr/bin/service:/usr/bin/service]"
	case errors.Is(u.err, fs.ErrPermission):
		return text + "\nOnly root of the machine may ask: uid 0, not in a user namespace."
	}
	return text
}

// refusal is an answer that is none.
type refusal struct {
	status int
	body   api.Error
}

func (r *refusal) Error() string {
	if r.body.Want == "" {
		return r.body.Error
	}
	if r.status == http.StatusForbidden {
		return r.body.Error + "\nhint: " + r.body.Want
	}
	return r.body.Error + "\nRight would be: " + r.body.Want
}

// codeOf is the exit code for an error.
func codeOf(err error) int {
	if _, ok := errors.AsType[*unreachable](err); ok {
		return codeNobody
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		switch r.status {
		case http.StatusNotFound:
			return codeNotThere
		case http.StatusGatewayTimeout:
			return codeTimeout
		case http.StatusForbidden:
			return codeNobody
		case http.StatusBadRequest:
			return codeUsage
		}
	}
	if errors.Is(err, errTimeout) {
		return codeTimeout
	}
	return codeFailed
}

var errTimeout = errors.New("the time is over")

// dial connects, and waits a little for a supervisor that is being started again.
func (c *client) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	began := time.Now()
	for {
		conn, err := d.DialContext(ctx, "unix", c.socket)
		if err == nil {
			return conn, nil
		}
		// Without its folder nobody will come: it was not bound.
		_, missing := os.Stat(filepath.Dir(c.socket))
		again := errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EAGAIN) || errors.Is(err, fs.ErrNotExist) && missing == nil
		if !again || time.Since(began) > reachBound {
			if op, ok := errors.AsType[*net.OpError](err); ok {
				err = op.Err
			}
			return nil, &unreachable{c.socket, err}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// do sends a request and returns the answer, if it is one, whose body is to be closed.
func (c *client) do(ctx context.Context, method, path string, query url.Values) (*http.Response, error) {
	u := address(path)
	u.RawQuery = query.Encode()
	return c.answered(ctx, method, u, nil)
}

// askMuch gets what has more parameters than there may be room for in a URL.
func (c *client) askMuch(ctx context.Context, path string, query url.Values) (*http.Response, error) {
	return c.answered(ctx, http.MethodGet, address(path), []byte(query.Encode()))
}

// answered asks again where a supervisor died before it answered what changes nothing.
func (c *client) answered(ctx context.Context, method string, u url.URL, body []byte) (*http.Response, error) {
	answer, _, err := c.exchange(ctx, method, u, nil, body)
	for began := time.Now(); method == http.MethodGet && cutShort(err) && time.Since(began) < reachBound; {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		answer, _, err = c.exchange(ctx, method, u, nil, body)
	}
	if err != nil {
		return nil, err
	}
	if answer.StatusCode >= 300 {
		defer answer.Body.Close()
		return nil, refused(answer)
	}
	return answer, nil
}

// cutShort reports whether a supervisor died between taking a connection and its
// answer: its successor has not heard the question.
func cutShort(err error) bool {
	return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// exchange sends a request and reads the head of its answer. The connection, for one
// that is upgraded, is closed with the answer's body or the context.
func (c *client) exchange(ctx context.Context, method string, u url.URL, header http.Header, body []byte) (*http.Response, *connection, error) {
	socket, err := c.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	conn := &connection{Conn: socket, stop: context.AfterFunc(ctx, func() { _ = socket.Close() })}
	hangs := c.watch(conn)
	answer, err := conn.ask(method, u, header, body)
	if hangs() {
		err = errHangs
	}
	if err == nil {
		return answer, conn, nil
	}
	_ = conn.Close()
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	return nil, nil, &unreachable{c.socket, err}
}

// watch closes a connection as soon as the supervisor hangs, until the function that it
// returns is called, which reports whether it did.
func (c *client) watch(conn net.Conn) (hung func() bool) {
	done, over := make(chan struct{}), make(chan struct{})
	hangs := false
	go func() {
		defer close(over)
		for wait := cmp.Or(c.patience, patience); ; wait *= 2 {
			timer := time.NewTimer(wait)
			select {
			case <-done:
				timer.Stop()
				return
			case <-timer.C:
			}
			if errors.Is(c.easy(done), os.ErrDeadlineExceeded) {
				hangs = true
				_ = conn.Close()
				return
			}
		}
	}()
	return func() bool {
		close(done)
		<-over
		return hangs
	}
}

// easy asks what every supervisor can answer at once, unless done is closed first.
func (c *client) easy(done <-chan struct{}) error {
	bound := cmp.Or(c.easyBound, easyBound)
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	var d net.Dialer
	socket, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return err // what is asked for meanwhile is about to see that too
	}
	asked := make(chan struct{})
	defer close(asked)
	go func() {
		select {
		case <-asked:
		case <-done:
		}
		_ = socket.Close()
	}()
	_ = socket.SetDeadline(time.Now().Add(bound))
	_, err = (&connection{Conn: socket, stop: func() bool { return true }}).ask(http.MethodGet, address("/machine"), nil, nil)
	return err
}

// connection is one to the supervisor, with what was read of it already.
type connection struct {
	net.Conn
	in   *bufio.Reader
	stop func() bool
}

// Read reads what comes behind the answer's head.
func (c *connection) Read(p []byte) (int, error) { return c.in.Read(p) }

// Close closes the connection.
func (c *connection) Close() error {
	c.stop()
	return c.Conn.Close()
}

func (c *connection) ask(method string, u url.URL, header http.Header, body []byte) (*http.Response, error) {
	r := &http.Request{Method: method, URL: &u, Host: u.Host, Header: header, ContentLength: int64(len(body))}
	if len(body) > 0 {
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	if err := r.Write(c.Conn); err != nil && !errors.Is(err, unix.EPIPE) { // who refuses us may have closed already
		return nil, err
	}
	c.in = bufio.NewReader(c.Conn)
	answer, err := http.ReadResponse(c.in, r)
	if err != nil {
		return nil, err
	}
	answer.Body = &answerBody{answer.Body, c}
	return answer, nil
}

// answerBody closes its connection.
type answerBody struct {
	io.ReadCloser
	conn *connection
}

// Close ends the answer, however much of it was read.
func (b *answerBody) Close() error { return b.conn.Close() }

func refused(answer *http.Response) error {
	r := &refusal{status: answer.StatusCode}
	data, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil || json.Unmarshal(data, &r.body) != nil || r.body.Error == "" {
		r.body.Error = fmt.Sprintf("the supervisor answers %s %s", answer.Status, strings.TrimSpace(string(data)))
	}
	return r
}

// ask sends a request and decodes its answer.
func (c *client) ask(ctx context.Context, method, path string, query url.Values, v any) error {
	answer, err := c.do(ctx, method, path, query)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	hangs := c.watch(answer.Body.(*answerBody).conn)
	err = json.NewDecoder(io.LimitReader(answer.Body, maxAnswer)).Decode(v)
	if hangs() {
		err = errHangs
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &unreachable{c.socket, fmt.Errorf("its answer cannot be read: %w", err)}
	}
	return nil
}

// servicePath is the path of a service, or of what is asked of it. Whatever people type
// is a name, and no path of its own.
func servicePath(name string, what ...string) string {
	return "/services/" + strings.Join(append([]string{url.PathEscape(name)}, what...), "/")
}

// address is the URL of a path, which is escaped as a URL has it.
func address(path string) url.URL {
	u := url.URL{Scheme: "http", Host: "keelson", RawPath: "/" + api.Version + path}
	u.Path, _ = url.PathUnescape(u.RawPath) // what we have escaped ourselves
	return u
}

func (c *client) services(ctx context.Context) (all []api.Service, err error) {
	return all, c.ask(ctx, http.MethodGet, "/services", nil, &all)
}

func (c *client) machine(ctx context.Context) (m api.Machine, err error) {
	return m, c.ask(ctx, http.MethodGet, "/machine", nil, &m)
}

// service returns one service. An error for a name there is not has the ones that
// look like it.
func (c *client) service(ctx context.Context, name string) (s api.Service, err error) {
	err = c.ask(ctx, http.MethodGet, servicePath(name), nil, &s)
	return s, helpfully(err, name)
}

// helpfully puts the name that was probably meant into the error about one there
// is not.
func helpfully(err error, name string) error {
	r, ok := errors.AsType[*refusal](err)
	if !ok || r.status != http.StatusNotFound {
		return err
	}
	names := strings.Split(r.body.Want, ", ")
	if hint := didYouMean(name, names); hint != "" {
		r.body.Error += hint
		r.body.Want = ""
	} else if slices.Contains(names, "") {
		r.body.Want = ""
	}
	return r
}

// missing reports whether the socket's folder is not there at all.
func missing(err error) bool {
	u, ok := errors.AsType[*unreachable](err)
	if !ok {
		return false
	}
	_, serr := os.Stat(filepath.Dir(u.socket))
	return errors.Is(serr, fs.ErrNotExist) || errors.Is(u.err, fs.ErrPermission)
}
