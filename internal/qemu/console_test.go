package qemu

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, c *Console, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func TestConsoleLines(t *testing.T) {
	for _, test := range []struct {
		name string
		in   []string // written one after the other
		want []string
	}{
		{"plain", []string{"one\ntwo\n"}, []string{"one", "two"}},
		{"carriage returns", []string{"one\r\ntwo\r\n"}, []string{"one", "two"}},
		{"in pieces", []string{"o", "ne\n", "tw", "o\n"}, []string{"one", "two"}},
		{"colours", []string{"\x1b[31;1mred\x1b[0m\n"}, []string{"red"}},
		{"colour in pieces", []string{"\x1b", "[3", "1mred\n"}, []string{"red"}},
		{"title", []string{"\x1b]0;title\a text\n"}, []string{" text"}},
		{"title with ESC \\", []string{"\x1b]0;title\x1b\\text\n"}, []string{"text"}},
		{"character set and reset", []string{"\x1b(B\x1bcclear\n"}, []string{"clear"}},
		{"no end of line", []string{"one\nlogin: "}, []string{"one", "login: "}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var echoed []string
			c := newConsole(func(line string) { echoed = append(echoed, line) })
			for _, piece := range test.in {
				write(t, c, piece)
			}
			c.close()
			if got := c.Lines(0); !slices.Equal(got, test.want) || !slices.Equal(echoed, test.want) {
				t.Errorf("lines %q, echoed %q, want %q", got, echoed, test.want)
			}
		})
	}
}

func TestConsoleAwait(t *testing.T) {
	c := newConsole(nil)
	write(t, c, "first 1\nsecond 2\nfirst 3\nlogin: ")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	line, next, err := c.Await(ctx, 0, "^first")
	if line != "first 1" || next != 1 || err != nil {
		t.Errorf("%q, %d, %v", line, next, err)
	}
	if line, next, err = c.Await(ctx, next, "^first"); line != "first 3" || next != 3 || err != nil {
		t.Errorf("%q, %d, %v", line, next, err)
	}
	if line, _, err = c.AwaitPrompt(ctx, next, "login: $"); line != "login: " || err != nil {
		t.Errorf("%q, %v", line, err)
	}
	if _, _, err := c.Await(ctx, 0, "("); err == nil {
		t.Error("a bad pattern was taken")
	}

	found := make(chan error, 1)
	go func() {
		_, _, err := c.Await(ctx, next, "^login: root$")
		found <- err
	}()
	write(t, c, "root\n")
	if err := <-found; err != nil {
		t.Error(err)
	}

	over, stop := context.WithCancel(ctx)
	stop()
	if _, _, err := c.Await(over, 0, "never"); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "login: root") {
		t.Errorf("given up: %v", err)
	}
	c.close()
	if _, _, err := c.Await(ctx, 0, "never"); err == nil || !strings.Contains(err.Error(), "ended before") {
		t.Errorf("after the end: %v", err)
	}
}
