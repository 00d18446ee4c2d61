package config

import (
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"
)

// StrayQuotes returns the items of lists that end with a quote which nothing opened: in a
// plain item YAML takes it for a letter.
func (c *Config) StrayQuotes() []Problem {
	var all []Problem
	for _, p := range c.doc.parts {
		all = append(all, p.stray...)
	}
	return all
}

// noteStray notes a list's item with such a quote.
func (c *checker) noteStray(field string, v *value) {
	const plain = yaml.Style(0)
	text := v.text()
	if v.kind != yaml.ScalarNode || v.node.Style&^yaml.TaggedStyle != plain || text == "" {
		return
	}
	quote := text[len(text)-1:]
	if !strings.Contains("\"'", quote) || strings.Count(text, quote)%2 == 0 {
		return
	}
	p := c.doc.parts[0]
	p.stray = append(p.stray, Problem{p.name, v.line, field, fmt.Sprintf("ends with a stray %s, which YAML takes for a part of it: leave it out, or quote the whole of %s", quote, strings.TrimSuffix(text, quote))})
}
