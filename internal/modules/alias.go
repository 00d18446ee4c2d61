package modules

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// match returns the modules whose alias patterns match one of the names, in the
// names' order, each once.
func (x *Index) match(names []string) ([]string, error) {
	each, err := x.matchEach(names)
	var found []string
	for _, modules := range each {
		for _, module := range modules {
			if !slices.Contains(found, module) {
				found = append(found, module)
			}
		}
	}
	return found, err
}

// matchEach returns the modules for each name. It reads modules.alias once for
// all of them and keeps nothing of it but the answers: the file has thousands of
// lines and is needed a few times in a boot, while a device says its alias again
// and again.
func (x *Index) matchEach(names []string) ([][]string, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.answers == nil || len(x.answers) > maxAnswers {
		x.answers = map[string][]string{}
	}
	var fresh []string
	for _, name := range names {
		if _, known := x.answers[name]; !known {
			fresh = append(fresh, name)
		}
	}
	if len(fresh) > 0 {
		var text []byte
		if x.dir != "" {
			var err error
			text, err = os.ReadFile(filepath.Join(x.dir, "modules.alias"))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("read the modules' aliases: %w", err)
			}
		}
		for i, modules := range matchAliases(string(text), fresh) {
			// modprobe.d's aliases take precedence over the modules' own
			if named := x.conf.aliased(fresh[i]); len(named) > 0 {
				modules = named
			}
			x.answers[fresh[i]] = modules
		}
	}
	found := make([][]string, len(names))
	for i, name := range names {
		found[i] = x.answers[name]
	}
	return found, nil
}

// matchAliases goes through lines "alias PATTERN MODULE" once and returns for
// each name the modules whose pattern matches it.
func matchAliases(text string, names []string) [][]string {
	found := make([][]string, len(names))
	// Most lines are done with after their first two bytes (pc, hi, cp, ac ...): no
	// name begins so.
	var begins [1 << 16 / 64]uint64
	byKey := map[uint16][]int{}
	all := make([]int, len(names))
	for i, name := range names {
		k := key(name)
		begins[k>>6] |= 1 << (k & 63)
		byKey[k] = append(byKey[k], i)
		all[i] = i
	}
	for len(text) > 0 {
		line := text
		if end := strings.IndexByte(text, '\n'); end >= 0 {
			line, text = text[:end], text[end+1:]
		} else {
			text = ""
		}
		rest, ok := strings.CutPrefix(line, "alias ")
		if !ok || len(rest) < 2 {
			continue
		}
		candidates := all
		if !wild(rest[0]) && !wild(rest[1]) && rest[1] != ' ' {
			k := key(rest)
			if begins[k>>6]&(1<<(k&63)) == 0 {
				continue
			}
			candidates = byKey[k]
		}
		space := strings.LastIndexByte(rest, ' ') // an alias may hold spaces: dmi's do
		if space <= 0 || space == len(rest)-1 {
			continue
		}
		pattern, module := rest[:space], rest[space+1:]
		for _, i := range candidates {
			if glob(pattern, names[i]) {
				found[i] = append(found[i], normalize(module))
			}
		}
	}
	return found
}

func wild(c byte) bool { return c == '*' || c == '?' || c == '[' || c == '\\' }

// key is the first two bytes of an alias, with - and _ the same.
func key(s string) uint16 {
	if len(s) < 2 {
		return 0
	}
	return uint16(fold(s[0]))<<8 | uint16(fold(s[1]))
}

func fold(c byte) byte {
	if c == '-' {
		return '_'
	}
	return c
}

// glob matches a whole name against a pattern of fnmatch(3) with no flags: * and
// ? match any byte, a slash too; [a-z] and [!a-z] are sets; \ takes the next byte
// as it is. As in every module name, - and _ are the same outside of sets.
func glob(pattern, name string) bool {
	// star and mark are where to go on when what follows the last * does not match
	p, n, star, mark := 0, 0, -1, 0
	// most patterns differ before their first wildcard
	for p < len(pattern) && p < len(name) && !wild(pattern[p]) {
		if fold(pattern[p]) != fold(name[p]) {
			return false
		}
		p++
	}
	n = p
	for n < len(name) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, n
			p++
			continue
		}
		if width := one(pattern[p:], name[n]); width > 0 {
			p += width
			n++
			continue
		}
		if star < 0 {
			return false
		}
		mark++
		p, n = star+1, mark
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// one matches a single byte against the head of the pattern and returns how much
// of the pattern that took, 0 where it does not match.
func one(pattern string, c byte) int {
	if pattern == "" {
		return 0
	}
	switch pattern[0] {
	case '?':
		return 1
	case '[':
		if width, in := set(pattern, c); width > 0 {
			if in {
				return width
			}
			return 0
		}
	case '\\':
		if len(pattern) > 1 {
			if fold(pattern[1]) == fold(c) {
				return 2
			}
			return 0
		}
	}
	if fold(pattern[0]) == fold(c) {
		return 1
	}
	return 0
}

// set matches a byte against the set at the head of the pattern; width is 0 where
// the bracket is never closed and so is a byte like any other.
func set(pattern string, c byte) (width int, in bool) {
	i, not := 1, false
	if i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^') {
		not = true
		i++
	}
	for first := true; i < len(pattern); first = false {
		if pattern[i] == ']' && !first {
			return i + 1, in != not
		}
		low := pattern[i]
		i++
		high := low
		if i+1 < len(pattern) && pattern[i] == '-' && pattern[i+1] != ']' {
			high = pattern[i+1]
			i += 2
		}
		in = in || low <= c && c <= high
	}
	return 0, false
}
