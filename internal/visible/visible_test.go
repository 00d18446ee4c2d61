package visible

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for text, want := range map[string]string{
		"plain\ttext, größer, 日本, \u05e9\u05dc\u05d5\u05dd": "plain\ttext, größer, 日本, \u05e9\u05dc\u05d5\u05dd",
		"\x1b[2J\r\n\x00\x7f":                        `\x1b[2J\x0d\x0a\x00\x7f`,
		"C1 byte \x9b2J and character \u009b2J":      `C1 byte \x9b2J and character \xc2\x9b2J`,
		"cut \xe2\x80":                               `cut \xe2\x80`,
		"a replacement \ufffd stays":                 "a replacement \ufffd stays",
		"user\u202enimda\u202c":                      `user\u202enimda\u202c`,
		"\u2066\u2067\u2068\u2069\u200e\u200f\u061c": `\u2066\u2067\u2068\u2069\u200e\u200f\u061c`,
		"\u202a\u202b\u202d\u2028\u2029\ufeff\u200b": `\u202a\u202b\u202d\u2028\u2029\ufeff\u200b`,
		"so\u00adft \U000e0041":                      `so\u00adft \U000e0041`,
		"\U0001f469\u200d\U0001f4bb \u2764\ufe0f":    "\U0001f469\u200d\U0001f4bb \u2764\ufe0f",
	} {
		if got := Text(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
	if got := Lines("a\u202e\n\x1bb\n"); got != "a\\u202e\n\\x1bb\n" {
		t.Errorf("lines are shown as %q", got)
	}
}

// Every control and format character of Unicode is hidden but the joiners and the marks
// that are seen.
func TestRanges(t *testing.T) {
	seen := map[rune]bool{'\t': true, 0x200c: true, 0x200d: true}
	for r := rune(0x0600); r <= 0x110cd; r++ {
		// Signs that stand before numbers, and hieroglyphs' joiners, have a shape.
		if r <= 0x0605 || r == 0x06dd || r == 0x070f || r == 0x0890 || r == 0x0891 || r == 0x08e2 || r == 0x110bd || r == 0x110cd {
			seen[r] = true
		}
	}
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if r >= 0x13430 && r <= 0x1343f {
			continue
		}
		if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Bidi_Control) && hidden(r) == seen[r] {
			t.Errorf("%U is hidden: %v", r, hidden(r))
		}
	}
	last := rune(0)
	for _, x := range ranges {
		if x[0] <= last || x[1] < x[0] {
			t.Errorf("%U is out of order", x[0])
		}
		last = x[1]
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"", "a\tb", "\x1b[31m", "\u202e", "\xff\u009b", "\U000e0041\u200d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Text(s)
		if !utf8.ValidString(got) {
			t.Errorf("%q is shown as %q, no UTF-8", s, got)
		}
		for _, r := range got {
			if r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == 0x2028 || r == 0x2029) {
				t.Errorf("%q is shown with %U", s, r)
			}
		}
		if Text(got) != got {
			t.Errorf("%q changes when it is shown twice", s)
		}
		if strings.Count(Lines(s), "\n") != strings.Count(s, "\n") {
			t.Errorf("%q has another number of lines", s)
		}
	})
}
