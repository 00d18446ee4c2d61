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
		{"a head without bound", "GET / HTTP/1.1\r\nA: " + strings.Repeat("x", maxHeader+maxBody), "", ""},
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
