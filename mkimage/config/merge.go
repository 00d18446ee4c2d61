package config

import (
	"fmt"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// lists are the keys whose lists are appended when files are merged.
var lists = []string{"init", "onboot", "onshutdown", "services", "files", "volumes"}

// document remembers where each field of the files stands.
type document struct{ parts []*part }

// part is one file of a document. Its lines are by the field as that file alone has it.
type part struct {
	name, dir string
	lines     map[string]int
	spans     map[string]span // by the key of a list
	stray     []Problem       // items that end with a stray quote
}

// span is where the items of a file are in the whole list.
type span struct{ first, count int }

// append adds a file, whose lists come behind those of the files before.
func (d *document) append(p *part, root *value) {
	p.spans = map[string]span{}
	for _, key := range lists {
		s := span{}
		if n := len(d.parts); n > 0 {
			before := d.parts[n-1].spans[key]
			s.first = before.first + before.count
		}
		if list := root.get(key); list != nil {
			s.count = len(list.items)
		}
		p.spans[key] = s
	}
	d.parts = append(d.parts, p)
}

// locate returns the file that a field of the whole comes from, and what the field is
// there.
func (d document) locate(field string) (p *part, own string) {
	if len(d.parts) == 0 {
		return &part{}, field
	}
	list, rest, _ := strings.Cut(field, "[")
	number, rest, ok := strings.Cut(rest, "]")
	if n, err := strconv.Atoi(number); ok && err == nil {
		for _, p := range d.parts {
			if s := p.spans[list]; n >= s.first && n < s.first+s.count {
				return p, fmt.Sprintf("%s[%d]%s", list, n-s.first, rest)
			}
		}
	}
	for i := len(d.parts) - 1; i > 0; i-- { // of what is no list, the last one counts
		if _, ok := d.parts[i].lines[field]; ok {
			return d.parts[i], field
		}
	}
	return d.parts[0], field
}

func (d document) problem(field, format string, a ...any) Problem {
	p, own := d.locate(field)
	return Problem{File: p.name, Line: p.lines[own], Field: own, Text: fmt.Sprintf(format, a...)}
}

// merge puts the files of an image together: what they list in order, and each field
// of the kernel as the last file has it.
func merge(roots []*value) *value {
	if len(roots) == 1 {
		return roots[0]
	}
	whole := &value{kind: yaml.MappingNode}
	kernel := &value{kind: yaml.MappingNode}
	for _, root := range roots {
		if k := root.get("kernel"); k != nil {
			for _, e := range k.entries {
				kernel.set(e)
			}
		}
	}
	if len(kernel.entries) > 0 {
		whole.set(entry{key: "kernel", val: kernel})
	}
	for _, key := range lists {
		all := &value{kind: yaml.SequenceNode}
		for _, root := range roots {
			if list := root.get(key); list != nil {
				all.items = append(all.items, list.items...)
			}
		}
		whole.set(entry{key: key, val: all})
	}
	return whole
}

// set gives a map an entry in place of one with the same key. An empty text replaces
// nothing, but for those of the kernel that an empty one turns off.
func (v *value) set(e entry) {
	for i := range v.entries {
		if v.entries[i].key != e.key {
			continue
		}
		if e.val.kind != yaml.ScalarNode || e.val.text() != "" || e.key == "tar" || e.key == "ucode" {
			v.entries[i] = e
		}
		return
	}
	v.entries = append(v.entries, e)
}
