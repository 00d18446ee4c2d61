package supervise

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"keelson/internal/bundle"
)

// containerOf returns what finds the container that a process belongs to, by its
// cgroup: the container's label, "" if there is none. proc is /proc. It has one user
// at a time.
func containerOf(containers, proc string) func(pid int) string {
	var elsewhere map[string]string // labels by cgroup, of containers with a cgroupsPath; nil until it is needed
	return func(pid int) string {
		data, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "cgroup"))
		if err != nil {
			return ""
		}
		for line := range strings.Lines(string(data)) {
			fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
			if len(fields) < 3 || fields[2] == "/" {
				continue
			}
			if label := defaultOwner(containers, fields[2]); label != "" {
				return label
			}
			if elsewhere == nil {
				elsewhere = owners(containers)
			}
			for path := fields[2]; path != "/"; path = filepath.Dir(path) {
				if label := elsewhere[path]; label != "" {
					return label
				}
			}
		}
		return ""
	}
}

// defaultOwner is the label of the container whose cgroup, where it says nothing of
// it, a path is or lies below.
func defaultOwner(containers, path string) string {
	for _, section := range []bundle.Section{bundle.Onboot, bundle.Onshutdown, bundle.Services} {
		below, ok := strings.CutPrefix(filepath.Clean(path), section.Cgroup()+"/")
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(below, "/")
		if _, err := os.Stat(filepath.Join(containers, string(section), name, "config.json")); err != nil {
			return ""
		}
		b := bundle.Bundle{Section: section, Name: name}
		return b.Label()
	}
	return ""
}

// owners are the labels of all containers by their cgroups.
func owners(containers string) map[string]string {
	m := map[string]string{}
	for _, section := range []bundle.Section{bundle.Services, bundle.Onboot, bundle.Onshutdown} {
		dirs, _ := bundle.List(containers, section)
		for _, dir := range dirs {
			if b, err := bundle.Load(section, dir); err == nil {
				m[b.CgroupsPath()] = b.Label()
			}
		}
	}
	return m
}
