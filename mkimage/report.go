package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"keelson/internal/visible"
)

// reporter tells of steps: one line each, and on a terminal a bar that is
// drawn over for those that take time. Names come from images, so all is made visible.
type reporter struct {
	w     io.Writer
	quiet bool
	term  bool

	mu sync.Mutex
}

func newReporter(w io.Writer, quiet bool) *reporter {
	r := &reporter{w: w, quiet: quiet}
	if f, ok := w.(*os.File); ok {
		r.term = term.IsTerminal(int(f.Fd()))
	}
	return r
}

func (r *reporter) line(format string, a ...any) {
	if !r.quiet {
		fmt.Fprintln(r.w, visible.Lines(fmt.Sprintf(format, a...)))
	}
}

func (r *reporter) warn(format string, a ...any) {
	fmt.Fprintln(r.w, "warning: "+visible.Lines(fmt.Sprintf(format, a...)))
}

// bar begins a step of total bytes. count is told of bytes done; done ends it.
func (r *reporter) bar(what string, total int64) (count func(n int), done func()) {
	if r.quiet {
		return func(int) {}, func() {}
	}
	if !r.term {
		r.line("%s (%s)", what, humanSize(total))
		return func(int) {}, func() {}
	}
	what = visible.Text(what)
	var sum int64
	var drawn time.Time
	draw := func() {
		part := 1.0
		if total > 0 {
			part = min(float64(sum)/float64(total), 1)
		}
		const width = 30
		fill := int(part * width)
		fmt.Fprintf(r.w, "\r\x1b[K%s  [%s%s] %3.0f%% of %s", what, strings.Repeat("#", fill), strings.Repeat(" ", width-fill), part*100, humanSize(total))
	}
	count = func(n int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		sum += int64(n)
		if now := time.Now(); now.Sub(drawn) > 100*time.Millisecond {
			drawn = now
			draw()
		}
	}
	done = func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		draw()
		fmt.Fprintln(r.w)
	}
	return count, done
}

// humanSize gives bytes in the unit a person reads.
func humanSize(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}
