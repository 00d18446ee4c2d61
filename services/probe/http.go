package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// answerBytes bounds what is read of an answer: its head, and enough of its
// body to say what is wrong.
const answerBytes = 64 << 10

func host(port int) string {
	if port == 80 {
		return "localhost"
	}
	return net.JoinHostPort("localhost", strconv.Itoa(port))
}

func url(port int, path string) string { return "http://" + host(port) + path }

// checkHTTP sends one GET. The head of the answer decides: 200 to 399 is well, so
// a redirect is, wherever it points.
func checkHTTP(ctx context.Context, port int, path string, pid int) error {
	conn, err := connect(ctx, port, pid)
	if err != nil {
		return err
	}
	defer conn.Close()
	// A deadline in the past ends whatever the connection is waiting for.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	// Written by hand: a path that is odd to net/url is the service's business.
	_, err = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: "+host(port)+"\r\nUser-Agent: keelson-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n")
	if err != nil {
		return fmt.Errorf("GET %s: %w", url(port, path), plain(err))
	}
	limited := &io.LimitedReader{R: conn, N: answerBytes}
	reader := bufio.NewReader(limited)
	for {
		answer, err := http.ReadResponse(reader, nil)
		switch {
		case err != nil && limited.N == 0:
			return fmt.Errorf("GET %s: the head of the answer is larger than %d bytes", url(port, path), answerBytes)
		case errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("GET %s: the connection was closed without an answer", url(port, path))
		case err != nil:
			return fmt.Errorf("GET %s: %w", url(port, path), plain(err))
		case answer.StatusCode < 200:
			continue // more is to come
		case answer.StatusCode < 400:
			return nil
		}
		// The first words of the body often say why. What has not come with the
		// head is not waited for.
		stop()
		_ = conn.SetDeadline(time.Unix(1, 0))
		body, _ := io.ReadAll(io.LimitReader(answer.Body, 2*lineLength))
		words, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
		text := fmt.Sprintf("GET %s: %d %s", url(port, path), answer.StatusCode, http.StatusText(answer.StatusCode))
		if words = clean(words); words != "" {
			text += ": " + words
		}
		return errors.New(text)
	}
}

// plain returns the reason without net's addresses, which here say little: the
// sockets were made by hand.
func plain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
