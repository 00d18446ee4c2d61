// Package label says what the label of an image gives a container that its entry in
// the image YAML does not state.
//
// It owns the words for it. It only compares: how label and YAML are merged is
// ocispec's, and what each grant opens is audit's.
package label

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/policy"
	"keelson/mkimage/config"
)

// Grants returns what the label alone gives: what the YAML neither states nor
// replaces, and what LinuxKit's default would not have. Restrictions, such as
// readonly: true, are none; nor are command, env and cwd, which every image has.
func Grants(yaml, label config.Container) []string {
	g := grants{yaml: yaml, label: label}
	g.rights()
	g.namespaces()
	g.files()
	g.limits()
	g.runtime()
	if a := given(yaml.Annotations, label.Annotations); a != nil {
		for _, key := range slices.Sorted(maps.Keys(*a)) {
			if strings.HasPrefix(key, policy.Prefix) {
				g.add("annotation %s: %s", key, (*a)[key])
			}
		}
	}
	return g.list
}

type grants struct {
	yaml, label config.Container
	list        []string
}

func (g *grants) add(format string, a ...any) { g.list = append(g.list, fmt.Sprintf(format, a...)) }

// words adds a field with its values, in order; an empty list is no grant.
func (g *grants) words(field string, values []string) {
	if len(values) > 0 {
		g.add("%s %s", field, strings.Join(slices.Sorted(slices.Values(values)), " "))
	}
}

// given is the label's field unless the YAML has one, which replaces it.
func given[T any](yaml, label *T) *T {
	if yaml != nil {
		return nil
	}
	return label
}

// list is the label's list unless the YAML has one.
func list(yaml, label *[]string) []string {
	if l := given(yaml, label); l != nil {
		return *l
	}
	return nil
}

// without is a list without what another one has.
func without(list []string, others *[]string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return others != nil && slices.Contains(*others, s) })
}

func (g *grants) rights() {
	y, l := g.yaml, g.label
	g.words("capabilities", without(slices.DeleteFunc(unique(list(y.Capabilities, l.Capabilities), list(y.Capabilities, l.CapabilitiesAdd)),
		func(c string) bool { return strings.EqualFold(c, "none") }), y.CapabilitiesAdd))
	g.words("ambient", list(y.Ambient, l.Ambient))
	if ids := given(y.AdditionalGids, l.AdditionalGids); ids != nil && len(*ids) > 0 {
		g.add("additionalGids %s", text(*ids))
	}
	if p := given(y.NoNewPrivileges, l.NoNewPrivileges); p != nil && !*p {
		g.add("noNewPrivileges false")
	}
	// A list of its own, however short, takes the place of the one that hardening has.
	g.paths("maskedPaths", given(y.MaskedPaths, l.MaskedPaths))
	g.paths("readonlyPaths", given(y.ReadonlyPaths, l.ReadonlyPaths))
}

func (g *grants) paths(field string, paths *[]string) {
	switch {
	case paths == nil:
	case len(*paths) == 0:
		g.add("%s none", field)
	default:
		g.words(field+" only", *paths)
	}
}

func unique(lists ...[]string) []string {
	all := slices.Concat(lists...)
	slices.Sort(all)
	return slices.Compact(all)
}

func (g *grants) namespaces() {
	y, l := g.yaml, g.label
	for _, n := range []struct{ field, yaml, label string }{
		{"net", y.Net, l.Net}, {"pid", y.Pid, l.Pid}, {"ipc", y.Ipc, l.Ipc}, {"uts", y.Uts, l.Uts}, {"userns", y.Userns, l.Userns},
	} {
		host := n.label == "host" || n.label == "root"
		switch {
		case n.yaml != "" || n.label == "" || n.label == "new" || n.label == "none":
		case host && n.field != "pid": // as without the label
		default:
			g.add("%s %s", n.field, n.label)
		}
	}
	if y.Hostname == "" && l.Hostname != "" {
		g.add("hostname %s", l.Hostname)
	}
	for _, m := range []struct {
		field string
		list  *[]specs.LinuxIDMapping
	}{{"uidMappings", given(y.UIDMappings, l.UIDMappings)}, {"gidMappings", given(y.GIDMappings, l.GIDMappings)}} {
		if m.list != nil && len(*m.list) > 0 {
			g.add("%s %s", m.field, text(*m.list))
		}
	}
}

