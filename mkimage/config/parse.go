package config

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// maxNodes bounds a document after its aliases are expanded, so that a small
// file cannot ask for all the memory.
const maxNodes = 200_000

// value is a YAML value with aliases and merge keys resolved.
type value struct {
	line    int
	node    *yaml.Node // of a scalar
	items   []*value   // of a list
	entries []entry    // of a map, in order
	kind    yaml.Kind
}

type entry struct {
	key  string
	line int
	val  *value
}

func (v *value) get(key string) *value {
	for _, e := range v.entries {
		if e.key == key {
			return e.val
		}
	}
	return nil
}

// text returns a scalar's text, and "" for everything else.
func (v *value) text() string {
	if v == nil || v.node == nil {
		return ""
	}
	return v.node.Value
}

// Problem returns an error about a field of the files that c was read from.
func (c *Config) Problem(field, format string, a ...any) Problem {
	return c.doc.problem(field, format, a...)
}

// Dir returns the directory of the file that a field comes from, which its relative
// paths start from; "" if the text came without a file.
func (c *Config) Dir(field string) string {
	p, _ := c.doc.locate(field)
	return p.dir
}

// Input is one image YAML.
type Input struct {
	Name string // what messages call it
	Dir  string // that its relative paths start from
	Text []byte
}

// Stdin is the name of the standard input among files.
const Stdin = "-"

// Load reads one image YAML. The error is Problems where the file could be read.
func Load(file string) (*Config, error) { return LoadAll(nil, file) }

// LoadAll reads image YAMLs and merges them; Stdin reads the standard input.
func LoadAll(stdin io.Reader, files ...string) (*Config, error) {
	var inputs []Input
	for i, file := range files {
		in := Input{Name: file, Dir: filepath.Dir(file)}
		var err error
		switch {
		case file != Stdin:
			in.Text, err = os.ReadFile(file)
		case slices.Contains(files[:i], Stdin):
			err = errors.New("the standard input (-) can be read once; name it once")
		default:
			in.Name = "standard input"
			in.Text, err = io.ReadAll(stdin)
		}
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, in)
	}
	return ParseAll(inputs...)
}

// Parse reads one image YAML; file is only for messages.
func Parse(file string, b []byte) (*Config, error) {
	return ParseAll(Input{Name: file, Text: b})
}

// ParseAll reads image YAMLs and merges them as LinuxKit does: lists are appended in
// order, and of the kernel's fields the last one counts.
func ParseAll(inputs ...Input) (*Config, error) {
	whole := &checker{}
	var files []*checker
	var roots []*value
	for _, in := range inputs {
		whole.files = append(whole.files, in.Name)
		c := &checker{doc: document{parts: []*part{{name: in.Name, dir: in.Dir, lines: map[string]int{}}}}}
		root := c.document(in.Text)
		if root == nil {
			whole.problems = append(whole.problems, c.problems...)
			continue
		}
		whole.names = append(whole.names, containerNames(root)...)
		files, roots = append(files, c), append(roots, root)
	}
	for i, c := range files {
		c.names = whole.names
		c.check(rootSchema(), "", roots[i])
		whole.problems = append(whole.problems, c.problems...)
		whole.doc.append(c.doc.parts[0], roots[i])
	}
	if len(files) < len(inputs) {
		return nil, whole.err()
	}
	v := merge(roots)
	whole.checkRoot(v)
	if err := whole.err(); err != nil {
		return nil, err
	}
	cfg := &Config{}
	if err := decode(v, rootSchema(), cfg); err != nil {
		return nil, fmt.Errorf("%s: %w", inputs[0].Name, err)
	}
	cfg.doc = whole.doc
	cfg.Kernel.Cmdline = strings.TrimRight(cfg.Kernel.Cmdline, "\n")
	return cfg, nil
}

// ParseLabel reads the label of an image that is used in section (onboot,
// onshutdown or services); what names the label in messages. names are the
// containers whose names may stand for a user.
func ParseLabel(what, section string, names []string, label string) (Container, error) {
	c := &checker{doc: document{parts: []*part{{name: what, lines: map[string]int{}}}}, section: section, names: names}
	var out Container
	v := c.document([]byte(label))
	if v == nil {
		return out, c.problems
	}
	for _, key := range []string{"name", "image"} {
		if v.get(key) != nil {
			c.add(v.get(key).line, key, "a label must not set this; the image YAML does")
			v.entries = slices.DeleteFunc(v.entries, func(e entry) bool { return e.key == key })
		}
	}
	c.check(containerSchema(), "", v)
	if err := c.err(); err != nil {
		return out, err
	}
	if err := decode(v, containerSchema(), &out); err != nil {
		return out, fmt.Errorf("%s: %w", what, err)
	}
	return out, nil
}

type checker struct {
	doc      document
	files    []string // in the order of their problems
	problems Problems
	section  string   // of a label; a YAML's fields name theirs
	names    []string // containers that a uid may name
	nodes    int
}

