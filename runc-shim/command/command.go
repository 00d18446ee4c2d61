// Package command is a runc compatible command line on libcontainer: what
// shims, ctr, nested containers and people call of runc.
//
// A command or flag it does not know is an error, never ignored. What runc has
// and this does not is refused by name: systemd cgroups, and checkpoint and
// restore.
package command

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/sirupsen/logrus"

	"keelson/runc-shim/seal"
)

// globals are the flags before the command.
type globals struct {
	root     string
	rootSet  bool
	log      string
	format   string
	debug    bool
	rootless string
	systemd  bool
}

// A verb is one command.
type verb struct {
	usage string
	short string
	// words is how many arguments it takes; max < 0 means any number.
	min, max int
	// ordered stops flags at the first argument, as for exec, whose rest is
	// somebody else's command line.
	ordered bool
	// make registers the flags and returns what to do with the arguments.
	make func(fs *flag.FlagSet, g *globals) func(args []string) (int, error)
}

var verbs map[string]verb

func init() {
	verbs = map[string]verb{
		"create":   {"<container-id>", "create a container", 1, 1, false, createVerb},
		"run":      {"<container-id>", "create and run a container", 1, 1, false, runVerb},
		"start":    {"<container-id>", "start the process of a created container", 1, 1, false, startVerb},
		"state":    {"<container-id>", "print the state of a container", 1, 1, false, stateVerb},
		"kill":     {"<container-id> [signal]", "send a signal (default SIGTERM) to a container", 1, 2, false, killVerb},
		"delete":   {"<container-id>", "delete what a container holds", 1, 1, false, deleteVerb},
		"exec":     {"<container-id> <command> [args]", "run a process in a container", 1, -1, true, execVerb},
		"ps":       {"<container-id> [ps options]", "list the processes of a container", 1, -1, true, psVerb},
		"list":     {"", "list containers", 0, 0, false, listVerb},
		"pause":    {"<container-id>", "freeze a container", 1, 1, false, pauseVerb},
		"resume":   {"<container-id>", "thaw a container", 1, 1, false, resumeVerb},
		"update":   {"<container-id>", "change the limits of a container", 1, 1, false, updateVerb},
		"events":   {"<container-id>", "print events and statistics of a container", 1, 1, false, eventsVerb},
		"spec":     {"", "write a config.json to begin with", 0, 0, false, specVerb},
		"features": {"", "print what this runtime can do", 0, 0, false, featuresVerb},
	}
}

// refused are runc's commands that this runtime does not have.
var refused = map[string]string{
	"checkpoint": "this runtime is built without CRIU",
	"restore":    "this runtime is built without CRIU",
}

// errUsage marks errors in the use of the command line.
type errUsage struct{ error }

// Main runs the command line and returns its exit status.
func Main(args []string) int {
	g := &globals{}
	status, err := run(g, args[1:])
	if err != nil {
		// For the log's reader, which may be a shim, and for whoever typed it.
		logrus.Error(err)
		if g.log != "" {
			fmt.Fprintln(os.Stderr, "runc: "+err.Error())
		}
		if status <= 0 {
			status = 1
		}
	}
	return status
}

func globalFlags(g *globals) (fs *flag.FlagSet, version, help *bool) {
	fs = newFlags("runc")
	version, help = new(bool), new(bool)
	fs.StringVar(&g.root, "root", defaultRoot(), "folder of the containers' state")
	fs.StringVar(&g.log, "log", "", "file or FIFO to log to (default standard error)")
	fs.StringVar(&g.format, "log-format", "text", "text or json")
	fs.BoolVar(&g.debug, "debug", false, "log more")
	fs.StringVar(&g.rootless, "rootless", "auto", "ignore cgroup permission errors: true, false or auto")
	fs.BoolVar(&g.systemd, "systemd-cgroup", false, "refused: there is no systemd support")
	boolVar(fs, version, "print the version", "version", "v")
	boolVar(fs, help, "print help", "help", "h")
	return fs, version, help
}

func run(g *globals, args []string) (int, error) {
	fs, version, help := globalFlags(g)
	if err := fs.Parse(args); err != nil {
		return 1, err
	}
	fs.Visit(func(f *flag.Flag) { g.rootSet = g.rootSet || f.Name == "root" })
	if err := g.setUp(); err != nil {
		return 1, err
	}
	if *version {
		printVersion(os.Stdout)
		return 0, nil
	}
	rest := fs.Args()
	if *help || len(rest) == 0 || rest[0] == "help" {
		printHelp(os.Stdout, fs)
		return 0, nil
	}
	name, rest := rest[0], rest[1:]
	if why, ok := refused[name]; ok {
		return 1, fmt.Errorf("%s: not supported: %s", name, why)
	}
	v, ok := verbs[name]
	if !ok {
		return 1, fmt.Errorf("unknown command %q (runc help lists them)", name)
	}
	vfs := newFlags(name)
	vhelp := new(bool)
	boolVar(vfs, vhelp, "print help", "help", "h")
	do := v.make(vfs, g)
	words, err := parseWords(vfs, rest, v.ordered)
	if err != nil {
		return 1, fmt.Errorf("%s: %w", name, err)
	}
	if *vhelp {
		printVerbHelp(os.Stdout, name, v, vfs)
		return 0, nil
	}
	if len(words) < v.min || v.max >= 0 && len(words) > v.max {
		return 1, errUsage{fmt.Errorf("%s takes %s, got %d arguments", name, wants(v), len(words))}
	}
	if name == "create" || name == "run" || name == "exec" { // those that start a process
		if err := seal.Again(); err != nil {
			return 1, err
		}
	}
	return do(words)
}

