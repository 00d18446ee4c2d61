package control

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"keelson/internal/api"
)

// raw sends text as it is and returns everything that comes back.
func (w *world) raw(text string) string {
	w.t.Helper()
	conn := w.dial()
	go func() {
		_, _ = io.WriteString(conn, text) // which may be refused before it is all sent
		_ = conn.(*net.UnixConn).CloseWrite()
	}()
	answer, _ := io.ReadAll(conn) // a reset is an end too
	return string(answer)
}

func TestRawRequests(t *testing.T) {
	w := start(t, nil)
	for _, tc := range []struct{ name, text, status, want string }{
		{"HTTP/1.0, no Host", "GET /v1/machine HTTP/1.0\r\n\r\n", "200", `"running"`},
		{"nonsense", "hello\r\n\r\n", "400", "no HTTP request"},
		{"no end of the head", "GET /v1/machine HTTP/1.1\r\nA: b\r\n", "", ""},
		{"a head without bound", "GET / HTTP/1.1\r\nA: " + strings.Repeat("x", maxHeader+maxBody), "413", "its head has more than 65536 bytes"},
		{"a head of many lines", "GET / HTTP/1.1\r\n" + strings.Repeat("A: b\r\n", maxHeader), "413", "its head has more than 65536 bytes"},
		{"a body as large as may be", "POST /v1/services/web/stop HTTP/1.1\r\nHost: k\r\nContent-Length: 1048576\r\n\r\n" + strings.Repeat("x", maxBody), "200", `"web"`},
		{"a body in pieces without bound", "POST /v1/services/web/stop HTTP/1.1\r\nHost: k\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1000\r\n"+strings.Repeat("x", 4096)+"\r\n", 300), "413", "its body has more than"},
		{"half a body", "POST /v1/services/web/stop HTTP/1.1\r\nHost: k\r\nContent-Length: 10\r\n\r\nx", "400", "unexpected EOF"},
		{"a body without bound", "POST /v1/services/web/stop HTTP/1.1\r\nHost: k\r\nContent-Length: 9999999\r\n\r\n" + strings.Repeat("x", maxBody+2), "413", "too large"},
		{"nothing", "", "", ""},
	} {
		got := w.raw(tc.text)
		if tc.status == "" {
			if got != "" && !strings.Contains(got, " 400 ") {
				t.Errorf("%s: %q", tc.name, got)
			}
			continue
		}
		if !strings.HasPrefix(got, "HTTP/1.1 "+tc.status+" ") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %s %s", tc.name, got, tc.status, tc.want)
		}
	}
	if got := w.raw("HEAD /v1/machine HTTP/1.1\r\nHost: k\r\n\r\n"); !strings.HasSuffix(got, "\r\n\r\n") || !strings.Contains(got, "Content-Length: ") {
		t.Errorf("HEAD: %q", got)
	}
}

// nc ends its side of the connection as soon as it has sent everything.
func TestClientThatSendsNoMoreStillListens(t *testing.T) {
	w := start(t, nil)
	conn := w.dial()
	fmt.Fprint(conn, "GET /v1/events?follow=1 HTTP/1.1\r\nHost: k\r\n\r\n")
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	answer, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.hub.Publish(api.Event{Kind: "machine", To: "running"})
	line, err := bufio.NewReader(answer.Body).ReadString('\n')
	if err != nil || !strings.Contains(line, `"machine"`) {
		t.Fatal(line, err)
	}
	conn.Close()
	deadline := time.Now().Add(bound)
	for len(w.server.listen.slots) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("its end is not noticed")
		}
		runtime.Gosched()
	}
}

// A mistake in an answer costs the answer, not the supervisor.
func TestPanic(t *testing.T) {
	warned := make(chan string, 1)
	w := start(t, func(c *Config) {
		c.Boot = func() api.Boot { panic("a mistake") }
		c.Warn = func(format string, a ...any) { warned <- fmt.Sprintf(format, a...) }
	})
	if got := w.raw("GET /v1/boot HTTP/1.1\r\nHost: k\r\n\r\n"); got != "" {
		t.Errorf("the answer is %q", got)
	}
	if text := <-warned; !strings.Contains(text, "a mistake") {
		t.Error(text)
	}
	if status, _ := w.ask("GET", "/v1/machine"); status != 200 {
		t.Error(status)
	}
}

// Who asks half a question and waits is dropped; who asks nothing too.
func TestRequestsThatDoNotArrive(t *testing.T) {
	w := start(t, func(c *Config) { c.head = 50 * time.Millisecond })
	for _, text := range []string{"", "GET /v1/mach", "GET /v1/machine HTTP/1.1\r\nHost: k\r\n", "POST /v1/services/web/stop HTTP/1.1\r\nHost: k\r\nContent-Length: 10\r\n\r\nx"} {
		conn := w.dial()
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		// What there is of it may be no request already.
		if answer, err := io.ReadAll(conn); err != nil || len(answer) > 0 && !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
			t.Errorf("%q: %q, %v, want the end of the connection", text, answer, err)
		}
	}
}

// A thousand clients that want to be connected cost what those cost that may be.
func TestAThousandConnections(t *testing.T) {
	w := start(t, nil)
	before := runtime.NumGoroutine()
	conns := make([]net.Conn, 1000)
	for i := range conns {
		conns[i] = w.dial()
		if open := len(w.server.listen.slots); open > maxConns {
			t.Fatalf("%d connections are taken", open)
		}
		if n := runtime.NumGoroutine() - before; n > 2*maxConns+maxRefusals+8 {
			t.Fatalf("%d goroutines for %d clients", n, i)
		}
	}
	if n := len(w.server.listen.slots); n != maxConns {
		t.Errorf("%d connections are taken, want %d", n, maxConns)
	}
	for _, conn := range conns {
		conn.Close()
	}
	deadline := time.Now().Add(bound)
	for status := 0; status != 200; {
		if time.Now().After(deadline) {
			t.Fatal("nobody is answered when they have gone")
		}
		got := w.raw("GET /v1/machine HTTP/1.1\r\nHost: k\r\n\r\n")
		_, _ = fmt.Sscanf(got, "HTTP/1.1 %d", &status)
	}
}
