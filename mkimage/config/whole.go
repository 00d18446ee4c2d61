package config

import (
	"fmt"
	"slices"
	"strings"
)

// Sections are the lists of containers, in the order their users are numbered.
var Sections = []string{"onboot", "onshutdown", "services"}

func containerNames(root *value) []string {
	var names []string
	for _, s := range Sections {
		if list := root.get(s); list != nil {
			for _, item := range list.items {
				if n := item.get("name").text(); n != "" {
					names = append(names, n)
				}
			}
		}
	}
	return names
}

// checkRoot checks what concerns several entries at once.
func (c *checker) checkRoot(root *value) {
	c.unique(root, "services", "each service needs a name of its own")
	c.unique(root, "volumes", "each volume needs a name of its own")
	readonly := map[string]bool{}
	if list := root.get("volumes"); list != nil {
		for _, v := range list.items {
			readonly[v.get("name").text()] = v.get("readonly").text() == "true"
		}
	}
	for _, s := range Sections {
		list := root.get(s)
		if list == nil {
			continue
		}
		for i, item := range list.items {
			c.checkVolumes(fmt.Sprintf("%s[%d]", s, i), item, readonly)
		}
	}
}

func (c *checker) unique(root *value, section, why string) {
	list := root.get(section)
	if list == nil {
		return
	}
	type place struct {
		file *part
		line int
	}
	seen := map[string]place{}
	for i, item := range list.items {
		name := item.get("name")
		if name.text() == "" {
			continue
		}
		field := fmt.Sprintf("%s[%d].name", section, i)
		file, _ := c.doc.locate(field)
		first, ok := seen[name.text()]
		switch {
		case !ok:
			seen[name.text()] = place{file, name.line}
		case first.file == file:
			c.add(name.line, field, "%q is already on line %d; %s", name.text(), first.line, why)
		default:
			c.add(name.line, field, "%q is already in %s:%d; %s", name.text(), first.file.name, first.line, why)
		}
	}
}

// checkVolumes looks at binds and mounts whose source is not a path, and so
// must be a volume.
func (c *checker) checkVolumes(field string, container *value, readonly map[string]bool) {
	for _, key := range []string{"binds", "binds.add"} {
		list := container.get(key)
		if list == nil {
			continue
		}
		for i, item := range list.items {
			parts := strings.Split(item.text(), ":")
			ro := len(parts) > 2 && slices.Contains(strings.Split(parts[2], ","), "ro")
			c.checkVolume(fmt.Sprintf("%s.%s[%d]", field, key, i), item, parts[0], ro, readonly)
		}
	}
	list := container.get("mounts")
	if list == nil {
		return
	}
	for i, item := range list.items {
		if item.get("type").text() != "bind" {
			continue
		}
		ro := false
		if opts := item.get("options"); opts != nil {
			for _, o := range opts.items {
				ro = ro || o.text() == "ro"
			}
		}
		c.checkVolume(fmt.Sprintf("%s.mounts[%d]", field, i), item, item.get("source").text(), ro, readonly)
	}
}

func (c *checker) checkVolume(field string, item *value, source string, ro bool, readonly map[string]bool) {
	if source == "" || strings.HasPrefix(source, "/") {
		return
	}
	isReadonly, ok := readonly[source]
	switch {
	case !ok:
		c.add(item.line, field, "%q is neither an absolute path nor a volume of this file", source)
	case isReadonly && !ro:
		c.add(item.line, field, "volume %q is readonly, so this needs the option ro", source)
	}
}

// checkFile checks how the keys of one file go together.
func checkFile(c *checker, field string, v *value) {
	if p := v.get("path"); p != nil && strings.Trim(p.text(), "/") == "" {
		c.add(p.line, join(field, "path"), "is %q, must be the path of a file", p.text())
	}
	var has []string
	for _, key := range []string{"contents", "source", "metadata", "symlink"} {
		if v.get(key) != nil && (key == "contents" || v.get(key).text() != "") {
			has = append(has, key)
		}
	}
	if v.get("directory").text() == "true" {
		has = append(has, "directory")
	}
	switch len(has) {
	case 1:
	case 0:
		c.add(v.line, field, "has nothing to put there; give contents:, source:, metadata:, symlink: or directory: true")
	default:
		c.add(v.line, field, "has %s; only one of them can be", strings.Join(has, " and "))
	}
}
