package config

import (
	"fmt"
	"strings"
)

// maxProblems bounds how many mistakes one message lists.
const maxProblems = 25

// Problem is one mistake in a YAML.
type Problem struct {
	File  string
	Line  int    // 0 where there is none
	Field string // such as services[0].binds[1]
	Text  string // what is wrong, and what would be right
}

// Error returns file:line: field: text.
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Field != "" {
		b.WriteString(p.Field)
		b.WriteString(": ")
	}
	b.WriteString(p.Text)
	return b.String()
}

// Problems are all the mistakes of a YAML, in the order of its lines.
type Problems []Problem

// Error lists them, one to a line.
func (ps Problems) Error() string {
	var lines []string
	for i, p := range ps {
		if i == maxProblems {
			lines = append(lines, fmt.Sprintf("... and %d more", len(ps)-i))
			break
		}
		lines = append(lines, p.Error())
	}
	return strings.Join(lines, "\n")
}
