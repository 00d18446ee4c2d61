package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"keelson/internal/typo"
)

// check tells every way in which v is not what s says.
func (c *checker) check(s *schema, field string, v *value) {
	lines := c.doc.parts[0].lines // each file is checked by itself
	if _, ok := lines[field]; !ok {
		lines[field] = v.line
	}
	if want := s.mismatch(v); want != "" {
		hint := ""
		if v.kind == yaml.ScalarNode && v.node.Tag != "!!null" && s.quotable(v) {
			hint = fmt.Sprintf("; quote it: %q", v.text())
		}
		c.add(v.line, field, "must be %s, is %s%s", want, describe(v), hint)
		return
	}
	switch s.kind {
	case kList:
		for i, item := range v.items {
			c.check(s.elem, fmt.Sprintf("%s[%d]", field, i), item)
			c.noteStray(fmt.Sprintf("%s[%d]", field, i), item)
		}
	case kMap:
		c.checkMap(s, field, v)
	case kStrMap:
		for _, e := range v.entries {
			c.check(str(), join(field, e.key), e.val)
		}
	case kInt:
		if _, err := strconv.ParseInt(v.text(), 10, 64); err != nil {
			c.add(v.line, field, "must be a decimal number of at most 64 bits, is %s", v.text())
		}
	}
	if s.check != nil {
		s.check(c, field, v)
	}
}

func (c *checker) checkMap(s *schema, field string, v *value) {
	for _, e := range v.entries {
		sub, ok := s.fields[e.key]
		if !ok {
			c.add(e.line, join(field, e.key), "unknown key%s", suggest(e.key, s.fields))
			continue
		}
		c.doc.parts[0].lines[join(field, e.key)] = e.line
		c.check(sub, join(field, e.key), e.val)
	}
	for _, key := range s.required {
		if v.get(key) == nil {
			c.add(v.line, field, "has no %s:, which it needs", key)
		}
	}
}

// mismatch returns what v should have been, or "" if it is that.
func (s *schema) mismatch(v *value) string {
	scalar := func(tags ...string) bool {
		return v.kind == yaml.ScalarNode && slices.Contains(tags, v.node.Tag)
	}
	switch s.kind {
	case kString:
		if !scalar("!!str") {
			return "a string"
		}
	case kBool:
		if !scalar("!!bool") {
			return "true or false"
		}
	case kInt:
		if !scalar("!!int") {
			return "a number"
		}
	case kID:
		if !scalar("!!int", "!!str") {
			return "a number or a name"
		}
	case kText:
		if !scalar("!!int", "!!str") {
			return "a string"
		}
	case kList:
		if v.kind != yaml.SequenceNode {
			return "a list"
		}
	case kMap, kStrMap:
		if v.kind != yaml.MappingNode {
			return "a map of keys"
		}
	}
	return ""
}

// quotable says whether quotes would make v what it must be.
func (s *schema) quotable(v *value) bool {
	return s.kind == kString && v.node.Tag != "!!str"
}

// describe says what a value is, for a message that it should be another.
func describe(v *value) string {
	switch v.kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "a map"
	}
	switch v.node.Tag {
	case "!!null":
		return "empty"
	case "!!int", "!!float":
		return "the number " + v.text()
	case "!!bool":
		return v.text()
	case "!!timestamp":
		return "the date " + v.text()
	}
	return fmt.Sprintf("the string %q", v.text())
}

// suggest names the known key that an unknown one was probably meant to be,
// else all of them.
func suggest(key string, fields map[string]*schema) string {
	known := slices.Sorted(maps.Keys(fields))
	if best := typo.Nearest(key, known, 2); best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return "; known here: " + strings.Join(known, ", ")
}
