package ocispec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/mkimage/config"
)

// mounts returns the defaults, then tmpfs, binds and mounts over them, sorted
// by destination so that /dev comes before /dev/pts.
func mounts(in Inputs, readonly bool) ([]specs.Mount, error) {
	at := map[string]specs.Mount{}
	put := func(m specs.Mount) { at[m.Destination] = m }
	for _, m := range defaultMounts(readonly) {
		put(m)
	}
	y, l := in.YAML, in.Label
	for _, t := range first(y.Tmpfs, l.Tmpfs) {
		dest, opts, ok := strings.Cut(t, ":")
		m := specs.Mount{Destination: dest, Type: "tmpfs", Source: "tmpfs"}
		if ok {
			m.Options = strings.Split(opts, ",")
		}
		put(m)
	}
	for _, b := range first(y.Binds, union(l.Binds, l.BindsAdd, y.BindsAdd)) {
		parts := strings.Split(b, ":")
		if len(parts) < 2 || len(parts) > 3 {
			return nil, fmt.Errorf("binds: %q must be SOURCE:DESTINATION or SOURCE:DESTINATION:OPTIONS", b)
		}
		src, err := in.bindSource(parts[0])
		if err != nil {
			return nil, fmt.Errorf("binds: %w", err)
		}
		opts := []string{"rw", "rbind", "rshared"}
		if len(parts) == 3 {
			opts = append(strings.Split(parts[2], ","), "rbind")
		}
		put(specs.Mount{Destination: parts[1], Type: "bind", Source: src, Options: opts})
	}
	for _, m := range first(y.Mounts, l.Mounts) {
		m, err := in.complete(m)
		if err != nil {
			return nil, err
		}
		put(m)
	}
	var list []specs.Mount
	for _, dest := range slices.Sorted(maps.Keys(at)) {
		list = append(list, at[dest])
	}
	return list, nil
}

// defaultMounts are what a container gets in any case.
func defaultMounts(readonly bool) []specs.Mount {
	dev := []string{"nosuid", "strictatime", "mode=755", "size=65536k"}
	sys := []string{"nosuid", "noexec", "nodev"}
	if readonly {
		dev, sys = append(dev, "ro"), append(sys, "ro")
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "nodev", "noexec", "relatime"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: dev},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: sys},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
	}
}

// bindSource returns the path to bind: a volume's folder for its name.
func (in Inputs) bindSource(source string) (string, error) {
	if strings.HasPrefix(source, "/") {
		return source, nil
	}
	dir, ok := in.Volumes[source]
	if !ok {
		return "", fmt.Errorf("%q is neither an absolute path nor a volume", source)
	}
	return dir, nil
}

// complete fills in what a mount of the long form leaves out.
func (in Inputs) complete(m specs.Mount) (specs.Mount, error) {
	if m.Type == "" {
		m.Type = config.DefaultMountType(m.Source, m.Destination)
	}
	if m.Type == "" {
		return m, fmt.Errorf("mounts: %s has no type", m.Destination)
	}
	if m.Source == "" {
		m.Source = m.Type
	}
	if m.Destination == "" {
		m.Destination = config.DefaultMountpoint(m.Type)
	}
	if m.Destination == "" {
		return m, fmt.Errorf("mounts: one of type %s has no destination", m.Type)
	}
	if m.Type == "bind" {
		src, err := in.bindSource(m.Source)
		if err != nil {
			return m, fmt.Errorf("mounts: %w", err)
		}
		m.Source = src
	}
	return m, nil
}
