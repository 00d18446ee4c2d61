package lifecycle

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The diagram that users read is the table that the machine follows.
func TestDocsShowTheMoves(t *testing.T) {
	text, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, diagram, _ := strings.Cut(string(text), "stateDiagram-v2\n")
	diagram, _, _ = strings.Cut(diagram, "```")
	var shown, want []string
	for line := range strings.Lines(diagram) {
		shown = append(shown, strings.TrimSpace(line))
	}
	for from, events := range moves {
		for event, to := range events {
			want = append(want, fmt.Sprintf("%s --> %s: %s", from, to, event))
		}
	}
	slices.Sort(shown)
	slices.Sort(want)
	if !slices.Equal(shown, want) {
		t.Errorf("the diagram has\n%s\nthe machine\n%s", strings.Join(shown, "\n"), strings.Join(want, "\n"))
	}
	for _, s := range States {
		if !regexp.MustCompile("(?m)^\\| `" + string(s) + "` \\|").Match(text) {
			t.Errorf("the state %s is not explained", s)
		}
	}
	for _, e := range Events {
		if !strings.Contains(string(text), "\n| "+string(e)+" |") {
			t.Errorf("what happens when %q is not explained", e)
		}
	}
}
