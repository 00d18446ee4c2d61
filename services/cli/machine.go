package cli

import (
	"flag"
	"fmt"
	"net/http"
	"strings"

	"keelson/internal/api"
)

func machineCommands() []command {
	return []command{
		{"poweroff", "", "stop everything in order and turn the machine off", `
Stops the services, those first that require others, each with its own bound; runs
the onshutdown containers; unmounts file systems; turns the machine off.
`, func(a *app, fs *flag.FlagSet, args []string) int { return a.power("poweroff", fs, args) }},
		{"reboot", "", "stop everything in order and start the machine again", `
As poweroff, but the machine starts again: the services are stopped in order, each within its
own bound, and file systems are unmounted before.
`, func(a *app, fs *flag.FlagSet, args []string) int { return a.power("reboot", fs, args) }},
		{"halt", "", "stop everything in order and leave the machine standing", `
As poweroff, but the machine stays on, with nothing running and nothing mounted: for hardware
that somebody turns off by hand.
`, func(a *app, fs *flag.FlagSet, args []string) int { return a.power("halt", fs, args) }},
	}
}

func (a *app) power(what string, fs *flag.FlagSet, args []string) int {
	format := output(fs)
	rest, err := parse(fs, args)
	if err != nil {
		return a.usage(what, "%v", err)
	}
	if len(rest) > 0 {
		return a.usage(what, "it takes no arguments")
	}
	if code, wrong := a.wrongOutput(what, *format); wrong {
		return code
	}
	var m api.Machine
	if err := a.client.ask(a.ctx, http.MethodPost, "/machine/"+what, nil, &m); err != nil {
		return a.fail(err)
	}
	if *format == "json" {
		return a.json(m)
	}
	a.say("%s was asked for; the console shows how it goes", what)
	return codeOK
}

// overview is the help of the whole.
func overview() string {
	var b strings.Builder
	b.WriteString(`service shows and steers what runs on this machine.

usage: service COMMAND [OPTIONS] [NAME...]

`)
	for i, group := range []struct {
		title string
		of    []command
	}{{"look", lookCommands()}, {"steer", steerCommands()}, {"what happened", logCommands()}, {"the boot", bootCommands()}, {"the machine", machineCommands()}, {"other", otherCommands()}} {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s:\n", group.title)
		for _, c := range group.of {
			fmt.Fprintf(&b, "  %-12s %s\n", c.name, c.short)
		}
	}
	b.WriteString(`
service help COMMAND explains one. -o json is there wherever something is shown.
Before the COMMAND, as with LinuxKit: -q says nothing of success, -v says more,
-containerd-namespace NS insists on a namespace.

exit codes: 0 done, 1 failed, 2 wrong command line, 3 no such service or not
running, 4 the supervisor cannot be reached, 124 timed out; exec: the command's own.
`)
	return b.String()
}

func (a *app) help(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(a.out, overview())
		return codeOK
	}
	var names []string
	for _, c := range commands() {
		if c.name == args[0] {
			fmt.Fprintf(a.out, "usage: %s\n%s", strings.TrimSpace("service "+c.name+" "+c.args), c.long)
			return codeOK
		}
		names = append(names, c.name)
	}
	return a.usage("", "there is no command %q%s", args[0], didYouMean(args[0], names))
}
