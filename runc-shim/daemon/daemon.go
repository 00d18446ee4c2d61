// Package daemon is the process side of the shim: the command line containerd
// calls, the start of the long-lived process, its socket, and its end.
//
// `start` joins the container to the shim of its group if that one lives, else
// starts a shim; `delete` cleans up after a shim that died; `-info` describes
// the runtime. Without an action it is the shim itself, on the socket it
// inherited.
package daemon

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"

	"github.com/sirupsen/logrus"

	"keelson/internal/hugepages"
	"keelson/runc-shim/version"
)

// flags are those of containerd's shim protocol.
type flags struct {
	debug       bool
	version     bool
	info        bool
	namespace   string
	id          string
	address     string
	bundle      string
	socket      string
	debugSocket string
	publish     string
	action      string
}

func parse(args []string) (flags, error) {
	var f flags
	fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.BoolVar(&f.debug, "debug", false, "log more")
	fs.BoolVar(&f.version, "v", false, "print the version and exit")
	fs.BoolVar(&f.version, "version", false, "print the version and exit")
	fs.BoolVar(&f.info, "info", false, "read runtime options from stdin, print the runtime's description, and exit")
	fs.StringVar(&f.namespace, "namespace", "", "namespace that owns the shim")
	fs.StringVar(&f.id, "id", "", "id of the task")
	fs.StringVar(&f.address, "address", "", "address of containerd's gRPC socket")
	fs.StringVar(&f.bundle, "bundle", "", "path of the bundle, if it is not the working directory (delete)")
	fs.StringVar(&f.socket, "socket", "", "path of a socket to serve, in place of the inherited one")
	fs.StringVar(&f.debugSocket, "debug-socket", "", "accepted for containerd's sake; there is no debug server")
	fs.StringVar(&f.publish, "publish-binary", "", "accepted for containerd's sake; events go to $TTRPC_ADDRESS")
	if err := fs.Parse(args[1:]); err != nil {
		return f, err
	}
	f.action = fs.Arg(0)
	if fs.NArg() > 1 {
		return f, fmt.Errorf("unexpected argument %q", fs.Arg(1))
	}
	return f, nil
}

// Name is the runtime's name as containerd knows it.
const Name = "io.containerd.runc.v2"

// Main runs the shim's command line and returns its exit status.
func Main(args []string) int {
	f, err := parse(args)
	if err == nil {
		err = run(f)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", Name, err)
		return 1
	}
	return 0
}

func run(f flags) error {
	ctx := context.Background()
	switch {
	case f.version:
		fmt.Printf("%s:\n  Version:  %s\n  Go version: %s\n\n", "containerd-shim-runc-v2", version.Keelson(), runtime.Version())
		return nil
	case f.info:
		return info(os.Stdin, os.Stdout)
	}
	if f.namespace == "" {
		return fmt.Errorf("shim namespace cannot be empty (this program is started by containerd)")
	}
	level := slog.LevelInfo
	if f.debug {
		level = slog.LevelDebug
		logrus.SetLevel(logrus.DebugLevel) // libcontainer's, also in a container's first process
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
	switch f.action {
	case "start":
		return start(f, os.Stdin, os.Stdout)
	case "delete":
		return remove(f, os.Stdout)
	case "":
		if err := hugepages.Refuse(); err != nil {
			slog.Warn("the shim takes more memory than it needs", "error", err)
		}
		return serve(ctx, f)
	default:
		return fmt.Errorf("unknown action %q (start, delete or none)", f.action)
	}
}
