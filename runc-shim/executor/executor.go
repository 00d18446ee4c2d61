// Package executor is the last stage of a container's start, for containers with a plan
// (package plan): a few hundred lines of C that run where libcontainer would begin its
// own last stage, which is the Go runtime and all of this binary.
//
// It promises
//   - to leave a start without a plan, and every exec, to libcontainer;
//   - to perform a plan's steps in their order, and nothing that is not in it;
//   - to end with an error that names the step where one fails;
//   - to open no path of an image but below the container's root.
//
// It must never be reached by what a container can change: a plan is a sealed file that
// the shim passes.
package executor

// #cgo CFLAGS: -O2 -Wall -Wextra
// #cgo LDFLAGS: -Wl,--wrap=nsexec
import "C"

import (
	"sync"

	"github.com/moby/sys/userns"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // whose nsexec is wrapped
	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
)

// Unsupported says why no plan can be performed on this machine, "" where one can.
var Unsupported = sync.OnceValue(func() string {
	// The newest call of those that are needed, of Linux 5.11.
	const none = 1<<32 - 1
	switch {
	case unix.CloseRange(none, none, unix.CLOSE_RANGE_CLOEXEC) != nil:
		return "the kernel is older than 5.11"
	case userns.RunningInUserNS():
		return "the shim is in a user namespace"
	case selinux.GetEnabled():
		return "SELinux is enabled"
	}
	return ""
})