func (c *checker) add(line int, field, format string, a ...any) {
	p, own := c.doc.locate(field)
	c.problems = append(c.problems, Problem{File: p.name, Line: line, Field: own, Text: fmt.Sprintf(format, a...)})
}

func (c *checker) err() error {
	if len(c.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(c.problems, func(a, b Problem) int {
		return cmp.Or(slices.Index(c.files, a.File)-slices.Index(c.files, b.File), a.Line-b.Line)
	})
	return c.problems
}

// document reads the one YAML document of b; nil if that was not possible.
func (c *checker) document(b []byte) *value {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		c.add(0, "", "is empty")
		return nil
	case err != nil:
		line, text := yamlError(err)
		c.add(line, "", "is not YAML: %s", text)
		return nil
	}
	var more yaml.Node
	switch err := dec.Decode(&more); {
	case err == nil:
		c.add(more.Line, "", "has a second document after ---; there must be one")
		return nil
	case !errors.Is(err, io.EOF):
		line, text := yamlError(err)
		c.add(line, "", "is not YAML: %s", text)
		return nil
	}
	v := c.expand(doc.Content[0], "", 0)
	if v == nil {
		return nil
	}
	if v.kind != yaml.MappingNode {
		c.add(v.line, "", "must be a map of keys (kernel:, init:, services: ...), is %s", describe(v))
		return nil
	}
	return v
}

// parserErrors begin the messages whose line the YAML library counts from 0.
var parserErrors = []string{
	"did not find expected <", "did not find expected node content", "did not find expected key",
	"did not find expected '-' indicator", "did not find expected ',' or",
}

// yamlError takes the line out of the parser's message.
func yamlError(err error) (line int, text string) {
	text = strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if n, msg, ok := strings.Cut(rest, ": "); ok {
			if line, err := strconv.Atoi(n); err == nil {
				if slices.ContainsFunc(parserErrors, func(p string) bool { return strings.HasPrefix(msg, p) }) {
					line++
				}
				return line, msg
			}
		}
	}
	return 0, text
}

// expand resolves aliases and merge keys, and reports keys that come twice.
func (c *checker) expand(n *yaml.Node, field string, depth int) *value {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if c.nodes++; c.nodes > maxNodes || depth > 100 {
		if c.nodes != maxNodes+2 { // said once
			c.nodes = maxNodes + 1
			c.add(n.Line, field, "the document is too large or too deep (aliases included)")
		}
		return nil
	}
	v := &value{line: n.Line, kind: n.Kind}
	switch n.Kind {
	case yaml.ScalarNode:
		v.node = n
	case yaml.SequenceNode:
		for i, item := range n.Content {
			iv := c.expand(item, fmt.Sprintf("%s[%d]", field, i), depth+1)
			if iv == nil {
				return nil
			}
			v.items = append(v.items, iv)
		}
	case yaml.MappingNode:
		if !c.expandMap(v, n, field, depth) {
			return nil
		}
	}
	return v
}

func (c *checker) expandMap(v *value, n *yaml.Node, field string, depth int) bool {
	var merged []entry
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, item := n.Content[i], n.Content[i+1]
		iv := c.expand(item, join(field, k.Value), depth+1)
		if iv == nil {
			return false
		}
		if k.Tag == "!!merge" {
			if iv.kind == yaml.SequenceNode {
				for _, m := range iv.items {
					merged = append(merged, m.entries...)
				}
			} else {
				merged = append(merged, iv.entries...)
			}
			continue
		}
		if first, ok := seen[k.Value]; ok {
			c.add(k.Line, join(field, k.Value), "key comes twice, first on line %d; keep one", first)
			continue
		}
		seen[k.Value] = k.Line
		v.entries = append(v.entries, entry{k.Value, k.Line, iv})
	}
	for _, e := range merged {
		if v.get(e.key) == nil {
			v.entries = append(v.entries, e)
		}
	}
	return true
}

func join(field, key string) string {
	if field == "" {
		return key
	}
	return field + "." + key
}

// decode puts a checked value into a Go value, by way of JSON, whose field
// names are the schema's.
func decode(v *value, s *schema, into any) error {
	b, err := json.Marshal(plain(v, s))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

func plain(v *value, s *schema) any {
	switch s.kind {
	case kList:
		out := []any{}
		for _, i := range v.items {
			out = append(out, plain(i, s.elem))
		}
		return out
	case kMap:
		out := map[string]any{}
		for _, e := range v.entries {
			out[e.key] = plain(e.val, s.fields[e.key])
		}
		return out
	case kStrMap:
		out := map[string]any{}
		for _, e := range v.entries {
			out[e.key] = e.val.text()
		}
		return out
	case kBool:
		return strings.EqualFold(v.text(), "true")
	case kInt, kID:
		if v.node.Tag == "!!int" {
			// Checked to be a decimal number of 64 bits.
			n, _ := strconv.ParseInt(v.text(), 10, 64)
			return n
		}
	}
	return v.text()
}