func wants(v verb) string {
	if v.usage == "" {
		return "no arguments"
	}
	return v.usage
}

func newFlags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	return fs
}

// parseWords parses flags before and, unless ordered, after the arguments.
func parseWords(fs *flag.FlagSet, args []string, ordered bool) ([]string, error) {
	var words []string
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		rest := fs.Args()
		if len(rest) == 0 {
			return words, nil
		}
		// After `--` nothing is a flag.
		if n := len(args) - len(rest); ordered || n > 0 && args[n-1] == "--" {
			return append(words, rest...), nil
		}
		words = append(words, rest[0])
		args = rest[1:]
	}
}

func boolVar(fs *flag.FlagSet, p *bool, usage string, names ...string) {
	for _, n := range names {
		fs.BoolVar(p, n, false, usage)
	}
}

func stringVar(fs *flag.FlagSet, p *string, value, usage string, names ...string) {
	for _, n := range names {
		fs.StringVar(p, n, value, usage)
	}
}

// stringList is a flag that may be given several times.
type stringList []string

func (l *stringList) String() string     { return strings.Join(*l, ",") }
func (l *stringList) Set(s string) error { *l = append(*l, s); return nil }

func listVar(fs *flag.FlagSet, p *stringList, usage string, names ...string) {
	for _, n := range names {
		fs.Var(p, n, usage)
	}
}

// setUp applies the global flags.
func (g *globals) setUp() error {
	if g.debug {
		logrus.SetLevel(logrus.DebugLevel)
	}
	switch g.format {
	case "", "text":
	case "json":
		logrus.SetFormatter(new(logrus.JSONFormatter))
	default:
		return fmt.Errorf("--log-format %q: neither text nor json", g.format)
	}
	if g.log != "" {
		f, err := os.OpenFile(g.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o644)
		if err != nil {
			return fmt.Errorf("--log: %w", err)
		}
		logrus.SetOutput(f)
	}
	if g.systemd {
		return errors.New("--systemd-cgroup: not supported: there is no systemd here, cgroups are made directly")
	}
	switch g.rootless {
	case "auto", "true", "false":
	default:
		return fmt.Errorf("--rootless %q: not true, false or auto", g.rootless)
	}
	return nil
}

// defaultRoot is where runc keeps its state.
func defaultRoot() string {
	if os.Geteuid() != 0 {
		if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
			return dir + "/runc"
		}
	}
	return "/run/runc"
}

func (g *globals) load(id string) (*libcontainer.Container, error) {
	if id == "" {
		return nil, errors.New("container id cannot be empty")
	}
	c, err := libcontainer.Load(g.root, id)
	if errors.Is(err, libcontainer.ErrNotExist) {
		// The words go-runc and shims look for.
		return nil, err
	}
	return c, err
}

// rootlessCgroups says whether failures to write cgroups are to be ignored.
func (g *globals) rootlessCgroups() bool {
	if g.rootless == "auto" {
		return os.Geteuid() != 0
	}
	return g.rootless == "true"
}

func printHelp(w io.Writer, fs *flag.FlagSet) {
	fmt.Fprint(w, "NAME:\n   runc - Open Container Initiative runtime\n\nUSAGE:\n   runc [global options] command [command options] [arguments...]\n\nCOMMANDS:\n")
	names := make([]string, 0, len(verbs))
	for n := range verbs {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		fmt.Fprintf(w, "   %-10s %s\n", n, verbs[n].short)
	}
	fmt.Fprint(w, "\nGLOBAL OPTIONS:\n")
	printFlags(w, fs)
}

func printVerbHelp(w io.Writer, name string, v verb, fs *flag.FlagSet) {
	fmt.Fprintf(w, "NAME:\n   runc %s - %s\n\nUSAGE:\n   runc %s [command options] %s\n\nOPTIONS:\n", name, v.short, name, v.usage)
	printFlags(w, fs)
}

func printFlags(w io.Writer, fs *flag.FlagSet) {
	fs.VisitAll(func(f *flag.Flag) {
		dash := "--"
		if len(f.Name) == 1 {
			dash = "-"
		}
		fmt.Fprintf(w, "   %-22s %s\n", dash+f.Name, f.Usage)
	})
}
