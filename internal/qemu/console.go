package qemu

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Console is what a machine has printed, line by line, without escape sequences and carriage returns.
type Console struct {
	echo func(string)

	mu      sync.Mutex
	lines   []string
	partial []byte // of a line that has no end yet
	escape  escapeState
	closed  bool
	changed chan struct{} // closed, and made anew, whenever there is more
}

func newConsole(echo func(string)) *Console {
	return &Console{echo: echo, changed: make(chan struct{})}
}

// escapeState follows an ECMA-48 escape sequence, which may arrive in pieces.
type escapeState int

const (
	escapeNone    escapeState = iota
	escapeStart               // after ESC
	escapeControl             // after ESC [ : until a byte from @ to ~
	escapeString              // after ESC ] : until BEL or ESC \
	escapeOther               // after ESC ( and the like: one more byte
)

// Write takes what the serial port sent.
func (c *Console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range b {
		switch c.escape {
		case escapeStart:
			switch ch {
			case '[':
				c.escape = escapeControl
			case ']':
				c.escape = escapeString
			case '(', ')', '#':
				c.escape = escapeOther
			default:
				c.escape = escapeNone
			}
			continue
		case escapeControl:
			if ch >= '@' && ch <= '~' {
				c.escape = escapeNone
			}
			continue
		case escapeString:
			if ch == '\a' {
				c.escape = escapeNone
			} else if ch == 0x1b {
				c.escape = escapeOther
			}
			continue
		case escapeOther:
			c.escape = escapeNone
			continue
		}
		switch ch {
		case 0x1b:
			c.escape = escapeStart
		case '\r':
		case '\n':
			c.endLine()
		default:
			c.partial = append(c.partial, ch)
		}
	}
	c.wake()
	return len(b), nil
}

func (c *Console) endLine() {
	line := string(c.partial)
	c.partial = c.partial[:0]
	c.lines = append(c.lines, line)
	if c.echo != nil {
		c.echo(line)
	}
}

func (c *Console) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Console) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.partial) > 0 {
		c.endLine()
	}
	c.closed = true
	c.wake()
}

// Len is how many whole lines there are: the index of the next one.
func (c *Console) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.lines)
}

// Lines returns the whole lines from index from on.
func (c *Console) Lines(from int) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if from > len(c.lines) {
		return nil
	}
	return append([]string(nil), c.lines[from:]...)
}

// String is everything that was printed.
func (c *Console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.lines, "\n") + "\n" + string(c.partial)
}

// Await waits for a line from index from on that matches the pattern (RE2), and returns it with the index of
// the line after it.
func (c *Console) Await(ctx context.Context, from int, pattern string) (line string, next int, err error) {
	return c.await(ctx, from, pattern, false)
}

// AwaitPrompt is Await for something that may have no end of line, as a prompt has none.
func (c *Console) AwaitPrompt(ctx context.Context, from int, pattern string) (line string, next int, err error) {
	return c.await(ctx, from, pattern, true)
}

func (c *Console) await(ctx context.Context, from int, pattern string, prompt bool) (line string, next int, err error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return "", 0, err
	}
	at := from
	for {
		c.mu.Lock()
		for ; at < len(c.lines); at++ {
			if re.MatchString(c.lines[at]) {
				line = c.lines[at]
				c.mu.Unlock()
				return line, at + 1, nil
			}
		}
		partial, closed, changed := string(c.partial), c.closed, c.changed
		c.mu.Unlock()
		if prompt && re.MatchString(partial) {
			return partial, at, nil
		}
		if closed {
			return "", 0, fmt.Errorf("the machine ended before its console showed %q; last:\n%s", pattern, c.tail(30))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", 0, fmt.Errorf("the console did not show %q: %w; last:\n%s", pattern, ctx.Err(), c.tail(30))
		}
	}
}

// Quiet waits until the console has shown nothing for a while.
func (c *Console) Quiet(ctx context.Context, while time.Duration) error {
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(while):
			return nil
		case <-ctx.Done():
			return fmt.Errorf("the console did not come to rest: %w", ctx.Err())
		}
	}
}

// tail is the last lines, indented, for an error.
func (c *Console) tail(count int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	lines := c.lines[max(0, len(c.lines)-count):]
	return "    " + strings.Join(append(lines[:len(lines):len(lines)], string(c.partial)), "\n    ")
}
