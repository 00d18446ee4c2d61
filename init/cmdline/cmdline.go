// Package cmdline reads what the kernel command line says to PID 1.
//
// It promises that a value it does not understand leaves the default in force
// and is told, and that it looks at exact words only: linuxkit.* as LinuxKit
// spells them, keelson.* for what is ours.
package cmdline

import (
	"fmt"
	"strings"
	"time"
)

// DefaultShutdownTimeout bounds the orderly part of a stop.
const DefaultShutdownTimeout = 60 * time.Second

// Options are PID 1's options.
type Options struct {
	// ShutdownTimeout is how long the supervisor may take to stop everything:
	// keelson.shutdown.timeout=, a Go duration.
	ShutdownTimeout time.Duration
	// CgroupV1 asks for the old cgroup hierarchies:
	// linuxkit.unified_cgroup_hierarchy=0.
	CgroupV1 bool
}

const (
	shutdownTimeout = "keelson.shutdown.timeout="
	cgroupHierarchy = "linuxkit.unified_cgroup_hierarchy=0"
)

// Parse reads the text of /proc/cmdline. The last of a repeated word counts, as
// everywhere in the kernel.
func Parse(text string) (Options, []error) {
	o := Options{ShutdownTimeout: DefaultShutdownTimeout}
	var wrong []error
	for _, word := range strings.Fields(text) {
		if word == cgroupHierarchy {
			o.CgroupV1 = true
		}
		if v, ok := strings.CutPrefix(word, shutdownTimeout); ok {
			d, err := time.ParseDuration(v)
			if err != nil || d <= 0 {
				o.ShutdownTimeout = DefaultShutdownTimeout
				wrong = append(wrong, fmt.Errorf("kernel command line: %s%s is not a duration above zero such as 30s or 2m; %s is in force",
					shutdownTimeout, v, DefaultShutdownTimeout))
				continue
			}
			o.ShutdownTimeout = d
		}
	}
	return o, wrong
}
