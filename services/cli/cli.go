// Package cli owns the service command: what a person types, what is shown for it,
// and with which code it ends. It knows nothing by itself and asks the supervisor
// on its control socket.
//
// It promises that every wait has an end or a person who watches, that what is
// printed with -o json is what the protocol has (docs/control.md), and that an
// error says what would be right. It must never act on a service but through the
// supervisor.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"keelson/internal/api"
	"keelson/internal/visible"
)

// The exit codes. Exec ends with the code of what it ran, or with one of the last
// three where it did not come to that.
const (
	codeOK       = 0
	codeFailed   = 1   // what was asked for did not come to be
	codeUsage    = 2   // the command line is wrong
	codeNotThere = 3   // no such service, or it does not run
	codeNobody   = 4   // the supervisor cannot be reached
	codeTimeout  = 124 // the wait was over first
	codeExec     = 125 // exec could not start anything
	codeRefused  = 126 // exec: the program cannot be executed
	codeProgram  = 127 // exec: the container does not have the program
)

// app is one run of the command.
type app struct {
	ctx      context.Context
	in       *os.File
	out, err io.Writer
	terminal bool                    // out is one
	size     func() (cols, rows int) // of the terminal
	client   *client

	// LinuxKit's options before the command.
	quiet, verbose bool
	namespace      string
}

// command is one of the things that can be asked for.
type command struct {
	name, args, short string
	long              string
	run               func(a *app, fs *flag.FlagSet, args []string) int
}

// commands returns all of them, in the order of the help.
func commands() []command {
	return slices.Concat(lookCommands(), steerCommands(), logCommands(), bootCommands(), machineCommands(), otherCommands())
}

// Main runs the command line and returns its exit code.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	out := &noted{w: os.Stdout}
	a := &app{
		ctx: ctx, in: os.Stdin, out: out, err: os.Stderr,
		terminal: term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("TERM") != "dumb" && os.Getenv("NO_COLOR") == "",
		client:   &client{socket: api.Socket},
		size: func() (cols, rows int) {
			cols, rows, _ = term.GetSize(int(os.Stdout.Fd())) // 0, 0 where it has none
			return cols, rows
		},
	}
	return out.codeFor(a, a.main(args))
}

// noted is an output that remembers why it could not be written: a program that reads
// ours must not take half of it for all.
type noted struct {
	w   io.Writer
	err error // the first one
}

// Write writes.
func (n *noted) Write(p []byte) (int, error) {
	written, err := n.w.Write(p)
	if n.err == nil {
		n.err = err
	}
	return written, err
}

// codeFor is the exit code of a command that would end with code.
func (n *noted) codeFor(a *app, code int) int {
	if n.err == nil || code != codeOK {
		return code
	}
	return a.fail(n.err)
}

// NoCtr answers for /usr/bin/ctr of an image without containerd's own client, which
// containers bind, and returns the exit code of a shell that finds no such command.
func NoCtr(out io.Writer) int {
	fmt.Fprint(out, `ctr: containerd's client is not in this image. Add the image that has it to init:, after keelson/init:
  init:
    - keelson/init
    - keelson/ctr
(make image writes build/keelson-ctr.tar; linuxkit cache import or mkimage import takes it.)
Without it: service list, service logs NAME and service exec NAME CMD show and steer the containers.
`)
	return codeProgram
}

// NoRunc answers for /usr/bin/runc of an image without the stock runtime, and returns
// its exit code.
func NoRunc(out io.Writer) int {
	fmt.Fprintln(out, "runc: not in this image: add keelson/runc to init:, after keelson/init (make image writes build/keelson-runc.tar for linuxkit cache import)")
	return codeFailed
}

// OwnStep answers for a link in /etc/init.d or /etc/shutdown.d that names a step
// which the supervisor does by itself, and reports whether name is one.
func OwnStep(name string, out io.Writer) bool {
	switch name {
	case "005-volumes", "010-onboot", "020-containerd", "010-onshutdown":
		fmt.Fprintf(out, "%s: the supervisor does this by itself; there is nothing to do by hand\n", name)
		return true
	}
	return false
}

func (a *app) main(args []string) int {
	fs := a.flags()
	fs.BoolVar(&a.quiet, "q", false, "")
	fs.BoolVar(&a.verbose, "v", false, "")
	fs.StringVar(&a.namespace, "containerd-namespace", "", "")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(a.out, overview())
		return codeOK
	case err != nil && strings.HasPrefix(err.Error(), undefined):
		return a.usage("", "%v%s", err, misplaced(args, fs.Args()))
	case err != nil:
		return a.usage("", "%v", plainly(fs, err))
	}
	args = fs.Args()
	if len(args) == 0 {
		fmt.Fprint(a.err, overview())
		return codeUsage
	}
	name, args := args[0], args[1:]
	if name == "help" {
		return a.help(args)
	}
	for _, c := range commands() {
		if c.name != name {
			continue
		}
		if slices.ContainsFunc(args[:slices.Index(append(args, "--"), "--")], func(s string) bool { return s == "-h" || s == "--help" || s == "-help" }) && c.name != "exec" {
			return a.help([]string{name})
		}
		return c.run(a, a.flags(), args)
	}
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	return a.usage("", "there is no command %q%s", name, didYouMean(name, names))
}

