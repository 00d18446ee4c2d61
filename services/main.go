// Command service is the machine's second program, /usr/bin/service: as
// "service supervise" it is the supervisor that PID 1 keeps running, and under
// the name containerd it is the trimmed containerd, and the kernel runs it as
// its modprobe. One file for all, because the root lives in memory and they share most of their code.
//
// It must stay cheap to start: the kernel and PID 1 both start it.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"keelson/containerd"
	"keelson/internal/modules"
	"keelson/services/supervise"
)

const usage = `usage: service supervise

service is the supervisor of this machine: PID 1 starts it as "service
supervise", and starts it again when it ends. It brings up the hardware, runs
the onboot containers, keeps the services running, and stops them when the
machine goes down. It is not for being started by hand.
`

func main() {
	if filepath.Base(os.Args[0]) == "containerd" {
		os.Exit(containerd.Main(os.Args[1:]))
	}
	if modules.IsModprobe(os.Args) {
		os.Exit(modules.ModprobeMain(os.Args[1:]))
	}
	switch {
	case len(os.Args) == 2 && os.Args[1] == "supervise":
		os.Exit(supervise.Run(supervise.DefaultConfig()))
	case len(os.Args) == 2 && (os.Args[1] == "help" || os.Args[1] == "--help" || os.Args[1] == "-h"):
		fmt.Print(usage)
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(1)
	}
}
