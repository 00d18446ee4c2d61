package console

import (
	"strconv"
	"strings"
	"time"
)

// What the output of one container may take of the console. A serial line takes
// about 11 KB/s, which has to do for all of them.
const (
	outputRate  = 4 << 10 // bytes a second
	outputBurst = 16 << 10
	window      = time.Second
)

// limiter bounds the output of each name. Once a name has used up what it may,
// the rest of a window is dropped and its end says how much that was: so what is
// shown is in one piece, and not every third line. It belongs to a Console, whose
// mutex guards it.
type limiter map[string]*budget

type budget struct {
	left    int
	filled  time.Duration // when left was last filled up
	dropped int           // lines, since it was last said
}

// take reports whether a line of so many bytes may be shown; first is set with
// the first one that may not, whose window's end has to be told of.
func (l limiter) take(name string, size int, now time.Duration) (ok, first bool) {
	size = min(size, outputBurst)
	b := l[name]
	if b == nil {
		b = &budget{left: outputBurst, filled: now}
		l[name] = b
	}
	if n := (now - b.filled) / window; n > 0 {
		b.left = min(outputBurst, b.left+int(min(n, outputBurst/outputRate))*outputRate)
		b.filled += n * window
	}
	if b.dropped > 0 || b.left < size {
		b.dropped++
		return false, b.dropped == 1
	}
	b.left -= size
	return true, false
}

// dropped returns how many lines of a name were dropped, and begins to count anew.
func (l limiter) dropped(name string) int {
	b := l[name]
	if b == nil {
		return 0
	}
	n := b.dropped
	b.dropped = 0
	return n
}

// grouped writes a number as people read it: 1,204.
func grouped(n int) string {
	digits := strconv.Itoa(n)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// lines is a number of lines in words.
func lines(n int) string {
	if n == 1 {
		return "1 line"
	}
	return grouped(n) + " lines"
}
