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
	"keelson/mkimage/sizes"
)

// reporter reports steps: one line each, and on a terminal a bar that is drawn over
// while they last, and how long they took. Names come from images, so all is made visible.
type reporter struct {
	w     io.Writer
	quiet bool
	term  bool
	now   func() time.Time
	width func() int // columns of the terminal

	mu       sync.Mutex
	step     *step    // that is drawn; nil: none. guarded by mu
	pending  []string // lines for when it is over; guarded by mu
	warnings int      // that there were; guarded by mu
}

func newReporter(w io.Writer, quiet bool) *reporter {
	r := &reporter{w: w, quiet: quiet, now: time.Now, width: func() int { return 80 }}
	if f, ok := w.(*os.File); ok {
		r.term = term.IsTerminal(int(f.Fd()))
		r.width = func() int {
			if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
				return columns
			}
			return 80
		}
	}
	return r
}

func (r *reporter) line(format string, a ...any) {
	if !r.quiet {
		r.print(fmt.Sprintf(format, a...))
	}
}

func (r *reporter) warn(format string, a ...any) {
	r.mu.Lock()
	r.warnings++
	r.mu.Unlock()
	r.print("warning: " + fmt.Sprintf(format, a...))
}

// warned returns how many warnings there were.
func (r *reporter) warned() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.warnings
}

// print writes a line, below that of the present step if one is drawn.
func (r *reporter) print(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text = visible.Lines(text)
	if r.step != nil {
		r.pending = append(r.pending, text)
		return
	}
	fmt.Fprintln(r.w, text)
}

// step is one step while it lasts.
type step struct {
	what         string
	total, sum   int64 // bytes; total 0: nobody knows
	begun, drawn time.Time
}

// bar begins a step of total bytes, 0 if that is not known. count is told of bytes
// done; done ends it.
func (r *reporter) bar(what string, total int64) (count func(n int), done func()) {
	if r.quiet {
		return func(int) {}, func() {}
	}
	if !r.term {
		if total > 0 {
			what = fmt.Sprintf("%s (%s)", what, sizes.Human(total))
		}
		r.line("%s", what)
		return func(int) {}, func() {}
	}
	s := &step{what: visible.Text(what), total: total, begun: r.now()}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.step = s
	fmt.Fprint(r.w, s.drawing(r.width(), s.begun, false))
	count = func(n int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.step != s { // it is over: what it opened is read again by another
			return
		}
		s.sum += int64(n)
		if now := r.now(); now.Sub(s.drawn) > 100*time.Millisecond {
			s.drawn = now
			fmt.Fprint(r.w, s.drawing(r.width(), now, false))
		}
	}
	done = func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		fmt.Fprintln(r.w, s.drawing(r.width(), r.now(), true))
		r.step = nil
		for _, text := range r.pending {
			fmt.Fprintln(r.w, text)
		}
		r.pending = nil
	}
	return count, done
}

const (
	barWidth  = 12
	nameWidth = 60 // at most, where the terminal has room for it
)

// drawing is the step's line, drawn over what was there, on a terminal of so many
// columns. All but the last one have to fit into a row, to be drawn over again.
func (s *step) drawing(columns int, now time.Time, last bool) string {
	from, to := 0, barWidth
	size, part := "", ""
	switch {
	case s.total > 0:
		done := min(float64(s.sum)/float64(s.total), 1)
		to = int(done * barWidth)
		size, part = sizes.Human(s.total), fmt.Sprintf("%.0f%%", done*100)
	case !last: // something moves as long as bytes come
		from = int(s.sum>>20) % (barWidth - 2)
		to = from + 3
		fallthrough
	default:
		if s.sum > 0 {
			size = sizes.Human(s.sum)
		}
	}
	bar := strings.Repeat(" ", from) + strings.Repeat("#", to-from) + strings.Repeat(" ", barWidth-to)
	state := fmt.Sprintf(" [%s] %4s %8s %5.1fs", bar, part, size, now.Sub(s.begun).Seconds())
	name, room := s.what, max(columns-1-len(state), 0)
	if runes := []rune(name); !last && len(runes) > room {
		name = string(runes[:room])
	}
	return fmt.Sprintf("\r\x1b[K%-*s%s", min(nameWidth, room), name, state)
}
