// Package version says which versions this program is made of.
package version

import "runtime/debug"

// Runc is the version of runc whose libcontainer is built in.
func Runc() string { return dependency("github.com/opencontainers/runc") }

// Keelson is this program's own version: that of its source where the build
// recorded it, and what it is compatible with.
func Keelson() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	rev := ""
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			rev = s.Value
		}
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "keelson"
		if len(rev) > 12 {
			v += "-" + rev[:12]
		}
	}
	return v
}

func dependency(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, d := range info.Deps {
		if d.Path == path {
			if len(d.Version) > 1 && d.Version[0] == 'v' {
				return d.Version[1:]
			}
			return d.Version
		}
	}
	return "unknown"
}
