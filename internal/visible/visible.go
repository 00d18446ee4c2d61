// Package visible makes text safe to be shown on a terminal: what would steer the
// terminal, or be read as something other than what it is, is shown as an escape.
//
// It promises that
//   - what it returns is UTF-8 and has no control character but tabs, no character
//     that changes the direction of text, and none that is invisible, except for the
//     joiners and selectors that scripts and emoji are written with;
//   - text without any of these is returned as it is.
//
// It must not depend on anything but the standard library: PID 1 uses it.
package visible

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Text returns a text with \xNN for each byte of a control character and of what is no
// UTF-8, and \uNNNN for what is hidden or turns text round. A newline is a control
// character too: text of several lines is shown line by line.
func Text(s string) string {
	if strings.IndexFunc(s, hidden) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case control(r) || r == utf8.RuneError && n == 1:
			for _, c := range []byte(s[:n]) {
				fmt.Fprintf(&b, "\\x%02x", c)
			}
		case r > 0xffff && hidden(r):
			fmt.Fprintf(&b, "\\U%08x", r)
		case hidden(r):
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// Lines is Text for a text of several lines, which stay lines.
func Lines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = Text(line)
	}
	return strings.Join(lines, "\n")
}

// control reports whether a character is a C0 or C1 control other than tab. 8-bit
// terminals obey the latter as bytes, others as characters.
func control(r rune) bool { return r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 }

// ranges are the hidden characters, first and last of each range.
var ranges = [][2]rune{
	{0x00ad, 0x00ad},   // soft hyphen
	{0x061c, 0x061c},   // direction: Arabic letter mark
	{0x115f, 0x1160},   // Hangul fillers
	{0x17b4, 0x17b5},   // Khmer vowels without a shape
	{0x180e, 0x180e},   // Mongolian vowel separator
	{0x200b, 0x200b},   // space without width; the joiners that follow are part of scripts and emoji
	{0x200e, 0x200f},   // direction: marks
	{0x2028, 0x2029},   // separators of lines and paragraphs
	{0x202a, 0x202e},   // direction: embeddings and overrides
	{0x2060, 0x206f},   // joiner, invisible operators, direction: isolates, deprecated controls
	{0x3164, 0x3164},   // Hangul filler
	{0xfeff, 0xfeff},   // byte order mark
	{0xffa0, 0xffa0},   // Hangul filler
	{0xfff0, 0xfffb},   // unassigned, interlinear annotation
	{0x1bca0, 0x1bca3}, // shorthand controls
	{0x1d173, 0x1d17a}, // musical controls
	{0xe0000, 0xe0fff}, // tags and other ignorable characters
}

// hidden reports whether a character is not shown as it is.
func hidden(r rune) bool {
	if r < 0xad {
		return control(r)
	}
	for _, x := range ranges {
		if r <= x[1] {
			return r >= x[0]
		}
	}
	return false
}
