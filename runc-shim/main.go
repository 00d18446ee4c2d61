// Command runc-shim is /usr/bin/containerd-shim-runc-v2 and /usr/bin/runc in
// one static file: the containerd v2 shim, and a runc compatible command line
// on the same libcontainer.
//
// It owns nothing itself: it decides which of its faces was called and hands
// over. The decision is made on the arguments, because the shim daemon runs
// from a sealed memfd, where argv[0] says nothing; argv[0] only breaks ties
// such as `--version`.
//
// It must never write to standard output or standard error on its own account
// before the face is known: containerd reads both.
package main

import (
	"os"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter"

	_ "github.com/opencontainers/cgroups/devices"

	"keelson/runc-shim/command"
	"keelson/runc-shim/daemon"
	"keelson/runc-shim/execreport"
	"keelson/runc-shim/seccomp"
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
	if face(os.Args) == shimFace {
		os.Exit(daemon.Main(os.Args))
	}
	os.Exit(command.Main(os.Args))
}
