package supervise

import (
	"slices"
	"testing"
)

func TestIssueLines(t *testing.T) {
	for text, want := range map[string][]string{
		"":                                 {greeting},
		"\n \n":                            {greeting},
		"Box 7 \\n \\l\n\nback\\\\slash\n": {"Box 7", `back\slash`},
		"one\r\ntwo\\":                     {"one", `two\`},
	} {
		if got := issueLines(text); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
