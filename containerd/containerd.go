// Package containerd is the trimmed containerd daemon: containerd's own code,
// used as a library, with a plugin list of our own.
//
// It owns the daemon's command line, its configuration file, which plugins are
// loaded, the two sockets and the log. It promises the API that LinuxKit's
// containers and their tools use: containers, tasks, events, namespaces,
// version, introspection and health, over the stock socket, with the stock
// shim protocol and the stock layout of the state folder. It must never touch
// a running container: neither when it ends nor when it comes back.
//
// What it leaves out (images, content, snapshots, leases, CRI, metrics) has no
// use in an image whose root filesystems are unpacked already. Somebody who
// needs it puts the stock binary in this one's place.
package containerd

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"keelson/internal/hugepages"
)

const usage = `containerd: the container daemon, trimmed to what this system uses

usage: containerd [flags]

  -c, --config FILE      configuration (default /etc/containerd/config.toml, if it is there)
  -a, --address SOCKET   gRPC socket (default ` + defaults.DefaultAddress + `); the shims' socket is SOCKET.ttrpc
      --root DIR         folder for the metadata (default ` + DefaultRoot + `)
      --state DIR        folder for the running tasks (default ` + DefaultState + `)
  -l, --log-level LEVEL  trace, debug, info, warn, error, fatal, panic (default warn)
  -v, --version          print the version
  -h, --help             this text

It has the services containers, tasks, events, namespaces, version,
introspection and health. For images, snapshots, leases or CRI put the stock
containerd binary in its place; it takes the same flags.
`

// Main runs the daemon until SIGTERM or SIGINT and returns its exit status.
// args is the command line without the program's name.
func Main(args []string) int {
	err := run(args, os.Stdout)
	if err != nil {
		fmt.Fprintf(os.Stderr, "ERROR: containerd: %v\n", err)
		return 1
	}
	return 0
}

func run(args []string, out io.Writer) error {
	useBuildVersion()
	cl, err := parseFlags(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(out, usage)
		return nil
	case err != nil:
		return err
	case cl.version:
		fmt.Fprintln(out, "containerd", version.Package, version.Version, version.Revision)
		return nil
	}
	cfg, warnings, err := cl.configuration()
	if err != nil {
		return err
	}
	if err := setUpLog(os.Stderr, cfg.Debug); err != nil {
		return err
	}
	if err := hugepages.Refuse(); err != nil {
		log.L.WithError(err).Warn("containerd takes more memory than it needs")
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGUSR1)
	// Received and left unread rather than ignored: what is ignored stays so in
	// every shim and container that is started from here.
	unread := make(chan os.Signal, 1)
	signal.Notify(unread, unix.SIGPIPE, unix.SIGHUP)
	defer signal.Stop(unread)
	defer signal.Stop(signals)
	return serve(context.Background(), cfg, warnings, signals)
}

// commandLine is what the flags said; an empty string is a flag not given.
type commandLine struct {
	config, address, root, state, level string
	version                             bool
}

func parseFlags(args []string) (commandLine, error) {
	var c commandLine
	fs := flag.NewFlagSet("containerd", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	for _, f := range []struct {
		to    *string
		names []string
	}{
		{&c.config, []string{"config", "c"}},
		{&c.address, []string{"address", "a"}},
		{&c.root, []string{"root"}},
		{&c.state, []string{"state"}},
		{&c.level, []string{"log-level", "l"}},
	} {
		for _, name := range f.names {
			fs.StringVar(f.to, name, "", "")
		}
	}
	fs.BoolVar(&c.version, "version", false, "")
	fs.BoolVar(&c.version, "v", false, "")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return c, err
		}
		return c, fmt.Errorf("command line: %w (containerd --help lists the flags)", err)
	}
	switch fs.Arg(0) {
	case "":
		return c, nil
	case "help":
		return c, flag.ErrHelp
	}
	return c, fmt.Errorf("command line: %q: this trimmed containerd has no subcommands, only the daemon; the stock binary has them", fs.Arg(0))
}

// configuration is the file's settings with the flags laid over them, and what
// in the file has no effect here.
func (c commandLine) configuration() (*Config, []string, error) {
	path, must := c.config, true
	if path == "" {
		path, must = filepath.Join(defaults.DefaultConfigDir, "config.toml"), false
	}
	cfg, warnings, err := Load(path)
	if err != nil {
		if must || !errors.Is(err, os.ErrNotExist) {
			return nil, nil, err
		}
		cfg, warnings = Default(), nil
	}
	if c.address != "" {
		cfg.Plugins.GRPC.Address = c.address
	}
	if c.level != "" {
		cfg.Debug.Level = c.level
	}
	for _, d := range []struct {
		to   *string
		flag string
	}{{&cfg.Root, c.root}, {&cfg.State, c.state}} {
		if d.flag == "" {
			continue
		}
		if *d.to, err = filepath.Abs(d.flag); err != nil {
			return nil, nil, err
		}
	}
	return cfg, warnings, cfg.check()
}

// useBuildVersion makes the version that clients are told the one of the
// containerd module this program was built from.
func useBuildVersion() {
	version.Revision = "keelson"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return
	}
	for _, dep := range info.Deps {
		if dep.Path == "github.com/containerd/containerd/v2" {
			version.Version = dep.Version
			return
		}
	}
}
