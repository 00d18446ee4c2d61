// Command runc-shim is /usr/bin/containerd-shim-runc-v2, the containerd v2 shim,
// which makes containers with libcontainer in its own process.
//
// It must never write to standard output or standard error before it knows what it
// was called for: containerd reads both.
package main

import (
	"os"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter"

	_ "github.com/opencontainers/cgroups/devices"

	"keelson/runc-shim/daemon"
	"keelson/runc-shim/execreport"
	"keelson/runc-shim/seccomp"
	_ "keelson/runc-shim/stacks"
)

// The last stage of a container's start: nsenter's C constructor has made the
// namespaces before the Go runtime began, and libcontainer takes it from here.
// It is an init function because everything main would do first is waste.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		seccomp.Take()
		execreport.Take()
		libcontainer.Init()
	}
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "plan" {
		os.Exit(printPlan(os.Args[2:]))
	}
	os.Exit(daemon.Main(os.Args))
}