func (g *grants) files() {
	y, l := g.yaml, g.label
	for _, b := range without(unique(list(y.Binds, l.Binds), list(y.Binds, l.BindsAdd)), y.BindsAdd) {
		source, rest, _ := strings.Cut(b, ":")
		at, options, _ := strings.Cut(rest, ":")
		mode := "read-write"
		if slices.Contains(strings.Split(options, ","), "ro") {
			mode = "read-only"
		}
		if at != source {
			at = " at " + at
		} else {
			at = ""
		}
		g.add("%s%s %s", source, at, mode)
	}
	if m := given(y.Mounts, l.Mounts); m != nil {
		for _, m := range *m {
			g.add("mount %s", mount(m))
		}
	}
	g.words("tmpfs", list(y.Tmpfs, l.Tmpfs))
	if d := given(y.Devices, l.Devices); d != nil {
		for _, d := range *d {
			if d.Path == "all" {
				g.add("devices all (%s)", d.Type)
			} else {
				g.add("device %s (%s %d:%d)", d.Path, d.Type, d.Major, d.Minor)
			}
		}
	}
	if p := given(y.CgroupsPath, l.CgroupsPath); p != nil && *p != "" {
		g.add("cgroupsPath %s", *p)
	}
	if p := given(y.RootfsPropagation, l.RootfsPropagation); p != nil && *p != "" {
		g.add("rootfsPropagation %s", *p)
	}
}

func mount(m specs.Mount) string {
	s := m.Type
	if m.Source != "" {
		s += " " + m.Source
	}
	return strings.TrimSpace(s + " at " + m.Destination + " " + strings.Join(m.Options, ","))
}

func (g *grants) limits() {
	y, l := g.yaml, g.label
	if s := given(y.Sysctl, l.Sysctl); s != nil {
		for _, key := range slices.Sorted(maps.Keys(*s)) {
			g.add("sysctl %s=%s", key, (*s)[key])
		}
	}
	g.words("rlimits", list(y.Rlimits, l.Rlimits))
	if o := given(y.OOMScoreAdj, l.OOMScoreAdj); o != nil && *o < 0 {
		g.add("oomScoreAdj %d", *o)
	}
	if r := given(y.Resources, l.Resources); r != nil {
		g.add("resources %s", text(r))
	}
}

func (g *grants) runtime() {
	l := g.label.Runtime
	if l == nil {
		return
	}
	var y config.Runtime
	if g.yaml.Runtime != nil {
		y = *g.yaml.Runtime
	}
	g.words("runtime cgroups", list(y.Cgroups, l.Cgroups))
	if m := given(y.Mounts, l.Mounts); m != nil {
		for _, m := range *m {
			g.add("runtime mount %s", mount(m))
		}
	}
	g.words("runtime mkdir", list(y.Mkdir, l.Mkdir))
	if i := given(y.Interfaces, l.Interfaces); i != nil {
		for _, i := range *i {
			g.add("runtime interface %s", i.Name)
		}
	}
	for _, n := range []struct {
		name        string
		yaml, label *string
	}{
		{"cgroup", y.BindNS.Cgroup, l.BindNS.Cgroup}, {"ipc", y.BindNS.Ipc, l.BindNS.Ipc}, {"mnt", y.BindNS.Mnt, l.BindNS.Mnt},
		{"net", y.BindNS.Net, l.BindNS.Net}, {"pid", y.BindNS.Pid, l.BindNS.Pid}, {"user", y.BindNS.User, l.BindNS.User}, {"uts", y.BindNS.Uts, l.BindNS.Uts},
	} {
		if p := given(n.yaml, n.label); p != nil && *p != "" {
			g.add("runtime bindNS %s %s", n.name, *p)
		}
	}
	if n := given(y.Namespace, l.Namespace); n != nil && *n != "" {
		g.add("runtime namespace %s", *n)
	}
}

// text writes a value as it would be in the YAML.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Lost returns the fields of a label that a container is without when labels are
// ignored: those that the YAML does not have.
func Lost(yaml, label config.Container) []string {
	y, l := fields(yaml), fields(label)
	var lost []string
	for _, key := range slices.Sorted(maps.Keys(l)) {
		_, replaced := y[strings.TrimSuffix(key, ".add")]
		if !replaced {
			lost = append(lost, key)
		}
	}
	return lost
}

// fields are the names of what a container states, those of runtime each for itself.
func fields(c config.Container) map[string]bool {
	all := map[string]bool{}
	var outer, inner map[string]json.RawMessage
	if json.Unmarshal([]byte(text(c)), &outer) != nil {
		return all // it came from JSON or YAML, so it goes back
	}
	for key := range outer {
		if key != "runtime" {
			all[key] = true
		}
	}
	if c.Runtime != nil && json.Unmarshal([]byte(text(c.Runtime)), &inner) == nil {
		for key, value := range inner {
			if string(value) != "{}" { // bindNS is written whether it states anything or not
				all["runtime."+key] = true
			}
		}
	}
	return all
}