// undefined is how package flag begins its word about an option that there is not.
const undefined = "flag provided but not defined: "

// misplaced is the hint for an option before the command that there is not, where what
// follows it is known too: most are a command's own and stand behind it.
func misplaced(args, after []string) string {
	at := len(args) - len(after) - 1 // the option
	for i, word := range after {
		if slices.ContainsFunc(commands(), func(c command) bool { return c.name == word }) {
			right := slices.Concat([]string{"service"}, args[:at], after[i:i+1], args[at:at+1], after[:i], after[i+1:])
			return fmt.Sprintf(" before the command; the options of %s stand behind it: %s", word, strings.Join(right, " "))
		}
	}
	return " before the command; a command's own options stand behind it: service COMMAND " + args[at]
}

// flags makes an empty set of flags, whose errors are ours to show.
func (a *app) flags() *flag.FlagSet {
	fs := flag.NewFlagSet("service", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	return fs
}

// parse parses flags wherever they stand among the arguments, which it returns. What
// follows "--" is arguments only.
func parse(fs *flag.FlagSet, args []string) ([]string, error) {
	var plain, after []string
	if i := slices.Index(args, "--"); i >= 0 {
		args, after = args[:i], args[i+1:]
	}
	for {
		if err := fs.Parse(args); err != nil {
			return nil, plainly(fs, err)
		}
		if args = fs.Args(); len(args) == 0 {
			return append(plain, after...), nil
		}
		plain, args = append(plain, args[0]), args[1:]
	}
}

// wrongValue is what package flag says of an option's value, the option last.
var wrongValue = regexp.MustCompile(`^(?:flag needs an argument:|invalid (?:boolean )?value (".*") for(?: flag)?) -([^:]+)`)

// plainly is an error of package flag in words that say which option is meant and what it
// wants.
func plainly(fs *flag.FlagSet, err error) error {
	found := wrongValue.FindStringSubmatch(err.Error())
	if found == nil {
		return err
	}
	f := fs.Lookup(found[2])
	if f == nil {
		return err
	}
	want := "a value behind it"
	if v, ok := f.Value.(flag.Getter); ok {
		switch v.Get().(type) {
		case time.Duration:
			want = "a duration such as 10s"
		case int:
			want = "a number"
		case bool:
			want = "true or false, or nothing"
		}
	}
	if found[1] == "" {
		return fmt.Errorf("%s wants %s", dashed(f.Name), want)
	}
	return fmt.Errorf("%s: %s is wrong: it wants %s", dashed(f.Name), found[1], want)
}

// dashed is an option as the help has it.
func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// emptyOption reports an option that was given without a value, as a script does whose
// variable is empty.
func (a *app) emptyOption(command string, fs *flag.FlagSet) (code int, wrong bool) {
	option := ""
	fs.Visit(func(f *flag.Flag) {
		if option == "" && f.Value.String() == "" {
			option = dashed(f.Name)
		}
	})
	if option == "" {
		return 0, false
	}
	return a.usage(command, "%s is empty: leave it out, or give it a value", option), true
}

// usage says what is wrong with the command line.
func (a *app) usage(command, format string, args ...any) int {
	text := strings.Replace(fmt.Sprintf(format, args...), undefined, "there is no option ", 1)
	if command != "" {
		command += " "
	}
	fmt.Fprintf(a.err, "service: %s%s\nservice help %slists what there is.\n", prefix(command), visible.Lines(text), command)
	return codeUsage
}

func prefix(command string) string {
	if command == "" {
		return ""
	}
	return strings.TrimSpace(command) + ": "
}

// fail says what went wrong and returns the code for it.
func (a *app) fail(err error) int {
	if a.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return 128 + int(unix.SIGINT) // the person who asked has seen enough
	}
	fmt.Fprintf(a.err, "service: %s\n", visible.Lines(err.Error()))
	return codeOf(err)
}

func (a *app) say(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintln(a.out, visible.Lines(fmt.Sprintf(format, args...)))
	}
}

// detail is for those who asked with -v.
func (a *app) detail(format string, args ...any) {
	if a.verbose {
		fmt.Fprintln(a.err, "service: "+visible.Lines(fmt.Sprintf(format, args...)))
	}
}

// output adds -o and returns where its value will be.
func output(fs *flag.FlagSet) *string { return fs.String("o", "", "") }

// wrongOutput reports an -o that a command does not have.
func (a *app) wrongOutput(command, value string, others ...string) (int, bool) {
	if value == "" || value == "json" || slices.Contains(others, value) {
		return 0, false
	}
	return a.usage(command, "-o %s: there is -o %s", value, strings.Join(append([]string{"json"}, others...), ", -o ")), true
}
