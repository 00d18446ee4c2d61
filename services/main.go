// Command service is the machine's second program, /usr/bin/service: the command
// by which people see and steer the machine. As "service supervise" it is the
// supervisor that PID 1 keeps running, under the name containerd it is the trimmed
// containerd, as ctr and runc it names the images that have the real ones, and the kernel
// runs it as its modprobe. One file for all, because the root lives in memory and they
// share most of their code.
//
// It must stay cheap to start: the kernel and PID 1 both start it.
package main

import (
	"os"
	"path/filepath"

	"keelson/containerd"
	"keelson/internal/modules"
	"keelson/services/cli"
	"keelson/services/supervise"
)

func main() {
	name := filepath.Base(os.Args[0])
	switch {
	case name == "containerd":
		os.Exit(containerd.Main(os.Args[1:]))
	case name == "ctr":
		os.Exit(cli.NoCtr(os.Stderr))
	case name == "runc":
		os.Exit(cli.NoRunc(os.Stderr))
	case modules.IsModprobe(os.Args):
		os.Exit(modules.ModprobeMain(os.Args[1:]))
	case cli.OwnStep(name, os.Stdout):
	case len(os.Args) == 2 && os.Args[1] == "supervise":
		os.Exit(supervise.Run(supervise.DefaultConfig()))
	default:
		os.Exit(cli.Main(os.Args[1:]))
	}
}
